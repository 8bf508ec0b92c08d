"""Home timelines as their readers see them: what belongs there is there at once, and nothing else ever is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chirp import errors
from chirp.user import v1 as userpb
from services.timeline import window
from tests.services.world import Replica, World, open_world, shown


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


async def everywhere(world: World, user_id: int) -> list[int]:
    """The home, the same on both replicas."""
    homes = [await replica.home(user_id) for replica in world.replicas]
    assert homes[0] == homes[1]
    return homes[0]


async def test_what_is_delivered_is_in_a_warm_home_and_what_is_not_in_a_cold_one(world: World) -> None:
    author, other = await world.users(2)
    warm, cold = await world.a_user(author, other), await world.a_user(author)
    assert await everywhere(world, warm) == []
    first, second = await world.a_tweet(author), await world.a_tweet(other)
    assert await world.first.home(cold) == [first], "a home that is built reads the truth"
    await world.deliver()
    assert await everywhere(world, warm) == [second, first]
    assert await everywhere(world, cold) == [first]


async def test_a_new_user_has_an_empty_home(world: World) -> None:
    reader = await world.a_user()
    for replica in world.replicas:
        page = await replica.page(reader)
        assert (list(page.items), page.next_page_token, page.gap, page.degraded) == ([], "", False, False)


async def test_nobody_reads_no_home(world: World) -> None:
    with pytest.raises(errors.Unauthenticated):
        await world.first.page(0)


async def test_an_item_carries_the_tweet_and_its_author(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    parent = await world.a_tweet(author, "see #this, @you")
    reply = await world.a_tweet(author, "and that", reply_to=parent)
    (newer, older) = (await world.first.page(reader)).items
    assert newer.tweet.in_reply_to_tweet_id == parent
    assert (newer.tweet.tweet_id, older.tweet.text, older.tweet.author_id) == (reply, "see #this, @you", author)
    assert len(older.tweet.entities) == 2
    assert older.author.user_id == author
    assert older.author.username.startswith("user_")


async def test_own_tweets_are_there_at_once_on_any_replica(world: World) -> None:
    author = await world.a_user()
    posted: list[int] = []
    for _ in range(15):
        posted.insert(0, await world.a_tweet(author))
        assert await everywhere(world, author) == posted
    await world.deliver()
    assert await everywhere(world, author) == posted


async def test_own_deletions_are_there_at_once_on_any_replica(world: World) -> None:
    author = await world.a_user()
    kept = [await world.a_tweet(author) for _ in range(12)][::-1]
    await world.deliver()
    for _ in range(6):
        assert await everywhere(world, author) == kept
        await world.delete(author, kept.pop(3))
    assert await everywhere(world, author) == kept


async def test_follows_and_unfollows_are_there_at_once_on_any_replica(world: World) -> None:
    author, reader = await world.users(2)
    tweets = [await world.a_tweet(author) for _ in range(3)][::-1]
    own = await world.a_tweet(reader)
    await world.deliver()
    for _ in range(6):
        await world.follows(reader, author)
        assert await everywhere(world, reader) == [own, *tweets]
        await world.unfollows(reader, author)
        assert await everywhere(world, reader) == [own]


async def test_an_unfollow_removes_exactly_that_authors_tweets_and_a_refollow_restores_them(world: World) -> None:
    leaving, staying = await world.users(2)
    reader = await world.a_user(leaving, staying)
    assert await everywhere(world, reader) == []
    before = [await world.a_tweet(each) for each in (leaving, staying, leaving, staying)]
    await world.deliver()
    await world.unfollows(reader, leaving)
    assert await everywhere(world, reader) == [before[3], before[1]]
    meanwhile = [await world.a_tweet(each) for each in (leaving, staying)]
    await world.deliver()
    assert await everywhere(world, reader) == [meanwhile[1], before[3], before[1]]
    await world.follows(reader, leaving)
    assert await everywhere(world, reader) == [*before, *meanwhile][::-1]


@pytest.mark.parametrize("last", ["follow", "unfollow"])
async def test_the_last_of_follows_in_quick_succession_wins(world: World, last: str) -> None:
    author, reader = await world.users(2)
    assert await world.second.home(reader) == []
    for _ in range(3):
        await world.follows(reader, author)
        await world.unfollows(reader, author)
    tweet = await world.a_tweet(author)
    if last == "follow":
        await world.follows(reader, author)
    await world.deliver()
    assert await everywhere(world, reader) == ([tweet] if last == "follow" else [])


async def test_a_reply_is_shown_to_whom_it_concerns(world: World) -> None:
    parent_author, replier = await world.users(2)
    parent = await world.a_tweet(parent_author)
    both = await world.a_user(parent_author, replier)
    one = await world.a_user(replier)
    readers = (both, one, parent_author, replier)
    await world.follows(parent_author, replier)
    for reader in readers:
        await world.first.home(reader)
    reply = await world.a_tweet(replier, reply_to=parent)
    itself = await world.a_tweet(replier, reply_to=reply)
    await world.deliver()
    expected = {both: [itself, reply, parent], one: [itself], parent_author: [itself, reply, parent], replier: [itself, reply]}
    for cold in (False, True):
        if cold:
            await world.drop(*readers)
        assert {reader: await everywhere(world, reader) for reader in readers} == expected


async def test_replies_come_and_go_with_the_follow_of_whom_they_answer(world: World) -> None:
    parent_author, replier = await world.users(2)
    reader = await world.a_user(replier)
    parent = await world.a_tweet(parent_author)
    reply = await world.a_tweet(replier, reply_to=parent)
    assert await everywhere(world, reader) == [], "built while the parent's author was a stranger"
    for _ in range(2):
        await world.follows(reader, parent_author)
        assert await everywhere(world, reader) == [reply, parent]
        await world.unfollows(reader, parent_author)
        assert await everywhere(world, reader) == []
    await world.deliver()
    assert await everywhere(world, reader) == []


async def test_a_reply_that_arrives_before_its_parent_stands_above_it(world: World) -> None:
    author, replier = await world.users(2)
    reader = await world.a_user(author, replier)
    assert await world.first.home(reader) == []
    await world.forget_events()
    parent = await world.a_tweet(author)
    reply = await world.a_tweet(replier, reply_to=parent)
    of_parent, of_reply = await world.events()
    await world.worker.handle(of_reply)
    assert await everywhere(world, reader) == [reply]
    await world.worker.handle(of_parent)
    assert await everywhere(world, reader) == [reply, parent]


async def test_who_returns_after_the_windows_end_has_a_full_page_at_once(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = await world.history([author], 60)
    assert await world.first.home(reader) == tweets[::-1]
    await world.drop(reader)
    page = await world.first.page(reader, 50)
    assert shown(page) == tweets[:-51:-1]
    assert page.next_page_token
    assert not page.degraded


async def test_reading_renews_a_windows_life(world: World) -> None:
    reader = await world.a_user()
    await world.first.home(reader)
    key = window.key(reader)
    assert await world.redis(key, "PTTL", key) > window.LIFE_MS - 60_000
    await world.redis(key, "PEXPIRE", key, 60_000)
    await world.first.home(reader)
    assert await world.redis(key, "PTTL", key) <= 60_000, "once a day is enough"
    world.clock.advance(25 * 3600)
    await world.first.home(reader)
    assert await world.redis(key, "PTTL", key) > window.LIFE_MS - 60_000


async def test_a_window_is_built_anew_after_a_week(world: World) -> None:
    reader = await world.a_user()
    await world.first.home(reader)
    nonce = (await world.window(reader)).sentinel.nonce  # type: ignore[union-attr]
    world.clock.advance(window.REBUILD_AFTER_MS / 1000 + 1)
    assert await world.first.home(reader) == []
    assert (await world.window(reader)).sentinel.nonce != nonce  # type: ignore[union-attr]


async def test_following_two_thousand_accounts(world: World) -> None:
    authors = [user for _ in range(2) for user in await world.users(1000)]
    reader = await world.a_user()
    await world.social.load(*((reader, author) for author in authors))
    tweets = await world.history(authors[::2], 1_000, spacing_ms=100)
    assert shown(await world.first.page(reader, 200)) == tweets[:-201:-1]
    assert await world.first.home(reader, 200) == tweets[::-1]
    late = await world.a_tweet(authors[7])
    await world.deliver()
    assert shown(await world.second.page(reader, 2)) == [late, tweets[-1]]


async def test_a_page_that_is_in_memory_costs_one_round_trip(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    doomed, *_ = [await world.a_tweet(author) for _ in range(4)]
    await world.deliver()
    replica = world.first
    assert len(await replica.home(reader)) == 4
    await world.delete(author, doomed)
    world.clock.advance(31)
    await world.settle(reader)
    for _ in range(2):
        assert len(await replica.home(reader)) == 3
    before = asked(replica)
    assert len(await replica.home(reader)) == 3
    assert asked(replica) == before | {"look": before["look"] + 1}


def asked(replica: Replica) -> dict[str, int]:
    """What a replica has asked of others so far."""
    return {**replica.tweets.calls, **replica.graph.calls, **replica.users.calls, **replica.redis.calls}


async def test_tweets_whose_rows_are_gone_are_skipped_and_counted_and_the_page_is_full(world: World) -> None:
    author, vanishing = await world.users(2)
    reader = await world.a_user(author, vanishing)
    tweets = [await world.a_tweet(each) for each in (author, author, vanishing, author, vanishing, author)]
    await world.deliver()
    assert len(await world.first.home(reader)) == 6
    lost = tweets[3]
    await world.social.database.execute("delete from tweet.tweet where tweet_id = %s", (lost,))
    await world.social.database.execute('delete from "user".users where user_id = %s', (vanishing,))
    fresh = world.second
    skipped = fresh.count("chirp_timeline_skipped_items_total")
    page = await fresh.page(reader, 2)
    assert shown(page) == [tweets[5], tweets[1]]
    assert shown(await fresh.page(reader, 2, page.next_page_token)) == [tweets[0]]
    assert fresh.count("chirp_timeline_skipped_items_total") >= skipped + 3


async def test_a_new_name_is_shown_after_a_minute_without_its_event(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.a_tweet(author)
    await world.first.page(reader)
    await rename(world, author, "Grace")
    world.clock.advance(61)
    assert [item.author.display_name for item in (await world.first.page(reader)).items] == ["Grace"]


async def rename(world: World, user_id: int, name: str) -> None:
    request = userpb.UpdateProfileRequest(profile=userpb.Profile(display_name=name), update_mask=FieldMask(paths=["display_name"]))
    await world.social.users.update_profile(request, world.first.acting(user_id))


async def test_a_homes_800_entries_and_their_keys_take_at_most_9500_bytes(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.history([author], 900)
    for replica in world.replicas:
        assert len(await replica.home(reader, 200)) == 900
    for _ in range(120):
        await world.a_tweet(author)
    await world.deliver()
    await world.a_tweet(reader)
    await world.delete(reader, (await world.first.home(reader))[0])
    for replica in world.replicas:
        await replica.home(reader)
    assert len((await world.window(reader)).ids) >= window.CAPACITY  # type: ignore[union-attr]
    assert await footprint(world, reader) <= 9_500


async def footprint(world: World, user_id: int) -> int:
    """Bytes of all keys of the user's hash tag, in whichever database of whichever server."""
    total, tag = 0, f"{{{user_id}}}"
    for start in (0, 8_000, 16_000):
        (keys,) = await world.social.redis.run(start, b"*2\r\n$4\r\nKEYS\r\n$%d\r\n*%b*\r\n" % (len(tag) + 2, tag.encode()))
        for key in keys:  # type: ignore[union-attr]
            total += await world.redis(key, "MEMORY", "USAGE", key, "SAMPLES", 0)
    return total


async def test_a_window_that_is_no_window_is_built_anew(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweet = await world.a_tweet(author)
    key = window.key(reader)
    for spoil in (["LPUSH", key, "nonsense"], ["RPUSH", key, "#r:of:another:version"], ["SET", key, "no list"]):
        await world.redis(key, "DEL", key)
        await world.redis(key, *spoil)
        assert await everywhere(world, reader) == [tweet], spoil
