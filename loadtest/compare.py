"""Pure: a home as served, and a window as it lies in Redis, against the truth, entry by entry."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtest.truth import Expected

LATENESS = 10_000 << 22
"""Ids of entries may be out of order by ten seconds of ids: what a fan-out is allowed to be late."""
_SENTINEL = re.compile(rb"#r:(\d+):(\d+):(\d+):(\d+):(\d+)")


class Kind(StrEnum):
    """What can be wrong with an entry."""

    MISSING = "missing"
    EXTRA = "extra"
    REPEATED = "repeated"
    ORDER = "order"


class Place(StrEnum):
    """Where it is wrong."""

    WINDOW = "window"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that is not as the truth says."""

    user_id: int
    place: Place
    kind: Kind
    tweet_id: int


@dataclass(frozen=True, slots=True)
class RawWindow:
    """A window as it lies in Redis."""

    entries: Sequence[int]
    follow_revision: int
    built_id: int
    floor_id: int


def read_window(elements: Sequence[bytes]) -> RawWindow | None:
    """None for no window, or one that is being built."""
    ready = _SENTINEL.fullmatch(elements[-1]) if elements else None
    if ready is None:
        return None
    _, revision, built_id, floor_id, _ = map(int, ready.groups())
    return RawWindow([int(entry) for entry in elements[:-1]], revision, built_id, floor_id)


def compare_window(
    user_id: int,
    truth: Sequence[Expected],
    window: RawWindow,
    settled: int,
    known: Collection[int],
    *,
    strict: bool = False,
) -> list[Difference]:
    """`settled`: ids up to here had time to be delivered. `known`: entries outside the truth that may lie there all the same,
    of deleted tweets, of replies that a reader does not see, of authors unfollowed since. `strict`: an entry that lies there
    twice is a difference too; it is harmless, pushed while the window was being built or delivered again, and readers drop it.
    """
    entries = set(window.entries)
    expected = {
        tweet.tweet_id
        for tweet in truth
        if window.floor_id < tweet.tweet_id <= settled and (not tweet.pull or tweet.tweet_id <= window.built_id)
    }
    true_ids = {tweet.tweet_id for tweet in truth}
    found = [(Kind.MISSING, tweet_id) for tweet_id in expected - entries]
    found += [(Kind.EXTRA, tweet_id) for tweet_id in entries - true_ids - set(known) if tweet_id <= settled]
    found += [(Kind.REPEATED, tweet_id) for tweet_id in repeated(window.entries) if strict]
    found += [(Kind.ORDER, tweet_id) for tweet_id in _displaced(window.entries)]
    return [Difference(user_id, Place.WINDOW, kind, tweet_id) for kind, tweet_id in found]


def compare_answer(
    user_id: int, truth: Sequence[Expected], answer: Sequence[int], settled: int, *, whole: bool
) -> list[Difference]:
    """`whole`: the walk went to the very end; else what lies below the last item is not compared."""
    served, true_ids = set(answer), [tweet.tweet_id for tweet in truth if tweet.tweet_id <= settled]
    last = 0 if whole or not answer else min(answer)
    found = [(Kind.MISSING, tweet_id) for tweet_id in true_ids if tweet_id >= last and tweet_id not in served]
    found += [(Kind.EXTRA, tweet_id) for tweet_id in served - {tweet.tweet_id for tweet in truth} if tweet_id <= settled]
    found += [(Kind.REPEATED, tweet_id) for tweet_id in repeated(answer)]
    found += [(Kind.ORDER, lower) for upper, lower in itertools.pairwise(answer) if lower > upper]
    return [Difference(user_id, Place.ANSWER, kind, tweet_id) for kind, tweet_id in found]


def repeated(ids: Sequence[int]) -> set[int]:
    """Those that are there more than once."""
    seen: set[int] = set()
    return {number for number in ids if number in seen or seen.add(number)}


def _displaced(entries: Sequence[int]) -> set[int]:
    """Entries that lie above one that is newer by more than a push may be late."""
    displaced: set[int] = set()
    deepest_newest = 0
    for entry in reversed(entries):
        if deepest_newest > entry + LATENESS:
            displaced.add(entry)
        deepest_newest = max(deepest_newest, entry)
    return displaced
