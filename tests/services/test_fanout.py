"""Fan-out: from the outbox to the homes, in pages, in turn, each effect once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime.consumer import PermanentFailure, Retry
from services.timeline import buckets, followers, progress, push, window
from tests.services.world import DEFAULT_THRESHOLD, World, message, open_world, spawn


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Authors with more than three followers are large."""
    monkeypatch.setattr(followers, "PAGE", 3)
    return 3


async def followed(world: World, count: int) -> tuple[int, list[int]]:
    """An author and followers, who have read their homes."""
    author = await world.a_user()
    readers = await world.users(count)
    if readers:
        await world.social.load(*((reader, author) for reader in readers))
    for reader in readers:
        await world.first.home(reader)
    await world.forget_events()
    return author, readers


async def rows(world: World, tweet: int) -> list[tuple[int, ...]]:
    """What is known of a delivery, page by page: outcome, targets, delivered, inactive."""
    return await world.social.database.query(
        "select page, outcome, targets, delivered, inactive from timeline.fanout where tweet_id = %s order by page", (tweet,)
    )


class TestPushing:
    """Authors of one page of followers."""

    async def test_homes_that_are_there_get_the_entry_and_others_no_key(self, world: World) -> None:
        author, active = await followed(world, 3)
        inactive = [await world.a_user(author) for _ in range(2)]
        tweet = await world.a_tweet(author)
        await world.deliver()
        for reader in active:
            assert (await world.window(reader)).ids == (tweet,)  # type: ignore[union-attr]
        for reader in (*inactive, author):
            assert await world.redis(window.key(reader), "EXISTS", window.key(reader)) == 0
        assert await rows(world, tweet) == [(0, progress.Outcome.PUSHED, 5, 3, 2)]
        for reader in inactive:
            assert await world.second.home(reader) == [tweet], "who returns finds it"

    async def test_the_authors_own_home_gets_the_entry_and_is_not_counted(self, world: World) -> None:
        author, _ = await followed(world, 0)
        await world.first.home(author)
        tweet = await world.a_tweet(author)
        await world.deliver()
        assert (await world.window(author)).ids == (tweet,)  # type: ignore[union-attr]
        assert await rows(world, tweet) == [(0, progress.Outcome.PUSHED, 0, 0, 0)]

    async def test_followers_are_remembered_until_their_list_changes(self, world: World) -> None:
        author, (reader, *_) = await followed(world, 3)
        first = await world.a_tweet(author)
        await world.deliver()
        newcomer = await world.a_user()
        await world.first.home(newcomer)
        await world.follows(newcomer, author)
        assert await world.first.home(newcomer) == [first]
        await world.unfollows(reader, author)
        second = await world.a_tweet(author)
        await world.deliver()
        assert (await world.window(newcomer)).ids == (second, first)  # type: ignore[union-attr]
        assert (await world.window(reader)).ids == (first,)  # type: ignore[union-attr]

    async def test_a_follow_between_the_commit_and_the_delivery_loses_nothing(self, world: World) -> None:
        author, _ = await followed(world, 1)
        early, late = await world.users(2)
        for reader in (early, late):
            await world.first.home(reader)
        tweet = await world.a_tweet(author)
        await world.follows(early, author)
        pushed = world.worker.redis.gates.hold("push")
        delivering = spawn(world.deliver())
        await pushed.reached()
        await world.follows(late, author)
        pushed.open()
        await delivering
        for replica in world.replicas:
            assert await replica.home(early) == await replica.home(late) == [tweet]

    async def test_an_unfollow_between_the_commit_and_the_delivery_shows_nothing(self, world: World) -> None:
        author, (reader,) = await followed(world, 1)
        await world.a_tweet(author)
        pushed = world.worker.redis.gates.hold("push")
        delivering = spawn(world.deliver())
        await pushed.reached()
        await world.unfollows(reader, author)
        pushed.open()
        await delivering
        assert await world.first.home(reader) == await world.second.home(reader) == []

    async def test_a_redelivery_counts_once_and_keeps_what_was_known_first(self, world: World) -> None:
        author, readers = await followed(world, 2)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        await world.worker.handle(event)
        await world.drop(readers[0])
        await world.worker.handle(event, event)
        assert await rows(world, tweet) == [(0, progress.Outcome.PUSHED, 2, 2, 0)]

    async def test_progress_that_cannot_be_written_has_the_event_delivered_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author, (reader,) = await followed(world, 1)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        away = errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")

        async def record(self: object, pages: object) -> None:
            raise away

        with monkeypatch.context() as patch:
            patch.setattr(progress.ProgressStore, "record", record)
            with pytest.raises(errors.Unavailable):
                await world.worker.handle(event)
        assert await world.worker.handle(event) == [None]
        assert await world.first.home(reader) == [tweet]

    async def test_graph_away_has_the_events_delivered_again(self, world: World) -> None:
        author, (reader,) = await followed(world, 1)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()

        def refuse(reply: object) -> object:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")

        world.worker.graph.altering = {name: refuse for name in vars(world.worker.graph) if name.startswith("BatchGet")}
        with pytest.raises(errors.Unavailable):
            await world.worker.handle(event)
        world.worker.graph.altering = {}
        assert await world.worker.handle(event) == [None]
        assert await world.first.home(reader) == [tweet]

    async def test_an_event_that_names_nothing_fails_alone_and_for_good(self, world: World) -> None:
        author, (reader,) = await followed(world, 1)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        empty = message("tweet.created.0", tweetpb.TweetCreated().SerializeToString())
        nameless = message(event.subject, tweetpb.TweetCreated(author_id=author).SerializeToString())
        first, second, third = await world.worker.handle(empty, event, nameless)
        assert isinstance(first, PermanentFailure)
        assert second is None
        assert isinstance(third, PermanentFailure)
        assert await world.first.home(reader) == [tweet]

    async def test_a_failed_home_holds_no_other_event_back(self, world: World) -> None:
        author, (reader,) = await followed(world, 1)
        other, (others_reader,) = await followed(world, 1)
        await world.a_tweet(author)
        others = await world.a_tweet(other)
        of_author, of_other = await world.events()
        world.worker.redis.away = lambda key: key == window.key(reader)
        outcomes = await world.worker.handle(of_author, of_other)
        world.worker.redis.away = lambda key: False
        assert isinstance(outcomes[0], Retry)
        assert outcomes[1] is None
        assert await world.second.home(others_reader) == [others]


