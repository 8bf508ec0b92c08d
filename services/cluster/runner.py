"""One run of a cluster in this process: start, serve until told to stop, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator

from services.cluster import demo, machine, orphans
from services.cluster.machine import Machine
from services.cluster.program import ClusterError
from services.cluster.recorder import Recorder
from services.cluster.settings import Settings
from services.cluster.state import Phase, Record, StateFolder
from services.cluster.supervisor import Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """Runs the cluster of the settings. `say` gets progress, `on_up` the record when everything is healthy."""

    def __init__(self, settings: Settings, say: Callable[[str], None], on_up: Callable[[Record], None]) -> None:
        self._settings = settings
        self._say = say
        self._on_up = on_up
        self._folder = StateFolder(settings.state)

    def until_stopped(self) -> None:
        """Blocks until a signal arrives; ClusterError when the cluster cannot be started or one runs already."""
        with self._folder.locked():
            self._clear_predecessor()
            assembled = machine.assemble(self._settings)
            assembled.redis_servers.forget()
            asyncio.run(self._run(assembled))

    def _clear_predecessor(self) -> None:
        record = self._folder.read()
        if record is not None and (count := orphans.await_end(record.processes)):
            self._say(f"waited for {count} processes of an earlier run to end")
        self._folder.forget()

    async def _run(self, assembled: Machine) -> None:
        stop = asyncio.Event()
        recorder = Recorder(self._folder, first_record(self._settings, assembled), assembled, self._say)
        supervisor = Supervisor(assembled.units, self._settings.logs, self._settings.inherited, recorder)
        with _signals(stop, self._say):
            try:
                recorder.watch(supervisor.children)
                await self._start(supervisor, assembled, recorder, stop)
                await stop.wait()
            except ClusterError as problem:
                await self._stop(supervisor, recorder)
                recorder.enter(Phase.FAILED, str(problem))
                raise
            await self._stop(supervisor, recorder)
        self._folder.forget()

    async def _start(self, supervisor: Supervisor, assembled: Machine, recorder: Recorder, stop: asyncio.Event) -> None:
        """Starts everything; a stop meanwhile ends the attempt."""
        starting = asyncio.create_task(supervisor.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        starting.result()
        recorder.demo_user(await demo.ensure(assembled.instance("user").address))
        recorder.enter(Phase.UP)
        self._on_up(recorder.record)

    async def _stop(self, supervisor: Supervisor, recorder: Recorder) -> None:
        began = time.monotonic()
        recorder.enter(Phase.STOPPING)
        self._say("stopping everything in order")
        await supervisor.stop()
        self._say(f"stopped in {time.monotonic() - began:.1f} s; the data stays until `chirp reset`")


def first_record(settings: Settings, assembled: Machine) -> Record:
    """The record of a cluster that has not started anything yet."""
    addresses = assembled.backends.addresses
    return Record(
        phase=Phase.STARTING,
        pid=os.getpid(),
        started=time.time(),
        rest=f"http://{assembled.instance('gateway').address}",
        postgres=addresses.postgres,
        redis=addresses.redis,
        nats=addresses.nats,
        port_offset=settings.port_offset,
        replicas=dict(settings.replicas),
    )


@contextlib.contextmanager
def _signals(stop: asyncio.Event, say: Callable[[str], None]) -> Generator[None]:
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            say("already stopping")
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
