"""Merging the newest tweets of many authors, against sorting all of them."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tweet.model import Reference
from services.tweet.recent import Range, ladder, recent


class Shelf:
    """All tweets of everybody, and how much was read of them."""

    def __init__(self, tweets: Sequence[Reference]) -> None:
        self.tweets = sorted(tweets)
        self.read = 0
        self.passes: list[int] = []

    async def fetch(
        self, author_ids: Sequence[int], starts: Sequence[int], end: int, each: int, limit: int, *, upwards: bool
    ) -> list[Reference]:
        assert len(set(author_ids)) == len(author_ids)
        self.passes.append(len(author_ids))
        found: list[Reference] = []
        for author, start in zip(author_ids, starts, strict=True):
            low, high = (start, end) if upwards else (end, start)
            own = [tweet for tweet in self.tweets if tweet.author_id == author and low < tweet.tweet_id < high]
            found += own[:each] if upwards else own[::-1][:each]
        self.read += len(found)
        return sorted(found, reverse=not upwards)[:limit]

    def plain(self, author_ids: Sequence[int], within: Range, limit: int) -> list[Reference]:
        found = [each for each in self.tweets if each.author_id in author_ids and within.above < each.tweet_id < within.below]
        return (found if within.upwards else found[::-1])[:limit]


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    tweets=st.integers(0, 250),
    people=st.integers(1, 12),
    before=st.one_of(st.just(0), st.integers(1, 2_600)),
    after=st.one_of(st.just(0), st.integers(1, 2_600)),
    limit=st.sampled_from([1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 300]),
)
async def test_as_a_plain_merge(seed: int, tweets: int, people: int, before: int, after: int, limit: int) -> None:
    # Some are far more talkative than others, for a while or always, so that cuts fall within and between them.
    randomly = random.Random(seed)
    authors = [1 + int(12 * randomly.random() ** randomly.choice((1, 3, 9))) for _ in range(tweets)]
    shelf = Shelf([Reference(10 * (index + 1), author, 0, False) for index, author in enumerate(authors)])
    asked, within = [randomly.randint(1, 13) for _ in range(people)], Range.of(before, after)
    assert await recent(shelf.fetch, asked, within, limit) == shelf.plain(asked, within, limit)
    assert len(shelf.passes) <= 4


def test_which_way_the_list_runs() -> None:
    assert Range.of(0, 0) == Range()
    assert Range.of(9, 0) == Range(0, 9)
    assert Range.of(0, 5) == Range(5, upwards=True)
    assert Range.of(9, 5) == Range(5, 9)


@pytest.mark.parametrize(
    ("limit", "authors", "steps"),
    [(20, 1, [20]), (100, 20, [10, 80, 100]), (800, 5_000, [2, 16, 128, 800]), (2_000, 20_000, [2, 16, 128, 2_000]), (1, 9, [1])],
)
def test_ladder(limit: int, authors: int, steps: list[int]) -> None:
    assert list(ladder(limit, authors)) == steps


async def test_one_talkative_author_among_thousands_costs_little() -> None:
    randomly = random.Random(4)
    quiet = [Reference(each, randomly.randrange(2, 3_000), 0, False) for each in range(1, 10_000)]
    loud = [Reference(each, 1, 0, False) for each in range(20_000, 21_000)]
    shelf = Shelf([*quiet, *loud])
    found = await recent(shelf.fetch, range(1, 3_000), Range(), 800)
    assert {each.author_id for each in found} == {1}
    assert shelf.passes[0] == 2_999
    assert shelf.passes[1] <= 400
    assert shelf.passes[2:] == [1, 1]
    assert shelf.read < 3_000 * 2 + 800 + 200
