"""Pure: candidates for a page, merged from sources that each know how far back they reach.

A source is a set of ids that is complete above its floor. Merged sources are complete above the highest of their floors;
below it, the truth goes on.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from services.runtime import ids
from services.timeline.window import LATENESS_MS, Window


@dataclass(frozen=True, slots=True)
class Source:
    """Ids, ascending, perhaps repeated, complete above the floor."""

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
    time: so no unread id can lie above the last read entry's time plus that. If that entry was there when the window was
    built, what lies below it was too, in order.
    """
    sentinel = window.sentinel
    floor = sentinel.floor_id
    if not window.whole and window.ids:
        last = window.ids[-1]
        floor = max(floor, last - 1 if last <= sentinel.built_id else last + ids.span(LATENESS_MS))
    return Source(sorted(window.ids), floor)


def merge(sources: Iterable[Source], ceiling: int) -> Stretch:
    """All candidates below the ceiling that every source vouches for."""
    sources = tuple(sources)
    floor = max((source.floor for source in sources), default=0)
    parts = [part for source in sources if (part := source.within(floor, ceiling))]
    if len(parts) == 1:
        return Stretch(list(dict.fromkeys(reversed(parts[0]))), floor)
    return Stretch(list(dict.fromkeys(sorted(chain.from_iterable(parts), reverse=True))), floor)
