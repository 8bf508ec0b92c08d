"""Timelines with everything around them in one process, on real Postgres, Redis and NATS.

The real user, graph and tweet services, two replicas of the timeline service and a fan-out worker, joined by stubs that
call their handlers. Time is the machine's plus what a test adds. Nothing is delivered until a test says `deliver`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

from nats.aio.msg import Msg

from chirp.id import v1 as idpb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime import ids, jetstream, logs, notices, rediscluster
from services.runtime.call import Call
from services.runtime.clock import SystemClock
from services.runtime.consumer import Message, Outcome
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.paging import PageTokens
from services.runtime.publisher import NotStored, Outgoing
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisnode import Patience
from services.runtime.resp import pack
from services.timeline import assembly, window
from services.timeline.fanout import Fanout
from services.timeline.followers import FollowerHomes
from services.timeline.look import graph_key, tweet_key
from services.timeline.metrics import TimelineMetrics
from services.timeline.progress import ProgressStore
from services.timeline.push import Pusher
from services.timeline.rebuild import read_whole
from services.timeline.service import TimelineService
from services.timeline.truth import Truth
from services.timeline.window import Window
from services.tweet import assembly as tweet_assembly
from services.tweet import store as tweet_store
from services.tweet.service import TweetService
from services.tweet.writer import Peers
from tests.services.gates import HeldRedis, Stub
from tests.services.social import Social, social

T = TypeVar("T")
KEY = b"sixteen bytes of a key for pages"
DEFAULT_THRESHOLD = 10_000


class WorldClock(SystemClock):
    """The machine's clock, moved ahead by what a test has added."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + round(self._ahead * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._ahead += seconds


@dataclass
class Ids:
    """The id service, on the world's clock; `planned` ids come first."""

    clock: WorldClock
    planned: list[int] = field(default_factory=list[int])
    last: int = 0

    async def GenerateIds(
        self, request: idpb.GenerateIdsRequest, *, timeout: float, metadata: Any = None
    ) -> idpb.GenerateIdsResponse:
        return idpb.GenerateIdsResponse(ids=[self._next() for _ in range(request.count)])

    def _next(self) -> int:
        if self.planned:
            return self.planned.pop(0)
        self.last = max(self.last + 1, ids.first_at(self.clock.now_ms()))
        return self.last


