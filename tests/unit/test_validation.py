"""Field rules of the contracts, as one function per message type."""

from typing import Any

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import validation
from tests import probe

pb: Any = probe.load()[0]
RIGHT = {"name": "abc", "owner_id": 1, "since_time": {"seconds": 1}}


def problems(**fields: Any) -> dict[str, str]:
    """Violations of a Ruled message that is right but for these fields, description by path."""
    check = validation.compiled(pb.Ruled)
    assert check
    try:
        check(pb.Ruled(**{**RIGHT, **fields}))
    except errors.InvalidArgument as error:
        found = error
    else:
        return {}
    assert found.reason == errorspb.ERROR_REASON_FIELD_INVALID
    assert len({violation.field for violation in found.violations}) == len(found.violations)
    return dict(found.violations)


def test_a_right_message_passes() -> None:
    assert problems() == {}
    assert problems(amount=3, ids=[1, 2], tags=["abc"], leaf={"word": "abc"}, blob=b"1\x0034", leaves=[{}]) == {}


def test_a_message_without_rules_at_any_depth_needs_no_check() -> None:
    assert validation.compiled(pb.Plain) is None


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"name": ""}, "name", "is required"),
        ({"name": "a"}, "name", "is 1 long; at least 2 are needed"),
        ({"name": "abcdef"}, "name", "is 6 long; at most 5 are allowed"),
        ({"name": "ab1"}, "name", "must match [a-z]+"),
        ({"name": "ab\n"}, "name", "must match [a-z]+"),
        ({"name": "a\0b"}, "name", "must not contain the character U+0000"),
        ({"tags": ["abc", "\0"]}, "tags[1]", "must not contain the character U+0000"),
        ({"leaf": {"word": "\0"}}, "leaf.word", "must not contain the character U+0000"),
        ({"amount": 2}, "amount", "must be at least 3"),
        ({"amount": -1}, "amount", "must be at least 3"),
        ({"amount": 10}, "amount", "must be at most 9"),
        ({"owner_id": 0}, "owner_id", "is required"),
        ({"owner_id": -1}, "owner_id", "must be at least 1"),
        ({"ids": [1]}, "ids", "has 1 items; at least 2 are needed"),
        ({"ids": [1] * 41}, "ids", "has 41 items; at most 40 are allowed"),
        ({"ids": [1, 0]}, "ids[1]", "must be at least 1"),
        ({"tags": ["abc", "abcd"]}, "tags[1]", "is 4 long; at most 3 are allowed"),
        ({"since_time": None}, "since_time", "is required"),
        ({"free": {"k": {"word": "long"}}}, "free[k].word", "is 4 long; at most 3 are allowed"),
        ({"blob": b"12345"}, "blob", "is 5 long; at most 4 are allowed"),
        ({"leaf": {"word": "long"}}, "leaf.word", "is 4 long; at most 3 are allowed"),
        ({"leaf": {"next": {"next": {"word": "long"}}}}, "leaf.next.next.word", "is 4 long; at most 3 are allowed"),
        ({"leaves": [{}, {"next": {"word": "long"}}]}, "leaves[1].next.word", "is 4 long; at most 3 are allowed"),
    ],
)
def test_each_rule(fields: dict[str, Any], path: str, says: str) -> None:
    assert problems(**fields) == {path: says}


def test_a_number_that_is_absent_is_not_measured() -> None:
    assert problems(amount=0) == {}


def test_length_counts_code_points_not_bytes() -> None:
    assert problems(tags=["äöü", "🐦🐦🐦"]) == {}


def test_all_wrong_fields_are_listed_at_once() -> None:
    assert set(problems(name="", owner_id=0, since_time=None, amount=99)) == {"name", "owner_id", "since_time", "amount"}


def test_so_many_are_wrong_that_not_all_are_listed() -> None:
    assert len(problems(ids=[0] * 40)) == validation.MOST_VIOLATIONS


@pytest.mark.parametrize("name", ["PatternOnNumber", "RangeOnText", "CountOnOne", "RulesOnMap"])
def test_a_rule_that_does_not_fit_its_field_fails_at_start(name: str) -> None:
    with pytest.raises(ValueError, match="probe"):
        validation.compiled(getattr(pb, name))
