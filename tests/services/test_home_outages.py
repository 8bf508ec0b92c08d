"""Homes while Redis is flushed, partly gone, wholly gone or too slow: slower, and right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from services.cluster.ports import FreePorts
from services.runtime.consumer import Message, Retry
from services.runtime.redisnode import Patience
from services.timeline import push, window
from tests.services.gates import third
from tests.services.world import World, open_world, shown, spawn
from tests.stores.redis_faults import PrivateCluster
from tests.waiting import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[PrivateCluster]:
    cluster = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
async def world(database: str, cluster: PrivateCluster, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, cluster.addresses, nats_url, Patience()) as world:
        yield world


@pytest.fixture(autouse=True)
async def restored(world: World) -> AsyncIterator[None]:
    yield
    for redis in (world.worker.redis, world.first.redis, world.second.redis):
        redis.away = redis.mute = lambda key: False


async def readers_on(world: World, server: int, count: int, *followees: int) -> list[int]:
    """Users whose homes lie on one server."""
    found: list[int] = []
    while len(found) < count:
        found += [user for user in await world.users(12) if third(window.key(user)) == server]
    for reader in found[:count]:
        await world.follows(reader, *followees)
    return found[:count]


async def event_of(world: World, author: int) -> tuple[int, Message]:
    """A new tweet and its event, which nobody has handled."""
    await world.forget_events()
    tweet = await world.a_tweet(author)
    (event,) = await world.events()
    return tweet, event


class TestAServerLostDuringAPush:
    """What Redis did not confirm is not acknowledged."""

    @pytest.mark.parametrize("warm", ["everybody", "those on the lost server", "those on the others"])
    @pytest.mark.parametrize("arrived", [False, True])
    async def test_the_event_is_handled_again_until_every_home_has_it(self, world: World, warm: str, arrived: bool) -> None:
        author = await world.a_user()
        homes = {server: await readers_on(world, server, 2, author) for server in (0, 1, 2)}
        lost = 1
        for server, readers in homes.items():
            if warm == "everybody" or (warm == "those on the lost server") == (server == lost):
                for reader in readers:
                    assert await world.first.home(reader) == []
        tweet, event = await event_of(world, author)
        if arrived:
            world.worker.redis.mute = lambda key: third(key) == lost
        else:
            world.worker.redis.away = lambda key: third(key) == lost
        for _ in range(2):
            (outcome,) = await world.worker.handle(event)
            assert isinstance(outcome, Retry)
        assert (await world.first.status(author, tweet)).delivered_count == 0
        world.worker.redis.away = world.worker.redis.mute = lambda key: False
        assert await world.worker.handle(event) == [None]
        for readers in homes.values():
            for reader in readers:
                assert await world.second.home(reader) == [tweet]

    async def test_an_outage_that_lasted_has_the_homes_built_anew(self, world: World) -> None:
        author = await world.a_user()
        (reader,) = await readers_on(world, 2, 1, author)
        assert await world.first.home(reader) == []
        tweet, event = await event_of(world, author)
        world.worker.redis.away = lambda key: third(key) == 2
        assert isinstance((await world.worker.handle(event))[0], Retry)
        world.clock.advance(push.LATE_MS / 1000)
        assert isinstance((await world.worker.handle(event))[0], Retry), "throwing away is to be confirmed too"
        assert await world.first.home(reader) == [], "its window does not have it yet"
        world.worker.redis.away = lambda key: False
        assert await world.worker.handle(event) == [None]
        assert await world.first.home(reader) == [tweet]

    async def test_a_server_killed_before_it_confirmed(self, world: World, cluster: PrivateCluster) -> None:
        author = await world.a_user()
        homes = [reader for server in (0, 1, 2) for reader in await readers_on(world, server, 1, author)]
        old = await world.a_tweet(author)
        for reader in homes:
            assert await world.first.home(reader) == [old]
        tweet, event = await event_of(world, author)
        gate = world.worker.redis.gates.hold("push")
        handling = spawn(world.worker.handle(event))
        await gate.reached()
        cluster.servers.kill("redis-2")
        gate.open()
        assert isinstance((await handling)[0], Retry)
        for reader in homes:
            assert (await world.first.home(reader))[-1] == old, "read from the truth meanwhile"
        await cluster.servers.healthy("redis")

        async def handled() -> bool:
            return list(await world.worker.handle(event)) == [None]

        await eventually(handled)
        for reader in homes:
            assert await world.first.home(reader) == [tweet, old]

    async def test_a_home_that_is_no_list_is_removed_and_the_event_handled_again(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweet, event = await event_of(world, author)
        key = window.key(reader)
        await world.redis(key, "SET", key, "no list")
        assert isinstance((await world.worker.handle(event))[0], Retry)
        assert await world.worker.handle(event) == [None]
        assert await world.first.home(reader) == [tweet]


class TestRedisAway:
    """All of it."""

    async def test_homes_are_right_and_marked_as_degraded(self, world: World) -> None:
        author, other = await world.users(2)
        reader = await world.a_user(author)
        tweets = (await world.history([author, reader], 150))[::-1]
        for away in (False, True):
            world.first.redis.away = lambda key, away=away: away
            pages = [page async for page in world.first.pages(reader, 30)]
            assert [tweet_id for page in pages for tweet_id in shown(page)] == tweets
            assert {page.degraded for page in pages} == {away}
        own, deleted = await world.a_tweet(reader), tweets.pop(0)
        await world.delete(reader, deleted)
        await world.follows(reader, other)
        others = await world.a_tweet(other)
        assert await world.first.home(reader) == [others, own, *tweets]
        await world.unfollows(reader, author)
        assert await world.first.home(reader) == [others, own, *tweets[1::2]]

    async def test_afterwards_everything_is_right_again(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        before = await world.a_tweet(author)
        await world.deliver()
        assert await world.first.home(reader) == [before]
        for redis in (world.worker.redis, world.first.redis, world.second.redis):
            redis.away = lambda key: True
        tweet, event = await event_of(world, author)
        page = await world.first.page(reader)
        assert (shown(page), page.degraded) == ([tweet, before], True)
        assert isinstance((await world.worker.handle(event))[0], Retry)
        for redis in (world.worker.redis, world.first.redis, world.second.redis):
            redis.away = lambda key: False
        assert await world.worker.handle(event) == [None]
        for replica in world.replicas:
            page = await replica.page(reader)
            assert (shown(page), page.degraded) == ([tweet, before], False)

    async def test_a_walk_and_polls_go_on_through_its_going_and_coming(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = await world.history([author], 60)
        met, token, after = list[int](), "", ""
        for turn in range(6):
            world.first.redis.away = lambda key, turn=turn: turn % 2 == 1
            page = await world.first.page(reader, 10, token)
            met, token, after = [*met, *shown(page)], page.next_page_token, after or page.newer_token
        assert met == tweets[::-1]
        made = list[int]()
        for turn in range(4):
            world.first.redis.away = lambda key, turn=turn: turn % 2 == 0
            made += await world.some_tweets([author], 3)
            await world.deliver()
            world.clock.advance(1)
            found, after = await world.first.news(reader, after)
            assert found == made[-3:]

    async def test_an_error_in_place_of_an_answer_is_as_good_as_none(self, world: World) -> None:
        """A server that is out of memory, for example, refuses scripts and answers reads."""
        author = await world.a_user()
        reader = await world.a_user(author)
        tweet = await world.a_tweet(author)
        key = window.key(reader)
        await world.redis(key, "SET", key, "no list")
        page = await world.first.page(reader)
        assert (shown(page), page.degraded) == ([tweet], True)
        polled = await world.first.page(reader, after=page.newer_token)
        assert (shown(polled), polled.degraded) == ([], True)

    async def test_a_server_that_hangs_costs_little_time(self, world: World, cluster: PrivateCluster) -> None:
        author = await world.a_user()
        (reader,) = await readers_on(world, 0, 1, author)
        tweet = await world.a_tweet(author)
        assert await world.first.home(reader) == [tweet]
        cluster.servers.pause("redis-1")
        try:
            for limit in (2.0, 0.5, 0.5):
                started = time.monotonic()
                page = await world.first.page(reader)
                assert (shown(page), page.degraded) == ([tweet], True)
                assert time.monotonic() - started < limit
        finally:
            cluster.servers.resume("redis-1")

        async def recovered() -> bool:
            return not (await world.first.page(reader)).degraded

        await eventually(recovered)
        assert await world.first.home(reader) == [tweet]


async def test_flushes_under_reads_cost_no_entry_and_no_error(world: World) -> None:
    authors = await world.users(2)
    readers = [await world.a_user(*authors) for _ in range(3)]
    tweets = await world.history([*authors], 60)
    flushing, reads = True, 0

    async def read(reader: int) -> None:
        nonlocal reads
        while flushing:
            for replica in world.replicas:
                home = await replica.home(reader, 25)
                assert home[-60:] == tweets[::-1]
                assert home == sorted(set(home), reverse=True)
                reads += 1

    reading = [spawn(read(reader)) for reader in readers]
    made: list[int] = []
    for turn in range(12):
        await world.flush()
        made.append(await world.a_tweet(authors[turn % 2]))
        await world.deliver()
        for replica in world.replicas:
            assert await replica.home(readers[0]) == [*tweets, *made][::-1]
    flushing = False
    await asyncio.gather(*reading)
    assert reads >= 12


async def test_a_flush_between_sentinel_and_append_costs_nothing(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = (await world.history([author], 5))[::-1]
    append = world.first.redis.gates.hold("finish")
    reading = spawn(world.first.home(reader))
    await append.reached()
    await world.flush()
    new = await world.a_tweet(author)
    await world.deliver()
    append.open()
    assert await reading in ([new, *tweets], tweets)
    for replica in world.replicas:
        assert await replica.home(reader) == [new, *tweets]


async def test_what_was_deleted_before_a_flush_stays_deleted(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    doomed, kept = await world.a_tweet(author), await world.a_tweet(author)
    await world.deliver()
    for replica in world.replicas:
        assert await replica.home(reader) == [kept, doomed]
    await world.delete(author, doomed)
    await world.flush()
    for replica in world.replicas:
        assert await replica.home(reader) == [kept]
