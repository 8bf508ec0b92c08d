"""Copies of what the owners know, each as current as its fence says.

A fence is an opaque version cell that comes with every read (services/runtime/fences.py). A copy tagged with the version now
in the cell was read after the last commit; any other copy is read again from the owner's primary.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.fences import MISSING, Fences, verdict
from services.runtime.redisroutes import Answer
from services.timeline import rules
from services.timeline.generations import Generations
from services.timeline.look import graph_key
from services.timeline.truth import Truth

T = TypeVar("T")
MOST_ANNOUNCEMENTS = 10_000
"""New pull authors remembered one by one; after that many (years, in practice) all facts are read anew."""


@dataclass(frozen=True, slots=True)
class Tagged(Generic[T]):
    """A copy and the version of the fence at which it was read."""

    tag: bytes
    value: T


class Fenced(Generic[T]):
    """Copies by user id."""

    def __init__(self, fences: Fences, clock: Clock, capacity: int) -> None:
        self._fences, self._clock = fences, clock
        self._copies: Generations[int, Tagged[T]] = Generations(capacity)
        self._epoch = 0

    async def current(self, user_id: int, key: str, cell: Answer, load: Callable[[], Awaitable[T]]) -> T:
        """The copy, if `cell` (the value under `key`, just read) vouches for it; else what `load` reads from the primary."""
        copy = self._copies.get(user_id)
        if copy is not None and copy.tag == cell:
            return copy.value
        state, started, epoch = verdict(cell), self._clock.monotonic(), self._epoch
        value = await load()
        tag = await self._fences.establish(key, started) if state is MISSING else state
        if isinstance(tag, bytes) and epoch == self._epoch:
            self._copies.put(user_id, Tagged(tag, value))
        return value

    def clear(self) -> None:
        """Forgets every copy, those that are being read among them."""
        self._epoch += 1
        self._copies.clear()


@dataclass(slots=True)
class Facts:
    """What decides what a reader sees."""

    viewer_id: int
    followees: frozenset[int]
    follow_revision: int
    """Rises with every follow the reader adds: a window built at a lower one lacks somebody's tweets."""
    pull_authors: set[int]
    """Followed authors some of whose recent tweets were not pushed."""
    announced: int = 0
    """How many announcements of new pull authors these facts have taken in."""

    @property
    def sources(self) -> list[int]:
        """Whose tweets the home is made of."""
        return [*self.followees, self.viewer_id]

    @property
    def shows(self) -> Callable[[rules.Reference], bool]:
        """Says whether a tweet belongs in the reader's home; bound once a page, as it is asked for each candidate."""
        return partial(rules.visible, self.viewer_id, self.followees)


class ReaderFacts:
    """Facts of readers, from graph, kept per reader."""

    def __init__(self, truth: Truth, fences: Fences, clock: Clock, capacity: int = 20_000) -> None:
        self._truth = truth
        self._fenced: Fenced[Facts] = Fenced(fences, clock, capacity)
        self._announced: list[int] = []

    async def current(self, call: Call, viewer_id: int, cell: Answer) -> Facts:
        """The reader's facts, no older than their last follow or unfollow that was acknowledged."""
        facts = await self._fenced.current(viewer_id, graph_key(viewer_id), cell, lambda: self.load(call, viewer_id))
        for author_id in self._announced[facts.announced :]:
            if author_id in facts.followees:
                facts.pull_authors.add(author_id)
        facts.announced = len(self._announced)
        return facts

    async def load(self, call: Call, viewer_id: int) -> Facts:
        """From graph's primary. It may lack what was announced before: graph announces an author, then commits the mark."""
        reply = await self._truth.viewer_facts(call, viewer_id)
        return Facts(viewer_id, frozenset(reply.followee_ids), reply.follow_revision, set(reply.pull_author_ids))

    def on_pull(self, author_id: int) -> None:
        """An author's tweets are pulled from now on: known to the next read of whoever follows them."""
        if len(self._announced) >= MOST_ANNOUNCEMENTS:
            self.clear()
        self._announced.append(author_id)

    def clear(self) -> None:
        """Announcements may have been missed: all facts are read anew."""
        self._fenced.clear()
        self._announced.clear()
