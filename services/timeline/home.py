"""The home timeline's read pipeline: look → facts → candidates → hydrate → visible.

Candidates come in stretches, newest first: the top of the window merged with the reader's own tweets and those of pull
authors; then the whole window; then, below its floor, the truth, to the very first tweet. A page takes as much of them as
it needs. With Redis away all stretches come from the truth.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.resp import CacheUnavailable
from services.timeline import rules
from services.timeline.catalogue import Catalogue, Shown
from services.timeline.facts import Facts, ReaderFacts
from services.timeline.look import Look, Looker
from services.timeline.metrics import TimelineMetrics
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
MOST_STRETCHES = 50
"""Stretches read for one page: 5,000 references in which nothing could be shown."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, ready to be presented."""

    shown: list[Shown]
    resume: int | None
    """The id at which the walk goes on; None at its end."""
    seen: Seen
    """For the token of what is newer."""
    gap: bool = False
    """In answer to `after`: newer tweets remain, or the home was built anew meanwhile."""
    degraded: bool = False


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
            stretches = self._descend(call, facts, found, sources, before)
            shown, resume = await self._fill(call, facts, stretches, size)
        except CacheUnavailable:
            self._metrics.unavailable.inc()
            return await self._older_from_truth(call, viewer_id, before, size)
        return Page(shown, resume, seen_on_page(tweet_ids(shown), resume is not None, found.sentinel.nonce))

    async def newer(self, call: Call, viewer_id: int, seen: Seen, size: int) -> Page:
        """What the reader has not seen, oldest first."""
        try:
            look = await self._looker.look(viewer_id, size + MARGIN)
            facts = await self._facts.current(call, viewer_id, look.graph_fence)
            found = await self._window(call, facts, look)
            sources = await self._sources(call, facts, look, found)
            stretches = self._ascend(call, facts, found, sources, seen)
            shown, resume = await self._fill(call, facts, stretches, size)
        except CacheUnavailable:
            self._metrics.unavailable.inc()
            facts = await self._facts.load(call, viewer_id)
            shown, resume = await self._fill(call, facts, self._truth_above(call, facts, seen), size, cached=False)
            return newer_page(shown, resume, seen, 0, degraded=True)
        return newer_page(shown, resume, seen, found.sentinel.nonce)

    async def _older_from_truth(self, call: Call, viewer_id: int, before: int, size: int) -> Page:
        """Without the cache there are no notices of deletions: every tweet comes from its owner."""
        facts = await self._facts.load(call, viewer_id)
        shown, resume = await self._fill(call, facts, self._truth_below(call, facts, before), size, cached=False)
        return Page(shown, resume, seen_on_page(tweet_ids(shown), resume is not None, 0), degraded=True)

    async def _window(self, call: Call, facts: Facts, look: Look) -> Window:
        """The window that was looked at if it serves, else one built anew."""
        found = look.window
        if found is not None and found.sentinel.serves(facts.follow_revision, self._clock.now_ms()):
            self._metrics.hit.inc()
            return found
        (self._metrics.missing if found is None else self._metrics.outdated).inc()
        return await self._rebuilder.window(call, facts, found.sentinel.nonce if found else 0)

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

    async def _descend(
        self, call: Call, facts: Facts, found: Window, sources: list[Source], ceiling: int
    ) -> AsyncIterator[Sequence[int]]:
        stretch = merge([of_window(found), *sources], ceiling)
        yield stretch.ids
        ceiling = min(ceiling, stretch.floor + 1)
        if not found.whole and ceiling - 1 > found.sentinel.floor_id:
            whole = await read_whole(self._looker.redis, facts.viewer_id)
            if whole is not None and whole.sentinel.nonce == found.sentinel.nonce:
                stretch = merge([of_window(whole), *sources], ceiling)
                yield stretch.ids
                ceiling = min(ceiling, stretch.floor + 1)
        if ceiling > 1 and stretch.floor:
            async for below in self._truth_below(call, facts, ceiling):
                yield below

    async def _ascend(
        self, call: Call, facts: Facts, found: Window, sources: list[Source], seen: Seen
    ) -> AsyncIterator[Sequence[int]]:
        stretch = merge([of_window(found), *sources], TOP)
        if stretch.floor > seen.bound and not found.whole:
            found = await read_whole(self._looker.redis, facts.viewer_id) or found
            stretch = merge([of_window(found), *sources], TOP)
        if stretch.floor <= seen.bound:
            yield [tweet_id for tweet_id in reversed(stretch.ids) if tweet_id > seen.bound and tweet_id not in seen.ids]
            return
        async for above in self._truth_above(call, facts, seen):
            yield above

    async def _truth_below(self, call: Call, facts: Facts, ceiling: int) -> AsyncIterator[Sequence[int]]:
        """Stretches of what the reader may see below an id, read from the owner until there is no more."""
        while ceiling > 1:
            self._metrics.below_window.inc()
            before = 0 if ceiling == TOP else ceiling
            below = await self._truth.references(call, facts.sources, limit=TRUTH_STRETCH, before=before)
            yield [item.tweet_id for item in below if rules.visible(facts.viewer_id, facts.followees, item)]
            if len(below) < TRUTH_STRETCH:
                return
            ceiling = below[-1].tweet_id

    async def _truth_above(self, call: Call, facts: Facts, seen: Seen) -> AsyncIterator[Sequence[int]]:
        """The same upwards from what the reader has seen."""
        bound = max(seen.bound, 1)
        while True:
            self._metrics.below_window.inc()
            above = await self._truth.references(call, facts.sources, limit=TRUTH_STRETCH, after=bound)
            yield [
                item.tweet_id
                for item in above
                if item.tweet_id not in seen.ids and rules.visible(facts.viewer_id, facts.followees, item)
            ]
            if len(above) < TRUTH_STRETCH:
                return
            bound = above[-1].tweet_id

    async def _fill(
        self, call: Call, facts: Facts, stretches: AsyncIterator[Sequence[int]], size: int, *, cached: bool = True
    ) -> tuple[list[Shown], int | None]:
        """Takes what the reader may see until the page is full; where the walk goes on, None at its end.

        A page that stays short after so many stretches is answered short, with a token, rather than late.
        """
        page: list[Shown] = []
        last = 0
        reads = 0
        async for stretch in stretches:
            first = 0
            while first < len(stretch):
                wanted = stretch[first : first + size + 1 - len(page)]
                first += len(wanted)
                found = await self._catalogue.tweets(call, wanted, cached=cached)
                page += visible_of(facts, wanted, found)
                if len(page) > size:
                    return page[:size], page[size - 1].reference.tweet_id
                last = wanted[-1]
            reads += 1
            if reads >= MOST_STRETCHES and last:
                return page, last
        return page, None


def visible_of(facts: Facts, tweet_ids: Sequence[int], found: Mapping[int, Shown]) -> list[Shown]:
    """Those of the tweets that are there and that the reader may see, in order."""
    shown = (found.get(tweet_id) for tweet_id in tweet_ids)
    return [item for item in shown if item is not None and rules.visible(facts.viewer_id, facts.followees, item.reference)]


def newer_page(shown: list[Shown], resume: int | None, seen: Seen, nonce: int, *, degraded: bool = False) -> Page:
    """The answer to `after`. A home built anew since the last page may hold late tweets from before the re-scanned stretch."""
    built_anew = bool(seen.nonce and nonce and seen.nonce != nonce)
    now_seen = seen.with_shown(tweet_ids(shown), nonce or seen.nonce)
    if resume is not None and not shown:
        now_seen = Seen(max(resume, seen.bound), seen.ids, now_seen.nonce)
    return Page(shown, resume, now_seen, resume is not None or built_anew, degraded)


def tweet_ids(shown: Iterable[Shown]) -> list[int]:
    """The ids of tweets on a page."""
    return [item.reference.tweet_id for item in shown]
