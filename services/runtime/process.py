"""Starting and stopping a process: scheduling, event loop, logging, signals, exit codes.

Everything else is the `main` that it is given, an `async def main(stack: AsyncExitStack, config: Config) -> Stop` which enters
backends and then the server on the stack. A process module ends with `process.run(main, "tweet")`.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, NoReturn, TypeAlias

import uvloop

from services.runtime import config as configuration
from services.runtime import logs
from services.runtime.config import Config, ConfigError, Environ
from services.runtime.logs import Log

EXIT_OK, EXIT_CRASH, EXIT_CONFIG, EXIT_STUCK = 0, 1, 78, 70
"""Exit codes: asked to stop; a part failed; the environment is not usable (sysexits EX_CONFIG); stopping took too long."""
LAST_RESORT = 5.0
"""Seconds beyond linger and grace after which a process that does not manage to stop is ended the hard way."""


class Stop:
    """Why and when a process ends: by a signal, or because a part cannot go on. Made by `main`, shared with parts that may fail."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._watched: set[asyncio.Task[Any]] = set()
        self.failure: BaseException | None = None
        """What made the process unable to go on; None for an orderly end."""

    def request(self) -> None:
        """Ends the process in order."""
        self._asked.set()

    def fail(self, failure: BaseException) -> None:
        """Ends the process in order, with exit code 1, so that its supervisor starts it anew; the first failure is reported."""
        self.failure = self.failure or failure
        self._asked.set()

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Takes a task that is not supposed to end while the process runs (a consumer loop, a lease): its end ends the process."""
        self._watched.add(task)
        task.add_done_callback(self._ended)

    async def wait(self) -> None:
        """Returns when the process is to end."""
        await self._asked.wait()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._watched.discard(task)
        if task.cancelled() or self._asked.is_set():
            return
        self.fail(task.exception() or RuntimeError(f"{task.get_name()} ended"))


Main: TypeAlias = Callable[[AsyncExitStack, Config], Awaitable[Stop]]


def run(main: Main, process: str) -> NoReturn:
    """Runs a process of the cluster to its end and exits with its code. Call it first thing, with no thread and no loop started."""
    set_batch_scheduling(os.environ)
    try:
        config = configuration.read(Environ(os.environ), process)
        log = logs.configure(config.log, process)
    except ConfigError as error:
        print(f"{process}: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    _warn(config, log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_live(main, config, log)))


def set_batch_scheduling(variables: Any) -> None:
    """SCHED_BATCH for this thread and those it starts: fewer preemptions by the threads of grpc, a third more calls a second."""
    if variables.get(configuration.SCHED_BATCH.name, "1") == "0" or not hasattr(os, "sched_setscheduler"):
        return
    with suppress(OSError):  # a container may forbid it; the process is only slower
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _warn(config: Config, log: Log) -> None:
    if config.header_auth:
        log.warning("CHIRP_AUTH=header: X-User-Id IS BELIEVED WITHOUT PROOF; ANYBODY CAN BE ANYBODY. For development only.")


async def _live(main: Main, config: Config, log: Log) -> int:
    """Builds, waits, tears down; the exit code."""
    life = _Life(main, config, log)
    body = asyncio.create_task(life.body(), name=config.process)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.end, body)
    try:
        return await body
    except asyncio.CancelledError:
        return EXIT_OK  # asked to stop while it was still starting
    except ConfigError as error:
        print(f"{config.process}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except Exception as error:
        log.error("crashed", exc_info=error)
        return EXIT_CRASH


class _Life:
    """One run of a `main`."""

    def __init__(self, main: Main, config: Config, log: Log) -> None:
        self._main, self._config, self._log = main, config, log
        self._stop: Stop | None = None

    async def body(self) -> int:
        """From building to the last thing closed; the exit code."""
        async with AsyncExitStack() as stack:
            self._stop = await self._main(stack, self._config)
            await self._stop.wait()
            self._limit()
            if self._stop.failure:
                self._log.error("a part failed, the process ends", exc_info=self._stop.failure)
        return EXIT_CRASH if self._stop.failure else EXIT_OK

    def end(self, body: asyncio.Task[int]) -> None:
        """On a signal; further signals change nothing."""
        if self._stop:
            self._stop.request()
        elif not body.cancelling():
            self._limit()
            body.cancel()

    def _limit(self) -> None:
        """A thread, since what hangs may be the loop itself."""
        seconds = self._config.server.linger + self._config.server.grace + LAST_RESORT
        timer = threading.Timer(seconds, self._give_up, [seconds])
        timer.daemon = True
        timer.start()

    def _give_up(self, seconds: float) -> None:
        self._log.error("did not stop in time, ending the hard way", seconds=seconds)
        os._exit(EXIT_STUCK)
