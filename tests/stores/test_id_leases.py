"""Leases of worker ids: one suite for the table in Postgres and for its model in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import psycopg
import pytest

from services.id.lease import Leases
from services.id.store import LeaseStore
from services.runtime import postgres
from services.runtime.metrics import Metrics
from tests.stores.memory_leases import MemoryLeases

LEASE_MS, AHEAD_MS = 9_000, 6_000
WORKERS = 3


class Subject(NamedTuple):
    """A store with three worker ids, and how to let its clock pass."""

    store: Leases
    pass_ms: Callable[[int], Awaitable[None]]
    now_ms: Callable[[], int]


@pytest.fixture(params=["memory", "postgres"])
async def tested(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield in_memory()
        return
    dsn = request.getfixturevalue("database")
    async with postgres.connect(dsn, "id", Metrics("test")) as database:
        await database.execute("delete from id.worker_lease where worker_id >= %s", (WORKERS,))
        await database.execute("update id.worker_lease set lease_until = '-infinity', mark_ms = 0, owner = ''")

        async def pass_ms(milliseconds: int) -> None:
            await database.execute(
                """update id.worker_lease set mark_ms = mark_ms - %(ms)s,
                   lease_until = lease_until - %(ms)s * interval '1 millisecond'""",
                {"ms": milliseconds},
            )

        yield Subject(LeaseStore(database), pass_ms, lambda: time.time_ns() // 1_000_000)


def in_memory() -> Subject:
    now = [1_800_000_000_000]

    async def pass_ms(milliseconds: int) -> None:
        now[0] += milliseconds

    return Subject(MemoryLeases(WORKERS, lambda: now[0]), pass_ms, lambda: now[0])


async def test_each_holder_gets_a_worker_id_of_its_own_and_the_fourth_none(tested: Subject) -> None:
    taken = [await tested.store.take(f"owner {n}", LEASE_MS, AHEAD_MS) for n in range(WORKERS)]

    assert sorted(each.worker_id for each in taken if each) == [0, 1, 2]
    assert await tested.store.take("one too many", LEASE_MS, AHEAD_MS) is None


async def test_those_who_ask_together_get_different_worker_ids(tested: Subject) -> None:
    asked = [tested.store.take(f"owner {n}", LEASE_MS, AHEAD_MS) for n in range(WORKERS)]

    taken = await asyncio.gather(*asked)

    assert len({each.worker_id for each in taken if each}) == WORKERS


async def test_the_mark_is_ahead_of_the_clock_and_the_next_holder_starts_above_it(tested: Subject) -> None:
    first = await tested.store.take("first", LEASE_MS, AHEAD_MS)
    assert first
    assert first.floor_ms <= 0
    assert abs(first.mark_ms - tested.now_ms() - AHEAD_MS) < 2_000
    for n in range(WORKERS - 1):
        await tested.store.take(f"other {n}", LEASE_MS, AHEAD_MS)

    await tested.pass_ms(LEASE_MS + 1)
    seconds = [await tested.store.take(f"second {n}", LEASE_MS, AHEAD_MS) for n in range(WORKERS)]

    again = next(each for each in seconds if each and each.worker_id == first.worker_id)
    assert again.floor_ms > 0
    assert again.mark_ms > again.floor_ms
    assert await tested.store.renew(first.worker_id, "first", LEASE_MS, AHEAD_MS) is None


async def test_renewing_raises_the_mark_and_keeps_the_worker_id(tested: Subject) -> None:
    taken = await tested.store.take("owner", LEASE_MS, AHEAD_MS)
    assert taken
    await tested.pass_ms(LEASE_MS - 1_000)

    mark_ms = await tested.store.renew(taken.worker_id, "owner", LEASE_MS, AHEAD_MS)

    assert mark_ms
    assert abs(mark_ms - tested.now_ms() - AHEAD_MS) < 2_000
    await tested.pass_ms(LEASE_MS - 1_000)
    others = [await tested.store.take(f"other {n}", LEASE_MS, AHEAD_MS) for n in range(WORKERS)]
    assert taken.worker_id not in {each.worker_id for each in others if each}


async def test_a_mark_never_falls(tested: Subject) -> None:
    taken = await tested.store.take("owner", LEASE_MS, AHEAD_MS)
    assert taken

    mark_ms = await tested.store.renew(taken.worker_id, "owner", LEASE_MS, 0)

    assert mark_ms == taken.mark_ms


async def test_what_was_released_is_free_again_after_all_that_rested_longer(tested: Subject) -> None:
    taken = await tested.store.take("owner", LEASE_MS, AHEAD_MS)
    assert taken
    await tested.store.release(taken.worker_id, "somebody else")
    await tested.store.release(taken.worker_id, "owner")

    later = [await tested.store.take(f"later {n}", LEASE_MS, AHEAD_MS) for n in range(WORKERS)]

    assert [each.worker_id for each in later if each][-1] == taken.worker_id
    assert later[-1]
    assert later[-1].floor_ms == taken.mark_ms


def test_there_are_1024_worker_ids(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("insert into id.worker_lease (worker_id) values (1024)")
