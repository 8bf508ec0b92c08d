"""One program kept running: started, waited for, restarted with back-off when it crashes, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from services.cluster import logfiles, ports
from services.cluster.confinement import launch_command
from services.cluster.program import ClusterError, Port, Program

FIRST_DELAY = 0.2
LONGEST_DELAY = 10.0
# After this long in good health the next crash counts as the first again.
FORGIVEN_AFTER = 30.0
# A service that crashes this often before it was healthy once will not be cured by another attempt.
START_ATTEMPTS = 3
# sysexits.h EX_CONFIG: the process refuses its configuration, so starting it again cannot help.
CONFIGURATION_ERROR = 78
PROBE_INTERVAL = 0.05
# A listener stays, but a connection that was given one of our ports goes, and the kernel keeps a closed one for a minute.
PORT_PATIENCE = 65.0
PORT_ADVICE = "stop that, or move all of chirp's ports with `chirp up --port-offset 1000`"


class State(StrEnum):
    """Where a child is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    HEALTHY = "healthy"
    RESTARTING = "restarting"
    FAILED = "failed"


class Reporter(Protocol):
    """Who is told what happens: `say` gets lines for the operator, `changed` is called when a child's facts changed."""

    def say(self, line: str) -> None: ...

    def changed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _End:
    """How one life of the process ended, and whether another start is pointless."""

    manner: str
    hopeless: bool = False


def backoff(crashes: int) -> float:
    """Seconds to wait before the next start after so many crashes in a row (1, 2, …)."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(crashes - 1, 10))


class Child:
    """Keeps one program running from `start` to `stop`; `restarts` counts the starts after a crash."""

    def __init__(self, program: Program, logs: Path, environment: Mapping[str, str], reporter: Reporter) -> None:
        self.program = program
        self.log = logs / f"{program.name}.log"
        self.state = State.STOPPED
        self.restarts = 0
        self._healthy_since: float | None = None
        self._environment = {**environment, **program.env}
        self._reporter = reporter
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._turn = asyncio.Event()
        self._ports = ports.Reservation()

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        """The process id while the process lives."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def reserve(self) -> None:
        """Takes its ports, until `stop`; ClusterError names who has one of them."""
        for port in self.program.ports:
            await self._reserve_one(port)

    async def start(self) -> None:
        """Starts it and returns when it is healthy; ClusterError says why it cannot be."""
        if self._keeper is None:
            await self.reserve()
            self._healthy_since = None
            self._become(State.STARTING)
            self._keeper = asyncio.create_task(self._keep_running(), name=f"keep {self.name}")
        await self.healthy()

    async def healthy(self) -> None:
        """Waits until it is healthy; ClusterError when it was given up or stopped."""
        while self.state is not State.HEALTHY:
            if self.state is State.STOPPED:
                raise ClusterError(f"{self.name} is stopped")
            if self.state is State.FAILED and self._keeper is not None:
                return await asyncio.shield(self._keeper)
            await self._turn.wait()

    async def stop(self) -> None:
        """Asks it to stop, waits, and kills it when it does not; nothing to do when it does not run."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClusterError):
                await self._keeper
            self._keeper = None
        await self._end_process()
        self._ports.release()
        self._become(State.STOPPED)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process, for experiments: KILL is a crash, STOP and CONT freeze and thaw it."""
        if (pid := self.pid) is None:
            raise ClusterError(f"{self.name} does not run")
        if number is signal.SIGKILL:
            self._become(State.RESTARTING)
        os.kill(pid, number)

    async def _keep_running(self) -> None:
        crashes = 0
        while True:
            end = await self._run_once()
            crashes = 1 if self._was_well() else crashes + 1
            if end.hopeless or (self._healthy_since is None and crashes >= START_ATTEMPTS):
                raise self._failure(f"{self.name} {end.manner}: {logfiles.last_line(self.log)} ({self._advice})")
            self.restarts += 1
            self._become(State.RESTARTING)
            delay = backoff(crashes)
            self._reporter.say(f"{self.name} {end.manner}; restart {self.restarts} in {delay:.1f} s ({self._advice})")
            await asyncio.sleep(delay)

    async def _run_once(self) -> _End:
        """One life of the process."""
        try:
            await self.program.prepare()
        except ClusterError as problem:
            if self._healthy_since is None:
                raise self._failure(str(problem)) from None
            return _End(f"cannot be restarted: {problem}")
        self._process = await self._spawn()
        self._reporter.changed()
        ended = asyncio.create_task(self._process.wait())
        try:
            return await self._watch(ended)
        finally:
            ended.cancel()

    async def _watch(self, ended: asyncio.Task[int]) -> _End:
        first = self._healthy_since is None
        if await self._becomes_healthy(ended):
            self._healthy_since = time.monotonic()
            self._become(State.HEALTHY)
        elif not ended.done():
            await self._end_process()
            return _End(f"runs but is not healthy after {self.program.start_timeout:g} s", hopeless=first)
        status = await ended
        return _End(_manner(status), hopeless=first and status == CONFIGURATION_ERROR)

    async def _becomes_healthy(self, ended: asyncio.Task[int]) -> bool:
        deadline = time.monotonic() + self.program.start_timeout
        while not ended.done() and time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                if await self.program.probe():
                    return not ended.done()
            await asyncio.wait([ended], timeout=PROBE_INTERVAL)
        return False

    async def _spawn(self) -> asyncio.subprocess.Process:
        command = launch_command(self.program.argv, self.program.confinement, self.program.orphan_signal)
        with logfiles.open_for_append(self.log) as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.program.cwd,
                env=self._environment,
                # A session of its own: Ctrl-C and a closed terminal reach the supervisor alone.
                start_new_session=True,
            )

    async def _end_process(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.program.stop_signal)
            # A frozen process takes the signal only when it thaws.
            process.send_signal(signal.SIGCONT)
        try:
            await asyncio.wait_for(process.wait(), self.program.stop_timeout)
        except TimeoutError:
            self._reporter.say(f"{self.name} did not stop within {self.program.stop_timeout:g} s: killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _reserve_one(self, port: Port) -> None:
        deadline = time.monotonic() + PORT_PATIENCE
        waiting = False
        while not self._ports.hold(port.number):
            taken = f"port {port.number} ({self.name}, {port.purpose}) is taken by"
            listener = ports.listener(port.number)
            if listener or time.monotonic() > deadline:
                raise ClusterError(f"{taken} {listener or ports.holder(port.number)}: {PORT_ADVICE}")
            if not waiting:
                self._reporter.say(f"{taken} {ports.holder(port.number)}: waiting for it")
                waiting = True
            await asyncio.sleep(PROBE_INTERVAL)

    def _was_well(self) -> bool:
        return self._healthy_since is not None and time.monotonic() - self._healthy_since > FORGIVEN_AFTER

    @property
    def _advice(self) -> str:
        return f"see `chirp logs {self.name}`"

    def _failure(self, text: str) -> ClusterError:
        self._become(State.FAILED)
        return ClusterError(text)

    def _become(self, state: State) -> None:
        self.state = state
        self._turn.set()
        self._turn = asyncio.Event()
        self._reporter.changed()


def _manner(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
