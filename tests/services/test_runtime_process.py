"""services.runtime.process: real processes, started and ended from outside, by their exit codes and last words."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import asyncio, os, sys, time
from services.runtime import process
from services.runtime.process import Stop

class Part:
    async def __aenter__(self): print("built", flush=True)
    async def __aexit__(self, *_): print("closed", flush=True)
"""
SERVING = """
async def main(stack, config):
    await stack.enter_async_context(Part())
    print("policy", os.sched_getscheduler(0), type(asyncio.get_running_loop()).__module__, flush=True)
    return Stop()
"""
STARTING = """
async def main(stack, config):
    await stack.enter_async_context(Part())
    await asyncio.sleep(60)
"""
CRASHING = """
async def main(stack, config):
    await stack.enter_async_context(Part())
    raise RuntimeError("no way")
"""
FAILING_LATER = """
async def lease():
    await asyncio.sleep(0.05)
    raise RuntimeError("lease lost")

async def main(stack, config):
    await stack.enter_async_context(Part())
    stop = Stop()
    stop.watch(asyncio.create_task(lease(), name="lease"))
    return stop
"""
ENDING_LATER = """
async def main(stack, config):
    stop = Stop()
    stop.watch(asyncio.create_task(asyncio.sleep(0.05), name="consumer"))
    return stop
"""
NEEDING = """
async def main(stack, config):
    await stack.enter_async_context(Part())
    config.postgres
"""
STUCK = """
process.LAST_RESORT = 0.1

async def main(stack, config):
    stack.callback(lambda: time.sleep(60))
    print("built", flush=True)
    return Stop()
"""


def start(body: str, **variables: str) -> subprocess.Popen[str]:
    source = f'{PREAMBLE}{body}\nprocess.run(main, "probe")\n'
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}
    environment = {**clean, "CHIRP_LOG": "json", "CHIRP_DRAIN_GRACE": "0.1", "CHIRP_DRAIN_LINGER": "0", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, env=environment, **pipes)  # type: ignore[call-overload]


async def end(child: subprocess.Popen[str], *signals: int, after: str = "built") -> tuple[int, str, str]:
    """Waits for a line, sends signals, and returns exit code, output and error output."""
    seen = ""
    assert child.stdout
    if signals:
        while after not in seen:
            line = await asyncio.to_thread(child.stdout.readline)
            assert line, child.stderr and child.stderr.read()
            seen += line
    for number in signals:
        child.send_signal(number)
    out, err = await asyncio.to_thread(child.communicate, timeout=30)
    return child.returncode, seen + out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(number: int) -> None:
    code, out, _ = await end(start(SERVING), number, number, after="policy")

    assert code == 0
    assert out.splitlines()[-1] == "closed"


async def test_batch_scheduling_and_uvloop() -> None:
    code, out, _ = await end(start(SERVING), signal.SIGTERM, after="policy")
    assert f"policy {os.SCHED_BATCH} uvloop" in out
    assert code == 0

    _, out, _ = await end(start(SERVING, CHIRP_SCHED_BATCH="0"), signal.SIGTERM, after="policy")
    assert f"policy {os.SCHED_OTHER} uvloop" in out


async def test_a_signal_while_starting_closes_what_was_built() -> None:
    code, out, _ = await end(start(STARTING), signal.SIGTERM)

    assert (code, out.splitlines()[-1]) == (0, "closed")


async def test_a_crash_is_logged_and_closes_what_was_built() -> None:
    code, out, err = await end(start(CRASHING))

    assert (code, out.splitlines()[-1]) == (1, "closed")
    assert "no way" in err


async def test_a_part_that_cannot_go_on_ends_the_process() -> None:
    code, out, err = await end(start(FAILING_LATER))
    assert (code, out.splitlines()[-1]) == (1, "closed")
    assert "lease lost" in err

    code, _, err = await end(start(ENDING_LATER))
    assert code == 1
    assert "consumer ended" in err


@pytest.mark.parametrize(
    ("body", "variables", "says"),
    [
        (SERVING, {"CHIRP_LOGG": "json"}, "CHIRP_LOGG"),
        (SERVING, {"CHIRP_GRPC_PORT": "x"}, "CHIRP_GRPC_PORT"),
        (NEEDING, {}, "CHIRP_POSTGRES is not set"),
    ],
)
async def test_an_unusable_environment_is_one_clear_line(body: str, variables: dict[str, str], says: str) -> None:
    code, _, err = await end(start(body, **variables))

    assert code == 78
    assert err.startswith("probe: ")
    assert says in err
    assert len(err.splitlines()) == 1


async def test_header_identity_is_announced_loudly() -> None:
    _, _, err = await end(start(SERVING, CHIRP_AUTH="header"), signal.SIGTERM, after="policy")
    assert err.count("WITHOUT PROOF") == 1

    _, _, err = await end(start(SERVING), signal.SIGTERM, after="policy")
    assert "WITHOUT PROOF" not in err


async def test_a_process_that_hangs_is_ended_the_hard_way() -> None:
    code, _, err = await end(start(STUCK), signal.SIGTERM)

    assert code == 70
    assert "hard way" in err
