"""Pages of timelines: filled from stretches of candidates, whatever list they come from."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.runtime.call import Call
from services.timeline.catalogue import Catalogue, Item
from services.timeline.positions import Seen
from services.timeline.rules import Reference

MOST_STRETCHES = 50
"""Stretches read for one page: 5,000 references in which nothing could be shown."""

Fits = Callable[[Reference], bool]
"""Whether a tweet may be shown in the list."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of a walk."""

    ids: Sequence[int]
    """Candidates, in the order of the walk."""
    resume: int
    """The id at which a walk that is broken off behind them goes on."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, ready to be sent."""

    items: list[Item]
    resume: int | None
    """The id at which the walk goes on; None at its end."""
    seen: Seen
    """For the token of what is newer."""
    gap: bool = False
    """In answer to `after`: newer tweets remain, or the home was built anew meanwhile."""
    degraded: bool = False


async def fill(
    call: Call, catalogue: Catalogue, legs: AsyncGenerator[Leg], size: int, fits: Fits, *, cached: bool = True
) -> tuple[list[Item], int | None]:
    """Takes what is there and fits until the page is full; where the walk goes on, None at its end.

    A page that stays short after MOST_STRETCHES is answered short, with a token, rather than late.
    """
    page: list[Item] = []
    reads = 0
    async with aclosing(legs):
        async for leg in legs:
            first = 0
            while first < len(leg.ids):
                wanted = leg.ids[first : first + size + 1 - len(page)]
                first += len(wanted)
                found = await catalogue.tweets(call, wanted, cached=cached)
                shown = (found.get(tweet_id) for tweet_id in wanted)
                page += await catalogue.items(call, [each for each in shown if each is not None and fits(each.reference)])
                if len(page) > size:
                    return page[:size], page[size - 1].tweet_id
            reads += 1
            if reads >= MOST_STRETCHES:
                return page, leg.resume
    return page, None


def newer_page(items: list[Item], resume: int | None, seen: Seen, nonce: int, *, degraded: bool = False) -> Page:
    """The answer to `after`. A home built anew since the last page may hold late tweets from before the re-scanned stretch."""
    built_anew = bool(seen.nonce and nonce and seen.nonce != nonce)
    now_seen = seen.with_shown(tweet_ids(items), nonce or seen.nonce)
    if resume is not None and not items:
        now_seen = Seen(max(resume, seen.bound), seen.ids, now_seen.nonce)
    return Page(items, resume, now_seen, resume is not None or built_anew, degraded)


def tweet_ids(items: Iterable[Item]) -> list[int]:
    """The ids of tweets on a page."""
    return [item.tweet_id for item in items]
