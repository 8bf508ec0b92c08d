"""Follows: oneself, twice, nobody, too many, in quick succession, and across the pull threshold (expectations 40-44, 47-49)."""

from __future__ import annotations

import asyncio
import time

import pytest

from chirp.graph import v1 as graphpb
from tests.cluster.clients import Clients
from tests.cluster.doors import Door
from tests.waiting import eventually

INVALID, NOT_FOUND, PRECONDITION = 3, 5, 9


async def test_oneself_cannot_be_followed(door: Door, clients: Clients) -> None:
    user = await clients.user()
    outcome = await door.call("Follow", user, user_id=user)
    assert (outcome.refusal, outcome.fields) == ((INVALID, "SELF_FOLLOW"), ("user_id",))
    assert (await door.call("ListFollowers", user_id=user)).body["totalCount"] == "0"


async def test_following_again_changes_nothing(door: Door, clients: Clients) -> None:
    follower, followee = await clients.people(2)
    first, again = [(await door.call("Follow", follower, user_id=followee)).body for _ in range(2)]
    assert (first["alreadyFollowing"], again["alreadyFollowing"]) == (False, True)
    assert first["followTime"] == again["followTime"]
    relationship = (await door.call("GetRelationship", follower, user_id=followee)).body
    assert (relationship["following"], relationship["followedBy"], relationship["followerCount"]) == (True, False, "1")
    assert relationship["followTime"] == first["followTime"]


async def test_follows_at_the_same_moment_are_one(door: Door, clients: Clients) -> None:
    follower, followee = await clients.people(2)
    outcomes = await asyncio.gather(*(door.call("Follow", follower, user_id=followee) for _ in range(10)))
    assert sorted(outcome.body["alreadyFollowing"] for outcome in outcomes) == [False] + [True] * 9
    followers = (await door.call("ListFollowers", user_id=followee)).body
    assert (len(followers["items"]), followers["totalCount"]) == (1, "1")


@pytest.mark.parametrize("whom", ["never followed", "nobody"])
async def test_unfollowing_is_always_ok(door: Door, clients: Clients, whom: str) -> None:
    user, other = await clients.people(2)
    outcome = await door.call("Unfollow", user, user_id=other if whom == "never followed" else 2**62)
    assert (outcome.code, outcome.body) == (0, {"wasFollowing": False})


async def test_lists_are_paged_latest_first(door: Door, clients: Clients) -> None:
    followee, *followers = await clients.people(6)
    for follower in followers:
        await clients.follow(follower, followee)
    found: list[int] = []
    token = ""
    while True:
        page = (await door.call("ListFollowers", user_id=followee, page_size=2, page_token=token)).body
        found += [int(item["user"]["userId"]) for item in page["items"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert found == followers[::-1]
    first = (await door.call("ListFollowers", user_id=followee, page_size=2)).body["nextPageToken"]
    elsewhere = await door.call("ListFollowers", user_id=followers[0], page_token=first)
    assert elsewhere.refusal == (INVALID, "PAGE_TOKEN_INVALID"), "another list's"


async def test_a_follow_brings_what_was_posted_before_and_an_unfollow_takes_it(door: Door, clients: Clients) -> None:
    author, reader = await clients.people(2)
    old = await clients.post(author, "long before")
    own = await clients.post(reader, "mine")
    new = await clients.post(author, "just before")
    assert (await door.call("GetHomeTimeline", reader)).shown == [own]
    for _ in range(2):
        await door.call("Follow", reader, user_id=author)
        for replica in clients.timelines:
            assert await clients.home(reader, replica=replica) == [new, own, old]
        await door.call("Unfollow", reader, user_id=author)
        for replica in clients.timelines:
            assert await clients.home(reader, replica=replica) == [own]


@pytest.mark.parametrize("last", ["Follow", "Unfollow"])
async def test_the_last_of_many_changes_wins(door: Door, clients: Clients, last: str) -> None:
    author, reader = await clients.people(2)
    tweet = await clients.post(author, "hello")
    for _ in range(4):
        await door.call("Follow", reader, user_id=author)
        await door.call("Unfollow", reader, user_id=author)
    if last == "Follow":
        await door.call(last, reader, user_id=author)
    await clients.drained()
    assert (await door.call("GetHomeTimeline", reader)).shown == ([tweet] if last == "Follow" else [])
    followed = (await door.call("GetRelationship", reader, user_id=author)).body
    assert (followed["following"], followed["followerCount"]) == ((True, "1") if last == "Follow" else (False, "0"))


async def test_there_is_a_limit_to_whom_one_follows(door: Door, clients: Clients) -> None:
    user, *others = await clients.people(4)
    await clients.set("graph.follow_limit", "2")
    try:
        for other in others[:2]:
            assert (await door.call("Follow", user, user_id=other)).code == 0
        refused = await door.call("Follow", user, user_id=others[2])
        assert refused.refusal == (PRECONDITION, "FOLLOW_LIMIT")
        assert refused.metadata["limit"] == "2"
        assert (await door.call("Follow", user, user_id=others[0])).body["alreadyFollowing"]
        await door.call("Unfollow", user, user_id=others[0])
        assert (await door.call("Follow", user, user_id=others[2])).code == 0
    finally:
        await clients.set("graph.follow_limit", "7500")


async def test_crossing_the_pull_threshold_leaves_no_gap_and_no_double(clients: Clients) -> None:
    author = await clients.user()
    readers = [await clients.user(author) for _ in range(3)]
    posted: list[int] = []
    try:
        for threshold in ("1000", "3", "1000", "2", "1000"):
            await clients.set("graph.pull_threshold", threshold)
            for reader in readers[:2]:
                assert await clients.home(reader) == posted[::-1], "warm"
            posted.extend([await clients.post(author, f"{threshold} {number}") for number in range(3)])
            await clients.drained()
            for reader in readers:
                await eventually(lambda reader=reader: _shows(clients, reader, posted[::-1]), timeout=5)
    finally:
        await clients.set("graph.pull_threshold", "10000")
    for reader in readers:
        for replica in clients.timelines:
            assert await clients.home(reader, 4, replica) == posted[::-1]


async def test_who_crosses_it_by_gaining_and_losing_followers(clients: Clients) -> None:
    author = await clients.user()
    reader, *others = [await clients.user() for _ in range(3)]
    await clients.follow(reader, author)
    posted: list[int] = []
    await clients.set("graph.pull_threshold", "3")
    try:
        for change in (None, clients.follow, clients.unfollow):
            for other in others:
                if change:
                    await change(other, author)
            posted.extend([await clients.post(author, f"number {number}") for number in range(3)])
            await eventually(lambda: _shows(clients, reader, posted[::-1]), timeout=5)
    finally:
        await clients.set("graph.pull_threshold", "10000")


async def _shows(clients: Clients, reader: int, expected: list[int]) -> bool:
    for replica in clients.timelines:
        assert await clients.home(reader, replica=replica) == expected
    return True


async def test_who_follows_thousands_has_a_home_in_bounded_time(clients: Clients) -> None:
    reader = await clients.user()
    followed = [each for _ in range(5) for each in await clients.people(1000)]
    edges = [graphpb.FollowEdge(follower_id=reader, followee_id=each) for each in followed]
    await clients.graph.BatchFollow(graphpb.BatchFollowRequest(edges=edges), timeout=30.0)
    tweets = [await clients.post(author, "one of thousands") for author in followed[::100]][::-1]
    began = time.monotonic()
    assert await clients.home(reader) == tweets
    assert time.monotonic() - began < 3
