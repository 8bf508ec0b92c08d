"""Latest tweets of single authors: the reader's own, checked by fence, and those of pull authors, a second old at most."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.fences import Fences
from services.runtime.redisroutes import Answer
from services.timeline.facts import Fenced
from services.timeline.generations import Generations
from services.timeline.look import tweet_key
from services.timeline.rules import Reference
from services.timeline.sources import Source
from services.timeline.truth import Truth

OWN_LIMIT = 100
PULL_LIMIT = 2000
"""Of all pull authors that are asked for together; below the oldest of them the page goes on in the truth."""
PULL_LIFE = 1.0
"""Seconds that a list of a pull author is shown without asking again."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """An author's latest tweets and until when they are shown."""

    source: Source
    until: float


def as_source(references: Sequence[Reference], limit: int) -> Source:
    """References newest first as a source: complete to the last one, or to the very first tweet when fewer than asked for."""
    floor = references[-1].tweet_id - 1 if len(references) >= limit else 0
    return Source([reference.tweet_id for reference in reversed(references)], floor)


class Recents:
    """Lists of latest tweets, kept per author."""

    def __init__(self, truth: Truth, fences: Fences, clock: Clock, capacity: int = 20_000) -> None:
        self._truth, self._clock = truth, clock
        self._own: Fenced[Source] = Fenced(fences, clock, capacity)
        self._pulled: Generations[int, Pulled] = Generations(capacity)

    async def own(self, call: Call, viewer_id: int, cell: Answer) -> Source:
        """The reader's own tweets, no older than the last one that was acknowledged."""

        async def load() -> Source:
            return as_source(await self._truth.references(call, [viewer_id], limit=OWN_LIMIT), OWN_LIMIT)

        return await self._own.current(viewer_id, tweet_key(viewer_id), cell, load)

    async def pulled(self, call: Call, author_ids: Collection[int]) -> list[Source]:
        """Latest tweets of each author; those whose list ran out are asked for in one call."""
        now = self._clock.monotonic()
        found: list[Source] = []
        stale: list[int] = []
        for author_id in author_ids:
            known = self._pulled.get(author_id)
            if known is not None and known.until > now:
                found.append(known.source)
            else:
                stale.append(author_id)
        return [*found, *await self._pull(call, stale, now)] if stale else found

    async def _pull(self, call: Call, author_ids: list[int], now: float) -> list[Source]:
        references = await self._truth.references(call, author_ids, limit=PULL_LIMIT)
        floor = as_source(references, PULL_LIMIT).floor
        by_author: dict[int, list[int]] = defaultdict(list)
        for reference in reversed(references):
            by_author[reference.author_id].append(reference.tweet_id)
        found = [Source(by_author[author_id], floor) for author_id in author_ids]
        for author_id, source in zip(author_ids, found, strict=True):
            self._pulled.put(author_id, Pulled(source, now + PULL_LIFE))
        return found

    def clear(self) -> None:
        """Forgets every list."""
        self._own.clear()
        self._pulled.clear()
