"""Races between fan-out, rebuilds, reads and follows, each forced by holding a step until the other has happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chirp.timeline import v1 as timelinepb
from services.runtime import ids
from services.timeline import home, push, window
from services.timeline.window import Sentinel
from tests.services.gates import AFTER, BEFORE
from tests.services.world import World, open_world, shown, spawn


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


class TestDeliveryDuringARebuild:
    """A tweet is committed before or after the builder reads the truth, and pushed before or after it appends."""

    @pytest.mark.parametrize("committed", [BEFORE, AFTER])
    @pytest.mark.parametrize("pushed", ["before the read", "before the append", "after the append"])
    async def test_the_tweet_is_there_once(self, world: World, committed: str, pushed: str) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        old = [await world.a_tweet(author) for _ in range(3)]
        await world.forget_events()
        replica = world.first
        read, append = replica.tweets.gates.hold("ListRecentByAuthors", committed), replica.redis.gates.hold("finish")
        reading = spawn(replica.home(reader))
        await read.reached()
        new = await world.a_tweet(author)
        if pushed == "before the read":
            await world.deliver()
        read.open()
        await append.reached()
        if pushed == "before the append":
            await world.deliver()
        append.open()
        assert set(old) <= set(await reading) <= {*old, new}
        await world.deliver()
        found = await world.window(reader)
        assert found is not None
        assert found.ids.count(new) <= 2
        assert await replica.home(reader) == [new, *old[::-1]]
        assert await world.second.home(reader) == [new, *old[::-1]]

    async def test_who_joins_a_build_misses_nothing_that_was_delivered_before(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        replica = world.first
        append = replica.redis.gates.hold("finish")
        first = spawn(replica.home(reader))
        await append.reached()
        new = await world.a_tweet(author)
        await world.deliver()
        joined = spawn(replica.home(reader))
        before = replica.redis.calls["look"]
        while replica.redis.calls["look"] == before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        append.open()
        await first
        assert await joined == [new]

    async def test_a_late_tweet_during_a_build_is_not_lost(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        replica = world.first
        append = replica.redis.gates.hold("finish")
        reading = spawn(replica.home(reader))
        await append.reached()
        late = await world.a_tweet(author)
        world.clock.advance(push.LATE_MS / 1000 + 1)
        await world.deliver()
        append.open()
        assert await reading == [late], "the window is thrown away, so the truth is asked again"
        assert await world.window(reader) is None
        assert await replica.home(reader) == [late]


class TestTwoBuilders:
    """Two replicas find the same window missing."""

    async def test_the_second_waits_for_the_first(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        read = world.first.tweets.gates.hold("ListRecentByAuthors", AFTER)
        one = spawn(world.first.home(reader))
        await read.reached()
        two = spawn(world.second.home(reader))
        asked = world.second.redis.calls["begin"]
        read_before = world.second.tweets.calls["ListRecentByAuthors"]
        while world.second.redis.calls["begin"] < asked + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        read.open()
        assert await one == await two == tweets
        found = await world.window(reader)
        assert found is not None
        assert list(found.ids) == tweets
        assert world.second.tweets.calls["ListRecentByAuthors"] == read_before + 1, "own tweets alone"

    async def test_a_slow_builder_keeps_nobody_waiting(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        read = world.first.tweets.gates.hold("ListRecentByAuthors")
        one = spawn(world.first.home(reader))
        await read.reached()
        async with asyncio.timeout(2):
            assert await world.second.home(reader) == tweets
        read.open()
        assert await one == tweets

    async def test_a_builder_that_died_is_replaced(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        dead = Sentinel(False, 77, 10**9, 0, 0, world.clock.now_ms())
        key = window.key(reader)
        await world.redis(key, "RPUSH", key, dead.encode())
        assert await world.first.home(reader) == tweets, "without waiting for ever"
        assert (await world.window(reader)).sentinel == dead  # type: ignore[union-attr]
        world.clock.advance(window.BUILD_PATIENCE_MS / 1000 + 0.1)
        assert await world.first.home(reader) == tweets
        assert (await world.window(reader)).sentinel.ready  # type: ignore[union-attr]

    async def test_a_builder_that_was_replaced_appends_nothing(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        append = world.first.redis.gates.hold("finish")
        one = spawn(world.first.home(reader))
        await append.reached()
        world.clock.advance(window.BUILD_PATIENCE_MS / 1000 + 0.1)
        assert await world.second.home(reader) == tweets
        built = await world.window(reader)
        append.open()
        assert await one == tweets
        assert await world.window(reader) == built

    async def test_many_readers_of_one_missing_window_build_it_once(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        before = [replica.redis.calls["finish"] for replica in world.replicas]
        homes = await asyncio.gather(*(replica.home(reader) for _ in range(20) for replica in world.replicas))
        assert all(found == tweets for found in homes)
        assert sum(replica.redis.calls["finish"] for replica in world.replicas) == sum(before) + 1

    async def test_readers_in_one_process_share_a_build(self, world: World) -> None:
        reader = await world.a_user()
        before = world.first.redis.calls["begin"]
        await asyncio.gather(*(world.first.home(reader) for _ in range(20)))
        assert world.first.redis.calls["begin"] <= before + 3, "but for those who looked before it was done"

    async def test_a_reader_who_leaves_does_not_stop_the_build(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        read = world.first.tweets.gates.hold("ListRecentByAuthors")
        leaving = spawn(world.first.home(reader))
        await read.reached()
        staying = spawn(world.first.home(reader))
        leaving.cancel()
        await asyncio.wait([leaving])
        read.open()
        assert await staying == []

    async def test_a_follow_during_a_build_has_it_built_again(self, world: World) -> None:
        author, other = await world.users(2)
        reader = await world.a_user(author)
        tweet, others = await world.a_tweet(author), await world.a_tweet(other)
        append = world.first.redis.gates.hold("finish")
        before = spawn(world.first.home(reader))
        await append.reached()
        await world.follows(reader, other)
        joined, elsewhere = spawn(world.first.home(reader)), spawn(world.second.home(reader))
        await asyncio.sleep(0.05)
        append.open()
        assert await before == [tweet]
        assert await joined == await elsewhere == [others, tweet]
        assert (await world.window(reader)).sentinel.follow_revision == 2  # type: ignore[union-attr]

    async def test_a_window_that_changes_between_two_commands_of_a_look_is_not_believed(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        append = world.second.redis.gates.hold("finish")
        building = spawn(world.second.home(reader))
        await append.reached()
        torn = world.first.redis.tear()
        reading = spawn(world.first.home(reader))
        await torn.reached()
        append.open()
        assert await building == tweets
        torn.open()
        assert await reading == tweets

    async def test_rebuilding_on_demand_gives_the_truth(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        tweets = (await world.history([author], 5))[::-1]
        await world.first.home(reader)
        key = window.key(reader)
        await world.redis(key, "LREM", key, 0, tweets[2])
        assert tweets[2] not in await world.first.home(reader)
        reply = await world.first.service.rebuild_timeline(timelinepb.RebuildTimelineRequest(user_id=reader), world.first.acting(0))
        assert reply.entry_count == 5
        assert await world.first.home(reader) == tweets


class TestLateEvents:
    """An entry may lie ten seconds late in a window and no more, because readers rely on it."""

    async def test_a_late_event_throws_the_home_away_and_the_tweet_comes_back_in_its_place(self, world: World) -> None:
        author, slow = await world.users(2)
        reader = await world.a_user(author, slow)
        assert await world.first.home(reader) == []
        early = await world.some_tweets([author], 3)
        await world.deliver()
        late = await world.a_tweet(slow)
        (event,) = await world.events()
        newer = await world.some_tweets([author], 3)
        await world.deliver()
        world.clock.advance(push.LATE_MS / 1000)
        assert await world.first.home(reader) == [*newer[::-1], *early[::-1]]
        assert await world.worker.handle(event) == [None]
        assert await world.window(reader) is None
        for replica in world.replicas:
            assert await replica.home(reader, 2) == [*newer[::-1], late, *early[::-1]]

    async def test_a_push_that_took_so_long_that_it_lies_late_throws_the_home_away(self, world: World) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        await world.first.home(reader)
        tweet = await world.a_tweet(author)
        pushed = world.worker.redis.gates.hold("push", AFTER)
        delivering = spawn(world.deliver())
        await pushed.reached()
        assert (await world.window(reader)).ids == (tweet,)  # type: ignore[union-attr]
        world.clock.advance(window.LATENESS_MS / 1000 + 0.1)
        pushed.open()
        await delivering
        assert await world.window(reader) is None
        assert (await world.first.status(author, tweet)).state == timelinepb.FANOUT_STATE_INVALIDATED
        assert await world.first.home(reader) == [tweet]

    async def test_entries_out_of_order_are_shown_in_order_without_a_gap(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pages whose margin is nothing meet entries that lie deeper in the list than their ids."""
        monkeypatch.setattr(home, "MARGIN", 2)
        author = await world.a_user()
        reader = await world.a_user(author)
        await world.first.home(reader)
        made: list[int] = []
        for _ in range(6):
            made += await world.some_tweets([author], 6, spacing_ms=500)
            events = await world.events()
            for event in (events[0], *events[:0:-1]):
                await world.worker.handle(event)
            world.clock.advance(4)
        for replica in world.replicas:
            for size in (1, 3, 5, 20):
                assert await replica.home(reader, size) == made[::-1], size


