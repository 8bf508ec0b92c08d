"""The tweet service as other processes meet it: through a real gRPC server and generated stubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.runtime import channel, config, logs
from services.runtime.config import Environ
from services.runtime.metrics import Metrics
from services.runtime.server import Server
from services.tweet.__main__ import SERVICE
from tests.services.tweet_world import ABSENT, author, open_world

QUIET = {"CHIRP_GRPC_PORT": "0", "CHIRP_METRICS_PORT": "0", "CHIRP_AUTH": "header", "CHIRP_DRAIN_LINGER": "0"}


@pytest.fixture(scope="module")
async def tweets(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[tweetpb.TweetServiceAsyncStub]:
    async with open_world(database, redis_nodes, nats_url) as world:
        server = Server(config.read(Environ(QUIET), "tweet"), world.metrics, logs.silent())
        server.add(world.service, SERVICE)
        async with server, channel.connect((f"127.0.0.1:{server.port}",), SERVICE, Metrics("caller")) as to_server:
            yield tweetpb.TweetServiceStub(to_server)


def acting(user_id: int) -> dict[str, object]:
    return {"timeout": 5.0, "metadata": (("x-user-id", str(user_id)),)}


async def test_post_read_delete(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    somebody = author()
    request = tweetpb.CreateTweetRequest(text="hello @ann", request_id="k")
    made = (await tweets.CreateTweet(request, **acting(somebody))).tweet
    assert (await tweets.CreateTweet(request, **acting(somebody))).tweet == made
    assert (await tweets.GetTweet(tweetpb.GetTweetRequest(tweet_id=made.tweet_id), timeout=5.0)).tweet == made
    batch = await tweets.BatchGetTweets(tweetpb.BatchGetTweetsRequest(tweet_ids=[made.tweet_id]), timeout=5.0)
    assert batch.items[0].tweet == made
    listed = await tweets.ListRecentByAuthors(tweetpb.ListRecentByAuthorsRequest(author_ids=[somebody]), timeout=5.0)
    assert [item.tweet_id for item in listed.items] == [made.tweet_id]
    gone = tweetpb.DeleteTweetRequest(tweet_id=made.tweet_id)
    assert [(await tweets.DeleteTweet(gone, **acting(somebody))).already_deleted for _ in range(2)] == [False, True]
    with pytest.raises(errors.NotFound) as missing:
        await tweets.GetTweet(tweetpb.GetTweetRequest(tweet_id=made.tweet_id), timeout=5.0)
    assert missing.value.reason == errorspb.ERROR_REASON_TWEET_DELETED
    assert missing.value.metadata == {"tweet_id": str(made.tweet_id)}


async def test_errors_arrive_as_they_were_raised(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    with pytest.raises(errors.InvalidArgument) as too_long:
        await tweets.CreateTweet(tweetpb.CreateTweetRequest(text="x" * 300), **acting(author()))
    assert too_long.value.reason == errorspb.ERROR_REASON_TEXT_TOO_LONG
    assert too_long.value.metadata == {"field": "text", "weighted_length": "300", "max": "280"}
    assert [violation.field for violation in too_long.value.violations] == ["text"]
    with pytest.raises(errors.NotFound) as nobody:
        await tweets.CreateTweet(tweetpb.CreateTweetRequest(text="hello"), **acting(ABSENT))
    assert nobody.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND
    with pytest.raises(errors.Unauthenticated):
        await tweets.CreateTweet(tweetpb.CreateTweetRequest(text="hello"), timeout=5.0)
    with pytest.raises(errors.InvalidArgument) as no_id:
        await tweets.GetTweet(tweetpb.GetTweetRequest(), timeout=5.0)
    assert [violation.field for violation in no_id.value.violations] == ["tweet_id"]


async def test_a_bad_text_is_no_error_of_validation(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    reply = await tweets.ValidateText(tweetpb.ValidateTextRequest(text=""), timeout=5.0)
    assert [(problem.reason, problem.message) for problem in reply.problems] == [("TEXT_BLANK", "text must not be blank")]


async def test_the_same_key_from_many_connections(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    somebody = author()
    request = tweetpb.CreateTweetRequest(text="once", request_id="k")
    replies = await asyncio.gather(*(tweets.CreateTweet(request, **acting(somebody)) for _ in range(64)))
    assert len({reply.tweet.tweet_id for reply in replies}) == 1


async def test_a_deadline_that_passes_is_unknown_and_the_key_resolves_it(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    somebody = author()
    request = tweetpb.CreateTweetRequest(text="soon", request_id="k")
    for timeout in (0.012, 0.014, 0.016):
        try:
            await tweets.CreateTweet(request, timeout=timeout, metadata=(("x-user-id", str(somebody)),))
        except (errors.DeadlineExceeded, errors.Unavailable):
            continue
    made = (await tweets.CreateTweet(request, **acting(somebody))).tweet
    listed = await tweets.ListRecentByAuthors(tweetpb.ListRecentByAuthorsRequest(author_ids=[somebody]), timeout=5.0)
    assert [item.tweet_id for item in listed.items] == [made.tweet_id]


async def test_a_loader_and_the_largest_list(tweets: tweetpb.TweetServiceAsyncStub) -> None:
    authors = [author() for _ in range(500)]
    load = [
        tweetpb.AuthoredTweet(author_id=each, tweet=tweetpb.CreateTweetRequest(text=f"{turn}"))
        for turn in range(2)
        for each in authors
    ]
    reply = await tweets.BatchCreateTweets(tweetpb.BatchCreateTweetsRequest(tweets=load), timeout=10.0)
    made = sorted(item.tweet_id for item in reply.items)
    request = tweetpb.ListRecentByAuthorsRequest(author_ids=[*authors, *range(10**6, 10**6 + 19_500)], limit=2_000)
    listed = await tweets.ListRecentByAuthors(request, timeout=10.0)
    assert [item.tweet_id for item in listed.items] == made[::-1]
