"""Deleted tweets are served to nobody from the next read on, wherever a copy of them lies and whatever arrives later."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from chirp import errors
from services.timeline.catalogue import SUSPICION
from tests.services.gates import AFTER
from tests.services.world import Replica, World, open_world, shown, spawn


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


async def a_read_home(world: World) -> tuple[int, int, list[int]]:
    """Author, reader, and tweets that lie in the reader's window and in the memory of both replicas, newest first."""
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.first.home(reader)
    tweets = [await world.a_tweet(author) for _ in range(4)][::-1]
    await world.deliver()
    for replica in world.replicas:
        for user in (reader, author):
            assert await replica.home(user) == tweets
    return author, reader, tweets


async def test_what_lies_in_windows_and_memories_is_gone_at_once(world: World) -> None:
    author, reader, tweets = await a_read_home(world)
    while tweets:
        await world.delete(author, tweets.pop(len(tweets) // 2))
        for replica, user in itertools.product(world.replicas, (reader, author)):
            assert await replica.home(user) == tweets
            assert shown(await replica.profile(author, user)) == tweets


async def test_what_is_being_hydrated_is_not_kept(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    doomed = await world.a_tweet(author)
    hydrated = world.first.tweets.gates.hold("BatchGetTweets", AFTER)
    reading = spawn(world.first.home(reader))
    await hydrated.reached()
    await world.delete(author, doomed)
    assert await world.first.home(await world.a_user(author)) == []
    hydrated.open()
    assert await reading == [doomed], "it was read before the deletion"
    for seconds in (0.0, SUSPICION + 1):
        world.clock.advance(seconds)
        for replica in world.replicas:
            assert await replica.home(reader) == []


async def test_a_deletion_that_is_noticed_before_its_commit_leaves_no_copy_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, reader, tweets = await a_read_home(world)
    store = world.tweets._remover._store
    original, seen = store.delete, list[list[int]]()

    async def delete(*arguments: object) -> object:
        for _ in range(2):
            seen.append(await world.first.home(reader))
        return await original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "delete", delete)
    await world.delete(author, tweets[1])
    assert seen == [tweets, tweets], "not committed yet"
    del tweets[1]
    for seconds in (0.0, SUSPICION + 1, 60.0):
        world.clock.advance(seconds)
        assert await world.first.home(reader) == tweets


async def test_notices_that_were_lost_have_every_tweet_asked_for_again(world: World) -> None:
    author, reader, tweets = await a_read_home(world)
    await world.delete(author, tweets.pop(1))
    await world.lose_notices()
    for replica in world.replicas:
        assert await replica.home(reader) == tweets


async def test_an_event_alone_tells_of_a_deletion_too(world: World) -> None:
    """Should Redis have been away when the notice was given: the tweet is marked deleted behind every back."""
    _, reader, tweets = await a_read_home(world)
    await world.social.database.execute(
        "update tweet.tweet set text = null, entities = null, delete_time = now() where tweet_id = %s", (tweets[0],)
    )
    assert (await world.first.home(reader))[0] == tweets[0], "nobody has said so"
    world.first.memory.on_delete(tweets[0])
    assert await world.first.home(reader) == tweets[1:]


async def test_a_deletion_that_arrives_before_its_creation_wins(world: World) -> None:
    author, reader, tweets = await a_read_home(world)
    await world.forget_events()
    doomed = await world.a_tweet(author)
    await world.delete(author, doomed)
    created, deleted = await world.events()
    assert await world.worker.handle(deleted) == [None]
    assert await world.worker.handle(created) == [None]
    assert doomed not in (await world.window(reader)).ids  # type: ignore[union-attr]
    for replica in world.replicas:
        assert await replica.home(reader) == tweets


async def test_a_creation_that_is_replayed_brings_nothing_back(world: World) -> None:
    author, reader, tweets = await a_read_home(world)
    await world.forget_events()
    doomed = await world.a_tweet(author)
    (created,) = await world.events()
    await world.worker.handle(created)
    await world.delete(author, doomed)
    for _ in range(3):
        assert await world.worker.handle(created) == [None]
    world.clock.advance(20)
    assert await world.worker.handle(created) == [None]
    for replica in world.replicas:
        assert await replica.home(reader) == tweets
    await world.drop(reader)
    assert await world.first.home(reader) == tweets


@pytest.mark.parametrize("together", [True, False])
async def test_a_creation_that_comes_three_times_is_shown_once(world: World, together: bool) -> None:
    author, reader, tweets = await a_read_home(world)
    await world.forget_events()
    tweet = await world.a_tweet(author)
    (created,) = await world.events()
    if together:
        assert await world.worker.handle(created, created, created) == [None] * 3
    else:
        for _ in range(3):
            assert await world.worker.handle(created) == [None]
    for replica in world.replicas:
        for size in (1, 3, 20):
            assert await replica.home(reader, size) == [tweet, *tweets]
        page = await replica.page(reader, 2)
        assert shown(page) == [tweet, tweets[0]]
    assert (await world.first.status(author, tweet)).delivered_count == 1


async def test_events_in_any_order_make_the_same_home(world: World) -> None:
    author, other = await world.users(2)
    reader = await world.a_user(author, other)
    for turn, order in enumerate(itertools.islice(itertools.permutations(range(4)), 0, 24, 5)):
        await world.forget_events()
        before = await world.first.home(reader)
        kept, doomed, others = await world.a_tweet(author), await world.a_tweet(author), await world.a_tweet(other)
        await world.delete(author, doomed)
        events = await world.events()
        assert len(events) == 4
        for place in order:
            await world.worker.handle(events[place])
        for replica in world.replicas:
            assert await replica.home(reader, turn + 2) == [others, kept, *before]


async def test_deleting_again_or_a_strangers_tweet_changes_nothing(world: World) -> None:
    author, reader, tweets = await a_read_home(world)
    await world.delete(author, tweets[3])
    await world.delete(author, tweets[3])
    with pytest.raises(errors.PermissionDenied):
        await world.delete(reader, tweets[0])
    for replica in world.replicas:
        assert await replica.home(reader) == tweets[:3]


async def test_a_reply_stays_when_its_parent_is_deleted(world: World) -> None:
    author, replier = await world.users(2)
    reader = await world.a_user(author, replier)
    parent = await world.a_tweet(author)
    reply = await world.a_tweet(replier, reply_to=parent)
    await world.delete(author, parent)
    await world.deliver()
    assert await every_home(world.replicas, reader) == [[reply]] * 2


async def every_home(replicas: tuple[Replica, ...], reader: int) -> list[list[int]]:
    return [await replica.home(reader) for replica in replicas]
