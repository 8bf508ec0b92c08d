"""Keeps a worker id leased for as long as the process runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from chirp import errors
from services.id.generator import Generator, Grant
from services.id.store import Leased
from services.runtime.clock import Clock
from services.runtime.logs import Log

LEASE_MS = 9_000
"""How long a process that vanished keeps its worker id from others."""
AHEAD_MS = LEASE_MS
"""How far the mark is written ahead of the database's clock: renewals may fail for as long as the lease lasts, and a clock
that runs ahead issues no id further ahead than that.
"""
MARGIN = 0.5
"""Seconds of the lease that are not used: far more than the clocks of two machines drift apart in nine seconds."""
RENEWAL = LEASE_MS / 3_000
"""Seconds from one renewal to the next."""
RETRY = 0.25
"""Seconds to the next attempt when the database does not answer or every worker id is held."""


class Leases(Protocol):
    """Where worker ids are leased; see services.id.store."""

    async def take(self, owner: str, lease_ms: int, ahead_ms: int) -> Leased | None:
        """A free worker id, or None."""
        ...

    async def renew(self, worker_id: int, owner: str, lease_ms: int, ahead_ms: int) -> int | None:
        """The raised mark, or None when the worker id is somebody else's."""
        ...

    async def release(self, worker_id: int, owner: str) -> None:
        """Ends the lease."""
        ...


class Lease:
    """Holds at most one worker id, and tells the generator under what grant it may issue."""

    def __init__(
        self,
        store: Leases,
        generator: Generator,
        clock: Clock,
        owner: str,
        log: Log,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`owner` names this process and no other, past or present."""
        self._store, self._generator, self._clock, self._sleep = store, generator, clock, sleep
        self._owner, self._log = owner, log
        self._held: Leased | None = None

    async def keep(self) -> None:
        """Takes a worker id and renews it, for ever; cancel it to end, then `release`."""
        while True:
            await self._sleep(RENEWAL if await self._attempt() else RETRY)

    async def refresh(self) -> bool:
        """One step: takes a worker id, or renews the one that is held. Whether one is held afterwards."""
        began = self._clock.monotonic()
        if self._held and await self._renew(self._held, began):
            return True
        self._held = await self._store.take(self._owner, LEASE_MS, AHEAD_MS)
        if self._held:
            self._grant(self._held, began)
            self._log.info("worker id leased", worker_id=self._held.worker_id)
        return self._held is not None

    async def release(self) -> None:
        """Stops the generator and gives the worker id back; should that fail, the lease runs out by itself."""
        self._generator.revoke()
        held, self._held = self._held, None
        if held:
            try:
                await self._store.release(held.worker_id, self._owner)
            except errors.ServiceError as error:
                self._log.warning("worker id not given back", worker_id=held.worker_id, error=error.message)

    async def _attempt(self) -> bool:
        try:
            return await self.refresh()
        except errors.ServiceError as error:
            self._log.warning("worker id not renewed", error=error.message)
            return False

    async def _renew(self, held: Leased, began: float) -> bool:
        mark_ms = await self._store.renew(held.worker_id, self._owner, LEASE_MS, AHEAD_MS)
        if mark_ms is None:
            self._generator.revoke()
            self._log.warning("worker id lost to another process", worker_id=held.worker_id)
            return False
        self._held = held._replace(mark_ms=mark_ms)
        self._grant(self._held, began)
        return True

    def _grant(self, held: Leased, began: float) -> None:
        """`began` is from before the statement was sent: the server's lease began later and ends later."""
        until = began + LEASE_MS / 1_000 - MARGIN
        self._generator.admit(Grant(held.worker_id, held.floor_ms, held.mark_ms, until))
