"""What the tweet service promises, one behaviour at a time, in process on real backends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.runtime import ids
from services.runtime.notices import cell_for
from services.runtime.resp import pack
from services.tweet.model import fence
from tests.services.tweet_world import ABSENT, World, acting, author, open_world


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture
def somebody() -> int:
    return author()


async def test_a_tweet_is_read_as_it_was_answered(world: World, somebody: int) -> None:
    tweet = await world.post(somebody, "Cafe\u0301 with @ann about #tea on a.co")
    assert tweet.text == "Café with @ann about #tea on a.co"
    assert [(each.kind, each.value) for each in tweet.entities] == [
        (tweetpb.ENTITY_KIND_MENTION, "ann"),
        (tweetpb.ENTITY_KIND_HASHTAG, "tea"),
        (tweetpb.ENTITY_KIND_URL, "a.co"),
    ]
    assert (tweet.author_id, tweet.kind, tweet.conversation_id) == (somebody, tweetpb.TWEET_KIND_ORIGINAL, tweet.tweet_id)
    assert tweet.create_time.ToMilliseconds() == ids.time_ms(tweet.tweet_id)
    assert await world.get(tweet.tweet_id) == tweet


async def test_a_reply_knows_its_parent_and_keeps_the_conversation(world: World, somebody: int) -> None:
    root = await world.post(somebody)
    reply = await world.post(other := author(), "yes", root.tweet_id)
    answer = await world.post(somebody, "no", reply.tweet_id)
    assert (reply.kind, reply.in_reply_to_user_id, reply.conversation_id) == (tweetpb.TWEET_KIND_REPLY, somebody, root.tweet_id)
    assert (answer.in_reply_to_tweet_id, answer.in_reply_to_user_id) == (reply.tweet_id, other)
    assert answer.conversation_id == root.tweet_id


async def test_events_follow_the_plan_of_delivery(world: World, somebody: int) -> None:
    world.graph.pulled.add(somebody)
    pulled = await world.post(somebody)
    world.graph.pulled.discard(somebody)
    pushed = await world.post(somebody, "me too", pulled.tweet_id)
    first, second = await world.events(somebody)
    assert (first.tweet_id, first.pull, first.occur_time) == (pulled.tweet_id, True, pulled.create_time)
    assert (second.tweet_id, second.pull) == (pushed.tweet_id, False)
    assert (second.in_reply_to_tweet_id, second.in_reply_to_user_id) == (pulled.tweet_id, somebody)


@pytest.mark.parametrize("text", ["", " ", "x" * 281, "a\ufeffb"])
async def test_a_bad_text_is_refused_and_burns_no_key(world: World, somebody: int, text: str) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        await world.post(somebody, text, key="k")
    assert refused.value.metadata["field"] == "text"
    assert (await world.post(somebody, "good", key="k")).text == "good"


async def test_only_users_who_exist_post(world: World) -> None:
    with pytest.raises(errors.NotFound) as refused:
        await world.post(ABSENT)
    assert refused.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND
    with pytest.raises(errors.Unauthenticated):
        await world.post(0)


async def test_known_authors_are_not_asked_for_again(world: World, somebody: int) -> None:
    await world.post(somebody)
    asked = world.users.calls
    await world.post(somebody)
    assert world.users.calls == asked


@pytest.mark.parametrize(
    ("deleted", "reason"),
    [(False, errorspb.ERROR_REASON_TWEET_NOT_FOUND), (True, errorspb.ERROR_REASON_TWEET_DELETED)],
)
async def test_nothing_is_answered_to_nothing(
    world: World, somebody: int, deleted: bool, reason: errorspb.ErrorReason.ValueType
) -> None:
    parent_id = 5
    if deleted:
        parent_id = (await world.post(somebody)).tweet_id
        await world.delete(somebody, parent_id)
    replier = author()
    with pytest.raises(errors.NotFound) as refused:
        await world.post(replier, "to whom?", parent_id, key="k")
    assert refused.value.reason == reason
    assert await world.events(replier) == []
    assert (await world.post(replier, "to nobody", key="k")).kind == tweetpb.TWEET_KIND_ORIGINAL


async def test_the_same_key_gives_the_first_tweet_again(world: World, somebody: int) -> None:
    parent = await world.post(somebody)
    first = await world.post(somebody, "once #only", parent.tweet_id, key="k")
    before = world.count("chirp_tweet_replays_total", write="create")
    assert await world.post(somebody, "once #only", parent.tweet_id, key="k") == first
    assert world.count("chirp_tweet_replays_total", write="create") == before + 1
    assert len(await world.events(somebody)) == 2
    other = author()
    assert (await world.post(other, "once #only", parent.tweet_id, key="k")).tweet_id != first.tweet_id


async def test_the_first_answer_outlives_the_tweet_and_its_parent(world: World, somebody: int) -> None:
    parent = await world.post(somebody)
    first = await world.post(somebody, "once #only", parent.tweet_id, key="k")
    await world.delete(somebody, parent.tweet_id)
    await world.delete(somebody, first.tweet_id)
    assert await world.post(somebody, "once #only", parent.tweet_id, key="k") == first
    with pytest.raises(errors.NotFound):
        await world.get(first.tweet_id)


@pytest.mark.parametrize("change", ["text", "parent", "method"])
async def test_a_key_is_for_one_payload(world: World, somebody: int, change: str) -> None:
    parent = await world.post(somebody)
    await world.post(somebody, "one", key="k")
    again = {
        "text": lambda: world.post(somebody, "two", key="k"),
        "parent": lambda: world.post(somebody, "one", parent.tweet_id, key="k"),
        "method": lambda: world.delete(somebody, parent.tweet_id, key="k"),
    }[change]
    with pytest.raises(errors.AlreadyExists) as refused:
        await again()
    assert refused.value.reason == errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert (await world.get(parent.tweet_id)).text == "hello"


async def test_without_a_key_the_same_text_is_another_tweet(world: World, somebody: int) -> None:
    assert (await world.post(somebody)).tweet_id != (await world.post(somebody)).tweet_id


async def test_a_deleted_tweet_is_gone_and_its_replies_stay(world: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    reply = await world.post(somebody, "still here", tweet.tweet_id)
    assert await world.delete(somebody, tweet.tweet_id) is False
    with pytest.raises(errors.NotFound) as refused:
        await world.get(tweet.tweet_id)
    assert refused.value.reason == errorspb.ERROR_REASON_TWEET_DELETED
    assert await world.get(reply.tweet_id) == reply
    assert [type(event).__name__ for event in await world.events(somebody)] == ["TweetCreated", "TweetCreated", "TweetDeleted"]
    rows = await world.database.query("select text, entities from tweet.tweet where tweet_id = %s", (tweet.tweet_id,))
    assert rows == [(None, None)]


async def test_deleting_again_changes_nothing(world: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    assert [await world.delete(somebody, tweet.tweet_id) for _ in range(3)] == [False, True, True]
    assert len(await world.events(somebody)) == 2


async def test_a_deletion_repeated_under_its_key_is_answered_as_at_first(world: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    assert [await world.delete(somebody, tweet.tweet_id, key="k") for _ in range(2)] == [False, False]
    assert await world.delete(somebody, tweet.tweet_id, key="another") is True
    assert await world.delete(somebody, tweet.tweet_id, key="another") is True
    with pytest.raises(errors.AlreadyExists):
        await world.delete(somebody, (await world.post(somebody)).tweet_id, key="k")


async def test_only_the_author_deletes(world: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    with pytest.raises(errors.PermissionDenied) as refused:
        await world.delete(author(), tweet.tweet_id)
    assert refused.value.reason == errorspb.ERROR_REASON_NOT_THE_AUTHOR
    with pytest.raises(errors.NotFound) as missing:
        await world.delete(somebody, 5)
    assert missing.value.reason == errorspb.ERROR_REASON_TWEET_NOT_FOUND
    assert await world.get(tweet.tweet_id) == tweet


async def test_writers_raise_the_fence_and_announce_deletions(world: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    (mark,) = await world.redis.run(fence(somebody), pack("GET", fence(somebody)))
    assert isinstance(mark, bytes)
    assert mark.startswith(b"p")
    await world.delete(somebody, tweet.tweet_id)
    (renewed,) = await world.redis.run(fence(somebody), pack("GET", fence(somebody)))
    assert renewed != mark
    cell = cell_for(fence(somebody)).key
    (entries,) = await world.redis.run(cell, pack("LRANGE", cell, 0, -1))
    assert any(entry.startswith(b"d%d:" % tweet.tweet_id) for entry in entries)  # type: ignore[union-attr]


async def test_a_batch_keeps_order_and_repetition(world: World, somebody: int) -> None:
    kept, gone = await world.post(somebody), await world.post(somebody)
    await world.delete(somebody, gone.tweet_id)
    asked = [gone.tweet_id, 5, kept.tweet_id, kept.tweet_id, -1]
    reply = await world.service.batch_get_tweets(tweetpb.BatchGetTweetsRequest(tweet_ids=asked), acting(0))
    assert [item.tweet_id for item in reply.items] == asked
    assert [tweetpb.TweetStatus.Name(item.status).removeprefix("TWEET_STATUS_") for item in reply.items] == [
        "DELETED",
        "NOT_FOUND",
        "FOUND",
        "FOUND",
        "NOT_FOUND",
    ]
    assert [item.tweet for item in reply.items if item.HasField("tweet")] == [kept, kept]


async def test_lists_run_both_ways_without_the_deleted(world: World) -> None:
    authors = [author() for _ in range(3)]
    posted = [await world.post(authors[index % 3], f"number {index}") for index in range(12)]
    await world.delete(authors[1], posted[4].tweet_id)
    kept = [each.tweet_id for index, each in enumerate(posted) if index != 4]

    async def listed(**bounds: int) -> list[int]:
        request = tweetpb.ListRecentByAuthorsRequest(author_ids=[*authors, *authors, 3], **bounds)
        return [each.tweet_id for each in (await world.service.list_recent_by_authors(request, acting(0))).items]

    assert await listed() == kept[::-1]
    assert await listed(limit=4) == kept[:-5:-1]
    assert await listed(before_tweet_id=kept[5], limit=3) == [kept[4], kept[3], kept[2]]
    assert await listed(after_tweet_id=kept[5], limit=3) == kept[6:9]
    assert await listed(after_tweet_id=kept[2], before_tweet_id=kept[6]) == [kept[5], kept[4], kept[3]]


async def test_references_say_what_rules_need(world: World, somebody: int) -> None:
    world.graph.pulled.add(somebody)
    root = await world.post(somebody)
    reply = await world.post(somebody, "and", root.tweet_id)
    request = tweetpb.ListRecentByAuthorsRequest(author_ids=[somebody])
    reply_reference, root_reference = (await world.service.list_recent_by_authors(request, acting(0))).items
    assert reply_reference == tweetpb.TweetReference(
        tweet_id=reply.tweet_id, author_id=somebody, in_reply_to_user_id=somebody, pull=True
    )
    assert root_reference.in_reply_to_user_id == 0


async def test_a_loaders_items_fail_alone(world: World, somebody: int) -> None:
    tweets = [
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text="first", request_id="l")),
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text=" ")),
        tweetpb.AuthoredTweet(author_id=ABSENT, tweet=tweetpb.CreateTweetRequest(text="who?")),
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text="to whom?", in_reply_to_tweet_id=5)),
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text="first", request_id="l")),
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text="second", request_id="l")),
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text="last")),
    ]
    reply = await world.service.batch_create_tweets(tweetpb.BatchCreateTweetsRequest(tweets=tweets), acting(0))
    assert [item.reason for item in reply.items] == [
        "",
        "TEXT_BLANK",
        "USER_NOT_FOUND",
        "TWEET_NOT_FOUND",
        "",
        "IDEMPOTENCY_KEY_REUSED",
        "",
    ]
    first, again, last = (item.tweet_id for item in reply.items if item.tweet_id)
    assert first == again
    assert (await world.get(last)).text == "last"


async def test_a_thousand_tweets_of_a_loader(world: World, somebody: int) -> None:
    tweets = [
        tweetpb.AuthoredTweet(author_id=somebody, tweet=tweetpb.CreateTweetRequest(text=f"number {number}"))
        for number in range(1_000)
    ]
    reply = await world.service.batch_create_tweets(tweetpb.BatchCreateTweetsRequest(tweets=tweets), acting(0))
    made = [item.tweet_id for item in reply.items]
    assert len(set(made)) == 1_000
    assert made == sorted(made)
    assert len(await world.events(somebody)) == 1_000


async def test_validation_tells_what_is_wrong(world: World) -> None:
    async def validated(text: str) -> tweetpb.ValidateTextResponse:
        return await world.service.validate_text(tweetpb.ValidateTextRequest(text=text), acting(0))

    good = await validated("hello @ann")
    assert (good.valid, good.weighted_length, good.max_weighted_length, good.permillage) == (True, 10, 280, 35)
    assert [each.value for each in good.entities] == ["ann"]
    bad = await validated("x" * 281)
    assert (bad.valid, bad.weighted_length, [each.reason for each in bad.problems]) == (False, 281, ["TEXT_TOO_LONG"])
    assert [each.reason for each in (await validated("")).problems] == ["TEXT_BLANK"]


async def test_what_happens_is_counted(world: World, somebody: int) -> None:
    originals = world.count("chirp_tweet_created_total", kind="original")
    replies = world.count("chirp_tweet_created_total", kind="reply")
    deleted = world.count("chirp_tweet_deleted_total")
    tweet = await world.post(somebody)
    await world.post(somebody, "and", tweet.tweet_id)
    await world.delete(somebody, tweet.tweet_id)
    await world.delete(somebody, tweet.tweet_id)
    assert world.count("chirp_tweet_created_total", kind="original") == originals + 1
    assert world.count("chirp_tweet_created_total", kind="reply") == replies + 1
    assert world.count("chirp_tweet_deleted_total") == deleted + 1
