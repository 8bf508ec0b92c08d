"""Issues ids while a grant lasts, and refuses while none can be issued safely."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chirp import errors
from chirp.errors import v1 as errorspb
from services.id import snowflake
from services.runtime.clock import Clock

PATIENCE_MS = 50
"""A clock that stepped back so little is waited for: NTP's corrections pass unseen, and deadlines survive the wait."""
RETRY_SECONDS = 0.5
"""Advised after a refusal: another replica answers sooner, and a lost lease takes about as long to replace."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to issue ids of one worker, in milliseconds above the floor and up to the mark, for a time."""

    worker_id: int
    floor_ms: int
    """Unix time; no id in this millisecond or before it."""
    mark_ms: int
    """Unix time; no id after this millisecond: the next holder starts above it."""
    until: float
    """Monotonic seconds before the lease can have ended."""


class Generator:
    """Issues the ids of a process, strictly increasing. `sleep` takes seconds."""

    def __init__(self, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._sequence = snowflake.Sequence()
        self._grant: Grant | None = None

    def admit(self, grant: Grant) -> None:
        """Issues under this grant from now on."""
        if self._grant is None or self._grant.worker_id != grant.worker_id:
            self._sequence.begin(grant.worker_id, grant.floor_ms)
        self._grant = grant

    def revoke(self) -> None:
        """Issues nothing until the next grant."""
        self._grant = None

    def able(self) -> bool:
        """Whether an id could be issued at this moment, or after a pause that a caller would not notice."""
        try:
            self._granted(self._clock.now_ms())
        except errors.Unavailable:
            return False
        return self._sequence.last_ms - self._clock.now_ms() <= PATIENCE_MS

    async def take(self, count: int) -> list[int]:
        """As many ids, increasing. Raises Unavailable (LEASE_LOST, CLOCK_BEHIND); ids taken until then are never used."""
        taken: list[int] = []
        while missing := count - len(taken):
            try:
                run = self._run(missing)
            except snowflake.ClockBehind as behind:
                await self._wait(behind.milliseconds)
                continue
            taken.extend(run)
            if not run:
                # The millisecond is used up. A timer could not fire before two have passed.
                await self._sleep(0)
        return taken

    def _run(self, count: int) -> range:
        # The wall clock is read first: a process that was stopped in between finds its lease over.
        now_ms = self._clock.now_ms()
        self._granted(now_ms)
        return self._sequence.run(now_ms, count)

    def _granted(self, now_ms: int) -> None:
        grant = self._grant
        if grant is None or self._clock.monotonic() >= grant.until:
            raise _refusal(errorspb.ERROR_REASON_LEASE_LOST, "no worker id is leased at the moment")
        if not now_ms <= min(grant.mark_ms, snowflake.LATEST_MS):
            raise _refusal(errorspb.ERROR_REASON_LEASE_LOST, "the clock is ahead of what the lease allows")

    async def _wait(self, behind_ms: int) -> None:
        if behind_ms > PATIENCE_MS:
            raise _refusal(errorspb.ERROR_REASON_CLOCK_BEHIND, f"the clock is {behind_ms} ms behind the last id")
        await self._sleep(behind_ms / 1_000)


def _refusal(reason: errorspb.ErrorReason.ValueType, message: str) -> errors.Unavailable:
    return errors.Unavailable(reason, message, retry_after=RETRY_SECONDS)
