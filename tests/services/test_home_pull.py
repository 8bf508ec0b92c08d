"""Authors whose tweets are pulled, and authors who become or cease to be such while they tweet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chirp.timeline import v1 as timelinepb
from services.timeline import home, recents, window
from tests.services.gates import AFTER, BEFORE
from tests.services.world import DEFAULT_THRESHOLD, World, open_world, shown, spawn

A_LIST_ENDS = recents.PULL_LIFE + 0.1
"""Seconds after which a list of pulled tweets is asked for again."""


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture(autouse=True)
async def restored(world: World) -> AsyncIterator[None]:
    yield
    await world.threshold(DEFAULT_THRESHOLD)


async def a_star(world: World, followers: int = 2) -> tuple[int, list[int]]:
    """An author who is pulled once the threshold is at their number of followers, and these."""
    author = await world.a_user()
    return author, [await world.a_user(author) for _ in range(followers)]


async def test_pulled_tweets_are_shown_and_pushed_to_nobody_but_their_author(world: World) -> None:
    star, (reader, _) = await a_star(world)
    for user in (star, reader):
        assert await world.first.home(user) == []
    await world.threshold(2)
    tweet = await world.a_tweet(star)
    await world.deliver()
    assert (await world.window(reader)).ids == ()  # type: ignore[union-attr]
    assert (await world.window(star)).ids == (tweet,)  # type: ignore[union-attr]
    for replica in world.replicas:
        assert await replica.home(reader) == [tweet]
        assert await replica.home(star) == [tweet]
    assert (await world.first.status(star, tweet)).state == timelinepb.FANOUT_STATE_PULL


async def test_a_pulled_tweet_is_seen_a_second_later_by_who_has_just_looked(world: World) -> None:
    star, (reader, other) = await a_star(world)
    await world.threshold(2)
    old = await world.a_tweet(star)
    for user in (reader, other):
        assert await world.first.home(user) == [old]
    asked = world.first.tweets.calls["ListRecentByAuthors"]
    new = await world.a_tweet(star)
    await world.first.page(other)
    assert world.first.tweets.calls["ListRecentByAuthors"] <= asked + 1, "one list serves all readers for a second"
    world.clock.advance(A_LIST_ENDS)
    assert await world.first.home(reader) == [new, old]


async def test_the_threshold_changed_both_ways_while_tweets_are_made(world: World) -> None:
    """Push, pull, push, pull: each tweet once, for homes of every age."""
    star, (warm, between, cold, polling) = await a_star(world, 4)
    plain = await world.a_user()
    await world.follows(warm, plain)
    assert await world.first.home(warm) == await world.first.home(polling) == []
    after = (await world.first.page(polling)).newer_token
    made, polled, plains = list[int](), list[int](), list[int]()
    for turn, threshold in enumerate((DEFAULT_THRESHOLD, 4, DEFAULT_THRESHOLD, 3, DEFAULT_THRESHOLD)):
        await world.threshold(threshold)
        for each in range(4):
            made.append(await world.a_tweet(star))
            plains.append(await world.a_tweet(plain))
            if each % 2:
                await world.deliver()
        world.clock.advance(A_LIST_ENDS)
        found, after = await world.replicas[turn % 2].news(polling, after)
        polled += found
        if turn == 2:
            assert await world.second.home(between) == made[::-1]
        for replica in world.replicas:
            for size in (3, 20):
                assert await replica.home(warm, size) == sorted([*made, *plains], reverse=True)
    await world.deliver()
    for replica in world.replicas:
        assert await replica.home(warm, 7) == sorted([*made, *plains], reverse=True)
        assert await replica.home(between, 7) == await replica.home(cold, 7) == made[::-1]
    assert polled == made


async def test_a_replica_that_knew_the_reader_hears_of_a_new_pull_author(world: World) -> None:
    star, (reader, _) = await a_star(world)
    for replica in world.replicas:
        assert await replica.home(reader) == []
    await world.settle(reader)
    for replica in world.replicas:
        assert await replica.home(reader) == []
    asked = [replica.graph.calls["GetViewerFacts"] for replica in world.replicas]
    await world.threshold(2)
    tweet = await world.a_tweet(star)
    for replica in world.replicas:
        assert await replica.home(reader) == [tweet]
    assert [replica.graph.calls["GetViewerFacts"] for replica in world.replicas] == asked, "the announcement was enough"


@pytest.mark.parametrize("held", [BEFORE, AFTER])
async def test_facts_read_while_an_author_is_being_marked_learn_of_it(
    world: World, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph announces an author before it commits the mark: a reader who has heard may still read the state before."""
    star, (reader, _) = await a_star(world)
    assert await world.first.home(reader) == []
    await world.settle(reader)
    await world.threshold(2)
    store = world.social.graph._store
    announced, marking = asyncio.Event(), asyncio.Event()
    original = store.mark_pulled

    async def mark_pulled(author_ids: list[int], now_ms: int) -> None:
        if held == AFTER:
            await original(author_ids, now_ms)
        announced.set()
        await marking.wait()
        if held == BEFORE:
            await original(author_ids, now_ms)

    monkeypatch.setattr(store, "mark_pulled", mark_pulled)
    posting = spawn(world.a_tweet(star))
    await announced.wait()
    assert await world.first.home(reader) == []
    marking.set()
    tweet = await posting
    world.clock.advance(A_LIST_ENDS)
    assert await world.first.home(reader) == [tweet]


