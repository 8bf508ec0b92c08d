"""The newest tweets of many authors in one list: exact, in at most four statements, with work in proportion to the list.

Most authors have nothing among the newest. So each is asked for very few tweets first; only whoever gave all that was
asked, and still lies above the cut that this makes, is asked for more: from there on, down to the cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.tweet.model import Reference

GREATEST_ID = (1 << 63) - 1
STEP = 8
"""Each pass asks the authors that are left for so many times as much."""


@dataclass(frozen=True, slots=True)
class Range:
    """Ids strictly between `above` and `below`, from the top down or from the bottom up."""

    above: int = 0
    below: int = GREATEST_ID
    upwards: bool = False

    @staticmethod
    def of(before_tweet_id: int, after_tweet_id: int) -> "Range":
        """As the contract has it: 0 is no bound, and only a lower bound alone makes the list run upwards."""
        if before_tweet_id > 0:
            return Range(max(after_tweet_id, 0), before_tweet_id)
        return Range(max(after_tweet_id, 0), upwards=after_tweet_id > 0)


class Fetch(Protocol):
    """The first `limit` tweets of authors, at most `each` of every one, in the order of the list."""

    async def __call__(
        self, author_ids: Sequence[int], starts: Sequence[int], end: int, each: int, limit: int, *, upwards: bool
    ) -> list[Reference]:
        """Each author's tweets begin after its start and end before `end`, both excluded."""
        ...


async def recent(fetch: Fetch, author_ids: Iterable[int], within: Range, limit: int) -> list[Reference]:
    """The first `limit` tweets of the authors within the range.

    Every tweet committed before the call is among them or beyond the last of them; one made or deleted meanwhile may or
    may not be.
    """
    authors = list(dict.fromkeys(author_ids))
    start, end = (within.above, within.below) if within.upwards else (within.below, within.above)
    starts = [start] * len(authors)
    found: list[Reference] = []
    for each in ladder(limit, len(authors)):
        rows = await fetch(authors, starts, end, each, limit, upwards=within.upwards)
        found = sorted([*found, *rows], reverse=not within.upwards)[:limit]
        if len(found) == limit:
            end = found[-1].tweet_id
        last = {author: at for author, at in _exhausted(rows, each) if at != end and (at < end) == within.upwards}
        if not last:
            break
        authors, starts = list(last), list(last.values())
    return found


def ladder(limit: int, authors: int) -> Iterator[int]:
    """How many tweets an author is asked for, pass by pass; the last pass leaves nothing open.

    Twice an even share settles nearly everybody in the first pass. At most limit / n authors gave n tweets each, so no
    pass reads more than a few times what the first did.
    """
    each = max(2, 2 * -(-limit // max(authors, 1)))
    for _ in range(3):
        if each < limit:
            yield each
        each *= STEP
    yield limit


def _exhausted(rows: Sequence[Reference], each: int) -> Iterator[tuple[int, int]]:
    """Authors who gave as many tweets as were asked for, and the last of these."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.author_id] = count = counts.get(row.author_id, 0) + 1
        if count == each:
            yield row.author_id, row.tweet_id
