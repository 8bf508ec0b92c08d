"""The people that benchmarks work with, made through the services' own RPCs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from chirp.graph import v1 as graphpb
from chirp.ops import v1 as opspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from loadtest.rig import Rig
from loadtest.seed import waiting_events
from services.runtime.metrics import Metrics

CALL_SECONDS = 20.0
SETTING_SECONDS = 1.5
"""Within which every process has heard of a changed setting."""
BATCH = 1000


@dataclass(frozen=True, slots=True)
class World:
    """Stubs of a cluster."""

    users: "userpb.UserServiceAsyncStub"
    graph: "graphpb.GraphServiceAsyncStub"
    tweets: "tweetpb.TweetServiceAsyncStub"
    timeline: "timelinepb.TimelineServiceAsyncStub"
    workers: "Sequence[opspb.OpsServiceAsyncStub]"
    graph_ops: "opspb.OpsServiceAsyncStub"

    async def people(self, count: int, prefix: str) -> list[int]:
        """Makes users."""
        found: list[int] = []
        for first in range(0, count, BATCH):
            names = [f"{prefix}{number}" for number in range(first, min(first + BATCH, count))]
            request = userpb.BatchCreateUsersRequest(users=[userpb.CreateUserRequest(username=name) for name in names])
            found += [item.user_id for item in (await self.users.BatchCreateUsers(request, timeout=CALL_SECONDS)).items]
        return found

    async def follow(self, edges: Sequence[tuple[int, int]]) -> None:
        """Makes follows."""
        for first in range(0, len(edges), 5 * BATCH):
            batch = [graphpb.FollowEdge(follower_id=a, followee_id=b) for a, b in edges[first : first + 5 * BATCH]]
            await self.graph.BatchFollow(graphpb.BatchFollowRequest(edges=batch), timeout=CALL_SECONDS)

    async def post(
        self, authors: Sequence[int], text: str = "A tweet of sixty-five characters, which is the median of real ones"
    ) -> list[int]:
        """Posts a tweet of each author."""
        found: list[int] = []
        for first in range(0, len(authors), BATCH // 2):
            batch = [
                tweetpb.AuthoredTweet(author_id=author, tweet=tweetpb.CreateTweetRequest(text=text))
                for author in authors[first : first + BATCH // 2]
            ]
            reply = await self.tweets.BatchCreateTweets(tweetpb.BatchCreateTweetsRequest(tweets=batch), timeout=CALL_SECONDS)
            found += [item.tweet_id for item in reply.items]
        return found

    async def home(self, reader: int, size: int = 20) -> timelinepb.GetHomeTimelineResponse:
        """The first page of a home."""
        request = timelinepb.GetHomeTimelineRequest(page_size=size)
        return await self.timeline.GetHomeTimeline(request, timeout=CALL_SECONDS, metadata=(("x-user-id", str(reader)),))

    async def warm(self, readers: Sequence[int], at_once: int = 8) -> None:
        """Reads homes, which puts them into the cache."""
        for first in range(0, len(readers), at_once):
            await asyncio.gather(*(self.home(reader) for reader in readers[first : first + at_once]))

    async def push_up_to(self, followers: int) -> None:
        """Has tweets of authors with fewer followers pushed, whatever the default is; in force when this returns."""
        request = opspb.UpdateSettingRequest(name="graph.pull_threshold", value=str(followers))
        await self.graph_ops.UpdateSetting(request, timeout=CALL_SECONDS)
        await asyncio.sleep(SETTING_SECONDS)

    async def delivered(self) -> None:
        """Waits until no event waits any more."""
        while await waiting_events(list(self.workers)):  # noqa: ASYNC110 - the workers are other processes
            await asyncio.sleep(0.02)


@asynccontextmanager
async def world(rig: Rig) -> AsyncGenerator[World]:
    """Connects to a cluster."""
    async with AsyncExitStack() as stack:
        metrics = Metrics("bench")

        async def channel(process: str, service: str):
            return await stack.enter_async_context(rig.target.connect(process, service, metrics))

        yield World(
            userpb.UserServiceStub(await channel("user", "chirp.user.v1.UserService")),
            graphpb.GraphServiceStub(await channel("graph", "chirp.graph.v1.GraphService")),
            tweetpb.TweetServiceStub(await channel("tweet", "chirp.tweet.v1.TweetService")),
            timelinepb.TimelineServiceStub(await channel("timeline", "chirp.timeline.v1.TimelineService")),
            [opspb.OpsServiceStub(await channel(name, "chirp.ops.v1.OpsService")) for name in ("relay", "fanout")],
            opspb.OpsServiceStub(await channel("graph", "chirp.ops.v1.OpsService")),
        )