class Replica:
    """One process of the timeline service, with its own memory and connections."""

    def __init__(self, redis: RedisCluster, stubs: dict[str, Stub], progress: ProgressStore, clock: WorldClock) -> None:
        self.redis, self.clock = HeldRedis(redis), clock
        self.tweets, self.graph, self.users = stubs["tweet"], stubs["graph"], stubs["user"]
        self.metrics = Metrics("timeline")
        parts = assembly.assemble(
            self.redis, truth_of(stubs), progress, PageTokens(KEY), self.metrics, clock  # type: ignore[arg-type]
        )  # fmt: skip
        self.service: TimelineService = parts.service
        self.memory = parts.memory

    async def page(self, user_id: int, size: int = 0, token: str = "", after: str = "") -> timelinepb.GetHomeTimelineResponse:
        """One GetHomeTimeline."""
        request = timelinepb.GetHomeTimelineRequest(page_size=size, page_token=token, after=after)
        raw = await self.service.get_home_timeline(request, self.acting(user_id))
        return timelinepb.GetHomeTimelineResponse.FromString(raw)

    async def pages(self, user_id: int, size: int = 20) -> AsyncIterator[timelinepb.GetHomeTimelineResponse]:
        """All pages down to the very first tweet."""
        token, more = "", True
        while more:
            page = await self.page(user_id, size, token)
            yield page
            token = page.next_page_token
            more = bool(token)

    async def home(self, user_id: int, size: int = 20) -> list[int]:
        """The ids of the whole home, walked by pages."""
        return [tweet_id async for page in self.pages(user_id, size) for tweet_id in shown(page)]

    async def news(self, user_id: int, after: str, size: int = 20) -> tuple[list[int], str]:
        """The ids of everything newer, polled until no gap is left, and the token for what comes then."""
        found: list[int] = []
        while True:
            page = await self.page(user_id, size, after=after)
            found, after = found + shown(page), page.newer_token
            if not page.gap:
                return found, after

    async def profile(
        self, user_id: int, viewer_id: int = 0, size: int = 0, token: str = "", after: str = ""
    ) -> timelinepb.GetUserTimelineResponse:
        """One GetUserTimeline."""
        request = timelinepb.GetUserTimelineRequest(user_id=user_id, page_size=size, page_token=token, after=after)
        raw = await self.service.get_user_timeline(request, self.acting(viewer_id))
        return timelinepb.GetUserTimelineResponse.FromString(raw)

    async def explain(self, user_id: int, tweet_id: int) -> timelinepb.ExplainTimelineEntryResponse:
        """One ExplainTimelineEntry."""
        return await self.service.explain_timeline_entry(
            timelinepb.ExplainTimelineEntryRequest(tweet_id=tweet_id), self.acting(user_id)
        )

    async def status(self, user_id: int, tweet_id: int) -> timelinepb.GetFanoutStatusResponse:
        """One GetFanoutStatus."""
        return await self.service.get_fanout_status(
            timelinepb.GetFanoutStatusRequest(tweet_id=tweet_id), self.acting(user_id)
        )  # fmt: skip

    def acting(self, user_id: int) -> Call:
        """A call by that user; 0 for nobody."""
        return Call.background(self.clock, 10.0, viewer_id=user_id)

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


