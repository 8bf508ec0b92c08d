"""One Redis server as the hot path sees it: a connection that is kept up, and a breaker for the time it is not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from services.runtime.metrics import Metrics
from services.runtime.resp import CacheUnavailable, Connection, Outcome, pack

_PING = pack("PING")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the hot path waits, in seconds."""

    reply: float = 0.25
    """From handing a batch over to giving up its connection; a timeline read still has time for Postgres."""
    connect: float = 0.25
    """For the connection and its first PING together."""
    rest: float = 0.5
    """Between probes of a server that failed; calls are refused meanwhile."""


class NodeCounters:
    """Metrics of all servers together, labels bound once."""

    def __init__(self, metrics: Metrics) -> None:
        unavailable = metrics.counter("chirp_redis_unavailable", "Batches without replies, by cause.", ["cause"])
        connects = metrics.counter("chirp_redis_connects", "Attempts to connect to a server, by outcome.", ["outcome"])
        self.refused = unavailable.labels("breaker")
        self.slow = unavailable.labels("timeout")
        self.lost = unavailable.labels("connection")
        self.connected, self.failed = connects.labels("ok"), connects.labels("failed")


class Absent:
    """Stands for the owner of slots while nobody is known to own them."""

    address = ""
    generation = 0

    def __init__(self, counters: NodeCounters) -> None:
        self._counters = counters
        self.turns = asyncio.Semaphore(1)

    def submit(self, payload: bytes, count: int) -> asyncio.Future[Outcome]:
        """Refuses at once."""
        self._counters.refused.inc()
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        future.set_result(CacheUnavailable("no server is known for the slot"))
        return future


class Node:
    """A server. `submit` is its connection's own while there is one; during the first moments of a connection callers
    wait for it within their reply timeout; after a failure they are refused at once until a probe (connect and
    PING) succeeds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        patience: Patience,
        counters: NodeCounters,
        generations: Iterator[int],
        on_failure: Callable[[], None],
    ) -> None:
        """`generations` numbers connections; `on_failure` is told when the server stops answering, since another may
        have taken over.
        """
        self.host, self.port, self.address = host, port, f"{host}:{port}"
        self.generation = 0
        """Number of the present connection, unique among all servers; 0 before the first."""
        self.turns = asyncio.Semaphore(2)
        """Large batches take turns, so that no more than two are waited for at a time and the reply timeout measures
        the server.
        """
        self._patience, self._counters, self._generations = patience, counters, generations
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._ended = asyncio.Event()
        self._slow = False
        self._arrival: asyncio.Future[Connection | None] = self._loop.create_future()
        self.submit: Callable[[bytes, int], asyncio.Future[Outcome]] = self._wait
        self._keeper = self._loop.create_task(self._keep(), name=f"redis {self.address}")

    @property
    def up(self) -> bool:
        """True while there is a connection that answers."""
        return self._connection is not None

    @property
    def idle(self) -> bool:
        """True while nobody waits for this server."""
        return self._connection is None or self._connection.idle

    async def settled(self) -> None:
        """Returns when the present attempt to connect has ended, one way or the other."""
        await asyncio.shield(self._arrival)

    async def close(self) -> None:
        """Ends the connection and the probing; whoever waits is told so."""
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        if self._connection:
            self._connection.close("closed")
        self._fail()

    async def _keep(self) -> None:
        while True:
            connection = await self._connect()
            if connection:
                await self._use(connection)
                if not self._slow:
                    continue
            self._fail()
            self._on_failure()
            await asyncio.sleep(self._patience.rest * random.uniform(0.8, 1.2))

    async def _use(self, connection: Connection) -> None:
        """Serves callers over the connection until it is lost."""
        self._counters.connected.inc()
        self.generation = next(self._generations)
        self._slow = False
        self._connection, self.submit = connection, connection.submit
        self._arrive(connection)
        await self._ended.wait()

    async def _connect(self) -> Connection | None:
        connection, ready = self._made(), False
        self._ended.clear()
        try:
            async with asyncio.timeout(self._patience.connect):
                await self._loop.create_connection(lambda: connection, self.host, self.port)
                # A server that is loading or has too many clients answers with an error.
                ready = await connection.submit(_PING, 1) == [b"PONG"] and not self._ended.is_set()
        except (OSError, TimeoutError):
            pass
        finally:
            if not ready:
                connection.close("not ready")
                self._counters.failed.inc()
        return connection if ready else None

    def _made(self) -> Connection:
        return Connection(self._patience.reply, self._lost)

    def _lost(self, connection: Connection, cause: str, slow: bool) -> None:
        self._ended.set()
        if connection is not self._connection:
            return
        (self._counters.slow if slow else self._counters.lost).inc()
        self._connection, self._slow = None, slow
        self._arrival, self.submit = self._loop.create_future(), self._wait

    def _fail(self) -> None:
        """Opens the breaker."""
        self.submit = self._refuse
        self._arrive(None)

    def _arrive(self, connection: Connection | None) -> None:
        if not self._arrival.done():
            self._arrival.set_result(connection)

    def _refuse(self, payload: bytes, count: int) -> asyncio.Future[Outcome]:
        self._counters.refused.inc()
        future: asyncio.Future[Outcome] = self._loop.create_future()
        future.set_result(CacheUnavailable(f"{self.address} failed a moment ago"))
        return future

    def _wait(self, payload: bytes, count: int) -> asyncio.Future[Outcome]:
        return self._loop.create_task(self._submit_on_arrival(payload, count))

    async def _submit_on_arrival(self, payload: bytes, count: int) -> Outcome:
        due = monotonic() + self._patience.reply
        try:
            async with asyncio.timeout(self._patience.reply):
                connection = await asyncio.shield(self._arrival)
        except TimeoutError:
            connection = None
        if connection is None:
            return CacheUnavailable(f"{self.address} cannot be reached")
        # Whoever waited almost to the end must not cost everybody the new connection.
        return await connection.submit(payload, count, max(due, monotonic() + self._patience.reply / 5))
