"""How far each tweet has been delivered: a row a page of followers, written before the page's message is acknowledged."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from services.runtime import ids
from services.runtime.arrays import BoolArray, Int2Array, Int4Array, Int8Array
from services.runtime.postgres import Database


class Outcome(IntEnum):
    """What was done for a page of followers."""

    PUSHED = 1
    PULL = 2
    INVALIDATED = 3


@dataclass(frozen=True, slots=True)
class PageDone:
    """The delivery of a tweet to a page of its author's followers."""

    tweet_id: int
    page: int
    outcome: Outcome
    targets: int
    delivered: int
    inactive: int
    last_page: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """The delivery of a tweet as a whole."""

    state: str
    """pending, running, done, pull or invalidated."""
    targets: int = 0
    delivered: int = 0
    inactive: int = 0
    lag_ms: int | None = None
    """From the tweet's id to the end of its delivery; None before."""


class ProgressStore:
    """Table timeline.fanout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, pages: Sequence[PageDone]) -> None:
        """Writes pages; a page that was written before keeps what it said first, so that a redelivery counts nothing twice."""
        await self._database.execute(
            """
            insert into timeline.fanout (tweet_id, page, outcome, targets, delivered, inactive, last_page)
            select * from unnest(
                %s::bigint[], %s::integer[], %s::smallint[], %s::integer[], %s::integer[], %s::integer[], %s::boolean[])
            on conflict (tweet_id, page) do nothing
            """,
            (
                Int8Array([each.tweet_id for each in pages]),
                Int4Array([each.page for each in pages]),
                Int2Array([each.outcome for each in pages]),
                Int4Array([each.targets for each in pages]),
                Int4Array([each.delivered for each in pages]),
                Int4Array([each.inactive for each in pages]),
                BoolArray([each.last_page for each in pages]),
            ),
        )

    async def of_tweet(self, tweet_id: int) -> Progress:
        """How far a tweet has been delivered; pending if nothing is known of it."""
        rows = await self._database.query(
            """
            select max(outcome), sum(targets), sum(delivered), sum(inactive), bool_or(last_page),
                   (extract(epoch from max(finish_time)) * 1000)::bigint
            from timeline.fanout where tweet_id = %s having count(*) > 0
            """,
            (tweet_id,),
        )
        return progress_of(tweet_id, *rows[0]) if rows else Progress("pending")

    async def forget_old(self) -> int:
        """Deletes a slice of rows older than seven days; how many went."""
        return await self._database.execute(
            """
            delete from timeline.fanout where (tweet_id, page) in (
                select tweet_id, page from timeline.fanout where finish_time < now() - interval '7 days'
                order by finish_time limit 1000)
            """
        )


def progress_of(tweet_id: int, outcome: int, targets: int, delivered: int, inactive: int, ended: bool, finish_ms: int) -> Progress:
    """Pure: one row of sums as progress."""
    if outcome == Outcome.PULL:
        return Progress("pull", targets)
    state = "running" if not ended else "invalidated" if outcome == Outcome.INVALIDATED else "done"
    return Progress(state, targets, delivered, inactive, max(0, finish_ms - ids.time_ms(tweet_id)) if ended else None)