class Pages:
    """The work queue of pages, in memory."""

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.away = False
        self._known: set[str] = set()

    async def publish(self, window: Sequence[Outgoing], timeout: float = 5.0) -> list[Exception | None]:
        """Takes messages as the stream does: one of a known id is dropped."""
        if self.away:
            return [NotStored("away")] * len(window)
        for each in window:
            if each.message_id not in self._known:
                self._known.add(each.message_id)
                self.waiting.append(message(each.subject, each.payload))
        return [None] * len(window)

    def take(self, count: int = 256) -> list[Message]:
        """The next messages, as a consumer fetches them."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken


class Worker:
    """A fan-out worker that works when told."""

    def __init__(self, redis: RedisCluster, stubs: dict[str, Stub], progress: ProgressStore, clock: WorldClock) -> None:
        self.redis, self.graph, self.pages = HeldRedis(redis), stubs["graph"], Pages()
        self.metrics = Metrics("fanout")
        truth, counters, held = truth_of(stubs), TimelineMetrics(self.metrics), self.redis
        homes, pusher = FollowerHomes(held, truth), Pusher(held, clock, counters)  # type: ignore[arg-type]
        self.fanout = Fanout(truth, homes, pusher, progress, self.pages, clock, counters)  # type: ignore[arg-type]

    async def handle(self, *messages: Message) -> Sequence[Outcome]:
        """Events of tweets, in one batch."""
        return await self.fanout.handle_tweets(list(messages))

    async def handle_pages(self, *messages: Message) -> Sequence[Outcome]:
        """Pages of followers, in one batch."""
        return await self.fanout.handle_pages(list(messages))

    async def drain(self) -> None:
        """All pages that wait, and those that they announce."""
        while batch := self.pages.take():
            assert not any(await self.handle_pages(*batch))


@dataclass
class World:
    """Everything."""

    social: Social
    tweets: TweetService
    ids: Ids
    clock: WorldClock
    worker: Worker
    first: Replica
    second: Replica
    waiting: list[Message] = field(default_factory=list[Message])
    """Events that were taken from the outbox and are still to be delivered."""

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        """Both timeline processes."""
        return self.first, self.second

    async def a_user(self, *followees: int) -> int:
        """Somebody who follows these."""
        user_id = await self.social.user()
        await self.follows(user_id, *followees)
        return user_id

    async def users(self, count: int) -> list[int]:
        """Many who follow nobody."""
        return await self.social.people(count)

    async def follows(self, user_id: int, *followees: int) -> None:
        """The user follows these from now on."""
        for followee in followees:
            await self.social.follow(user_id, followee)

    async def unfollows(self, user_id: int, followee: int) -> None:
        """The user follows that one no longer."""
        await self.social.unfollow(user_id, followee)

    async def a_tweet(self, author_id: int, text: str = "hello", reply_to: int = 0) -> int:
        """One tweet, not delivered; its id."""
        request = tweetpb.CreateTweetRequest(text=text, in_reply_to_tweet_id=reply_to)
        return (await self.tweets.create_tweet(request, self.first.acting(author_id))).tweet.tweet_id

    async def some_tweets(self, author_ids: Iterable[int], count: int, spacing_ms: int = 10) -> list[int]:
        """Tweets by these in turn, oldest first; the clock moves on by their spacing."""
        start = self.clock.now_ms()
        self.clock.advance(count * spacing_ms / 1000)
        return await self._made(author_ids, count, spacing_ms, start)

    async def history(self, author_ids: Iterable[int], count: int, spacing_ms: int = 60_000) -> list[int]:
        """Tweets that were made, and delivered, in the past; the last of them a moment ago."""
        self.waiting = await self.events()
        made = await self._made(author_ids, count, spacing_ms, self.clock.now_ms() - count * spacing_ms)
        waiting, self.waiting = self.waiting, []
        await self.events()
        self.waiting = waiting
        return made

    async def _made(self, author_ids: Iterable[int], count: int, spacing_ms: int, start_ms: int) -> list[int]:
        planned = [ids.first_at(start_ms + index * spacing_ms) + next(LOW_BITS) for index in range(count)]
        for begin in range(0, count, 1000):
            self.ids.planned = planned[begin : begin + 1000]
            authors = itertools.islice(itertools.cycle(author_ids), len(self.ids.planned))
            items = [tweetpb.AuthoredTweet(author_id=each, tweet=tweetpb.CreateTweetRequest(text="then")) for each in authors]
            reply = await self.tweets.batch_create_tweets(tweetpb.BatchCreateTweetsRequest(tweets=items), self.first.acting(0))
            assert sorted(item.tweet_id for item in reply.items) == planned[begin : begin + 1000]
        return planned

    async def delete(self, author_id: int, tweet_id: int) -> None:
        """The author deletes a tweet."""
        await self.tweets.delete_tweet(tweetpb.DeleteTweetRequest(tweet_id=tweet_id), self.first.acting(author_id))

    async def events(self) -> list[Message]:
        """What the tweet service has announced since the last time, in order: the relay's part."""
        rows = await self.social.database.query(
            "with taken as (update tweet.outbox set published_time = now() where published_time is null returning *)"
            " select subject, payload from taken order by event_id"
        )
        found, self.waiting = [*self.waiting, *(message(subject, payload) for subject, payload in rows)], []
        return found

    async def forget_events(self) -> None:
        """Has nobody deliver what was announced so far."""
        await self.events()

    async def deliver(self) -> None:
        """Everything announced so far reaches the homes."""
        events = await self.events()
        for begin in range(0, len(events), 256):
            assert not any(await self.worker.handle(*events[begin : begin + 256]))
        await self.worker.drain()

    async def threshold(self, followers: int) -> None:
        """Authors with as many followers are pulled from now on."""
        await self.social.settings.update("graph.pull_threshold", str(followers))

    async def window(self, user_id: int) -> Window | None:
        """A home as it lies in Redis."""
        return await read_whole(self.social.redis, user_id)

    async def drop(self, *user_ids: int) -> None:
        """Homes disappear from Redis, as after their life's end."""
        for user_id in user_ids:
            await self.redis(window.key(user_id), "DEL", window.key(user_id))

    async def settle(self, *user_ids: int) -> None:
        """The marks of what these have just done end, as after ten seconds."""
        for user_id in user_ids:
            await self.redis(window.key(user_id), "DEL", graph_key(user_id), tweet_key(user_id))

    async def flush(self) -> None:
        """Everything disappears from Redis."""
        for slot in (0, 8_000, 16_000):
            await self.social.redis.run(slot, pack("FLUSHALL"))

    async def lose_notices(self) -> None:
        """The log of notices disappears from Redis, and nothing else."""
        for cell in notices.CELLS:
            await self.redis(cell.key, "DEL", cell.key)

    async def redis(self, key: bytes, *words: Any) -> Any:
        """One command to the server of a key."""
        (reply,) = await self.social.redis.run(key, pack(*words))
        return reply


