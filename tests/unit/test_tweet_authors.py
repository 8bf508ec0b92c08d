"""Who is known to exist."""

import asyncio

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.clock import ManualClock
from services.runtime.metrics import Metrics
from services.tweet import authors as module
from services.tweet.authors import REMEMBERED, Authors
from tests.services.tweet_world import ABSENT, Users


def an_authors() -> tuple[Authors, Users, ManualClock]:
    users, clock = Users(), ManualClock()
    return Authors(users, Metrics("tweet"), clock), users, clock  # type: ignore[arg-type]


async def test_an_account_is_remembered_for_a_while() -> None:
    authors, users, clock = an_authors()
    await authors.require(7)
    clock.advance(REMEMBERED - 1)
    await authors.require(7)
    assert users.calls == 1
    clock.advance(1)
    await authors.require(7)
    assert users.calls == 2


async def test_that_somebody_does_not_exist_is_not_remembered() -> None:
    authors, users, _ = an_authors()
    for calls in (1, 2):
        with pytest.raises(errors.NotFound) as refused:
            await authors.require(ABSENT)
        assert refused.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND
        assert users.calls == calls


async def test_who_is_asked_for_together_is_one_call() -> None:
    authors, users, _ = an_authors()
    await asyncio.gather(*(authors.require(user_id) for user_id in [*range(1, 100), *range(1, 100)]))
    assert users.calls == 1


async def test_existing_are_those_known_and_those_found() -> None:
    authors, users, _ = an_authors()
    await authors.require(1)
    assert await authors.existing({1, 2, ABSENT}) == {1, 2}
    assert await authors.existing({1, 2}) == {1, 2}
    assert users.calls == 2


async def test_without_the_user_service_only_the_known_post() -> None:
    authors, users, _ = an_authors()
    await authors.require(1)
    users.away = True
    await authors.require(1)
    with pytest.raises(errors.Unavailable):
        await authors.require(2)


async def test_no_more_than_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 3)
    authors, users, _ = an_authors()
    for user_id in (1, 2, 3, 4):
        await authors.require(user_id)
    await authors.require(4)
    assert users.calls == 4
    await authors.require(1)
    assert users.calls == 5
