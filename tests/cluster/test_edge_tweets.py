"""Making and deleting tweets: keys that come again, tombstones, and who may do what (expectations 7-14, 25-31, 33)."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster.clients import Clients
from tests.cluster.doors import Door
from tests.conftest import Cluster
from tests.waiting import eventually

NOT_FOUND, EXISTS, DENIED = 5, 6, 7


class TestKeys:
    """A request_id names one write of one user."""

    async def test_the_same_key_and_payload_make_one_tweet(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        calls = [door.call("CreateTweet", author, text="once", request_id="k") for _ in range(12)]
        outcomes = await asyncio.gather(*calls)
        assert {outcome.code for outcome in outcomes} == {0}
        assert len({outcome.body["tweetId"] for outcome in outcomes}) == 1
        assert len(await clients.profile(author)) == 1

    @pytest.mark.parametrize("other", [{"text": "else"}, {"text": "once "}, {"text": "once", "in_reply_to_tweet_id": 1}])
    async def test_another_payload_under_the_key_is_refused(self, door: Door, clients: Clients, other: dict[str, object]) -> None:
        author = await clients.user()
        first = await door.call("CreateTweet", author, text="once", request_id="k")
        if "in_reply_to_tweet_id" in other:
            other = other | {"in_reply_to_tweet_id": int(first.body["tweetId"])}
        outcome = await door.call("CreateTweet", author, request_id="k", **other)
        assert outcome.refusal == (EXISTS, "IDEMPOTENCY_KEY_REUSED")
        assert await clients.profile(author) == [int(first.body["tweetId"])]

    async def test_the_key_of_another_user_is_another_key(self, door: Door, clients: Clients) -> None:
        ids = [(await door.call("CreateTweet", await clients.user(), text="t", request_id="k")).body["tweetId"] for _ in range(2)]
        assert len(set(ids)) == 2

    async def test_a_key_answers_as_before_after_the_tweet_was_deleted(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        first = await door.call("CreateTweet", author, text="gone soon", request_id="k")
        await clients.delete(author, int(first.body["tweetId"]))
        again = await door.call("CreateTweet", author, text="gone soon", request_id="k")
        assert again.body == first.body
        assert await clients.profile(author) == []

    async def test_the_same_text_without_a_key_is_another_tweet(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        for _ in range(2):
            assert (await door.call("CreateTweet", author, text="again")).code == 0
        assert len(await clients.profile(author)) == 2

    async def test_a_refused_reply_uses_up_no_key(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        refused = await door.call("CreateTweet", author, text="t", request_id="k", in_reply_to_tweet_id=7)
        assert refused.refusal == (NOT_FOUND, "TWEET_NOT_FOUND")
        assert (await door.call("CreateTweet", author, text="t", request_id="k")).code == 0

    async def test_keys_of_follows_and_registrations(self, door: Door, clients: Clients) -> None:
        follower, followee, other = await clients.people(3)
        first = await door.call("Follow", follower, user_id=followee, request_id="f")
        assert (await door.call("Follow", follower, user_id=followee, request_id="f")).body == first.body
        assert (await door.call("Follow", follower, user_id=other, request_id="f")).refusal == (EXISTS, "IDEMPOTENCY_KEY_REUSED")
        assert (await door.call("ListFollowing", user_id=follower)).body["totalCount"] == "1"
        name = f"key_{follower}"[:20]
        made = await door.call("CreateUser", follower, username=name, request_id="u")
        assert (await door.call("CreateUser", follower, username=name, request_id="u")).body == made.body


class TestDeletion:
    """What is deleted is served to nobody from the next read on."""

    async def test_only_the_author_may(self, door: Door, clients: Clients) -> None:
        author, other = await clients.people(2)
        tweet = await clients.post(author, "mine")
        assert (await door.call("DeleteTweet", other, tweet_id=tweet)).refusal == (DENIED, "NOT_THE_AUTHOR")
        assert (await door.call("GetFanoutStatus", other, tweet_id=tweet)).refusal == (DENIED, "NOT_THE_AUTHOR")
        assert (await door.call("GetTweet", tweet_id=tweet)).code == 0

    async def test_deleting_again_is_ok(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        tweet = await clients.post(author, "short-lived")
        answers = [(await door.call("DeleteTweet", author, tweet_id=tweet)).body for _ in range(2)]
        assert answers == [{"alreadyDeleted": False}, {"alreadyDeleted": True}]

    async def test_the_next_read_of_anybody_is_without_it(self, door: Door, clients: Clients) -> None:
        author, other = await clients.people(2)
        readers = [await clients.user(author) for _ in range(3)]
        kept, gone = [await clients.post(author, text) for text in ("kept", "gone")]
        for reader in (author, *readers):
            await eventually(lambda reader=reader: _shows(clients, reader, [gone, kept]))
        assert (await door.call("DeleteTweet", author, tweet_id=gone)).code == 0
        for replica in clients.timelines:
            for reader in (author, *readers):
                assert await clients.home(reader, replica=replica) == [kept]
        assert (await door.call("GetUserTimeline", user_id=author)).shown == [kept]
        assert (await door.call("GetTweet", other, tweet_id=gone)).refusal == (NOT_FOUND, "TWEET_DELETED")
        assert (await door.call("GetFanoutStatus", author, tweet_id=gone)).refusal == (NOT_FOUND, "TWEET_DELETED")
        explained = await door.call("ExplainTimelineEntry", readers[0], tweet_id=gone)
        assert (explained.body["shown"], explained.body["verdict"]) == (False, "ENTRY_VERDICT_DELETED")

    async def test_replies_survive_their_parent_and_none_is_made_to_it(self, door: Door, clients: Clients) -> None:
        author, replier = await clients.people(2)
        parent = await clients.post(author, "parent")
        reply = await clients.post(replier, "reply", reply_to=parent)
        await clients.delete(author, parent)
        shown = (await door.call("GetTweet", tweet_id=reply)).body
        assert (shown["kind"], shown["inReplyToTweetId"], shown["inReplyToUserId"]) == (
            "TWEET_KIND_REPLY", str(parent), str(author))  # fmt: skip
        assert shown["conversationId"] == str(parent)
        refused = await door.call("CreateTweet", replier, text="too late", in_reply_to_tweet_id=parent)
        assert refused.refusal == (NOT_FOUND, "TWEET_DELETED")
        assert await clients.profile(replier) == [reply]

    async def test_what_is_deleted_before_its_delivery_is_never_shown(self, cluster: Cluster, clients: Clients) -> None:
        author = await clients.user()
        reader = await clients.user(author)
        assert await clients.home(reader) == []
        cluster.pause("fanout")
        try:
            gone = await clients.post(author, "gone before it arrived")
            kept = await clients.post(author, "kept")
            await clients.delete(author, gone)
        finally:
            cluster.resume("fanout")
        await clients.drained()
        for replica in clients.timelines:
            assert await clients.home(reader, replica=replica) == [kept]

    async def test_pages_stay_full_and_tokens_stay_good(self, door: Door, clients: Clients) -> None:
        author = await clients.user()
        tweets = [await clients.post(author, f"number {number}") for number in range(30)][::-1]
        first = await door.call("GetHomeTimeline", author, page_size=10)
        assert first.shown == tweets[:10]
        # The tweet at which the token stands, some above it and some below.
        for each in (tweets[9], *tweets[5:8], *tweets[12:18]):
            await clients.delete(author, each)
        second = await door.call("GetHomeTimeline", author, page_size=10, page_token=first.body["nextPageToken"])
        assert second.shown == [tweets[10], tweets[11], *tweets[18:26]]
        anew = await door.call("GetUserTimeline", user_id=author, page_size=10)
        assert anew.shown == [*tweets[:5], tweets[8], tweets[10], tweets[11], *tweets[18:20]]


async def _shows(clients: Clients, reader: int, expected: list[int]) -> bool:
    return await clients.home(reader) == expected
