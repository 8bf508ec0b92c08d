"""Old rows are deleted: published events and remembered replies, seven days after they were written.

In small slices from the oldest on, so that no statement holds much or runs long; repeating or sharing the work does no
harm.
"""

import asyncio

from psycopg.sql import SQL, Identifier

from services.runtime.logs import Log
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database

DAYS = 7
SLICE = 1000
_EVENTS = """
delete from {table} where event_id = any(array(
    select event_id from (select event_id, published_time from {table} order by event_id limit %s) as oldest
    where published_time < now() - make_interval(days => %s)))
"""
_REPLIES = """
delete from {table} where ctid = any(array(
    select ctid from {table} where create_time < now() - make_interval(days => %s) limit %s))
"""


class Retention:
    """Deletes what is old from every table named `outbox` or `idempotency`."""

    def __init__(self, database: Database, metrics: Metrics, log: Log) -> None:
        self._database, self._log = database, log
        self._deleted = metrics.counter("chirp_retention_deleted", "Rows deleted for their age", ("table",))

    async def run(self, interval: float = 60.0) -> None:
        """Every `interval` seconds until cancelled; a failure waits for the next turn."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                self._log.warning("old rows not deleted", error=repr(error))
            await asyncio.sleep(interval)

    async def sweep(self) -> int:
        """One turn; the number of rows deleted."""
        total = 0
        for schema in await tables(self._database, "outbox"):
            total += await self._delete(_EVENTS, schema, "outbox", (SLICE, DAYS))
        for schema in await tables(self._database, "idempotency"):
            total += await self._delete(_REPLIES, schema, "idempotency", (DAYS, SLICE))
        return total

    async def _delete(self, statement: str, schema: str, table: str, parameters: tuple[int, int]) -> int:
        sql = SQL(statement).format(table=Identifier(schema, table)).as_bytes(None)  # pyright: ignore[reportArgumentType]
        total = deleted = SLICE
        while deleted == SLICE:
            deleted = await self._database.execute(sql, parameters)
            total += deleted
            await asyncio.sleep(0.01)
        self._deleted.labels(f"{schema}.{table}").inc(total - SLICE)
        return total - SLICE


async def tables(database: Database, name: str) -> list[str]:
    """The schemas that have a table of that name, in order."""
    rows = await database.query(
        """
        select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relname = %s and c.relkind in ('r', 'p') order by 1
        """,
        (name,),
    )
    return [schema for (schema,) in rows]