@pytest.mark.parametrize("reading", [False, True])
async def test_notices_that_were_lost_have_everything_read_anew(world: World, reading: bool) -> None:
    """Also what was just being read when the loss was found."""
    star, (reader, _) = await a_star(world)
    assert await world.first.home(reader) == []
    await world.settle(reader)
    facts = world.first.graph.gates.hold("GetViewerFacts", AFTER)
    first = spawn(world.first.home(reader))
    await facts.reached()
    if not reading:
        facts.open()
        assert await first == []
    await world.threshold(2)
    tweet = await world.a_tweet(star)
    await world.lose_notices()
    assert await world.first.home(await world.a_user()) == [], "finds that notices are missing"
    facts.open()
    await first
    world.clock.advance(A_LIST_ENDS)
    assert await world.first.home(reader) == [tweet]


async def test_an_unfollowed_stars_tweets_go_and_come_back_with_the_follow(world: World) -> None:
    star, (reader, _) = await a_star(world)
    await world.threshold(2)
    tweet = await world.a_tweet(star)
    assert await world.first.home(reader) == [tweet]
    await world.unfollows(reader, star)
    assert await world.first.home(reader) == await world.second.home(reader) == []
    await world.follows(reader, star)
    assert await world.first.home(reader) == await world.second.home(reader) == [tweet]


async def test_replies_of_stars_obey_the_rule(world: World) -> None:
    star, (reader, _) = await a_star(world)
    stranger = await world.a_user()
    assert await world.first.home(reader) == []
    await world.threshold(2)
    reply = await world.a_tweet(star, reply_to=await world.a_tweet(stranger))
    plain = await world.a_tweet(star)
    assert await world.first.home(reader) == [plain]
    await world.follows(reader, stranger)
    assert (await world.first.home(reader))[:2] == [plain, reply]


async def test_a_deleted_pulled_tweet_is_served_to_nobody(world: World) -> None:
    star, (reader, other) = await a_star(world)
    await world.threshold(2)
    kept, doomed = await world.a_tweet(star), await world.a_tweet(star)
    for replica in world.replicas:
        assert await replica.home(reader) == [doomed, kept]
    await world.delete(star, doomed)
    for replica in world.replicas:
        assert await replica.home(reader) == await replica.home(other) == [kept]


async def test_more_pulled_tweets_than_a_list_holds_leave_no_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recents, "PULL_LIMIT", 6)
    monkeypatch.setattr(home, "MARGIN", 3)
    stars = await world.users(2)
    plain = await world.a_user()
    reader, _ = await world.a_user(*stars, plain), await world.a_user(*stars)
    old = await world.history([*stars, plain], 9)
    assert await world.first.home(reader) == old[::-1]
    await world.threshold(2)
    made = await world.some_tweets([*stars, plain], 60, spacing_ms=30)
    await world.deliver()
    assert len((await world.window(reader)).ids) == 29, "old ones, and those that were pushed"  # type: ignore[union-attr]
    world.clock.advance(A_LIST_ENDS)
    for replica in world.replicas:
        for size in (2, 7, 20):
            assert await replica.home(reader, size) == [*old, *made][::-1], size


async def test_many_stars_are_asked_for_in_one_call(world: World) -> None:
    stars = await world.users(30)
    reader, _ = [await world.a_user(*stars) for _ in range(2)]
    assert await world.first.home(reader) == []
    await world.threshold(2)
    made = await world.some_tweets(stars, 60)
    world.clock.advance(A_LIST_ENDS)
    await world.settle(reader)
    await world.first.page(reader)
    asked = world.first.tweets.calls["ListRecentByAuthors"]
    world.clock.advance(A_LIST_ENDS)
    assert shown(await world.first.page(reader, 60)) == made[::-1]
    assert world.first.tweets.calls["ListRecentByAuthors"] == asked + 1


async def test_after_a_week_pulled_tweets_lie_in_the_window_that_is_built_anew(world: World) -> None:
    star, (reader, _) = await a_star(world)
    await world.threshold(2)
    tweet = await world.a_tweet(star)
    assert await world.first.home(reader) == [tweet]
    world.clock.advance(9 * 86_400)
    await world.threshold(DEFAULT_THRESHOLD)
    for replica in world.replicas:
        assert await replica.home(reader) == [tweet]
    assert (await world.window(reader)).ids == (tweet,)  # type: ignore[union-attr]
    assert window.REBUILD_AFTER_MS < 8 * 86_400_000
