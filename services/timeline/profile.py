"""One user's tweets, from the truth: every kind of them, replies too, both ways.

Every tweet is asked of its owner: a profile is read without the cache that would bring notices of deletions.
"""

from collections.abc import AsyncGenerator

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.call import Call
from services.timeline.catalogue import Catalogue
from services.timeline.pages import Leg, Page, fill, newer_page, tweet_ids
from services.timeline.positions import Seen, seen_on_page
from services.timeline.rules import Reference
from services.timeline.truth import Truth


class Profile:
    """Reads user timelines."""

    def __init__(self, truth: Truth, catalogue: Catalogue) -> None:
        self._truth, self._catalogue = truth, catalogue

    async def older(self, call: Call, user_id: int, before: int, size: int) -> Page:
        """The page below an id (TOP for the first), newest first; raises NotFound if there is no such user."""
        legs = _legs(self._truth.below(call, [user_id], before, size + 1), Seen())
        items, resume = await fill(call, self._catalogue, legs, size, _anything, cached=False)
        if not items:
            await self._must_exist(call, user_id)
        return Page(items, resume, seen_on_page(tweet_ids(items), resume is not None, 0))

    async def newer(self, call: Call, user_id: int, seen: Seen, size: int) -> Page:
        """What was not seen, oldest first."""
        legs = _legs(self._truth.above(call, [user_id], seen.bound, size + 1 + len(seen.ids)), seen)
        items, resume = await fill(call, self._catalogue, legs, size, _anything, cached=False)
        return newer_page(items, resume, seen, 0)

    async def _must_exist(self, call: Call, user_id: int) -> None:
        if not await self._truth.users(call, [user_id]):
            raise errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, f"there is no user {user_id}", user_id=str(user_id))


async def _legs(stretches: AsyncGenerator[list[Reference]], seen: Seen) -> AsyncGenerator[Leg]:
    async for stretch in stretches:
        yield Leg([item.tweet_id for item in stretch if item.tweet_id not in seen.ids], stretch[-1].tweet_id)


def _anything(tweet: Reference) -> bool:
    return True
