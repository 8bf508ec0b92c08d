"""The tweet service in process on real backends, with peers that a test can send away."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from services.runtime import ids, jetstream, logs
from services.runtime.call import Call
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.postgres import Database
from services.runtime.rediscluster import RedisCluster
from services.tweet import assembly, store
from services.tweet.service import TweetService
from services.tweet.writer import Peers

AUTHORS = itertools.count(1_000)
ABSENT = 404
"""A user who does not exist."""


@dataclass
class Away:
    """A peer that answers UNAVAILABLE while `away`."""

    away: bool = False
    calls: int = 0

    def _called(self, timeout: float) -> None:
        assert timeout > 0
        self.calls += 1
        if self.away:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")


@dataclass
class Ids(Away):
    """Issues ids as the id service does; `next_ids` come first."""

    last: int = 0
    next_ids: list[int] = field(default_factory=list[int])

    async def GenerateIds(
        self, request: idpb.GenerateIdsRequest, *, timeout: float, metadata: Any = None
    ) -> idpb.GenerateIdsResponse:
        self._called(timeout)
        await asyncio.sleep(0)
        return idpb.GenerateIdsResponse(ids=[self._next() for _ in range(request.count)])

    def _next(self) -> int:
        if self.next_ids:
            return self.next_ids.pop(0)
        self.last = max(self.last + 1, ids.first_at(time.time_ns() // 1_000_000))
        return self.last


@dataclass
class Graph(Away):
    """Plans delivery: authors in `pulled` are pulled."""

    pulled: set[int] = field(default_factory=set[int])

    async def PlanDelivery(
        self, request: graphpb.PlanDeliveryRequest, *, timeout: float, metadata: Any = None
    ) -> graphpb.PlanDeliveryResponse:
        self._called(timeout)
        await asyncio.sleep(0)
        plans = [graphpb.DeliveryPlan(author_id=each, pull=each in self.pulled) for each in request.author_ids]
        return graphpb.PlanDeliveryResponse(items=plans)


@dataclass
class Users(Away):
    """Knows everybody but ABSENT."""

    async def BatchGetUsers(
        self, request: userpb.BatchGetUsersRequest, *, timeout: float, metadata: Any = None
    ) -> userpb.BatchGetUsersResponse:
        self._called(timeout)
        await asyncio.sleep(0)
        records = [
            userpb.UserRecord(user_id=each, user=None if each == ABSENT else userpb.User(user_id=each)) for each in request.user_ids
        ]
        return userpb.BatchGetUsersResponse(items=records)


@dataclass
class World:
    """The service and what it stands on."""

    service: TweetService
    database: Database
    redis: RedisCluster
    metrics: Metrics
    ids: Ids
    graph: Graph
    users: Users

    async def post(self, author_id: int, text: str = "hello", reply_to: int = 0, key: str = "") -> tweetpb.Tweet:
        """CreateTweet as the author."""
        request = tweetpb.CreateTweetRequest(text=text, in_reply_to_tweet_id=reply_to, request_id=key)
        return (await self.service.create_tweet(request, acting(author_id))).tweet

    async def delete(self, author_id: int, tweet_id: int, key: str = "") -> bool:
        """DeleteTweet as the author: whether it was deleted before."""
        request = tweetpb.DeleteTweetRequest(tweet_id=tweet_id, request_id=key)
        return (await self.service.delete_tweet(request, acting(author_id))).already_deleted

    async def get(self, tweet_id: int) -> tweetpb.Tweet:
        """GetTweet as nobody."""
        return (await self.service.get_tweet(tweetpb.GetTweetRequest(tweet_id=tweet_id), acting(0))).tweet

    async def events(self, author_id: int) -> list[tweetpb.TweetCreated | tweetpb.TweetDeleted]:
        """What was announced of an author, in order."""
        rows = await self.database.query(
            "select subject, payload from tweet.outbox where subject like %s order by event_id", (f"tweet.%.{author_id}",)
        )
        kinds = {"created": tweetpb.TweetCreated, "deleted": tweetpb.TweetDeleted}
        return [kinds[subject.split(".")[1]].FromString(payload) for subject, payload in rows]

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def acting(viewer_id: int) -> Call:
    """A call on behalf of a user; 0 for nobody."""
    return Call.background(timeout=10.0, viewer_id=viewer_id)


def author() -> int:
    """Somebody who has no tweet yet."""
    return next(AUTHORS)


@asynccontextmanager
async def open_world(dsn: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    """The service on these backends, with peers of its own."""
    metrics, log = Metrics("tweet"), logs.silent()
    ids, graph, users = Ids(), Graph(), Users()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pools = await enter(store.connect(dsn, metrics))
        backends = assembly.Backends(
            pools=pools,
            redis=await enter(RedisCluster.open(redis_nodes, metrics)),
            bell=Bell(await enter(jetstream.connect([nats_url], "tweet", metrics)), "tweet"),
            peers=Peers(ids, graph),  # type: ignore[arg-type]
            users=users,  # type: ignore[arg-type]
        )
        service = await enter(assembly.service(backends, 280, metrics, log, SystemClock()))
        yield World(service, pools.writes, backends.redis, metrics, ids, graph, users)
