"""The id service over its lease in Postgres, as an object and through gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.id import v1 as idpb
from services.id import snowflake
from services.id.generator import Generator
from services.id.lease import LEASE_MS, Lease
from services.id.service import IdService
from services.id.store import Leased, LeaseStore
from services.runtime import channel, logs, postgres
from services.runtime.clock import ManualClock
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database
from tests.services.social import as_, served
from tests.waiting import eventually

SERVICE = "chirp.id.v1.IdService"


@dataclass(slots=True)
class Process:
    """One id process with a clock that the test moves."""

    clock: ManualClock
    lease: Lease
    service: IdService

    async def ids(self, number: int = 1) -> list[int]:
        return list((await self.service.generate_ids(idpb.GenerateIdsRequest(count=number), as_(0))).ids)


@pytest.fixture(scope="module")
async def pool(database: str) -> AsyncIterator[Database]:
    async with postgres.connect(database, "id", Metrics("test")) as pool:
        yield pool


def process(pool: Database, name: str) -> Process:
    clock = ManualClock(time.time_ns() // 1_000_000)

    async def sleep(seconds: float) -> None:
        clock.advance(max(seconds, 0.001))

    generator = Generator(clock, sleep)
    lease = Lease(LeaseStore(pool), generator, clock, name, logs.silent(), sleep)
    return Process(clock, lease, IdService(generator, Metrics(name)))


async def test_ids_are_issued_under_a_lease_and_described(pool: Database) -> None:
    issuer = process(pool, "a")
    assert not await issuer.service.healthy()
    assert await issuer.lease.refresh()
    assert await issuer.service.healthy()

    (only,) = await issuer.ids(0)
    many = await issuer.ids(10_000)

    assert [only, *many] == sorted({only, *many})
    parts = await issuer.service.describe_id(idpb.DescribeIdRequest(id=only), as_(0))
    assert (parts.create_time.ToMilliseconds(), parts.worker_id, parts.sequence) == snowflake.describe(only)
    await issuer.lease.release()
    with pytest.raises(errors.Unavailable):
        await issuer.ids()


async def test_renewing_keeps_the_worker_id_and_carries_the_mark_on(pool: Database) -> None:
    issuer = process(pool, "renewing")
    await issuer.lease.refresh()
    (before,) = await issuer.ids()
    await pool.execute("update id.worker_lease set mark_ms = mark_ms - 5000 where owner = 'renewing'")
    issuer.clock.advance(5)
    await issuer.lease.refresh()

    (after,) = await issuer.ids()

    assert snowflake.describe(after).worker_id == snowflake.describe(before).worker_id
    await issuer.lease.release()


async def test_a_process_that_slept_through_its_lease_takes_another_worker_id(pool: Database) -> None:
    sleeper = process(pool, "sleeper")
    await sleeper.lease.refresh()
    (before,) = await sleeper.ids()
    await pool.execute("update id.worker_lease set owner = 'usurper' where owner = 'sleeper'")
    sleeper.clock.advance(LEASE_MS / 1_000)

    with pytest.raises(errors.Unavailable) as refusal:
        await sleeper.ids()
    assert refusal.value.reason == errorspb.ERROR_REASON_LEASE_LOST
    assert not await sleeper.service.healthy()

    sleeper.clock.step(time.time_ns() // 1_000_000)
    await sleeper.lease.refresh()
    (after,) = await sleeper.ids()
    assert snowflake.describe(after).worker_id != snowflake.describe(before).worker_id
    assert after > before
    await sleeper.lease.release()


async def test_a_clock_an_hour_ahead_issues_nothing(pool: Database) -> None:
    issuer = process(pool, "hasty")
    issuer.clock.step(issuer.clock.now_ms() + 3_600_000)
    await issuer.lease.refresh()

    with pytest.raises(errors.Unavailable):
        await issuer.ids()
    await issuer.lease.release()


async def test_the_keeper_survives_a_database_that_is_away(pool: Database) -> None:
    attempts: list[float] = []

    class Away(LeaseStore):
        async def take(self, owner: str, lease_ms: int, ahead_ms: int) -> Leased | None:
            if len(attempts) < 3:
                raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")
            return await super().take(owner, lease_ms, ahead_ms)

    async def sleep(seconds: float) -> None:
        attempts.append(seconds)
        await asyncio.sleep(0)

    clock = ManualClock(time.time_ns() // 1_000_000)
    generator = Generator(clock)
    keeper = asyncio.create_task(Lease(Away(pool), generator, clock, "patient", logs.silent(), sleep).keep())
    await eventually(generator.able)
    keeper.cancel()

    assert attempts[:3] == [0.25, 0.25, 0.25]
    assert set(attempts[3:]) <= {3.0}


async def test_through_grpc(pool: Database) -> None:
    issuer = process(pool, "served")
    await issuer.lease.refresh()
    async with (
        served(issuer.service, SERVICE, "id") as address,
        channel.connect([address], SERVICE, Metrics("client")) as connection,
    ):
        stub = idpb.IdServiceStub(connection)
        reply = await stub.GenerateIds(idpb.GenerateIdsRequest(count=100), timeout=5)
        assert list(reply.ids) == sorted(set(reply.ids))
        assert len(reply.ids) == 100
        with pytest.raises(errors.InvalidArgument) as wrong:
            await stub.GenerateIds(idpb.GenerateIdsRequest(count=10_001), timeout=5)
        assert wrong.value.violations[0].field == "count"
        with pytest.raises(errors.InvalidArgument):
            await stub.DescribeId(idpb.DescribeIdRequest(), timeout=5)
        await issuer.lease.release()
        with pytest.raises(errors.Unavailable) as refusal:
            await stub.GenerateIds(idpb.GenerateIdsRequest(), timeout=5)
        assert refusal.value.reason == errorspb.ERROR_REASON_LEASE_LOST
        assert refusal.value.retry_after
