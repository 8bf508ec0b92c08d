"""ExplainTimelineEntry: each verdict through the service, and never one that the home contradicts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.timeline import v1 as timelinepb
from services.timeline import push
from tests.services.world import DEFAULT_THRESHOLD, World, open_world


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


async def verdict(world: World, reader: int, tweet: int) -> str:
    """The same on both replicas, and what the home shows agrees with it."""
    answers = [await replica.explain(reader, tweet) for replica in world.replicas]
    assert answers[0] == answers[1]
    answer = answers[0]
    assert answer.message.endswith(".")
    assert answer.shown == (tweet in await world.first.home(reader, 200))
    return timelinepb.EntryVerdict.Name(answer.verdict).removeprefix("ENTRY_VERDICT_")


async def test_own(world: World) -> None:
    reader, stranger = await world.users(2)
    tweet = await world.a_tweet(reader)
    reply = await world.a_tweet(reader, reply_to=await world.a_tweet(stranger))
    assert [await verdict(world, reader, each) for each in (tweet, reply)] == ["SHOWN_OWN"] * 2


async def test_pending_until_delivered(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    await world.forget_events()
    tweet = await world.a_tweet(author)
    assert await verdict(world, reader, tweet) == "DELIVERY_PENDING"
    await world.deliver()
    assert await verdict(world, reader, tweet) == "SHOWN_FROM_WINDOW"


async def test_without_a_window_the_next_read_takes_it_from_the_truth(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweet = await world.a_tweet(author)
    assert await verdict(world, reader, tweet) == "SHOWN_BELOW_WINDOW"
    assert await verdict(world, reader, tweet) == "SHOWN_FROM_WINDOW", "reading has built one"


async def test_late_and_thrown_away(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    tweet = await world.a_tweet(author)
    world.clock.advance(push.LATE_MS / 1000 + 1)
    await world.deliver()
    assert await verdict(world, reader, tweet) == "SHOWN_BELOW_WINDOW"


async def test_below_the_window(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = await world.history([author], 805)
    await world.first.home(reader)
    assert await verdict(world, reader, tweets[4]) == "SHOWN_BELOW_WINDOW"
    assert await verdict(world, reader, tweets[5]) == "SHOWN_FROM_WINDOW"


async def test_pulled(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    await world.threshold(1)
    try:
        tweet = await world.a_tweet(author)
        assert await verdict(world, reader, tweet) == "SHOWN_PULLED"
    finally:
        await world.threshold(DEFAULT_THRESHOLD)


async def test_not_following_and_no_longer_following(world: World) -> None:
    author = await world.a_user()
    reader, other = await world.a_user(author), await world.a_user()
    await world.first.home(reader)
    tweet = await world.a_tweet(author)
    await world.deliver()
    assert await verdict(world, other, tweet) == "NOT_FOLLOWING"
    await world.unfollows(reader, author)
    assert await verdict(world, reader, tweet) == "NOT_FOLLOWING"
    await world.follows(reader, author)
    assert await verdict(world, reader, tweet) == "SHOWN_BELOW_WINDOW", "the window is built anew for the follow"


async def test_a_reply_to_a_stranger(world: World) -> None:
    author, stranger = await world.users(2)
    reader = await world.a_user(author)
    reply = await world.a_tweet(author, reply_to=await world.a_tweet(stranger))
    to_reader = await world.a_tweet(author, reply_to=await world.a_tweet(reader))
    assert await verdict(world, reader, reply) == "REPLY_TO_STRANGER"
    assert await verdict(world, reader, to_reader) == "SHOWN_FROM_WINDOW"
    await world.follows(reader, stranger)
    assert await verdict(world, reader, reply) == "SHOWN_BELOW_WINDOW"


async def test_deleted_and_never_there(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweet = await world.a_tweet(author)
    await world.deliver()
    await world.first.home(reader)
    await world.delete(author, tweet)
    assert await verdict(world, reader, tweet) == await verdict(world, author, tweet) == "DELETED"
    assert await verdict(world, reader, tweet + 1) == "NOT_FOUND"


async def test_without_redis_the_truth_answers(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweet = await world.a_tweet(author)
    world.first.redis.away = lambda key: True
    try:
        answer = await world.first.explain(reader, tweet)
    finally:
        world.first.redis.away = lambda key: False
    assert (answer.shown, answer.verdict) == (True, timelinepb.ENTRY_VERDICT_SHOWN_BELOW_WINDOW)


async def test_nobody_has_no_home(world: World) -> None:
    with pytest.raises(errors.Unauthenticated):
        await world.first.explain(0, 1)
