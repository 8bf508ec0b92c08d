"""The owners' RPCs, as this service's types: timeline reads no other service's tables."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chirp.graph import v1 as graphpb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from services.runtime.call import Call
from services.timeline.positions import TOP
from services.timeline.rules import Reference

BATCH = 1000
"""Most ids that one RPC takes."""


@dataclass(frozen=True, slots=True)
class Followers:
    """A page of somebody's followers, by increasing id."""

    ids: Sequence[int]
    revision: int


class Truth:
    """Answers from the primaries of tweet, graph and user. Every method raises the owner's ServiceErrors."""

    def __init__(
        self,
        tweets: "tweetpb.TweetServiceAsyncStub",
        graph: "graphpb.GraphServiceAsyncStub",
        users: "userpb.UserServiceAsyncStub",
    ) -> None:
        self._tweets, self._graph, self._users = tweets, graph, users

    async def references(
        self, call: Call, author_ids: Iterable[int], *, limit: int, before: int = 0, after: int = 0
    ) -> list[Reference]:
        """Tweets of authors, newest first; with `after` alone, oldest first above it."""
        request = tweetpb.ListRecentByAuthorsRequest(
            author_ids=author_ids, before_tweet_id=before, after_tweet_id=after, limit=limit)  # fmt: skip
        reply = await self._tweets.ListRecentByAuthors(request, **call.onward())
        return [Reference(item.tweet_id, item.author_id, item.in_reply_to_user_id, item.pull) for item in reply.items]

    async def below(self, call: Call, author_ids: Iterable[int], ceiling: int, limit: int) -> AsyncGenerator[list[Reference]]:
        """Tweets of authors below an id (positions.TOP for all), newest first, in stretches, until there are no more."""
        found = await self.references(call, author_ids, limit=limit, before=0 if ceiling == TOP else ceiling)
        while found:
            yield found
            if len(found) < limit:
                return
            found = await self.references(call, author_ids, limit=limit, before=found[-1].tweet_id)

    async def above(self, call: Call, author_ids: Iterable[int], bound: int, limit: int) -> AsyncGenerator[list[Reference]]:
        """Tweets of authors above an id, oldest first, likewise."""
        found = await self.references(call, author_ids, limit=limit, after=max(bound, 1))
        while found:
            yield found
            if len(found) < limit:
                return
            found = await self.references(call, author_ids, limit=limit, after=found[-1].tweet_id)

    async def tweets(self, call: Call, tweet_ids: Sequence[int]) -> list[tweetpb.TweetRecord]:
        """One record per id, deleted and unknown ones among them."""
        found: list[tweetpb.TweetRecord] = []
        for first in range(0, len(tweet_ids), BATCH):
            request = tweetpb.BatchGetTweetsRequest(tweet_ids=tweet_ids[first : first + BATCH])
            found.extend((await self._tweets.BatchGetTweets(request, **call.onward())).items)
        return found

    async def users(self, call: Call, user_ids: Collection[int]) -> list[userpb.User]:
        """Those of the users who exist."""
        reply = await self._users.BatchGetUsers(userpb.BatchGetUsersRequest(user_ids=user_ids), **call.onward())
        return [item.user for item in reply.items if item.HasField("user")]

    async def viewer_facts(self, call: Call, viewer_id: int) -> graphpb.GetViewerFactsResponse:
        """Whom a reader follows, and whose tweets must be pulled."""
        request = graphpb.GetViewerFactsRequest(viewer_id=viewer_id)
        return await self._graph.GetViewerFacts(request, **call.onward())

    async def follower_lists(self, call: Call, known: Mapping[int, int]) -> dict[int, graphpb.FollowerList]:
        """Followers by author, listed where the known revision (-1 for none) is not the current one and the list is short."""
        found: dict[int, graphpb.FollowerList] = {}
        pairs = [graphpb.KnownFollowers(author_id=author_id, revision=revision) for author_id, revision in known.items()]
        for first in range(0, len(pairs), BATCH):
            request = graphpb.BatchGetFollowersRequest(authors=pairs[first : first + BATCH])
            reply = await self._graph.BatchGetFollowers(request, **call.onward())
            found.update((item.author_id, item) for item in reply.items)
        return found

    async def followers(self, call: Call, author_id: int, after_user_id: int, page_size: int) -> AsyncGenerator[Followers]:
        """An author's followers above an id, page by page."""
        request = graphpb.StreamFollowersRequest(user_id=author_id, after_user_id=after_user_id, page_size=page_size)
        async for page in self._graph.StreamFollowers(request, **call.onward(30.0)):
            yield Followers(page.follower_ids, page.revision)
