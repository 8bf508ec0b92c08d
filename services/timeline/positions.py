"""Page tokens of timelines: where an older page starts, and what a reader has seen so far of the newest tweets.

Ids are issued before their tweets are committed and delivered, so a tweet may appear below an id that a reader has seen.
The token for newer tweets therefore remembers not one id but a short stretch: everything up to RESCAN_MS below the newest
id, with the ids in it that were shown. The next poll reads the stretch again and shows what is new in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import ids
from services.runtime.paging import PageTokens

RESCAN_MS = 60_000
"""Reach of the second look: commits and fan-out are within seconds when nothing is broken. When something was, the window
is built anew, which the nonce shows."""
MOST_SEEN = 200
"""Ids remembered in a token; with more than that in a minute the stretch is shorter."""
TOP = (1 << 63) - 1
"""Above every id: where the first page starts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader has seen: everything up to `bound`, and `ids` above it."""

    bound: int = 0
    ids: frozenset[int] = frozenset()
    nonce: int = 0
    """Of the window that was read; 0 if none was."""

    def with_shown(self, shown: Iterable[int], nonce: int) -> "Seen":
        """After showing more ids: the bound moves up behind the newest."""
        known = sorted(self.ids.union(shown), reverse=True)
        bound = max(self.bound, known[0] - ids.span(RESCAN_MS)) if known else self.bound
        if len(known) > MOST_SEEN:
            bound = max(bound, known[MOST_SEEN])
        return Seen(bound, frozenset(number for number in known if number > bound), nonce)


def seen_on_page(shown: list[int], older_remain: bool, nonce: int) -> Seen:
    """What the reader of a page, newest first, has seen: nothing below the page counts as unseen news when older pages remain."""
    return Seen(min(shown) - 1 if shown and older_remain else 0).with_shown(shown, nonce)


class Positions:
    """The tokens of one kind of timeline."""

    def __init__(self, tokens: PageTokens, scope: str) -> None:
        """`scope` names the list; a token of one list is refused by another."""
        self._tokens, self._older, self._newer = tokens, f"{scope}.older", f"{scope}.newer"

    def encode_older(self, viewer_id: int, before: int | None) -> str:
        """Token of the page that starts below an id; empty for None, the end."""
        return "" if before is None else self._tokens.encode(self._older, viewer_id, (before,))

    def decode_older(self, viewer_id: int, token: str) -> int:
        """The id below which the page starts, TOP for the first; raises InvalidArgument naming page_token."""
        return next(iter(self._tokens.decode(token, self._older, viewer_id)), TOP)

    def encode_newer(self, viewer_id: int, seen: Seen) -> str:
        """Token for what is newer."""
        return self._tokens.encode(self._newer, viewer_id, (seen.bound, seen.nonce, *sorted(seen.ids)))

    def decode_newer(self, viewer_id: int, token: str) -> Seen:
        """What the reader has seen; raises InvalidArgument naming after."""
        bound, nonce, *shown = self._tokens.decode(token, self._newer, viewer_id, field="after")
        return Seen(bound, frozenset(shown), nonce)


def refuse_both(page_token: str, after: str) -> None:
    """Older and newer at once has no meaning; raises InvalidArgument naming after."""
    if page_token and after:
        raise errors.InvalidArgument.field(
            "after", "cannot be given together with page_token", reason=errorspb.ERROR_REASON_FIELD_INVALID)  # fmt: skip
