"""Fan-out the whole way: outbox, relay, JetStream, consumers; with workers that are replaced and a Redis that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
from nats.js.errors import NotFoundError

from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime import jetstream, logs
from services.runtime.consumer import DEFAULTS, Consumer
from services.runtime.deadletters import DeadLetters
from services.runtime.jetstream import Nats
from services.runtime.metrics import Metrics
from services.runtime.outboxworker import Worker as Relay
from services.runtime.publisher import Publisher
from services.timeline import fanout_worker, followers
from tests.services.world import World, open_world, spawn
from tests.waiting import eventually

QUICK = replace(DEFAULTS, ack_wait=2.0, retry_first=0.02, retry_most=0.1)
FINISHED = (timelinepb.FANOUT_STATE_DONE, timelinepb.FANOUT_STATE_INVALIDATED)


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture
async def nats(world: World, database: str, nats_url: str) -> AsyncIterator[Nats]:
    """Empty streams, a relay that fills them, and the worker's queue of pages on them."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(jetstream.connect([nats_url], "fanout", Metrics("nats")))
        await nats.ready()
        for name in ("TWEET", "FANOUT"):
            with suppress(NotFoundError):
                await nats.js.delete_stream(name)
        await jetstream.ensure_streams(nats.js)
        stack.callback(setattr, world.worker.fanout, "_publisher", world.worker.pages)
        world.worker.fanout._publisher = Publisher(nats)
        relay = spawn(Relay(database, "tweet", nats, Metrics("relay"), logs.silent()).run())
        yield nats
        relay.cancel()
        await asyncio.wait([relay])


@asynccontextmanager
async def consuming(world: World, nats: Nats, letters: DeadLetters, *, orderly: bool = True) -> AsyncIterator[list[Consumer]]:
    """A worker at work, which at the end stops after the batch in hand, or at once."""
    consumers = [
        Consumer(nats, *row, letters, Metrics("consumer"), settings=QUICK) for row in (fanout_worker.TWEETS, fanout_worker.PAGES)
    ]
    handlers = world.worker.fanout.handle_tweets, world.worker.fanout.handle_pages
    tasks = [spawn(consumer.run(handle)) for consumer, handle in zip(consumers, handlers, strict=True)]
    yield consumers
    for consumer, task in zip(consumers, tasks, strict=True):
        consumer.stop()
        if not orderly:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def finished(world: World, author: int, tweets: list[int]) -> Callable[[], object]:
    """A check that all of an author's tweets have been delivered."""

    async def check() -> bool:
        return all([(await world.first.status(author, tweet)).state in FINISHED for tweet in tweets])

    return check


async def test_all_arrive_once_whatever_fails_between(world: World, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "PAGE", 3)
    large, small = await world.users(2)
    readers, lonely = [await world.a_user(large) for _ in range(7)], await world.a_user(small)
    for reader in (*readers, lonely):
        await world.first.home(reader)
    letters, made, others = DeadLetters(world.social.database, nats), list[int](), list[int]()
    for turn in range(3):
        async with consuming(world, nats, letters, orderly=turn != 1):
            world.worker.redis.away = lambda key, turn=turn: turn == 1
            for _ in range(3):
                made.append(await world.a_tweet(large))
                others.append(await world.a_tweet(small))
            await asyncio.sleep(0.1)
    world.worker.redis.away = lambda key: False
    async with consuming(world, nats, letters) as (tweets, _):
        await eventually(finished(world, large, made), timeout=20)
        await tweets.drained()
        for reader in readers:
            assert await world.first.home(reader) == await world.second.home(reader) == made[::-1]
        assert await world.first.home(lonely) == others[::-1]
        assert await world.social.database.query("select * from runtime.dead_letter") == []
        assert sorted(row.name for row in await fanout_worker.backlogs([tweets])) == ["consumer.timeline-fanout"]


async def test_what_can_never_be_delivered_becomes_a_dead_letter_and_holds_up_nobody(world: World, nats: Nats) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    letters = DeadLetters(world.social.database, nats)
    async with consuming(world, nats, letters) as (tweets, _):
        await nats.js.publish("tweet.created.7", b"\xff\xff")
        await nats.js.publish("tweet.created.7", b"")
        tweet = await world.a_tweet(author)
        await eventually(finished(world, author, [tweet]))
        await tweets.drained()
    assert await world.second.home(reader) == [tweet]
    found = await world.social.database.query("select consumer, reason from runtime.dead_letter order by reason")
    assert found == [("timeline-fanout", "event without tweet or author"), ("timeline-fanout", "undecodable")]


async def test_a_home_shows_a_delivered_tweet_within_a_tenth_of_a_second_or_so(world: World, nats: Nats) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    async with consuming(world, nats, DeadLetters(world.social.database, nats)):
        for _ in range(3):
            tweet = await world.a_tweet(author)

            async def there(tweet: int = tweet) -> bool:
                return (await world.second.home(reader))[:1] == [tweet]

            await eventually(there, timeout=2)


async def test_events_drop_what_this_process_remembers(world: World, nats: Nats) -> None:
    """The second road for deletions, and the one for names."""
    author = await world.a_user()
    reader = await world.a_user(author)
    kept, doomed = await world.a_tweet(author), await world.a_tweet(author)
    assert await world.first.home(reader) == [doomed, kept]
    await world.social.database.execute(
        "update tweet.tweet set text = null, entities = null, delete_time = now() where tweet_id = %s", (doomed,)
    )
    await world.social.database.execute("""update "user".users set display_name = 'Ada' where user_id = %s""", (author,))
    deletion = tweetpb.TweetDeleted(tweet_id=doomed, author_id=author).SerializeToString()
    async with world.first.memory.listening(nats):

        async def dropped() -> bool:
            await nats.client.publish(f"user.updated.{author}", b"")
            await nats.client.publish(f"tweet.deleted.{author}", deletion)
            found = (await world.first.page(reader)).items
            return [(item.tweet.tweet_id, item.author.display_name) for item in found] == [(kept, "Ada")]

        await eventually(dropped)