class TestPages:
    """Large authors."""

    async def test_pages_are_chained_and_their_progress_sums_up(self, world: World, small_pages: int) -> None:
        author, readers = await followed(world, 8)
        inactive = await world.a_user(author)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        await world.worker.handle(event)
        states = [(await world.first.status(author, tweet)).state]
        while pages := world.worker.pages.take():
            assert len(pages) == 1, "one page at a time"
            await world.worker.handle_pages(*pages)
            states.append((await world.first.status(author, tweet)).state)
        running, done = timelinepb.FANOUT_STATE_RUNNING, timelinepb.FANOUT_STATE_DONE
        assert states == [running, running, running, running, done] or states == [running, running, running, done]
        status = await world.first.status(author, tweet)
        assert (status.target_count, status.delivered_count, status.inactive_count) == (5, 5, 1)
        assert await world.social.database.query(
            "select sum(targets), sum(delivered), sum(inactive) from timeline.fanout where tweet_id = %s", (tweet,)
        ) == [(9, 8, 1)]
        for reader in (*readers, inactive, author):
            assert await world.first.home(reader) == [tweet]

    async def test_a_page_delivered_twice_counts_once_and_announces_once(self, world: World, small_pages: int) -> None:
        author, readers = await followed(world, 7)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        await world.worker.handle(event, event)
        while pages := world.worker.pages.take():
            assert await world.worker.handle_pages(*pages, *pages) == [None] * 2 * len(pages)
        assert sum(row[2] for row in await rows(world, tweet)) == 7
        for reader in readers:
            assert (await world.window(reader)).ids == (tweet, tweet)  # type: ignore[union-attr]
            assert await world.second.home(reader) == [tweet]

    async def test_other_authors_do_not_wait_for_a_large_one(self, world: World, small_pages: int) -> None:
        large, _ = await followed(world, 12)
        small, (reader,) = await followed(world, 1)
        middle, (_, middles, *_) = await followed(world, 4)
        await world.a_tweet(large)
        tweet, middle_tweet = await world.a_tweet(small), await world.a_tweet(middle)
        await world.worker.handle(*await world.events())
        assert (await world.window(reader)).ids == (tweet,), "before any page of the large one"  # type: ignore[union-attr]
        turns: list[int] = []
        while pages := world.worker.pages.take(1):
            turns.append(timelinepb.FanoutPage.FromString(pages[0].data).author_id)
            await world.worker.handle_pages(*pages)
        assert {*turns[:2]} == {*turns[2:4]} == {large, middle}, "in turn"
        assert (await world.window(middles)).ids == (middle_tweet,)  # type: ignore[union-attr]

    async def test_a_page_that_cannot_be_announced_is_delivered_again(self, world: World, small_pages: int) -> None:
        author, readers = await followed(world, 7)
        tweet = await world.a_tweet(author)
        (event,) = await world.events()
        world.worker.pages.away = True
        assert isinstance((await world.worker.handle(event))[0], Retry)
        world.worker.pages.away = False
        assert await world.worker.handle(event) == [None]
        page = world.worker.pages.take()
        world.worker.pages.away = True
        assert isinstance((await world.worker.handle_pages(*page))[0], Retry)
        world.worker.pages.away = False
        await world.worker.handle_pages(*page)
        await world.worker.drain()
        for reader in readers:
            assert await world.second.home(reader) == [tweet]

    async def test_a_deletion_stops_the_pages_that_are_left(self, world: World, small_pages: int) -> None:
        author, readers = await followed(world, 8)
        tweet = await world.a_tweet(author)
        await world.worker.handle(*await world.events())
        await world.worker.handle_pages(*world.worker.pages.take())
        await world.delete(author, tweet)
        await world.worker.handle(*await world.events())
        await world.worker.drain()
        windows = [(await world.window(reader)).ids for reader in readers]  # type: ignore[union-attr]
        assert sorted(map(len, windows)) == [0] * 5 + [1] * 3
        for reader in readers:
            assert await world.first.home(reader) == []

    async def test_late_pages_throw_their_homes_away(self, world: World, small_pages: int) -> None:
        author, readers = await followed(world, 6)
        tweet = await world.a_tweet(author)
        await world.worker.handle(*await world.events())
        await world.worker.handle_pages(*world.worker.pages.take())
        world.clock.advance(push.LATE_MS / 1000 + 1)
        await world.worker.drain()
        assert (await world.first.status(author, tweet)).state == timelinepb.FANOUT_STATE_INVALIDATED
        there = [await world.window(reader) for reader in readers]
        assert [found is None for found in there].count(True) == 3
        for reader in readers:
            assert await world.first.home(reader) == [tweet]

    async def test_eleven_thousand_followers_of_whom_few_are_active(self, world: World) -> None:
        await world.threshold(20_000)
        author = await world.a_user()
        readers = [user for _ in range(11) for user in await world.users(1000)]
        await world.social.load(*((reader, author) for reader in readers[:10_000]))
        await world.social.load(*((reader, author) for reader in readers[10_000:]))
        active = [readers[0], readers[5_000], readers[10_999]]
        for reader in active:
            await world.first.home(reader)
        tweet = await world.a_tweet(author)
        await world.threshold(DEFAULT_THRESHOLD)
        await world.deliver()
        status = await world.first.status(author, tweet)
        assert (status.target_count, status.delivered_count, status.inactive_count) == (10_000, 2, 10_000)
        assert len(await rows(world, tweet)) == 3
        for reader in active:
            assert (await world.window(reader)).ids == (tweet,)  # type: ignore[union-attr]


