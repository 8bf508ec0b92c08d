"""Home timelines: pages, tokens, what is late, what is below the window (expectations 53-63)."""

from __future__ import annotations

import asyncio
import base64

import pytest

from chirp.tweet import v1 as tweetpb
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import pack
from services.timeline import window
from tests.cluster.clients import Clients
from tests.cluster.doors import Door
from tests.conftest import Cluster
from tests.waiting import eventually

INVALID = 3
BAD_TOKEN = (INVALID, "PAGE_TOKEN_INVALID")


async def history(clients: Clients, authors: list[int], count: int) -> list[int]:
    """Posts so many tweets, in turn; their ids, newest first."""
    made: list[int] = []
    for first in range(0, count, 500):
        numbers = range(first, min(first + 500, count))
        tweets = [
            tweetpb.AuthoredTweet(
                author_id=authors[number % len(authors)], tweet=tweetpb.CreateTweetRequest(text=f"number {number}")
            )
            for number in numbers
        ]
        reply = await clients.tweets.BatchCreateTweets(tweetpb.BatchCreateTweetsRequest(tweets=tweets), timeout=30.0)
        made += [item.tweet_id for item in reply.items]
    return sorted(made, reverse=True)


@pytest.fixture(scope="module")
async def writer(clients: Clients) -> int:
    """One who posted 210 tweets."""
    user = await clients.user()
    await history(clients, [user], 210)
    return user


async def test_a_new_user_has_an_empty_home(door: Door, clients: Clients) -> None:
    page = await door.call("GetHomeTimeline", await clients.user())
    assert (page.body["items"], page.body["nextPageToken"], page.body["degraded"]) == ([], "", False)


async def test_a_home_holds_own_tweets_and_those_of_whom_one_follows(door: Door, clients: Clients) -> None:
    author, stranger = await clients.people(2)
    reader = await clients.user(author)
    first = await clients.post(author, "first")
    await clients.post(stranger, "not for you")
    own = await clients.post(reader, "mine")
    page = await door.call("GetHomeTimeline", reader)
    assert page.shown == [own, first]
    item = page.body["items"][1]
    assert (item["tweet"]["text"], item["tweet"]["authorId"], item["author"]["userId"]) == ("first", str(author), str(author))


@pytest.mark.parametrize(("size", "shown"), [(0, 20), (1, 1), (200, 200), (201, 200), (100_000, 200)])
async def test_page_sizes(door: Door, writer: int, size: int, shown: int) -> None:
    assert len((await door.call("GetHomeTimeline", writer, page_size=size)).shown) == shown
    assert len((await door.call("GetUserTimeline", user_id=writer, page_size=size)).shown) == shown


async def test_a_walk_by_pages_meets_every_tweet_once_while_others_come_and_go(door: Door, clients: Clients) -> None:
    authors = await clients.people(3)
    reader = await clients.user(*authors)
    before = await history(clients, authors, 60)
    seen: list[int] = []
    token = ""
    while True:
        page = await door.call("GetHomeTimeline", reader, page_size=7, page_token=token)
        seen += page.shown
        await clients.post(authors[0], f"meanwhile {len(seen)}")
        gone = before[min(len(seen) - 3, 59)]
        await _delete(clients, authors, gone)
        token = page.body["nextPageToken"]
        if not token:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == len(seen)
    assert set(seen) == set(before), "what was deleted had been shown, what came newer was above"


async def _delete(clients: Clients, authors: list[int], tweet_id: int) -> None:
    reply = await clients.tweets.BatchGetTweets(tweetpb.BatchGetTweetsRequest(tweet_ids=[tweet_id]), timeout=3.0)
    author = reply.items[0].tweet.author_id
    if author in authors:
        await clients.delete(author, tweet_id)


async def test_below_the_window_a_home_goes_on_without_a_seam(clients: Clients) -> None:
    authors = await clients.people(4)
    reader = await clients.user(*authors)
    assert await clients.home(reader) == []
    tweets = await history(clients, authors, 1_000)
    await clients.drained()
    for replica in clients.timelines:
        assert await clients.home(reader, 90, replica) == tweets


async def test_who_returns_after_absence_has_a_full_first_page(cluster: Cluster, clients: Clients) -> None:
    authors = await clients.people(2)
    reader = await clients.user(*authors)
    assert await clients.home(reader) == []
    tweets = await history(clients, authors, 50)
    await clients.drained()
    async with RedisCluster.open(cluster.redis, Metrics("test")) as redis:
        key = window.key(reader)
        assert await redis.run(key, pack("UNLINK", key)) == [1]
        page = await clients.page(reader, 20)
        assert [item.tweet.tweet_id for item in page.items] == tweets[:20]
        assert not page.degraded
        assert await redis.run(key, pack("EXISTS", key)) == [1]


