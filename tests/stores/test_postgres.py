"""The pool and its promises, on a server of its own that is restarted, killed and frozen."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import scalar_row

from chirp import errors
from services.cluster.ports import FreePorts
from services.runtime import pool, postgres
from services.runtime.arrays import BoolArray, ByteaArray, Int2Array, Int4Array, Int8Array, TextArray, unpack_int8
from services.runtime.metrics import Metrics
from services.runtime.pool import Settings
from services.runtime.postgres import Database, Transaction
from tests.freezing import frozen
from tests.running import BackendServers
from tests.waiting import eventually

SMALL = Settings(min_size=2, max_size=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[BackendServers]:
    """A Postgres that only this module uses."""
    servers = BackendServers(tmp_path_factory.mktemp("postgres"), ports)
    yield servers
    servers.close()


@pytest.fixture
async def dsn(server: BackendServers) -> str:
    address = server.postgres()
    async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
        await connection.execute("drop table if exists account cascade; create table account (id bigint primary key, sum bigint)")
        await connection.execute("insert into account values (1, 100), (2, 100)")
    return address


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with postgres.connect(dsn, "test", Metrics("test"), settings=SMALL) as opened:
        yield opened


async def test_settings_are_pinned(database: Database) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
    (row,) = await database.query("select " + ", ".join(f"current_setting('{name}')" for name in names))
    assert row == ("3s", "1s", "5s", "test")
    default = Settings()
    assert (default.checkout_timeout, default.max_waiting, default.max_lifetime) == (0.5, 256, 300.0)
    assert (default.timeout, default.reconnect_timeout, default.max_idle) == (2.0, 2.0, 60.0)
    given = conninfo_to_dict(pool.conninfo("host=a,b options='-c geqo=off'", "x", default))
    assert given["target_session_attrs"] == "read-write"
    assert (given["connect_timeout"], given["tcp_user_timeout"]) == ("2", "5000")
    assert [given[f"keepalives{each}"] for each in ("", "_idle", "_interval", "_count")] == ["1", "5", "2", "3"]
    assert str(given["options"]).startswith("-c geqo=off -c statement_timeout=3000")


async def test_pool_settings_are_pinned(dsn: str) -> None:
    opened = pool.open_pool(dsn, "pinned", Settings())
    assert (opened.timeout, opened.max_waiting, opened.max_lifetime, opened.reconnect_timeout) == (0.5, 256, 300.0, 2.0)
    assert (opened.min_size, opened.max_size, opened.max_idle) == (2, 8, 60.0)
    assert opened.connection_class is pool.Connection
    assert isinstance(opened.kwargs, dict)
    assert (opened.kwargs["autocommit"], opened.kwargs["prepare_threshold"]) == (True, 2)


async def test_packed_arrays_arrive(database: Database) -> None:
    sent = (
        Int8Array([1, -(2**63)]), Int4Array([3]), Int2Array([-4]), BoolArray([True, False]),
        ByteaArray([b"\0x", None, b""]), TextArray(["é", None, ""]), Int8Array([]),
    )  # fmt: skip
    (row,) = await database.query(
        "select %s::bigint[], %s::int[], %s::smallint[], %s::bool[], %s::bytea[], %s::text[], %s::bigint[]", sent
    )
    assert row == ([1, -(2**63)], [3], [-4], [True, False], [b"\0x", None, b""], ["é", None, ""], [])


async def test_packed_ids_come_back(database: Database) -> None:
    (packed,) = await database.query("select string_agg(int8send(id), '' order by id desc) from account", row=scalar_row)
    assert unpack_int8(packed) == (2, 1)


async def test_a_transaction_commits_or_leaves_nothing(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("update account set sum = 1 where id = 1")
        assert await database.query("select sum from account where id = 1") == [(100,)]
    assert await database.query("select sum from account where id = 1") == [(1,)]

    async def failing() -> None:
        async with database.transaction() as tx:
            await tx.execute("update account set sum = 2 where id = 1")
            raise KeyError

    with pytest.raises(KeyError):
        await failing()
    assert await database.query("select sum from account where id = 1") == [(1,)]


async def test_a_swallowed_failure_is_not_taken_for_a_commit(database: Database) -> None:

    async def swallowing() -> None:
        async with database.transaction() as tx:
            await tx.execute("update account set sum = 3 where id = 1")
            with pytest.raises(psycopg.errors.UniqueViolation):
                await tx.execute("insert into account values (1, 1)")

    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await swallowing()
    assert await database.query("select sum from account where id = 1") == [(100,)]
    assert await database.query("select 1") == [(1,)]


async def test_a_statements_own_fault_stays_psycopgs(database: Database) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        await database.execute("insert into account values (1, 1)")


async def test_serialization_failures_are_repeated(database: Database) -> None:
    """Ten increments at once under SERIALIZABLE: at most a few fit side by side, none is lost."""
    attempts = 0

    async def increment(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        ((total,),) = await tx.query("select sum from account where id = 1")
        await tx.execute("update account set sum = %s where id = 1", (total + 1,))

    async def patiently() -> int:
        for _ in range(20):
            try:
                await database.run(increment, isolation="serializable")
            except errors.Unavailable:
                continue
            return 1
        return 0

    done = sum(await asyncio.gather(*(patiently() for _ in range(10))))
    assert done == 10
    assert attempts > 10, "nothing conflicted"
    assert await database.query("select sum from account where id = 1") == [(110,)]


async def test_a_deadlock_is_repeated(database: Database) -> None:
    both_hold = asyncio.Barrier(2)
    attempts = 0

    def transfer(first: int, second: int) -> object:
        async def unit(tx: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx.execute("set local lock_timeout = 0")
            await tx.execute("update account set sum = sum - 1 where id = %s", (first,))
            if attempts <= 2:
                await both_hold.wait()
            await tx.execute("update account set sum = sum + 1 where id = %s", (second,))

        return database.run(unit, timeout=10.0)

    await asyncio.gather(transfer(1, 2), transfer(2, 1))  # type: ignore[arg-type]
    assert attempts == 3
    assert await database.query("select sum from account order by id") == [(100,), (100,)]


async def test_a_long_lock_wait_is_refused(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("update account set sum = 5 where id = 2")
        started = time.monotonic()
        with pytest.raises(errors.Unavailable):
            await database.execute("update account set sum = 6 where id = 2")
        assert 0.9 < time.monotonic() - started < 1.8


async def test_a_full_pool_refuses_in_time(dsn: str) -> None:
    settings = Settings(min_size=1, max_size=1, max_waiting=1)
    async with postgres.connect(dsn, "full", Metrics("test"), settings=settings) as database:
        async with database.transaction():
            started = time.monotonic()
            asked = [asyncio.create_task(database.query("select 1")) for _ in range(2)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(answer) for answer in answers} == {errors.Unavailable, errors.ResourceExhausted}
            assert time.monotonic() - started < 0.9
        assert await database.query("select 1") == [(1,)]


async def test_deadlines_hold_on_a_frozen_server(server: BackendServers, database: Database) -> None:
    await database.query("select 1")
    with frozen(server.pid("postgres")):
        for ask in (
            database.query("select 1", timeout=0.2),
            database.execute("update account set sum = 7", timeout=0.2),
            database.run(lambda tx: tx.query("select 1"), timeout=0.2),
        ):
            started = time.monotonic()
            with pytest.raises(errors.Unavailable):
                await ask
            assert time.monotonic() - started < 0.45
        started = time.monotonic()
        answers = await asyncio.gather(*(database.query("select 1") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(answer, errors.ServiceError) for answer in answers)
        assert time.monotonic() - started < 2.5, "neither the queue nor the statements outlast their limits"
    await eventually(lambda: database.healthy())
    assert await database.query("select count(*) from account") == [(2,)]
    all_at_once = asyncio.Barrier(SMALL.max_size)

    async def together(tx: Transaction) -> None:
        await tx.query("select 1")
        await all_at_once.wait()

    await asyncio.wait_for(asyncio.gather(*(database.run(together) for _ in range(SMALL.max_size))), 5)


async def test_commit_is_never_cancelled(database: Database) -> None:
    """The caller goes while COMMIT is at work (as when it waits for a standby): it takes effect all the same."""
    await database.execute("drop trigger if exists slow on account")
    await database.execute(
        """
        create or replace function slow_commit() returns trigger language plpgsql as
            'begin perform pg_sleep(0.4); return null; end';
        """
    )
    await database.execute(
        """
        create constraint trigger slow after update on account deferrable initially deferred
            for each row execute function slow_commit()
        """
    )
    leaving = asyncio.Event()

    async def unit() -> None:
        async with database.transaction() as tx:
            await tx.execute("update account set sum = 777 where id = 1")
            leaving.set()

    for seconds in (0.0, 0.05, 0.1):
        leaving.clear()
        await database.execute("insert into account values (1, 0) on conflict (id) do nothing")
        caller = asyncio.create_task(unit())
        await leaving.wait()
        await asyncio.sleep(seconds)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await eventually(lambda: _is(database, 777), timeout=3)
        await database.execute("delete from account where id = 1")


async def test_a_caller_who_gives_up_before_commit_leaves_nothing(database: Database) -> None:
    for _ in range(2 * SMALL.max_size):
        caller = asyncio.create_task(database.run(_slow_update, timeout=5.0))
        await asyncio.sleep(0.02)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    await eventually(lambda: _is(database, 100))
    held = "select count(*) from pg_stat_activity where application_name = 'test' and state <> 'idle'"
    await eventually(lambda: _only(database, held, 1))


async def test_a_restart_costs_no_call_after_it(server: BackendServers, database: Database) -> None:
    await asyncio.gather(*(database.query("select pg_sleep(0.01)") for _ in range(8)))
    await server.restart("postgres")
    for _ in range(20):
        assert await database.query("select 1") == [(1,)]


async def test_a_crash_under_load_is_survived(server: BackendServers, database: Database) -> None:
    """kill -9: calls in flight fail as Unavailable, and the pool is back within a second of the server."""
    stop = False
    wrong: list[BaseException] = []

    async def client() -> None:
        while not stop:
            try:
                await database.query("select 1", timeout=0.5)
            except errors.ServiceError:
                await asyncio.sleep(0.01)
            except BaseException as error:
                wrong.append(error)
                return

    clients = [asyncio.create_task(client()) for _ in range(6)]
    await asyncio.sleep(0.1)
    server.kill("postgres")
    await server.healthy("postgres")
    back = time.monotonic()
    await eventually(lambda: database.healthy(), timeout=5)
    assert time.monotonic() - back < 2.5
    stop = True
    await asyncio.gather(*clients)
    assert not wrong
    for _ in range(10):
        assert await database.query("select 1") == [(1,)]


async def test_starting_without_a_server(server: BackendServers, dsn: str) -> None:
    await server.stop("postgres")
    async with postgres.connect(dsn, "early", Metrics("test"), settings=SMALL) as database:
        started = time.monotonic()
        with pytest.raises(errors.Unavailable):
            await database.query("select 1")
        assert time.monotonic() - started < 1.0
        assert not await database.healthy()
        await server.start("postgres")
        await eventually(lambda: database.healthy(), timeout=5)


async def test_a_demoted_primary_is_left(dsn: str) -> None:
    """A server that turned read-only answers reads, and nothing else: the first 25006 gives its connections up."""
    metrics = Metrics("test")
    async with postgres.connect(dsn, "demoted", metrics, settings=Settings(min_size=1, max_size=1)) as database:
        await database.execute("set default_transaction_read_only = on")
        with pytest.raises(errors.Unavailable):
            await database.execute("update account set sum = 1")
        assert await database.execute("update account set sum = 1") == 2
        assert metrics.registry.get_sample_value("chirp_postgres_lost_connections_total", {"pool": "demoted"}) == 1


async def _slow_update(tx: Transaction) -> None:
    await tx.execute("update account set sum = 0 where id = 1")
    await tx.query("select pg_sleep(0.1)")


async def _is(database: Database, total: int) -> bool:
    return await _only(database, "select sum from account where id = 1", total)


async def _only(database: Database, sql: str, value: int) -> bool:
    try:
        return await database.query(sql) == [(value,)]  # type: ignore[arg-type]
    except errors.ServiceError:
        return False
