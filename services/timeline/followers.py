"""Followers of authors as keys of their homes, remembered as long as graph's revision of the list is the same.

The revision is asked for when a tweet is delivered, after its commit: a follow committed before the tweet is therefore in
the list, and one committed after it makes the follower's home be built anew from the truth. None is missed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from chirp.graph import v1 as graphpb
from services.runtime.call import Call
from services.runtime.rediscluster import Grouped, RedisCluster
from services.timeline import window
from services.timeline.truth import Truth

MOST_KEYS = 3_000_000
"""Keys remembered in all, some 90 bytes each."""
PAGE = 10_000
"""Followers asked for, and pushed to, at a time."""


@dataclass(slots=True)
class Known:
    """The homes of an author's followers, and last the author's own."""

    revision: int
    homes: Grouped


class FollowerHomes:
    """Homes to push to, by author."""

    def __init__(self, redis: RedisCluster, truth: Truth) -> None:
        self._redis, self._truth = redis, truth
        self._known: LRUCache[int, Known] = LRUCache(MOST_KEYS, getsizeof=lambda known: len(known.homes.keys))

    async def ask(self, call: Call, author_ids: Collection[int]) -> dict[int, graphpb.FollowerList]:
        """How the authors' lists stand now, in one call; those that changed and are not too long are remembered."""
        known = {author_id: self._revision(author_id) for author_id in author_ids}
        current = await self._truth.follower_lists(call, known)
        for followers in current.values():
            if followers.listed:
                self._remember(followers.author_id, followers.revision, followers.follower_ids)
        return current

    async def of(self, call: Call, current: graphpb.FollowerList) -> Grouped:
        """All homes concerned, the author's own last, grouped by the nodes that hold them now."""
        author_id = current.author_id
        if self._revision(author_id) != current.revision:
            return await self._stream(call, current)
        known = self._known[author_id]
        if known.homes.epoch != self._redis.epoch:
            known.homes = self._redis.group(known.homes.keys)
        return known.homes

    async def _stream(self, call: Call, current: graphpb.FollowerList) -> Grouped:
        follower_ids: list[int] = []
        async for page in self._truth.followers(call, current.author_id, 0, PAGE):
            follower_ids.extend(page.ids)
        return self._remember(current.author_id, current.revision, follower_ids)

    def _remember(self, author_id: int, revision: int, follower_ids: Sequence[int]) -> Grouped:
        """Under the revision asked for before the list was read: a list that is newer is only asked for once more."""
        homes = self._redis.group([*map(window.key, follower_ids), window.key(author_id)])
        if len(homes.keys) <= MOST_KEYS:
            self._known[author_id] = Known(revision, homes)
        return homes

    def _revision(self, author_id: int) -> int:
        known = self._known.get(author_id)
        return -1 if known is None else known.revision

    def own(self, author_id: int) -> Grouped:
        """The author's own home alone."""
        return self._redis.group([window.key(author_id)])

    async def page(self, call: Call, author_id: int, after_user_id: int) -> tuple[Grouped, int]:
        """One page of a large author's homes, and the last follower on it; 0 when there are no more."""
        stream = self._truth.followers(call, author_id, after_user_id, PAGE)
        try:
            async for page in stream:
                last = page.ids[-1] if len(page.ids) == PAGE else 0
                return self._redis.group([window.key(user_id) for user_id in page.ids]), last
        finally:
            await stream.aclose()
        return self._redis.group([]), 0
