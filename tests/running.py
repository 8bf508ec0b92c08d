"""Real servers for tests: a supervisor in a thread of its own, handled from any event loop or from none."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TypeVar

from services.cluster import backends, redis_servers, topology
from services.cluster.child import Child
from services.cluster.machine import Machine
from services.cluster.ports import FreePorts
from services.cluster.program import Step, Unit
from services.cluster.supervisor import Supervisor

T = TypeVar("T")

BUS = redis_servers.BUS_OFFSET


class LoopThread:
    """An event loop in its own thread, which must outlive the children: their parent-death signal follows it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="supervisor", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[None, None, T], timeout: float = 120.0) -> T:
        """Runs it there and blocks until it is done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    async def run(self, work: Coroutine[None, None, T]) -> T:
        """Runs it there while the caller's own loop goes on."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """Ends the thread; what runs in it must have been stopped."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Lines:
    """A reporter that keeps what it was told, for a failing test to show."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def changed(self) -> None:
        pass


class Servers:
    """Children under a supervisor, by name ("postgres", "nats", "redis-1" …, "tweet", "timeline-1" …).

    The supervisor restarts what is killed after 0.2 s. "redis" stands for all nodes together.
    """

    def __init__(self, units: Sequence[Unit], logs: Path) -> None:
        self.lines = Lines()
        self.logs = logs
        self._units = {unit.name: unit for unit in units}
        self._thread = LoopThread()
        self._supervisor = Supervisor(units, logs, _inherited(), self.lines)

    def wait(self, work: Coroutine[None, None, T]) -> T:
        """For fixtures without a loop: runs it in the supervisor's thread."""
        return self._thread.wait(work)

    def start_blocking(self, *names: str) -> None:
        """For fixtures: starts these and what they need, all when none is named; returns when healthy."""
        self._thread.wait(self._supervisor.start(names or None))

    def close(self) -> None:
        """Stops everything in order."""
        self._thread.wait(self._supervisor.stop())
        self._thread.close()

    async def start(self, name: str) -> None:
        """Starts what was stopped and waits for its health."""
        await self._thread.run(self._supervisor.start([name]))

    async def stop(self, name: str) -> None:
        """Stops it in an orderly way; it stays down until `start` or `restart`."""
        await asyncio.gather(*(self._thread.run(child.stop()) for child in self._children(name)))

    async def restart(self, name: str) -> None:
        """An orderly stop and start; returns when it is healthy again."""
        await self.stop(name)
        await self.start(name)

    def kill(self, name: str) -> None:
        """kill -9; the supervisor restarts it. `await healthy(name)` waits for that."""
        self._signal(name, signal.SIGKILL)

    def pause(self, name: str) -> None:
        """Freezes it (SIGSTOP) until `resume`."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Lets a frozen one go on."""
        self._signal(name, signal.SIGCONT)

    async def healthy(self, name: str) -> None:
        """Waits until it serves; for "redis" until the whole cluster is usable."""
        await asyncio.gather(*(self._thread.run(child.healthy()) for child in self._children(name)))
        unit = self._units[name]
        if isinstance(unit, Step):
            await self._thread.run(_done(unit))

    def pid(self, name: str) -> int:
        """The process id; KeyError for a name that is no process, AssertionError when it is down."""
        pid = self._supervisor.children[name].pid
        assert pid is not None, f"{name} does not run"
        return pid

    def restarts(self, name: str) -> int:
        """How often the supervisor has restarted it after a crash."""
        return self._supervisor.children[name].restarts

    def log(self, name: str) -> str:
        """What it has written so far."""
        return self._supervisor.children[name].log.read_text(errors="replace")

    def _children(self, name: str) -> list[Child]:
        unit = self._units[name]
        names = unit.needs if isinstance(unit, Step) else (name,)
        return [self._supervisor.children[each] for each in names]

    def _signal(self, name: str, number: signal.Signals) -> None:
        async def send() -> None:
            for child in self._children(name):
                child.send(number)

        self._thread.wait(send())


class BackendServers(Servers):
    """PostgreSQL, NATS and the Redis Cluster on free ports; each starts when its address is first asked for."""

    def __init__(self, folder: Path, ports: FreePorts) -> None:
        redis_ports = [ports.take(BUS) for _ in topology.REDIS_PORTS]
        servers = backends.embedded(folder, redis_ports, ports.take(), ports.take())
        self._addresses = servers.addresses
        super().__init__(servers.units, folder / "logs")

    def postgres(self) -> str:
        """The DSN of the database `chirp`, which is empty."""
        self.start_blocking("postgres")
        return self._addresses.postgres

    def redis(self) -> str:
        """host:port,host:port,host:port."""
        self.start_blocking("redis")
        return self._addresses.redis

    def nats(self) -> str:
        """nats://host:port."""
        self.start_blocking("nats")
        return self._addresses.nats


class ClusterServers(Servers):
    """The whole cluster: backends, services, workers and gateway."""

    def __init__(self, machine: Machine, logs: Path) -> None:
        self.machine = machine
        super().__init__(machine.units, logs)

    @property
    def postgres(self) -> str:
        """The DSN of the cluster's database."""
        return self.machine.backends.addresses.postgres

    @property
    def redis(self) -> str:
        """host:port,… of the Redis nodes."""
        return self.machine.backends.addresses.redis

    @property
    def nats(self) -> str:
        """The URL of NATS."""
        return self.machine.backends.addresses.nats

    @property
    def rest(self) -> str:
        """The base URL of the REST shim."""
        return f"http://{self.machine.instance('gateway').address}"

    def address(self, name: str) -> str:
        """host:port of a replica's gRPC port ("tweet", "timeline-1")."""
        return self.machine.instance(name).address

    def addresses(self, service: str) -> tuple[str, ...]:
        """host:port of all replicas of a service, as services.runtime.channel.connect takes them."""
        return tuple(each.address for each in self.machine.instances if each.process.name == service)

    def metrics(self, name: str) -> str:
        """The URL of a replica's /metrics."""
        instance = self.machine.instance(name)
        return f"http://{instance.host}:{instance.metrics_port}/metrics"


async def _done(step: Step) -> None:
    await step.run()


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}
