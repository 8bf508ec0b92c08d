"""Postgres as every process uses it: a pool, statements that keep their deadline, transactions.

A statement that was sent is never cancelled by us: who stops waiting gets `Unavailable` at once, while the statement
runs on in a task of its own until the server's statement_timeout ends it (a cancelled wait on a frozen server would
block for 10 s, and a cancelled COMMIT may have committed). So a timeout of a write means "unknown": repeat it under its
request_id.

Errors: `Unavailable` where the database is away, slow or in conflict, `ResourceExhausted` where too many wait for a
connection; anything else is psycopg's own error (`psycopg.errors.UniqueViolation` …), for the store to interpret.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from prometheus_client import Counter
from psycopg.abc import Params
from psycopg.rows import AsyncRowFactory, tuple_row
from psycopg.sql import SQL, Composed
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.metrics import Metrics
from services.runtime.pool import Connection, PoolMetrics, Settings, hung_up, lost, open_pool, writable

Query = LiteralString | bytes | SQL | Composed
Row = TypeVar("Row")
Result = TypeVar("Result")

CONFLICTS = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
DEFAULTS = Settings()
_RETRY_PAUSES = (0.01, 0.04, 0.16)
_PASSING_STATES = ("53", "55P03", "57014", "58", "40001", "40P01")


class Transaction:
    """Statements between BEGIN and COMMIT, each within what is left of the transaction's time."""

    def __init__(self, connection: Connection, bounded: "_Bounded", deadline: float) -> None:
        self._connection, self._bounded, self._deadline = connection, bounded, deadline

    async def query(self, sql: Query, params: Params = (), *, row: AsyncRowFactory[Row] = tuple_row) -> list[Row]:
        """As `Database.query`, but in this transaction and without repetition."""
        return await self._bounded(_fetch(self._connection, sql, params, row), self._deadline)

    async def execute(self, sql: Query, params: Params = ()) -> int:
        """As `Database.execute`, but in this transaction and without repetition."""
        return await self._bounded(_execute(self._connection, sql, params), self._deadline)


class Database:
    """One pool. `timeout` everywhere: seconds until the caller gets `Unavailable`; None means the settings' default."""

    def __init__(self, pool: AsyncConnectionPool[Connection], settings: Settings, metrics: PoolMetrics) -> None:
        self._pool, self._settings, self._metrics = pool, settings, metrics
        self._bounded = _Bounded(metrics.abandoned)
        self._drained = 0.0

    async def query(
        self, sql: Query, params: Params = (), *, row: AsyncRowFactory[Row] = tuple_row, timeout: float | None = None
    ) -> list[Row]:
        """Runs one statement, committed at once, and returns its rows, transferred in binary.

        `row`: psycopg.rows.class_row(T), scalar_row, args_row(f) …; tuples by default. Repeated after a conflict.
        """
        return await self._unit(lambda connection: _fetch(connection, sql, params, row), timeout)

    async def execute(self, sql: Query, params: Params = (), *, timeout: float | None = None) -> int:
        """Runs one statement, committed at once, and returns how many rows it touched. Repeated after a conflict."""
        return await self._unit(lambda connection: _execute(connection, sql, params), timeout)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: LiteralString = "read committed", timeout: float | None = None
    ) -> AsyncGenerator[Transaction]:
        """BEGIN … COMMIT around the block, ROLLBACK if it raises. On conflict raises `Unavailable`; `run` repeats."""
        with _translated(self._metrics.refused):
            async with self._transaction(isolation, timeout) as transaction:
                yield transaction

    async def run(
        self,
        unit: Callable[[Transaction], Awaitable[Result]],
        *,
        isolation: LiteralString = "read committed",
        timeout: float | None = None,
    ) -> Result:
        """Runs `unit` in a transaction; after a deadlock or serialization failure all of it again, at most 3 times."""
        with _translated(self._metrics.refused):
            for pause in _RETRY_PAUSES:
                try:
                    return await self._once(unit, isolation, timeout)
                except CONFLICTS:
                    self._metrics.retried.inc()
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            return await self._once(unit, isolation, timeout)

    async def healthy(self) -> bool:
        """Whether a statement gets through within half a second."""
        try:
            await self.query("select 1", timeout=0.5)
        except (errors.ServiceError, psycopg.Error):
            return False
        return True

    async def close(self) -> None:
        """Gives abandoned statements a second to end, then closes every connection."""
        await self._bounded.close(1.0)
        await self._pool.close(timeout=1.0)

    async def _once(
        self, unit: Callable[[Transaction], Awaitable[Result]], isolation: LiteralString, timeout: float | None
    ) -> Result:
        async with self._transaction(isolation, timeout) as transaction:
            return await unit(transaction)

    @asynccontextmanager
    async def _transaction(self, isolation: LiteralString, timeout: float | None) -> AsyncGenerator[Transaction]:
        deadline = self._deadline(timeout)
        connection = await self._bounded(self._begin(isolation), deadline, late=self._roll_back)
        try:
            yield Transaction(connection, self._bounded, deadline)
        except BaseException:
            self._bounded.background(self._roll_back(connection))
            raise
        await self._bounded(self._commit(connection), deadline)

    async def _begin(self, isolation: LiteralString) -> Connection:
        connection = await self._checkout()
        try:
            await connection.execute(SQL("begin isolation level ") + SQL(isolation))
        except psycopg.Error as error:
            await self._return(connection, error)
            raise
        return connection

    async def _commit(self, connection: Connection) -> None:
        """Ends in a task that nobody cancels, and gives the connection back whoever still waits for it."""
        async with self._returned(connection):
            cursor = await connection.execute("commit")
            if cursor.statusmessage != "COMMIT":
                raise psycopg.errors.InFailedSqlTransaction("an earlier statement failed: rolled back, not committed")

    async def _roll_back(self, connection: Connection) -> None:
        """Waits for a statement that is still running, then leaves no trace of the transaction."""
        async with self._returned(connection):
            if not connection.closed:
                await connection.execute("rollback")

    async def _unit(self, statement: Callable[[Connection], Awaitable[Result]], timeout: float | None) -> Result:
        with _translated(self._metrics.refused):
            return await self._bounded(self._repeated(statement), self._deadline(timeout))

    async def _repeated(self, statement: Callable[[Connection], Awaitable[Result]]) -> Result:
        for pause in _RETRY_PAUSES:
            try:
                return await self._single(statement)
            except CONFLICTS:
                self._metrics.retried.inc()
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        return await self._single(statement)

    async def _single(self, statement: Callable[[Connection], Awaitable[Result]]) -> Result:
        connection = await self._checkout()
        async with self._returned(connection):
            return await statement(connection)

    async def _checkout(self) -> Connection:
        """A connection whose socket is silent and whose server lately accepted writes; broken ones are replaced."""
        give_up = time.monotonic() + self._settings.checkout_timeout
        while True:
            connection = await self._pool.getconn(timeout=max(give_up - time.monotonic(), 0.001))
            try:
                if not hung_up(connection) and await writable(connection):
                    return connection
            except psycopg.Error as error:
                await self._return(connection, error)
                raise
            self._metrics.lost.inc()
            await connection.close()
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def _returned(self, connection: Connection) -> AsyncGenerator[None]:
        try:
            yield
        except psycopg.Error as error:
            await self._return(connection, error)
            raise
        await self._pool.putconn(connection)

    async def _return(self, connection: Connection, error: psycopg.Error) -> None:
        if lost(error):
            self._metrics.lost.inc()
            await connection.close()
            await self._flush()
        await self._pool.putconn(connection)

    async def _flush(self) -> None:
        """Replaces the idle connections, once a second at most: those of a lost server are as broken as this one."""
        now = time.monotonic()
        if now - self._drained > 1.0:
            self._drained = now
            await self._pool.drain()

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._settings.timeout if timeout is None else timeout)