async def test_what_arrives_late_is_not_missed_by_polling(cluster: Cluster, clients: Clients) -> None:
    author = await clients.user()
    reader = await clients.user(author)
    first = await clients.page(reader)
    cluster.pause("fanout")
    try:
        late = await clients.post(author, "under way")
        own = await clients.post(reader, "already there")
        poll = await clients.page(reader, after=first.newer_token)
        assert [item.tweet.tweet_id for item in poll.items] == [own]
    finally:
        cluster.resume("fanout")
    await clients.drained()
    poll = await clients.page(reader, after=poll.newer_token)
    assert [item.tweet.tweet_id for item in poll.items] == [late], "older than what was polled before"
    assert [item.tweet.tweet_id for item in (await clients.page(reader, after=poll.newer_token)).items] == []


async def test_polling_says_whether_a_gap_remains(door: Door, clients: Clients) -> None:
    user = await clients.user()
    anchor = await clients.post(user, "anchor")
    token = (await door.call("GetHomeTimeline", user)).body["newerToken"]
    newer = [await clients.post(user, f"newer {number}") for number in range(25)]
    met: list[int] = []
    gaps: list[bool] = []
    while len(gaps) < 3:
        page = await door.call("GetHomeTimeline", user, after=token, page_size=10)
        met, token = met + page.shown, page.body["newerToken"]
        gaps.append(page.body["gap"])
    assert (met, gaps) == (newer, [True, True, False])
    assert anchor not in met


class TestTokens:
    """A token that is malformed, another user's or another list's is refused, never answered with an empty page."""

    async def test_of_another_user(self, door: Door, clients: Clients, writer: int) -> None:
        page = (await door.call("GetHomeTimeline", writer, page_size=5)).body
        stranger = await clients.user()
        for field, token in (("page_token", page["nextPageToken"]), ("after", page["newerToken"])):
            outcome = await door.call("GetHomeTimeline", stranger, **{field: token})
            assert (outcome.refusal, outcome.fields) == (BAD_TOKEN, (field,))

    async def test_of_another_list_or_direction(self, door: Door, writer: int) -> None:
        page = (await door.call("GetHomeTimeline", writer, page_size=5)).body
        assert (await door.call("GetUserTimeline", user_id=writer, page_token=page["nextPageToken"])).refusal == BAD_TOKEN
        assert (await door.call("GetHomeTimeline", writer, page_token=page["newerToken"])).refusal == BAD_TOKEN
        both = await door.call("GetHomeTimeline", writer, page_token=page["nextPageToken"], after=page["newerToken"])
        assert both.code == INVALID

    async def test_that_somebody_has_changed(self, door: Door, writer: int) -> None:
        token = (await door.call("GetHomeTimeline", writer, page_size=5)).body["nextPageToken"]
        raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        for index in (0, len(raw) // 2, len(raw) - 1):
            changed = bytearray(raw)
            changed[index] ^= 1
            forged = base64.urlsafe_b64encode(changed).decode().rstrip("=")
            assert (await door.call("GetHomeTimeline", writer, page_token=forged)).refusal == BAD_TOKEN
        assert (await door.call("GetHomeTimeline", writer, page_token=token[:-1])).refusal == BAD_TOKEN

    async def test_is_good_at_every_replica(self, clients: Clients, writer: int) -> None:
        first = await clients.page(writer, 5)
        pages = [await clients.page(writer, 5, first.next_page_token, replica=replica) for replica in clients.timelines]
        assert pages[0].items == pages[1].items


async def test_why_a_tweet_is_in_a_home_or_not(door: Door, clients: Clients) -> None:
    author, stranger = await clients.people(2)
    reader = await clients.user(author)
    delivered, strange = await clients.post(author, "a"), await clients.post(stranger, "b")
    own, answer = await clients.post(reader, "c"), await clients.post(author, "d", reply_to=strange)
    gone = await clients.post(author, "e")
    await clients.delete(author, gone)
    await clients.drained()
    expected = {
        own: "SHOWN_OWN",
        delivered: "SHOWN_FROM_WINDOW",
        strange: "NOT_FOLLOWING",
        answer: "REPLY_TO_STRANGER",
        gone: "DELETED",
        2**62: "NOT_FOUND",
    }
    assert await clients.home(reader) == [own, delivered]
    for tweet_id, verdict in expected.items():
        explained = (await door.call("ExplainTimelineEntry", reader, tweet_id=tweet_id)).body
        assert explained["verdict"] == f"ENTRY_VERDICT_{verdict}"
        assert explained["shown"] == verdict.startswith("SHOWN")
        assert explained["message"]


async def test_how_far_a_tweet_has_been_delivered(door: Door, clients: Clients) -> None:
    author = await clients.user()
    warm = [await clients.user(author) for _ in range(3)]
    await asyncio.gather(*(clients.home(reader) for reader in warm))
    for _ in range(2):
        await clients.user(author)
    tweet = await clients.post(author, "to five, of whom two are away")

    async def done() -> bool:
        status = (await door.call("GetFanoutStatus", author, tweet_id=tweet)).body
        assert status["state"] == "FANOUT_STATE_DONE"
        assert (status["targetCount"], status["deliveredCount"], status["inactiveCount"]) == ("5", "2", "2"), "lower bounds"
        return bool(status["lag"])

    await eventually(done)
