"""One user's tweets, from the truth: every kind of them, replies too, both ways."""

from collections.abc import Sequence

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.call import Call
from services.timeline.catalogue import Catalogue, Shown
from services.timeline.home import Page, newer_page, tweet_ids
from services.timeline.positions import TOP, Seen, seen_on_page
from services.timeline.rules import Reference
from services.timeline.truth import Truth


class Profile:
    """Reads user timelines."""

    def __init__(self, truth: Truth, catalogue: Catalogue) -> None:
        self._truth, self._catalogue = truth, catalogue

    async def older(self, call: Call, user_id: int, before: int, size: int) -> Page:
        """The page below an id (TOP for the first), newest first; raises NotFound if there is no such user."""
        before = 0 if before == TOP else before
        references = await self._truth.references(call, [user_id], limit=size + 1, before=before)
        if not references:
            await self._must_exist(call, user_id)
        shown = await self._show(call, references[:size])
        resume = references[size - 1].tweet_id if len(references) > size else None
        return Page(shown, resume, seen_on_page(tweet_ids(shown), resume is not None, 0))

    async def newer(self, call: Call, user_id: int, seen: Seen, size: int) -> Page:
        """What was not seen, oldest first."""
        limit = size + 1 + len(seen.ids)
        above = await self._truth.references(call, [user_id], limit=limit, after=max(seen.bound, 1))
        fresh = [item for item in above if item.tweet_id not in seen.ids]
        shown = await self._show(call, fresh[:size])
        resume = fresh[size - 1].tweet_id if len(fresh) > size else None
        return newer_page(shown, resume, seen, 0)

    async def _show(self, call: Call, references: Sequence[Reference]) -> list[Shown]:
        """From the primary: a profile is read without the cache that would bring notices of deletions."""
        found = await self._catalogue.tweets(call, [item.tweet_id for item in references], cached=False)
        return [found[item.tweet_id] for item in references if item.tweet_id in found]

    async def _must_exist(self, call: Call, user_id: int) -> None:
        if not await self._truth.users(call, [user_id]):
            raise errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, f"there is no user {user_id}", user_id=str(user_id))
