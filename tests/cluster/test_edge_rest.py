"""What only HTTP can get wrong: methods, paths, bodies, numbers, headers (expectation 70)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.clients import Clients
from tests.cluster.doors import of_error
from tests.gateway.client import Client

JSON: dict[str, Any] = {"text": "x"}
REFUSED: list[tuple[str, str, Any, dict[str, str], int, str, str]] = [
    ("POST", "/v1/tweets", {"text": "x", "colour": 1}, {}, 400, "FIELD_INVALID", "colour"),
    ("POST", "/v1/tweets", b'{"text": "x", "text": "y"}', {}, 400, "REQUEST_MALFORMED", ""),
    ("POST", "/v1/tweets", b'{"requestId": "x", "request_id": "x"}', {}, 400, "FIELD_INVALID", "request_id"),
    ("POST", "/v1/tweets", b'{"text": ', {}, 400, "REQUEST_MALFORMED", ""),
    ("POST", "/v1/tweets", b'{"text": "\xff"}', {}, 400, "REQUEST_MALFORMED", ""),
    ("POST", "/v1/tweets", b"[" * 60_000, {}, 400, "REQUEST_MALFORMED", ""),
    ("POST", "/v1/tweets", {"text": 7}, {}, 400, "FIELD_INVALID", "text"),
    ("POST", "/v1/tweets", ["x"], {}, 400, "REQUEST_MALFORMED", ""),
    ("POST", "/v1/tweets", {"text": "x", "inReplyToTweetId": "seven"}, {}, 400, "FIELD_INVALID", "in_reply_to_tweet_id"),
    ("POST", "/v1/tweets", {"text": "x", "inReplyToTweetId": 2**63}, {}, 400, "FIELD_INVALID", "in_reply_to_tweet_id"),
    ("POST", "/v1/tweets", {"text": "x", "requestId": "a"}, {"idempotency_key": "b"}, 400, "FIELD_INVALID", "request_id"),
    ("POST", "/v1/tweets", b'{"text": "x"}', {"content_type": "text/plain"}, 415, "MEDIA_TYPE", ""),
    ("POST", "/v1/tweets", b'{"text": "x"}', {"content_encoding": "gzip"}, 415, "MEDIA_TYPE", ""),
    ("POST", "/v1/tweets", b'{"text": "' + b"x" * 10_000_000 + b'"}', {}, 413, "BODY_TOO_LARGE", ""),
    ("GET", "/v1/tweets/seven", None, {}, 400, "FIELD_INVALID", "tweet_id"),
    ("GET", f"/v1/tweets/{2**63}", None, {}, 400, "FIELD_INVALID", "tweet_id"),
    ("GET", "/v1/timeline/home?pageSize=many", None, {}, 400, "FIELD_INVALID", "page_size"),
    ("GET", "/v1/timeline/home?page_size=1&pageSize=2", None, {}, 400, "FIELD_INVALID", "page_size"),
    ("GET", "/v1/timeline/home?colour=red", None, {}, 400, "FIELD_INVALID", "colour"),
    ("GET", "/v1/users/%FF", None, {}, 400, "", ""),
    ("PUT", "/v1/tweets", JSON, {}, 405, "METHOD_NOT_ALLOWED", ""),
    ("POST", "/v1/timeline/home", JSON, {}, 405, "METHOD_NOT_ALLOWED", ""),
    ("GET", "/v1/nothing", None, {}, 404, "ROUTE_NOT_FOUND", ""),
    ("GET", "/v1/tweets/", None, {}, 404, "ROUTE_NOT_FOUND", ""),
    ("GET", "/v1/tweets/1:explode", None, {}, 400, "FIELD_INVALID", "tweet_id"),
    ("GET", "/v1/timeline/home", None, {"grpc_timeout": "soon"}, 400, "", ""),
    ("GET", "/v1/timeline/home", None, {"grpc_timeout": "1u"}, 504, "", ""),
]
"""Method, path, body, headers; status, reason and field of the refusal ("" where it does not matter)."""


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "reason", "field"), REFUSED)
async def test_a_request_that_is_refused(
    rest: Client, clients: Clients, method: str, path: str, body: Any, headers: dict[str, str], status: int, reason: str, field: str
) -> None:
    user = await clients.user()
    answer = await rest.request(method, path, body, x_user_id=str(user), **headers)
    assert answer.status == status, answer.body
    error = of_error(answer)
    if reason:
        assert error.reason == reason
    if field:
        assert error.fields == (field,)
    assert ("allow" in answer.headers) == (status == 405)
    assert await clients.profile(user) == []


@pytest.mark.parametrize("spelling", ["in_reply_to_tweet_id", "inReplyToTweetId"])
@pytest.mark.parametrize("kind", [str, int])
async def test_ids_are_taken_as_numbers_or_strings_and_given_as_strings(
    rest: Client, clients: Clients, spelling: str, kind: type
) -> None:
    user = await clients.user()
    parent = await clients.post(user, "parent")
    answer = await rest.post("/v1/tweets", {"text": "reply", spelling: kind(parent)}, x_user_id=str(user))
    assert (answer.status, answer.json["inReplyToTweetId"], answer.json["authorId"]) == (201, str(parent), str(user))
    assert answer.json["tweetId"].isdecimal()


async def test_what_is_made_answers_201_and_all_else_200(rest: Client, clients: Clients) -> None:
    user, other = map(str, await clients.people(2))
    followed = [await rest.post(f"/v1/users/{other}/follow", {}, x_user_id=user) for _ in range(2)]
    assert [each.status for each in followed] == [201, 201], "a duplicate follow too"
    without_body = await rest.post(f"/v1/users/{other}/follow", x_user_id=user)
    assert without_body.status == 201
    made = await rest.post("/v1/tweets", JSON, x_user_id=user)
    assert made.status == 201
    for method, path in (
        ("GET", f"/v1/tweets/{made.json['tweetId']}"),
        ("GET", "/v1/users/me"),
        ("GET", f"/v1/users/{user}/tweets"),
        ("GET", f"/v1/users/{user}/relationship"),
        ("DELETE", f"/v1/tweets/{made.json['tweetId']}"),
        ("DELETE", f"/v1/users/{other}/follow"),
    ):
        assert (await rest.request(method, path, x_user_id=user)).status == 200


async def test_zeros_and_empty_lists_are_written(rest: Client, clients: Clients) -> None:
    user = await clients.user()
    page = (await rest.get("/v1/timeline/home", x_user_id=str(user))).json
    assert (page["items"], page["nextPageToken"], page["gap"], page["degraded"]) == ([], "", False, False)
    made = (await rest.post("/v1/tweets", JSON, x_user_id=str(user))).json
    assert (made["inReplyToTweetId"], made["entities"], made["kind"]) == ("0", [], "TWEET_KIND_ORIGINAL")


async def test_the_idempotency_key_is_the_request_id(rest: Client, clients: Clients) -> None:
    user = str(await clients.user())
    first = await rest.post("/v1/tweets", JSON, x_user_id=user, idempotency_key="k")
    second = await rest.post("/v1/tweets", JSON | {"requestId": "k"}, x_user_id=user)
    assert first.json == second.json
    other = await rest.post("/v1/tweets", {"text": "y"}, x_user_id=user, idempotency_key="k")
    assert (other.status, other.reason) == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_lists_in_a_query(rest: Client, clients: Clients) -> None:
    user = await clients.user()
    tweets = [await clients.post(user, text) for text in ("a", "b")]
    answer = await rest.get(f"/v1/tweets:batchGet?tweetIds={tweets[1]}&tweet_ids={tweets[0]}")
    assert [int(item["tweetId"]) for item in answer.json["items"]] == tweets[::-1]


async def test_every_answer_carries_its_request_id(rest: Client) -> None:
    assert (await rest.get("/v1/tweets/1", x_request_id="mine")).headers["x-request-id"] == "mine"
    assert len((await rest.get("/v1/nothing")).headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    "path",
    [
        "/chirp.tweet.v1.TweetService/ListRecentByAuthors",
        "/chirp.timeline.v1.TimelineService/RebuildTimeline",
        "/chirp.ops.v1.OpsService/UpdateSetting",
        "/v1/ids",
    ],
)
async def test_what_is_internal_has_no_route(rest: Client, path: str) -> None:
    assert (await rest.post(path, {})).status == 404


async def test_probes(rest: Client) -> None:
    assert (await rest.get("/healthz")).status == 200
    assert (await rest.get("/readyz")).status == 200
