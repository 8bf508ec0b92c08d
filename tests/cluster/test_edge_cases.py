"""What is refused, through both doors: code, reason and field are the same, and nothing is half written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.clients import Clients
from tests.cluster.doors import Door, Grpc

INVALID, NOT_FOUND, EXISTS, NOBODY = 3, 5, 6, 16
NO_ID = 4_611_686_018_427_387_904
"""Of nothing."""
LONG_URL = "http://example.com/" + "a" * 10_000

TEXTS: list[tuple[str, str]] = [
    ("", "TEXT_BLANK"),
    (" \t\n ", "TEXT_BLANK"),
    ("\u3000\u2003", "TEXT_BLANK"),
    ("a" * 281, "TEXT_TOO_LONG"),
    ("字" * 141, "TEXT_TOO_LONG"),
    ("👨‍👩‍👧‍👦" * 141, "TEXT_TOO_LONG"),
    ("a" * 257 + " http://example.com/aaaa", "TEXT_TOO_LONG"),
    (LONG_URL, "TEXT_TOO_LONG"),
    ("a" + "\u0301" * 10_000, "TEXT_TOO_LONG"),
    ("a\ufffeb", "TEXT_INVALID_CHARACTER"),
    ("\ufeffa", "TEXT_INVALID_CHARACTER"),
    ("a\uffff", "TEXT_INVALID_CHARACTER"),
    ("a\0b", "TEXT_INVALID_CHARACTER"),
    (" ".join(f"http://a{number}.com" for number in range(11)), "TEXT_TOO_MANY_ENTITIES"),
]
"""Texts that nobody can post, and why."""


@pytest.mark.parametrize(("text", "reason"), TEXTS, ids=lambda each: repr(each[:12]))
async def test_a_text_that_cannot_be_posted(door: Door, clients: Clients, text: str, reason: str) -> None:
    author = await clients.user()
    outcome = await door.call("CreateTweet", author, text=text, request_id="first")
    assert (outcome.refusal, set(outcome.fields)) == ((INVALID, reason), {"text"})
    if reason == "TEXT_TOO_LONG":
        assert int(outcome.metadata["weighted_length"]) > int(outcome.metadata["max"]) == 280
    assert await clients.profile(author) == []
    made = await door.call("CreateTweet", author, text="now it fits", request_id="first")
    assert made.code == 0, "a refusal uses up no key"
    checked = await door.call("ValidateText", text=text)
    assert (checked.body["valid"], checked.body["problems"][0]["reason"]) == (False, reason)


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("a" * 280, 280),
        ("字" * 140, 280),
        ("👨‍👩‍👧‍👦" * 140, 280),
        ("a" * 256 + " http://example.com/" + "b" * 1000, 280),
        ("a  b\n\nc", 7),
        ("cafe\u0301", 4),
        ("H🐱☺👨‍👩‍👧‍👦", 7),
    ],
    ids=lambda each: repr(each)[:12],
)
async def test_a_text_that_just_fits(door: Door, clients: Clients, text: str, weight: int) -> None:
    author = await clients.user()
    checked = await door.call("ValidateText", text=text)
    assert (checked.body["valid"], checked.body["weightedLength"]) == (True, weight)
    made = await door.call("CreateTweet", author, text=text)
    assert made.code == 0
    shown = await door.call("GetTweet", tweet_id=int(made.body["tweetId"]))
    assert shown.body == made.body
    assert shown.body["text"] == text.replace("e\u0301", "é"), "stored as NFC, otherwise untouched"


REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("CreateTweet", {"text": "x", "in_reply_to_tweet_id": NO_ID}, NOT_FOUND, "TWEET_NOT_FOUND", ""),
    ("CreateTweet", {"text": "x", "in_reply_to_tweet_id": -1}, INVALID, "FIELD_INVALID", "in_reply_to_tweet_id"),
    ("CreateTweet", {"text": "x", "request_id": "k" * 65}, INVALID, "FIELD_INVALID", "request_id"),
    ("CreateTweet", {"text": "x", "request_id": "a\0b"}, INVALID, "FIELD_INVALID", "request_id"),
    ("GetTweet", {"tweet_id": NO_ID}, NOT_FOUND, "TWEET_NOT_FOUND", ""),
    ("GetTweet", {"tweet_id": -1}, INVALID, "FIELD_INVALID", "tweet_id"),
    ("GetTweet", {"tweet_id": 0}, INVALID, "FIELD_INVALID", "tweet_id"),
    ("DeleteTweet", {"tweet_id": NO_ID}, NOT_FOUND, "TWEET_NOT_FOUND", ""),
    ("DeleteTweet", {"tweet_id": NO_ID, "request_id": "a\0b"}, INVALID, "FIELD_INVALID", "request_id"),
    ("BatchGetTweets", {}, INVALID, "FIELD_INVALID", "tweet_ids"),
    ("GetUser", {"user_id": NO_ID}, NOT_FOUND, "USER_NOT_FOUND", ""),
    ("GetUser", {"user_id": -5}, INVALID, "FIELD_INVALID", "user_id"),
    ("BatchGetUsers", {}, INVALID, "FIELD_INVALID", "user_ids"),
    ("LookupUser", {"username": "nobody_has_this"}, NOT_FOUND, "USER_NOT_FOUND", ""),
    ("LookupUser", {"username": "x" * 21}, INVALID, "FIELD_INVALID", "username"),
    ("CreateUser", {"username": "with space"}, INVALID, "FIELD_INVALID", "username"),
    ("CreateUser", {"username": "x" * 21}, INVALID, "FIELD_INVALID", "username"),
    ("CreateUser", {"username": "ünicode"}, INVALID, "FIELD_INVALID", "username"),
    ("CreateUser", {}, INVALID, "FIELD_INVALID", "username"),
    ("CreateUser", {"username": "ok", "bio": "x" * 161}, INVALID, "FIELD_INVALID", "bio"),
    ("CreateUser", {"username": "ok", "picture_url": "javascript:alert(1)"}, INVALID, "FIELD_INVALID", "picture_url"),
    ("CreateUser", {"username": "ok", "display_name": "a\0"}, INVALID, "FIELD_INVALID", "display_name"),
    ("UpdateProfile", {"profile": {"bio": "x" * 161}}, INVALID, "FIELD_INVALID", "profile.bio"),
    ("Follow", {"user_id": NO_ID}, NOT_FOUND, "USER_NOT_FOUND", ""),
    ("Follow", {"user_id": -1}, INVALID, "FIELD_INVALID", "user_id"),
    ("Follow", {"user_id": NO_ID, "request_id": "a\0b"}, INVALID, "FIELD_INVALID", "request_id"),
    ("GetRelationship", {"user_id": -1}, INVALID, "FIELD_INVALID", "user_id"),
    ("ListFollowers", {"user_id": 1, "page_size": -1}, INVALID, "FIELD_INVALID", "page_size"),
    ("ListFollowing", {"user_id": 1, "page_token": "rubbish"}, INVALID, "PAGE_TOKEN_INVALID", "page_token"),
    ("GetHomeTimeline", {"page_size": -1}, INVALID, "FIELD_INVALID", "page_size"),
    ("GetHomeTimeline", {"page_token": "rubbish"}, INVALID, "PAGE_TOKEN_INVALID", "page_token"),
    ("GetHomeTimeline", {"after": "rubbish"}, INVALID, "PAGE_TOKEN_INVALID", "after"),
    ("GetHomeTimeline", {"page_token": "x" * 4097}, INVALID, "FIELD_INVALID", "page_token"),
    ("GetUserTimeline", {"user_id": NO_ID}, NOT_FOUND, "USER_NOT_FOUND", ""),
    ("GetUserTimeline", {"user_id": 1, "page_size": -1}, INVALID, "FIELD_INVALID", "page_size"),
    ("GetFanoutStatus", {"tweet_id": NO_ID}, NOT_FOUND, "TWEET_NOT_FOUND", ""),
]
"""Operation, request, and the code, reason and field of its refusal."""


@pytest.mark.parametrize(("operation", "request_", "code", "reason", "field"), REFUSED)
async def test_a_request_that_is_refused(
    door: Door, clients: Clients, operation: str, request_: dict[str, Any], code: int, reason: str, field: str
) -> None:
    viewer = await clients.user()
    outcome = await door.call(operation, viewer, **request_)
    assert outcome.refusal == (code, reason)
    assert outcome.fields == ((field,) if field else ())
    assert outcome.message


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CreateTweet", {"text": "x"}),
        ("DeleteTweet", {"tweet_id": 1}),
        ("Follow", {"user_id": 1}),
        ("Unfollow", {"user_id": 1}),
        ("GetRelationship", {"user_id": 1}),
        ("UpdateProfile", {"profile": {"bio": "x"}}),
        ("GetHomeTimeline", {}),
        ("ExplainTimelineEntry", {"tweet_id": 1}),
        ("GetFanoutStatus", {"tweet_id": 1}),
    ],
)
@pytest.mark.parametrize(
    ("viewer", "reason"), [(0, "VIEWER_REQUIRED"), ("-1", "VIEWER_INVALID"), ("x", "VIEWER_INVALID"), (2**63, "VIEWER_INVALID")]
)
async def test_who_is_not_identified(door: Door, operation: str, request_: dict[str, Any], viewer: int | str, reason: str) -> None:
    assert (await door.call(operation, viewer, **request_)).refusal == (NOBODY, reason)


async def test_an_author_who_does_not_exist(door: Door) -> None:
    outcome = await door.call("CreateTweet", NO_ID, text="x")
    assert outcome.refusal == (NOT_FOUND, "USER_NOT_FOUND")


async def test_several_wrong_fields_are_all_named(door: Door) -> None:
    outcome = await door.call("CreateUser", username="", bio="x" * 161, display_name="x" * 51)
    assert (outcome.refusal, set(outcome.fields)) == ((INVALID, "FIELD_INVALID"), {"username", "bio", "display_name"})


async def test_a_batch_says_of_each_id_what_is_known(door: Door, clients: Clients) -> None:
    author = await clients.user()
    kept, gone = [await clients.post(author, text) for text in ("kept", "gone")]
    await clients.delete(author, gone)
    outcome = await door.call("BatchGetTweets", tweet_ids=[gone, NO_ID, kept, kept])
    statuses = [item["status"].removeprefix("TWEET_STATUS_") for item in outcome.body["items"]]
    assert statuses == ["DELETED", "NOT_FOUND", "FOUND", "FOUND"]
    users = (await door.call("BatchGetUsers", user_ids=[NO_ID, author])).body["items"]
    assert [bool(item.get("user")) for item in users] == [False, True]


class TestAccounts:
    """Expectation 71 as far as this issue goes: names."""

    async def test_a_name_is_taken_whatever_the_case_of_its_letters(self, door: Door) -> None:
        name = "CamelCase" + type(door).__name__
        made = await door.call("CreateUser", username=name, bio="hello")
        assert made.body["displayName"] == name
        again = await door.call("CreateUser", username=name.upper())
        assert again.refusal == (EXISTS, "USERNAME_TAKEN")
        found = await door.call("LookupUser", username=name.lower())
        assert found.body == made.body

    async def test_a_profile_changes_only_where_the_mask_says(self, door: Door, clients: Clients) -> None:
        viewer = await clients.user()
        mask = "display_name,bio" if not isinstance(door, Grpc) else "displayName,bio"
        changed = await door.call("UpdateProfile", viewer, profile={"display_name": "New", "bio": "b"}, update_mask=mask)
        assert (changed.body["displayName"], changed.body["bio"]) == ("New", "b")
        kept = await door.call("UpdateProfile", viewer, profile={"display_name": "Newer", "bio": "c"}, update_mask="bio")
        assert (kept.body["displayName"], kept.body["bio"]) == ("New", "c")
        refused = await door.call("UpdateProfile", viewer, profile={"bio": "d"}, update_mask="username")
        assert refused.refusal == (INVALID, "FIELD_INVALID")
        assert refused.fields == ("update_mask",)
        assert (await door.call("GetUser", user_id=viewer)).body["bio"] == "c"
