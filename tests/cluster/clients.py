"""Clients of the running cluster that behave as good clients do: deadlines, and the same request again when it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from chirp import errors
from chirp.graph import v1 as graphpb
from chirp.ops import v1 as opspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from loadtest.target import Target
from services.runtime import channel
from services.runtime.metrics import Metrics
from tests.conftest import Cluster
from tests.gateway.client import Client
from tests.waiting import eventually

T = TypeVar("T")

CALL_SECONDS = 3.0
AGAIN = (errors.Unavailable, errors.DeadlineExceeded, errors.ResourceExhausted, errors.Aborted)
"""What a client repeats under the same request id: all but the last two may have been done."""
QUEUES = {
    "relay": {"outbox.tweet", "outbox.graph", "outbox.user"},
    "fanout": {"consumer.timeline-fanout", "consumer.timeline-pages"},
}
"""What must be empty for everything to have been delivered."""
NAMES = count(1)


def as_(user_id: int) -> tuple[tuple[str, str], ...]:
    """The metadata of a call by that user."""
    return (("x-user-id", str(user_id)),)


async def persistently(call: Callable[[], Awaitable[T]], patience: float = 20.0) -> T:
    """Repeats a call that found something away, for so many seconds; then raises what it met last."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + patience, 0.05
    while True:
        try:
            return await call()
        except AGAIN:
            if loop.time() + pause > deadline:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, 0.5)


@dataclass(frozen=True, slots=True)
class Clients:
    """Stubs to all processes, one a replica where it matters, and the REST shim."""

    users: userpb.UserServiceAsyncStub
    graph: graphpb.GraphServiceAsyncStub
    tweets: tweetpb.TweetServiceAsyncStub
    timelines: Mapping[str, timelinepb.TimelineServiceAsyncStub]
    """By replica."""
    ops: Mapping[str, opspb.OpsServiceAsyncStub]
    """By process."""
    rest: Client

    @property
    def timeline(self) -> timelinepb.TimelineServiceAsyncStub:
        """The first replica."""
        return self.timelines["timeline"]

    async def people(self, number: int) -> list[int]:
        """Registers so many."""
        users = [userpb.CreateUserRequest(username=f"somebody_{next(NAMES)}") for _ in range(number)]
        request = userpb.BatchCreateUsersRequest(users=users)
        reply = await persistently(lambda: self.users.BatchCreateUsers(request, timeout=CALL_SECONDS))
        return [item.user_id for item in reply.items]

    async def user(self, *followed: int) -> int:
        """Registers one who follows these."""
        (user_id,) = await self.people(1)
        for each in followed:
            await self.follow(user_id, each)
        return user_id

    async def follow(self, follower: int, followee: int, request_id: str = "") -> graphpb.FollowResponse:
        """One follow."""
        request = graphpb.FollowRequest(user_id=followee, request_id=request_id)
        return await self.graph.Follow(request, timeout=CALL_SECONDS, metadata=as_(follower))

    async def unfollow(self, follower: int, followee: int, request_id: str = "") -> graphpb.UnfollowResponse:
        """The end of one."""
        request = graphpb.UnfollowRequest(user_id=followee, request_id=request_id)
        return await self.graph.Unfollow(request, timeout=CALL_SECONDS, metadata=as_(follower))

    async def post(self, author: int, text: str, request_id: str = "", reply_to: int = 0) -> int:
        """One tweet."""
        request = tweetpb.CreateTweetRequest(text=text, request_id=request_id, in_reply_to_tweet_id=reply_to)
        reply = await self.tweets.CreateTweet(request, timeout=CALL_SECONDS, metadata=as_(author))
        return reply.tweet.tweet_id

    async def delete(self, author: int, tweet_id: int, request_id: str = "") -> tweetpb.DeleteTweetResponse:
        """The end of one."""
        request = tweetpb.DeleteTweetRequest(tweet_id=tweet_id, request_id=request_id)
        return await self.tweets.DeleteTweet(request, timeout=CALL_SECONDS, metadata=as_(author))

    async def page(
        self, reader: int, size: int = 200, token: str = "", *, after: str = "", replica: str = "timeline"
    ) -> timelinepb.GetHomeTimelineResponse:
        """A page of a home."""
        request = timelinepb.GetHomeTimelineRequest(page_size=size, page_token=token, after=after)
        return await self.timelines[replica].GetHomeTimeline(request, timeout=CALL_SECONDS, metadata=as_(reader))

    async def home(self, reader: int, size: int = 200, replica: str = "timeline") -> list[int]:
        """A whole home, walked by pages."""
        return await _walk(lambda token: self.page(reader, size, token, replica=replica))

    async def profile(self, author: int, size: int = 200) -> list[int]:
        """All tweets of one user, walked by pages."""

        async def page(token: str) -> timelinepb.GetUserTimelineResponse:
            request = timelinepb.GetUserTimelineRequest(user_id=author, page_size=size, page_token=token)
            return await self.timeline.GetUserTimeline(request, timeout=CALL_SECONDS)

        return await _walk(page)

    async def set(self, name: str, value: str, process: str = "graph") -> None:
        """Changes a run-time setting."""
        request = opspb.UpdateSettingRequest(name=name, value=value)
        await self.ops[process].UpdateSetting(request, timeout=CALL_SECONDS)

    async def published(self, timeout: float = 20.0) -> None:
        """Waits until nothing waits in any outbox."""
        await eventually(lambda: self._nothing_waits("relay"), timeout)

    async def drained(self, timeout: float = 60.0) -> None:
        """Waits until nothing waits in any outbox nor for any worker; what a killed one held comes again after 30 s."""
        # In the order in which events pass, so that none slips by.
        await eventually(lambda: self._nothing_waits("relay", "fanout"), timeout)

    async def _nothing_waits(self, *processes: str) -> bool:
        for process in processes:
            try:
                reply = await self.ops[process].ListBacklogs(opspb.ListBacklogsRequest(), timeout=CALL_SECONDS)
            except AGAIN:
                return False
            waiting = {item.name: item.waiting_count for item in reply.items}
            assert waiting.keys() >= QUEUES[process], waiting
            assert not any(waiting.values()), waiting
        return True