class TestTrimmedWindows:
    """More than 850 entries: cut to 800, and the walk goes on below in the truth."""

    async def test_the_floor_is_raised_and_there_is_no_seam(self, world: World) -> None:
        authors = await world.users(3)
        reader = await world.a_user(*authors)
        old = await world.history([*authors, reader], 150)
        assert len(await world.first.home(reader)) == 150
        made: list[int] = []
        for _ in range(5):
            made += await world.some_tweets([*authors, reader], 200, spacing_ms=20)
            await world.deliver()
        found = await world.window(reader)
        assert found is not None
        assert window.CAPACITY <= len(found.ids) <= window.CAPACITY + window.SLACK
        assert found.sentinel.floor_id >= max({*old, *made} - {*found.ids})
        everything = [*old, *made][::-1]
        for replica in world.replicas:
            for size in (20, 111, 200):
                assert await replica.home(reader, size) == everything, size

    async def test_a_trim_in_the_middle_of_a_walk_leaves_no_seam(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(window, "CAPACITY", 20)
        monkeypatch.setattr(window, "SLACK", 2)
        monkeypatch.setattr(home, "MARGIN", 3)
        author = await world.a_user()
        reader = await world.a_user(author)
        old = await world.history([author], 40)
        met = [*shown(first := await world.first.page(reader, 5))]
        token = first.next_page_token
        while token:
            looked = world.first.redis.gates.hold("look", AFTER)
            reading = spawn(world.first.page(reader, 5, token))
            await looked.reached()
            await world.some_tweets([author], 12, spacing_ms=20)
            await world.deliver()
            looked.open()
            page = await reading
            met, token = [*met, *shown(page)], page.next_page_token
        assert met == old[::-1]

    async def test_a_late_entry_that_is_cut_raises_the_floor_above_what_is_kept(self, world: World) -> None:
        """The list is cut by age of pushes: an id that lies deep but is newer than others must not vanish."""
        reader = await world.a_user()
        await world.first.home(reader)
        key, start = window.key(reader), ids.first_at(world.clock.now_ms())
        entries = [start + 5_000, *(start + index for index in range(1, 20))]
        for entry in entries:
            await world.redis(key, "LPUSH", key, entry)
        assert await world.social.redis.script(window.TRIM, key, 10) == 10
        found = await world.window(reader)
        assert found is not None
        assert found.ids == tuple(reversed(entries[-10:]))
        assert found.sentinel.floor_id == start + 5_000

    async def test_a_trim_done_twice_and_one_of_a_building_window_do_nothing(self, world: World) -> None:
        reader = await world.a_user()
        await world.first.home(reader)
        key = window.key(reader)
        await world.redis(key, "LPUSH", key, *range(1, 31))
        assert await world.social.redis.script(window.TRIM, key, 10) == 20
        once = await world.window(reader)
        assert await world.social.redis.script(window.TRIM, key, 10) == 0
        assert await world.window(reader) == once
        building = Sentinel(False, 5, 1, 0, 0, world.clock.now_ms())
        await world.redis(key, "DEL", key)
        await world.redis(key, "RPUSH", key, *range(30), building.encode())
        assert await world.social.redis.script(window.TRIM, key, 10) == 0