class _Bounded:
    """Waits for work no longer than a deadline; the work itself goes on in a task of its own, which nobody cancels."""

    def __init__(self, abandoned: Counter) -> None:
        self._abandoned = abandoned
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __call__(
        self,
        work: Coroutine[Any, Any, Result],
        deadline: float,
        late: Callable[[Result], Coroutine[Any, Any, None]] | None = None,
    ) -> Result:
        """The result of `work`; `Unavailable` after `deadline` (monotonic). A result nobody took goes to `late`."""
        task = self.background(work)
        try:
            await asyncio.wait((task,), timeout=max(deadline - time.monotonic(), 0.0))
        except asyncio.CancelledError:
            self._abandon(task, late)
            raise
        if not task.done():
            self._abandon(task, late)
            raise errors.Unavailable(
                errorspb.ERROR_REASON_UNAVAILABLE, "the database did not answer in time; a write may have happened"
            )
        return task.result()

    def background(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Starts work that somebody may stop waiting for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self, grace: float) -> None:
        """Lets what runs end within `grace` seconds, then cancels it."""
        if self._tasks:
            _, running = await asyncio.wait(self._tasks, timeout=grace)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _abandon(self, task: asyncio.Task[Result], late: Callable[[Result], Coroutine[Any, Any, None]] | None) -> None:
        self._abandoned.inc()
        if late:
            take = late
            task.add_done_callback(lambda done: _failed(done) or self.background(take(done.result())))

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _failed(task)


def _failed(task: asyncio.Task[Any]) -> bool:
    """Also marks the exception as seen: an abandoned failure has been answered as a timeout already."""
    return task.cancelled() or task.exception() is not None


async def _fetch(connection: Connection, sql: Query, params: Params, row: AsyncRowFactory[Row]) -> list[Row]:
    cursor = connection.cursor(binary=True, row_factory=row)
    await cursor.execute(sql, params or None)
    return await cursor.fetchall()


async def _execute(connection: Connection, sql: Query, params: Params) -> int:
    return (await connection.execute(sql, params or None)).rowcount


@contextmanager
def _translated(refused: Counter) -> Generator[None]:
    """Turns what is not the statement's fault into errors that a caller can act on."""
    try:
        yield
    except TooManyRequests as error:
        refused.inc()
        raise errors.ResourceExhausted(
            errorspb.ERROR_REASON_OVERLOADED, "too many wait for the database", retry_after=0.2
        ) from error
    except (PoolTimeout, PoolClosed) as error:
        refused.inc()
        raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "no database connection is free") from error
    except psycopg.Error as error:
        if lost(error) or (error.sqlstate or "").startswith(_PASSING_STATES):
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the database failed or gave up") from error
        raise


@asynccontextmanager
async def connect(dsn: str, name: str, metrics: Metrics, *, settings: Settings = DEFAULTS) -> AsyncGenerator[Database]:
    """Opens a pool for the block. Does not wait for the server: until it is there, statements raise `Unavailable`."""
    pool = open_pool(dsn, name, settings)
    await pool.open(wait=False)
    database = Database(pool, settings, PoolMetrics(metrics, name, pool.get_stats))
    try:
        yield database
    finally:
        await database.close()
