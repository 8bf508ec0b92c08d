"""Problems of texts in the words of the contract."""

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.tweet import texts
from services.tweet.text import Limits, analyse

LIMITS = texts.limits(280)


def refusal(text: str) -> errors.InvalidArgument:
    return texts.refusal(analyse(text, LIMITS), LIMITS)


@pytest.mark.parametrize(
    ("text", "reason", "metadata"),
    [
        ("", errorspb.ERROR_REASON_TEXT_BLANK, {}),
        (" \n\u3000", errorspb.ERROR_REASON_TEXT_BLANK, {}),
        ("x" * 281, errorspb.ERROR_REASON_TEXT_TOO_LONG, {"weighted_length": "281", "max": "280"}),
        ("漢" * 141, errorspb.ERROR_REASON_TEXT_TOO_LONG, {"weighted_length": "282", "max": "280"}),
        ("x" * 6_000, errorspb.ERROR_REASON_TEXT_TOO_LONG, {"weighted_length": "6000", "max": "280"}),
        ("ab\ufffe", errorspb.ERROR_REASON_TEXT_INVALID_CHARACTER, {"position": "2"}),
        ("a\x00", errorspb.ERROR_REASON_TEXT_INVALID_CHARACTER, {"position": "1"}),
        ("$A " * 51, errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES, {"entity": "cashtags", "count": "51", "max": "50"}),
        ("#a " * 51, errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES, {"entity": "hashtags", "count": "51", "max": "50"}),
        ("@a " * 51, errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES, {"entity": "mentions", "count": "51", "max": "50"}),
        ("a.co " * 11, errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES, {"entity": "links", "count": "11", "max": "10"}),
    ],
)
def test_each_problem_names_the_field_and_its_numbers(
    text: str, reason: errorspb.ErrorReason.ValueType, metadata: dict[str, str]
) -> None:
    error = refusal(text)
    assert error.reason == reason
    assert error.metadata == {"field": "text", **metadata}
    assert error.message.startswith("text ")
    assert {violation.field for violation in error.violations} == {"text"}


def test_every_problem_is_a_violation_and_the_first_gives_the_reason() -> None:
    error = refusal("x" * 281 + "\ufffe")
    assert len(error.violations) == 2
    said = texts.problems(analyse("x" * 281 + "\ufffe", LIMITS), LIMITS)
    assert [each.reason for each in said] == ["TEXT_TOO_LONG", "TEXT_INVALID_CHARACTER"]
    assert [each.message for each in said] == [f"text {violation.description}" for violation in error.violations]


def test_a_greater_limit_allows_more_bytes() -> None:
    family = "👨‍👩‍👧‍👦"
    assert analyse(family * 140, LIMITS).valid
    assert analyse(family * 1_000, texts.limits(2_000)).valid
    assert texts.limits(140).max_bytes == Limits().max_bytes


def test_entities_are_stored_as_the_field_that_replies_carry() -> None:
    found = analyse("@ann #tag $ABC a.co é", LIMITS).text.entities
    stored = tweetpb.Tweet.FromString(texts.packed_entities(found))
    assert stored == tweetpb.Tweet(entities=texts.entities(found))
    assert [(each.kind, each.value) for each in stored.entities] == [
        (tweetpb.ENTITY_KIND_MENTION, "ann"),
        (tweetpb.ENTITY_KIND_HASHTAG, "tag"),
        (tweetpb.ENTITY_KIND_CASHTAG, "ABC"),
        (tweetpb.ENTITY_KIND_URL, "a.co"),
    ]
    assert texts.packed_entities(()) == b""
