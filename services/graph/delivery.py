"""Push or pull: decided for an author before a tweet of theirs is made.

An author with at least as many followers as the threshold is pulled. Before the first such answer the author is marked in
the database and announced to all readers, so that whoever reads after the tweet was committed looks for it. The mark is
renewed once an hour while the author tweets, and readers' facts name the author for eight days after it, whatever the
threshold is then: a change of the threshold, or of the followers, leaves no gap.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from services.graph.events import GraphCounters
from services.graph.store import PULL_DAYS, GraphStore, Standing
from services.runtime.clock import Clock
from services.runtime.notices import Notices

RENEWAL = timedelta(hours=1)
"""Age of a mark that is renewed: a write an hour and author, for an hour of the eight days."""
LAPSE = timedelta(days=PULL_DAYS - 1)
"""Age of a mark that is announced again: readers may be about to be told no more of it."""


class Plan(NamedTuple):
    """How an author's next tweet is delivered."""

    author_id: int
    pull: bool
    follower_count: int


class Delivery:
    """Plans deliveries."""

    def __init__(
        self, store: GraphStore, notices: Notices, clock: Clock, threshold: Callable[[], int], counters: GraphCounters
    ) -> None:
        """`threshold`: followers from which on an author is pulled, at this moment."""
        self._store, self._notices, self._clock = store, notices, clock
        self._threshold, self._counters = threshold, counters

    async def plan(self, author_ids: Sequence[int]) -> list[Plan]:
        """One plan per author, in that order; readers know of each one that says pull."""
        threshold, standings = self._threshold(), await self._store.standings(author_ids)
        await self._mark([each for each in standings if each.follower_count >= threshold])
        return [Plan(each.user_id, each.follower_count >= threshold, each.follower_count) for each in standings]

    async def _mark(self, pulled: Sequence[Standing]) -> None:
        now_ms = self._clock.now_ms()
        now = datetime.fromtimestamp(now_ms / 1_000, UTC)
        due = {each.user_id for each in pulled if _older(each, now, RENEWAL)}
        if not due:
            return
        unknown = {each.user_id for each in pulled if _older(each, now, LAPSE)}
        async with self._notices.announced(pulled=unknown):
            await self._store.mark_pulled(sorted(due), now_ms)
        self._counters.count_pulled(len(unknown))


def _older(author: Standing, now: datetime, age: timedelta) -> bool:
    return author.last_pull_time is None or now - author.last_pull_time >= age
