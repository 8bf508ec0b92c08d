"""One user's tweets, for anybody, from the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from tests.services.gates import AFTER
from tests.services.world import World, open_world, shown, spawn


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


async def whole(world: World, user: int, size: int, viewer: int = 0) -> list[int]:
    """All tweets of a user, walked by pages."""
    found, token, more = list[int](), "", True
    while more:
        page = await world.first.profile(user, viewer, size, token)
        found, token = [*found, *shown(page)], page.next_page_token
        more = bool(token)
    return found


@pytest.mark.parametrize("size", [1, 6, 13, 20, 200])
async def test_a_walk_meets_every_tweet_once_newest_first(world: World, size: int) -> None:
    user, other = await world.users(2)
    tweets = await world.history([user, other], 26)
    assert await whole(world, user, size) == tweets[::2][::-1]


async def test_replies_to_strangers_are_among_them(world: World) -> None:
    user, stranger = await world.users(2)
    reply = await world.a_tweet(user, reply_to=await world.a_tweet(stranger))
    plain = await world.a_tweet(user)
    assert await whole(world, user, 20) == [plain, reply]


async def test_it_shows_at_once_what_was_posted_and_deleted_without_any_delivery(world: World) -> None:
    user = await world.a_user()
    posted: list[int] = []
    for _ in range(5):
        posted.insert(0, await world.a_tweet(user))
        await world.delete(user, await world.a_tweet(user))
        for replica in world.replicas:
            assert shown(await replica.profile(user)) == posted


async def test_a_user_without_tweets_has_an_empty_page(world: World) -> None:
    page = await world.first.profile(await world.a_user())
    assert (list(page.items), page.next_page_token, page.gap) == ([], "", False)


async def test_there_is_no_page_of_nobody(world: World) -> None:
    with pytest.raises(errors.NotFound) as refused:
        await world.first.profile(12_345)
    assert refused.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND


async def test_page_sizes(world: World) -> None:
    user = await world.a_user()
    await world.history([user], 210)
    assert [len(shown(await world.first.profile(user, size=size))) for size in (0, 1, 200, 201)] == [20, 1, 200, 200]
    with pytest.raises(errors.InvalidArgument) as refused:
        await world.first.profile(user, size=-5)
    assert [violation.field for violation in refused.value.violations] == ["page_size"]


async def test_tokens_are_good_for_every_reader_and_for_this_user_only(world: World) -> None:
    user, other, viewer = await world.users(3)
    tweets = (await world.history([user], 6))[::-1]
    await world.history([other], 6)
    page = await world.first.profile(user, size=2)
    assert shown(await world.second.profile(user, viewer, 2, page.next_page_token)) == tweets[2:4]
    home = await world.first.page(user, 2)
    for token in (page.next_page_token, home.next_page_token, page.newer_token, "x"):
        with pytest.raises(errors.InvalidArgument) as refused:
            await world.first.profile(other, size=2, token=token)
        assert [violation.field for violation in refused.value.violations] == ["page_token"]
    for token in (page.newer_token, home.newer_token, page.next_page_token):
        with pytest.raises(errors.InvalidArgument) as refused:
            await world.first.profile(other, size=2, after=token)
        assert [violation.field for violation in refused.value.violations] == ["after"]
    with pytest.raises(errors.InvalidArgument):
        await world.first.profile(user, size=2, token=page.next_page_token, after=page.newer_token)


async def test_newer_tweets_come_once_ascending_in_cut_pages(world: World) -> None:
    user = await world.a_user()
    await world.history([user], 5)
    page = await world.first.profile(user, size=3)
    for count in (0, 1, 7, 2):
        made = await world.some_tweets([user], count)
        found: list[int] = []
        gaps: list[bool] = []
        while not gaps or gaps[-1]:
            page = await world.first.profile(user, size=3, after=page.newer_token)
            found += shown(page)
            gaps.append(page.gap)
        assert found == made
        assert len(gaps) == max(1, -(-count // 3))


async def test_a_page_is_full_although_tweets_are_deleted_while_it_is_made(world: World) -> None:
    user = await world.a_user()
    tweets = (await world.history([user], 12))[::-1]
    listed = world.first.tweets.gates.hold("ListRecentByAuthors", AFTER)
    reading = spawn(world.first.profile(user, size=4))
    await listed.reached()
    for doomed in tweets[1:3]:
        await world.delete(user, doomed)
    listed.open()
    page = await reading
    kept = [tweets[0], *tweets[3:]]
    assert shown(page) == kept[:4]
    assert shown(await world.first.profile(user, size=20, token=page.next_page_token)) == kept[4:]


async def test_a_user_whose_row_is_gone_has_no_page(world: World) -> None:
    user = await world.a_user()
    await world.history([user], 20)
    await world.social.database.execute('delete from "user".users where user_id = %s', (user,))
    with pytest.raises(errors.NotFound):
        await world.second.profile(user, size=3)


async def test_it_needs_no_redis(world: World) -> None:
    user = await world.a_user()
    tweets = (await world.history([user], 3))[::-1]
    world.first.redis.away = lambda key: True
    try:
        assert shown(await world.first.profile(user)) == tweets
    finally:
        world.first.redis.away = lambda key: False
