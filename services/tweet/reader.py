"""Reads of tweets by id: those that wait together are one query, of the primary."""

from collections.abc import Sequence

from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics
from services.tweet.model import Stored
from services.tweet.store import TweetStore

MAX_BATCH = 32
"""Calls, each of up to a thousand ids: a query stays within tens of milliseconds."""


class Reader:
    """Coalesces the reads of this process. A read sees every write that was acknowledged before it was asked for."""

    def __init__(self, store: TweetStore, metrics: Metrics) -> None:
        self._store = store
        self._reading = Coalescer[Sequence[int], dict[int, Stored]](self._flush, "tweet_read", metrics, max_batch=MAX_BATCH)

    async def get(self, tweet_ids: Sequence[int]) -> dict[int, Stored]:
        """Tweets and tombstones by id, at least those asked for that there are."""
        return await self._reading.submit(tweet_ids)

    async def _flush(self, wanted: list[Sequence[int]]) -> list[dict[int, Stored]]:
        found = await self._store.get(set[int]().union(*wanted))
        return [found] * len(wanted)