LOW_BITS = itertools.cycle(range(1, 1 << 20))


def shown(page: timelinepb.GetHomeTimelineResponse | timelinepb.GetUserTimelineResponse) -> list[int]:
    """The ids on a page, each with its author beside it."""
    assert all(item.author.user_id == item.tweet.author_id for item in page.items)
    return [item.tweet.tweet_id for item in page.items]


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Has it done meanwhile."""
    return asyncio.get_running_loop().create_task(work)


def message(subject: str, payload: bytes) -> Message:
    """A delivery, as the consumer makes it."""
    return Message(Msg(_client=None, subject=subject, reply="$JS.ACK.S.c.1.1.1.0.0", data=payload))  # type: ignore[arg-type]


def truth_of(stubs: dict[str, Stub]) -> Truth:
    """The owners behind stubs."""
    return Truth(stubs["tweet"], stubs["graph"], stubs["user"])  # type: ignore[arg-type]


LONG = Patience(reply=5.0, connect=5.0)
"""On a busy machine a quarter of a second is not enough to tell a server that is away from a test that has to wait."""


@asynccontextmanager
async def open_world(dsn: str, redis_nodes: str, nats_url: str, patience: Patience = LONG) -> AsyncIterator[World]:
    """Everything, on these backends."""
    clock, metrics = WorldClock(), Metrics("tweet")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.enter_context(patch.object(rediscluster, "Patience", lambda: patience))
        others = await enter(social(dsn, redis_nodes, nats_url, clock))
        nats = await enter(jetstream.connect([nats_url], "tweet", metrics))
        own_ids = Ids(clock)
        others.users._ids = own_ids  # type: ignore[assignment]  # its own lease is not renewed
        backends = tweet_assembly.Backends(
            pools=await enter(tweet_store.connect(dsn, metrics)),
            redis=others.redis,
            bell=Bell(nats, "tweet"),
            peers=Peers(own_ids, Stub(others.graph, "chirp.graph.v1.GraphService", clock)),  # type: ignore[arg-type]
            users=Stub(others.users, "chirp.user.v1.UserService", clock),  # type: ignore[arg-type]
        )
        tweets = await enter(tweet_assembly.service(backends, 280, metrics, logs.silent(), clock))

        def stubs() -> dict[str, Stub]:
            return {
                "tweet": Stub(tweets, "chirp.tweet.v1.TweetService", clock),
                "graph": Stub(others.graph, "chirp.graph.v1.GraphService", clock),
                "user": Stub(others.users, "chirp.user.v1.UserService", clock),
            }

        async def connection() -> RedisCluster:
            return await enter(RedisCluster.open(redis_nodes, Metrics("redis")))

        progress = ProgressStore(others.database)
        worker = Worker(await connection(), stubs(), progress, clock)
        first, second = [Replica(await connection(), stubs(), progress, clock) for _ in range(2)]
        yield World(others, tweets, own_ids, clock, worker, first, second)