class TestStatus:
    """GetFanoutStatus."""

    async def test_numbers_are_the_lower_bounds_of_buckets(self, world: World) -> None:
        author, _ = await followed(world, 7)
        await world.a_user(author)
        tweet = await world.a_tweet(author)
        assert (await world.first.status(author, tweet)).state == timelinepb.FANOUT_STATE_PENDING
        await world.deliver()
        status = await world.first.status(author, tweet)
        assert (status.state, status.target_count, status.delivered_count) == (timelinepb.FANOUT_STATE_DONE, 5, 5)
        assert status.inactive_count == 1
        assert status.HasField("lag")
        bounds = {0: 0, -3: 0, 1: 1, 4: 2, 5: 5, 9: 5, 10: 10, 19: 10, 20: 20, 99: 50, 100: 100, 12_345: 10_000}
        assert {count: buckets.lower_bound(count) for count in bounds} == bounds

    async def test_it_is_for_the_author_alone(self, world: World) -> None:
        author, (reader,) = await followed(world, 1)
        tweet = await world.a_tweet(author)
        with pytest.raises(errors.PermissionDenied) as refused:
            await world.first.status(reader, tweet)
        assert refused.value.reason == errorspb.ERROR_REASON_NOT_THE_AUTHOR
        with pytest.raises(errors.NotFound) as refused_unknown:
            await world.first.status(author, tweet + 1)
        assert refused_unknown.value.reason == errorspb.ERROR_REASON_TWEET_NOT_FOUND
        await world.delete(author, tweet)
        with pytest.raises(errors.NotFound) as refused_deleted:
            await world.first.status(author, tweet)
        assert refused_deleted.value.reason == errorspb.ERROR_REASON_TWEET_DELETED
        with pytest.raises(errors.Unauthenticated):
            await world.first.status(0, await world.a_tweet(author))

    async def test_what_is_known_of_old_deliveries_is_forgotten_in_slices(self, world: World) -> None:
        author, _ = await followed(world, 0)
        old, new = await world.a_tweet(author), await world.a_tweet(author)
        await world.deliver()
        await world.social.database.execute(
            "update timeline.fanout set finish_time = now() - interval '8 days' where tweet_id = %s", (old,)
        )
        store = progress.ProgressStore(world.social.database)
        assert await store.forget_old() == 1
        assert await store.forget_old() == 0
        assert (await store.of_tweet(old)).state == "pending"
        assert (await store.of_tweet(new)).state == "done"