async def _walk(
    page: Callable[[str], Awaitable[timelinepb.GetHomeTimelineResponse | timelinepb.GetUserTimelineResponse]],
) -> list[int]:
    found: list[int] = []
    token = ""
    while True:
        reply = await persistently(lambda token=token: page(token))
        found += [item.tweet.tweet_id for item in reply.items]
        token = reply.next_page_token
        if not token:
            return found


@asynccontextmanager
async def open_clients(cluster: Cluster) -> AsyncIterator[Clients]:
    """Clients of the cluster for as long as the block lasts."""
    metrics = Metrics("test")
    async with AsyncExitStack() as stack:

        async def one(process: str, service: str) -> channel.Channel:
            return await stack.enter_async_context(channel.connect([cluster.address(process)], service, metrics))

        replicas = [each.name for each in cluster.machine.instances if each.process.name == "timeline"]
        named = [each.name for each in cluster.machine.instances if each.grpc_port]
        yield Clients(
            userpb.UserServiceStub(await one("user", "chirp.user.v1.UserService")),
            graphpb.GraphServiceStub(await one("graph", "chirp.graph.v1.GraphService")),
            tweetpb.TweetServiceStub(await one("tweet", "chirp.tweet.v1.TweetService")),
            {name: timelinepb.TimelineServiceStub(await one(name, "chirp.timeline.v1.TimelineService")) for name in replicas},
            {name: opspb.OpsServiceStub(await one(name, "chirp.ops.v1.OpsService")) for name in named},
            Client(cluster.machine.instance("gateway").http_port),
        )


def target_of(cluster: Cluster) -> Target:
    """The cluster as the commands of loadtest see it."""
    replicas: dict[str, list[str]] = {}
    for each in cluster.machine.instances:
        replicas.setdefault(each.process.name, []).append(each.address)
    return Target(replicas, cluster.postgres, cluster.redis, cluster.nats, cluster.rest)
