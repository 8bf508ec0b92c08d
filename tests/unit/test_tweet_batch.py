"""Equal keys within one batch."""

from typing import NamedTuple

import pytest

from chirp import errors
from services.tweet.batch import once_each


class Item(NamedTuple):
    actor_id: int
    request_id: str
    payload_hash: bytes
    fails: bool = False


class Commits:
    """Answers each item with its number, and remembers what was committed together."""

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []

    async def __call__(self, items: list[Item]) -> list[int | Exception]:
        self.batches.append(items)
        return [LookupError() if item.fails else len(self.batches) * 100 + index for index, item in enumerate(items)]


def nobody() -> None:
    """Is told of replays and does not care."""


async def test_items_of_different_keys_are_committed_together() -> None:
    commit = Commits()
    items = [Item(1, "a", b"1"), Item(1, "b", b"1"), Item(2, "a", b"1")]
    assert await once_each(items, commit, nobody) == [100, 101, 102]
    assert len(commit.batches) == 1


async def test_without_a_key_equal_items_are_different_writes() -> None:
    assert await once_each([Item(1, "", b""), Item(1, "", b"")], Commits(), nobody) == [100, 101]


async def test_the_same_payload_gets_the_answer_of_the_first() -> None:
    commit = Commits()
    replays: list[int] = []
    answers = await once_each([Item(1, "a", b"1"), Item(1, "b", b"1"), Item(1, "a", b"1")], commit, lambda: replays.append(1))
    assert answers == [100, 101, 100]
    assert len(replays) == 1
    assert [len(batch) for batch in commit.batches] == [2]


async def test_another_payload_is_refused_once_the_first_succeeded() -> None:
    first, second = await once_each([Item(1, "a", b"1"), Item(1, "a", b"2")], Commits(), nobody)
    assert first == 100
    assert isinstance(second, errors.AlreadyExists)


async def test_a_failure_burns_no_key() -> None:
    commit = Commits()
    answers = await once_each(
        [Item(1, "a", b"1", True), Item(1, "a", b"1", True), Item(1, "a", b"2"), Item(1, "a", b"3")], commit, nobody
    )
    assert [type(answer) for answer in answers] == [LookupError, LookupError, int, errors.AlreadyExists]
    assert answers[2] == 200


async def test_what_fails_as_a_whole_is_raised_and_later_failures_are_answers() -> None:
    async def refuse(items: list[Item]) -> list[int]:
        raise ValueError

    with pytest.raises(ValueError):
        await once_each([Item(1, "a", b"1")], refuse, nobody)

    async def once(items: list[Item]) -> list[int | Exception]:
        if items[0].payload_hash == b"1":
            return [LookupError()]
        raise ValueError

    answers = await once_each([Item(1, "a", b"1"), Item(1, "a", b"2")], once, nobody)
    assert [type(answer) for answer in answers] == [LookupError, ValueError]
