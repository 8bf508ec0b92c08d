"""A reader as `services.runtime.notices` describes it, in steps that a test can put others between."""

from __future__ import annotations

from services.runtime.clock import Clock
from services.runtime.notices import CELLS, Cell, NoticeReader
from services.runtime.rediscluster import RedisCluster


class Tweets:
    """The owner's primary, and which deletions were acknowledged."""

    def __init__(self) -> None:
        self.deleted: set[int] = set()
        self.acknowledged: set[int] = set()


class Replica:
    """A process that caches tweets and hears of deletions."""

    def __init__(self, redis: RedisCluster, clock: Clock) -> None:
        self.redis, self.cached = redis, set[int]()
        self.heard: list[tuple[str, int]] = []
        self.notices = NoticeReader(redis, self, clock)

    def on_delete(self, tweet_id: int) -> None:
        self.cached.discard(tweet_id)
        self.heard.append(("delete", tweet_id))

    def on_pull(self, author_id: int) -> None:
        self.heard.append(("pull", author_id))

    def on_void(self) -> None:
        self.cached.clear()
        self.heard.append(("void", 0))

    def told(self) -> list[tuple[str, int]]:
        """What was heard since the last time."""
        heard, self.heard = self.heard, []
        return heard

    async def observe(self, cell: Cell = CELLS[0]) -> None:
        """The part of a read that is about notices."""
        (head,) = await self.redis.scatter([(cell.slot, cell.head)])
        await self.notices.observe(cell, head)


class Showing:
    """One read of one tweet, step by step."""

    def __init__(self, replica: Replica, tweets: Tweets, tweet_id: int, cell: Cell) -> None:
        self.replica, self.tweets, self.tweet_id, self.cell = replica, tweets, tweet_id, cell
        self.hidden = tweet_id in tweets.acknowledged
        self.epoch = 0
        self.shown: bool | None = None

    async def see(self) -> None:
        """The round trip; a cached tweet that is not suspect ends the read."""
        await self.replica.observe(self.cell)
        self.epoch = self.replica.notices.epoch
        if self.tweet_id in self.replica.cached and not self.replica.notices.suspect(self.tweet_id):
            self.shown = True

    def read(self) -> None:
        """The owner's primary."""
        self.shown = self.tweet_id not in self.tweets.deleted

    def finish(self) -> None:
        """Caches it where that is allowed."""
        notices = self.replica.notices
        if self.shown and notices.epoch == self.epoch and not notices.suspect(self.tweet_id):
            self.replica.cached.add(self.tweet_id)

    def check(self) -> None:
        """The promise."""
        assert not (self.shown and self.hidden), f"tweet {self.tweet_id} was shown after its deletion was acknowledged"

    async def whole(self) -> bool:
        """All steps at once."""
        await self.see()
        if self.shown is None:
            self.read()
            self.finish()
        self.check()
        return bool(self.shown)
