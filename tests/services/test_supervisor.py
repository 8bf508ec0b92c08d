"""The supervisor, with tiny programs in the place of services."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from services.cluster import child, logfiles, probes
from services.cluster.child import State, backoff
from services.cluster.ports import LOOPBACK, FreePorts
from services.cluster.program import ClusterError, Port, Program, Step, Unit
from services.cluster.settings import PROJECT
from services.cluster.supervisor import Supervisor
from tests.running import Lines
from tests.waiting import eventually

# Listens (the kernel answers for it) and waits for TERM, which is blocked so that it cannot come at a wrong moment.
LISTENER = """
import signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.sigwait([signal.SIGTERM])
print("orderly end", flush=True)
"""
STUBBORN = LISTENER.replace("[signal.SIGTERM])\nprint", "[signal.SIGUSR1])\nprint")

Build = Callable[..., Program]
Start = Callable[..., Supervisor]


@pytest.fixture
def build(ports: FreePorts) -> Build:
    """Makes a program out of Python source; it is healthy when somebody listens on its port."""

    def made(name: str, source: str = LISTENER, **options: object) -> Program:
        port = ports.take()
        return Program(
            name=name,
            argv=(sys.executable, "-I", "-S", "-c", textwrap.dedent(source), str(port)),
            probe=lambda: probes.tcp_open(LOOPBACK, port),
            ports=(Port(port, "test"),),
            **options,  # type: ignore[arg-type]
        )

    return made


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def supervise(tmp_path: Path, lines: Lines) -> AsyncIterator[Start]:
    """Makes supervisors that are stopped after the test."""
    made: list[Supervisor] = []

    def supervisor(*units: Unit) -> Supervisor:
        made.append(Supervisor(units, tmp_path, {}, lines))
        return made[-1]

    yield supervisor
    for each in made:
        await each.stop()


def test_backoff_doubles_up_to_ten_seconds() -> None:
    assert [backoff(crashes) for crashes in (1, 2, 3, 6, 7, 50)] == [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]


async def test_starts_what_is_needed_first_and_stops_in_reverse(build: Build, supervise: Start, lines: Lines) -> None:
    formed: list[str] = []

    async def form() -> None:
        formed.append("formed")

    units = (build("c", needs=("b",)), Step("b", form, ("a",)), build("a"), build("d"))
    supervisor = supervise(*units)
    await supervisor.start()
    await supervisor.stop()
    healthy = [line.split()[0] for line in lines.said if line.endswith("is healthy")]
    stopped = [line.split()[0] for line in lines.said if line.endswith("stopped")]
    assert formed == ["formed"]
    assert sorted(healthy) == sorted(stopped) == ["a", "c", "d"]
    assert healthy.index("a") < healthy.index("c")
    assert stopped.index("c") < stopped.index("a")


async def test_starts_only_what_is_wanted_and_its_needs(build: Build, supervise: Start) -> None:
    supervisor = supervise(build("a"), build("b", needs=("a",)), build("c"))
    await supervisor.start(["b"])
    assert {name: each.state for name, each in supervisor.children.items()} == {
        "a": State.HEALTHY,
        "b": State.HEALTHY,
        "c": State.STOPPED,
    }


def test_an_unknown_need_and_a_circle_are_mistakes(build: Build, supervise: Start) -> None:
    with pytest.raises(ValueError, match="a needs nobody"):
        supervise(build("a", needs=("nobody",)))
    with pytest.raises(ValueError, match="cycle"):
        supervise(build("a", needs=("b",)), build("b", needs=("a",)))


async def test_a_crash_is_followed_by_a_restart_with_backoff(build: Build, supervise: Start, lines: Lines) -> None:
    supervisor = supervise(build("a"))
    await supervisor.start()
    crashing = supervisor.children["a"]
    before = crashing.pid
    began = time.monotonic()
    crashing.send(signal.SIGKILL)
    await crashing.healthy()
    assert time.monotonic() - began >= 0.2
    assert crashing.restarts == 1
    assert crashing.pid not in (before, None)
    assert "a was killed by SIGKILL; restart 1 in 0.2 s (see `chirp logs a`)" in lines.said


async def test_the_delay_grows_when_it_crashes_again(build: Build, supervise: Start, lines: Lines) -> None:
    supervisor = supervise(build("a"))
    await supervisor.start()
    for _ in range(2):
        supervisor.children["a"].send(signal.SIGKILL)
        await supervisor.children["a"].healthy()
    assert [line.split(" in ")[1][:5] for line in lines.said if "restart" in line] == ["0.2 s", "0.4 s"]


async def test_a_service_that_cannot_start_is_given_up_with_its_last_words(build: Build, supervise: Start) -> None:
    supervisor = supervise(build("broken", "raise SystemExit('the sky is falling')"))
    with pytest.raises(ClusterError, match=r"broken ended with status 1: the sky is falling \(see `chirp logs broken`\)"):
        await supervisor.start()
    assert supervisor.children["broken"].restarts == child.START_ATTEMPTS - 1


async def test_a_refused_configuration_is_not_tried_again(build: Build, supervise: Start) -> None:
    source = "import sys; print('CHIRP_TYPO is not a variable of Chirp', flush=True); sys.exit(78)"
    supervisor = supervise(build("refusing", source))
    with pytest.raises(ClusterError, match="CHIRP_TYPO is not a variable"):
        await supervisor.start()
    assert supervisor.children["refusing"].restarts == 0


async def test_a_service_that_never_gets_healthy_is_ended(build: Build, supervise: Start) -> None:
    source = "import signal; print('thinking', flush=True); signal.pause()"
    supervisor = supervise(build("mute", source, start_timeout=0.4))
    with pytest.raises(ClusterError, match=r"mute runs but is not healthy after 0\.4 s: thinking \(see `chirp logs"):
        await supervisor.start()
    assert supervisor.children["mute"].pid is None


async def test_a_taken_port_names_its_holder_and_the_way_out(build: Build, supervise: Start) -> None:
    program = build("a")
    number = program.ports[0].number
    with socket.create_server((LOOPBACK, number)), pytest.raises(ClusterError) as told:
        await supervise(program).start()
    assert f"port {number} (a, test) is taken by python" in str(told.value)
    assert "--port-offset" in str(told.value)


async def test_the_port_of_a_running_program_cannot_be_taken_between_two_lives(build: Build, supervise: Start) -> None:
    program = build("a")
    supervisor = supervise(program)
    await supervisor.start()
    supervisor.children["a"].send(signal.SIGKILL)
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind((LOOPBACK, program.ports[0].number))
    await supervisor.children["a"].healthy()


async def test_a_port_that_an_outgoing_connection_holds_is_waited_for(
    build: Build, supervise: Start, ports: FreePorts, lines: Lines
) -> None:
    program = build("a")
    with socket.create_server((LOOPBACK, ports.take())) as door, socket.socket() as client:
        client.bind((LOOPBACK, program.ports[0].number))
        client.connect(door.getsockname())
        # Closed with a reset: an orderly end keeps the port for another minute.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asyncio.get_running_loop().call_later(0.1, client.close)
        await supervise(program).start()
    # Whose it is the kernel's table says most of the time: it is not consistent while connections come and go.
    assert f"port {program.ports[0].number} (a, test) is taken by" in lines.said[0]
    assert lines.said[0].endswith("waiting for it")


async def test_one_failure_leaves_nothing_running(build: Build, tmp_path: Path, lines: Lines) -> None:
    units = (build("a"), build("b", "raise SystemExit(1)", needs=("a",)))
    supervisor = Supervisor(units, tmp_path, {}, lines)
    with pytest.raises(ClusterError):
        async with supervisor:
            pass
    assert [each.pid for each in supervisor.children.values()] == [None, None]


async def test_stop_is_orderly_also_for_a_frozen_process(build: Build, supervise: Start) -> None:
    supervisor = supervise(build("a"))
    await supervisor.start()
    supervisor.children["a"].send(signal.SIGSTOP)
    await supervisor.stop()
    assert logfiles.last_line(supervisor.children["a"].log) == "orderly end"


async def test_what_ignores_the_stop_signal_is_killed(build: Build, supervise: Start, lines: Lines) -> None:
    supervisor = supervise(build("stubborn", STUBBORN, stop_timeout=0.1))
    await supervisor.start()
    await supervisor.stop()
    assert "stubborn did not stop within 0.1 s: killed" in lines.said


async def test_children_have_a_session_of_their_own(build: Build, supervise: Start) -> None:
    supervisor = supervise(build("a"))
    await supervisor.start()
    pid = supervisor.children["a"].pid
    assert pid is not None
    assert os.getsid(pid) == pid


async def test_children_end_when_their_supervisor_is_killed(tmp_path: Path, ports: FreePorts) -> None:
    port = ports.take()
    source = f"""
        import asyncio, sys
        from pathlib import Path
        from services.cluster import probes
        from services.cluster.program import Program
        from services.cluster.supervisor import Supervisor
        from tests.running import Lines

        async def main():
            argv = (sys.executable, "-I", "-S", "-c", {LISTENER!r}, "{port}")
            program = Program("a", argv, probe=lambda: probes.tcp_open("127.0.0.1", {port}))
            async with Supervisor([program], Path({str(tmp_path)!r}), {{}}, Lines()) as supervisor:
                print(supervisor.children["a"].pid, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(source)]
    owner = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stdout=asyncio.subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    owner.kill()
    await owner.wait()
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert logfiles.last_line(tmp_path / "a.log") == "orderly end"


def test_a_log_is_cut_when_it_has_grown(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with logfiles.open_for_append(log) as file:
        file.write(b"first\n" * 10)
        file.flush()
        logfiles.bound(log, largest=50)
        file.write(b"second\n")
    assert log.read_text() == "second\n"
    assert logfiles.tail(log, 2) == ["first", "second"]
