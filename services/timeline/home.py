"""The home timeline's read pipeline: look → facts → candidates → hydrate → visible.

Candidates come in stretches, newest first: the top of the window merged with the reader's own tweets and those of pull
authors; then the whole window; then, below its floor, the truth, to the very first tweet. A page takes as much of them as
it needs. With Redis away all stretches come from the truth.
"""

from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing

from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.resp import CacheUnavailable, RedisError
from services.timeline.catalogue import Catalogue, Item
from services.timeline.facts import Facts, ReaderFacts
from services.timeline.look import Look, Looker
from services.timeline.metrics import TimelineMetrics
from services.timeline.pages import Leg, Page, fill, newer_page, tweet_ids
from services.timeline.positions import TOP, Seen, seen_on_page
from services.timeline.rebuild import Rebuilder, read_whole
from services.timeline.recents import Recents
from services.timeline.sources import Source, merge, of_window
from services.timeline.truth import Truth
from services.timeline.window import Window

MARGIN = 100
"""Entries read beyond the page, for duplicates, disorder and what the reader may not see."""
TRUTH_STRETCH = 100
"""References asked for at a time below the window."""


class Home:
    """Reads homes."""

    def __init__(
        self, looker: Looker, truth: Truth, facts: ReaderFacts, recents: Recents, catalogue: Catalogue,
        rebuilder: Rebuilder, clock: Clock, metrics: TimelineMetrics,
    ) -> None:  # fmt: skip
        self._looker, self._truth, self._facts, self._recents = looker, truth, facts, recents
        self._catalogue, self._rebuilder, self._clock, self._metrics = catalogue, rebuilder, clock, metrics

    async def older(self, call: Call, viewer_id: int, before: int, size: int) -> Page:
        """The page below an id (TOP for the first), newest first."""
        try:
            look = await self._looker.look(viewer_id, size + MARGIN)
            facts = await self._facts.current(call, viewer_id, look.graph_fence)
            found = await self._window(call, facts, look)
            sources = await self._sources(call, facts, look, found)
            items, resume = await self._fill(call, facts, self._descend(call, facts, found, sources, before), size)
        except (CacheUnavailable, RedisError):
            self._metrics.unavailable.inc()
            return await self._older_from_truth(call, viewer_id, before, size)
        return Page(items, resume, seen_on_page(tweet_ids(items), resume is not None, found.sentinel.nonce))

    async def newer(self, call: Call, viewer_id: int, seen: Seen, size: int) -> Page:
        """What the reader has not seen, oldest first."""
        try:
            look = await self._looker.look(viewer_id, size + MARGIN)
            facts = await self._facts.current(call, viewer_id, look.graph_fence)
            found = await self._window(call, facts, look)
            sources = await self._sources(call, facts, look, found)
            items, resume = await self._fill(call, facts, self._ascend(call, facts, found, sources, seen), size)
        except (CacheUnavailable, RedisError):
            self._metrics.unavailable.inc()
            facts = await self._facts.load(call, viewer_id)
            items, resume = await self._fill(call, facts, self._truth_above(call, facts, seen), size, cached=False)
            return newer_page(items, resume, seen, 0, degraded=True)
        return newer_page(items, resume, seen, found.sentinel.nonce)

    async def _older_from_truth(self, call: Call, viewer_id: int, before: int, size: int) -> Page:
        """Without the cache there are no notices of deletions: every tweet comes from its owner."""
        facts = await self._facts.load(call, viewer_id)
        items, resume = await self._fill(call, facts, self._truth_below(call, facts, before), size, cached=False)
        return Page(items, resume, seen_on_page(tweet_ids(items), resume is not None, 0), degraded=True)

    def _fill(
        self, call: Call, facts: Facts, legs: AsyncGenerator[Leg], size: int, *, cached: bool = True
    ) -> Coroutine[None, None, tuple[list[Item], int | None]]:
        return fill(call, self._catalogue, legs, size, facts.shows, cached=cached)

    async def _window(self, call: Call, facts: Facts, look: Look) -> Window:
        """The window that was looked at if it serves, else one built anew."""
        found = look.window
        if found is not None and found.sentinel.serves(facts.follow_revision, self._clock.now_ms()):
            self._metrics.hit.inc()
            return found
        (self._metrics.missing if found is None else self._metrics.outdated).inc()
        return await self._rebuilder.window(call, facts, found)

    async def _sources(self, call: Call, facts: Facts, look: Look, found: Window) -> list[Source]:
        """What is merged with the window: own tweets, and those of pull authors.

        A list of pulled tweets need not reach below the moment at which the window was built: older ones are in the window.
        """
        sources = [await self._recents.own(call, facts.viewer_id, look.tweet_fence)]
        if facts.pull_authors:
            built_id = found.sentinel.built_id
            pulled = await self._recents.pulled(call, facts.pull_authors)
            sources.extend(Source(source.ids, source.floor if source.floor > built_id else 0) for source in pulled)
        return sources

    async def _descend(self, call: Call, facts: Facts, found: Window, sources: list[Source], ceiling: int) -> AsyncGenerator[Leg]:
        stretch = merge([of_window(found), *sources], ceiling)
        ceiling = min(ceiling, stretch.floor + 1)
        yield Leg(stretch.ids, ceiling)
        if not found.whole and ceiling - 1 > found.sentinel.floor_id:
            whole = await self._whole(facts.viewer_id, found)
            if whole is not None:
                stretch = merge([of_window(whole), *sources], ceiling)
                ceiling = min(ceiling, stretch.floor + 1)
                yield Leg(stretch.ids, ceiling)
        if ceiling > 1 and stretch.floor:
            async with aclosing(self._truth_below(call, facts, ceiling)) as legs:
                async for leg in legs:
                    yield leg

    async def _ascend(self, call: Call, facts: Facts, found: Window, sources: list[Source], seen: Seen) -> AsyncGenerator[Leg]:
        stretch = merge([of_window(found), *sources], TOP)
        if stretch.floor > seen.bound and not found.whole:
            whole = await self._whole(facts.viewer_id, found)
            stretch = merge([of_window(whole or found), *sources], TOP)
        if stretch.floor <= seen.bound:
            fresh = [tweet_id for tweet_id in reversed(stretch.ids) if tweet_id > seen.bound and tweet_id not in seen.ids]
            yield Leg(fresh, TOP)
            return
        async with aclosing(self._truth_above(call, facts, seen)) as legs:
            async for leg in legs:
                yield leg

    async def _whole(self, viewer_id: int, found: Window) -> Window | None:
        """All of the window whose top was found; None if it is another one by now, or none."""
        whole = await read_whole(self._looker.redis, viewer_id)
        return whole if whole is not None and whole.sentinel.nonce == found.sentinel.nonce else None

    async def _truth_below(self, call: Call, facts: Facts, ceiling: int) -> AsyncGenerator[Leg]:
        """Stretches of what the reader may see below an id, read from the owner until there is no more."""
        async for below in self._truth.below(call, facts.sources, ceiling, TRUTH_STRETCH):
            self._metrics.below_window.inc()
            yield Leg([item.tweet_id for item in below if facts.shows(item)], below[-1].tweet_id)

    async def _truth_above(self, call: Call, facts: Facts, seen: Seen) -> AsyncGenerator[Leg]:
        """The same upwards from what the reader has seen."""
        async for above in self._truth.above(call, facts.sources, seen.bound, TRUTH_STRETCH):
            self._metrics.below_window.inc()
            fresh = [item.tweet_id for item in above if item.tweet_id not in seen.ids and facts.shows(item)]
            yield Leg(fresh, above[-1].tweet_id)
