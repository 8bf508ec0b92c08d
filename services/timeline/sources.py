"""Pure: candidates for a page, merged from sources that each know how far back they reach.

A source is a set of ids that is complete above its floor. Merged sources are complete above the highest of their floors;
below it, the truth goes on.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.runtime import ids
from services.timeline.window import LATENESS_MS, Window


@dataclass(frozen=True, slots=True)
class Source:
    """Ids, ascending, complete above the floor."""

    ids: Sequence[int]
    floor: int

    def within(self, floor: int, ceiling: int) -> Sequence[int]:
        """Those strictly between the bounds."""
        return self.ids[bisect_right(self.ids, floor) : bisect_right(self.ids, ceiling - 1)]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Candidates newest first, complete between the floor and the ceiling that was asked for."""

    ids: list[int]
    floor: int


def of_window(window: Window) -> Source:
    """What a window vouches for.

    Entries that were not read, or were cut, were pushed before all those read, none later than LATENESS after its id's
    time: so no unread id can lie above the last read entry's time plus that.
    """
    floor = window.sentinel.floor_id
    if not window.whole and window.ids:
        floor = max(floor, window.ids[-1] + ids.span(LATENESS_MS))
    return Source(sorted(set(window.ids)), floor)


def merge(sources: Iterable[Source], ceiling: int) -> Stretch:
    """All candidates below the ceiling that every source vouches for."""
    sources = tuple(sources)
    floor = max((source.floor for source in sources), default=0)
    found: set[int] = set()
    for source in sources:
        found.update(source.within(floor, ceiling))
    return Stretch(sorted(found, reverse=True), floor)
