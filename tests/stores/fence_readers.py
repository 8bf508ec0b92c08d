"""A reader as `services.runtime.fences` describes it, in steps that a test can put others between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.runtime.clock import Clock
from services.runtime.fences import MISSING, PENDING, Fences, Verdict, fetch, verdict
from services.runtime.notices import NoticeReader, cell_for
from services.runtime.rediscluster import RedisCluster


@dataclass
class Primary:
    """The truth of one thing: how often it was changed, and how often a caller was told so."""

    value: int = 0
    acknowledged: int = 0


@dataclass
class Replica:
    """A process that caches copies: value and tag by fence key."""

    redis: RedisCluster
    clock: Clock
    copies: dict[str, tuple[int, bytes]] = field(default_factory=dict[str, tuple[int, bytes]])

    def __post_init__(self) -> None:
        self.fences = Fences(self.redis, self.clock)
        self.notices = NoticeReader(self.redis, self, self.clock)

    def on_delete(self, tweet_id: int) -> None:
        """Nothing of this is cached here."""

    def on_pull(self, author_id: int) -> None:
        """Nothing of this is cached here."""

    def on_void(self) -> None:
        """Forgets all copies."""
        self.copies.clear()


class Reading:
    """One read, step by step: `seen`, then `read`, then `finish`; `value` is what the caller got."""

    def __init__(self, replica: Replica, key: str, primary: Primary) -> None:
        self.replica, self.key, self.primary = replica, key, primary
        self.floor = primary.acknowledged
        self.value: int | None = None
        self.verdict: Verdict = PENDING
        self.started = 0.0
        self.epoch = 0

    async def see(self) -> None:
        """The one round trip: the fence and the notices' head. A current copy ends the read."""
        cell = cell_for(self.key)
        fence, head = await self.replica.redis.scatter([(self.key, fetch(self.key)), (cell.slot, cell.head)])
        await self.replica.notices.observe(cell, head)
        self.verdict, self.started = verdict(fence), self.replica.clock.monotonic()
        self.epoch = self.replica.notices.epoch
        copy = self.replica.copies.get(self.key)
        if copy and copy[1] == self.verdict:
            self.value = copy[0]

    def read(self) -> None:
        """The owner's primary."""
        self.value = self.primary.value

    async def finish(self) -> None:
        """Keeps a copy where that is allowed."""
        tag = self.verdict if isinstance(self.verdict, bytes) else None
        if self.verdict is MISSING:
            tag = await self.replica.fences.establish(self.key, self.started)
        if tag is not None and self.value is not None and self.replica.notices.epoch == self.epoch:
            self.replica.copies[self.key] = self.value, tag

    async def whole(self, between: Callable[[], None] | None = None) -> int:
        """All steps at once; the value."""
        await self.see()
        if self.value is None:
            self.read()
            if between:
                between()
            await self.finish()
        assert self.value is not None
        assert self.value >= self.floor, f"read {self.value} after {self.floor} was acknowledged"
        return self.value
