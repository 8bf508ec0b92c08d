"""The process that carries events from the outboxes to JetStream: `python -m services.runtime.relay`.

Which schemas have an outbox it finds in the catalog. Any number of relays may run: they share the partitions by locks.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import nats.errors
from psycopg.sql import SQL, Identifier

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import jetstream, logs, postgres, process
from services.runtime.config import Config
from services.runtime.deadletters import DeadLetters
from services.runtime.jetstream import Nats
from services.runtime.logs import Log
from services.runtime.metrics import Metrics
from services.runtime.ops import Backlog
from services.runtime.outboxworker import DEFAULTS, Settings, Worker
from services.runtime.postgres import Database
from services.runtime.process import Stop
from services.runtime.retention import Retention, tables
from services.runtime.server import Server

DISCOVERY_SECONDS = 10.0
SAMPLE_SECONDS = 5.0
_COUNTED = 100_000
"""Rows after which a backlog is not counted further: it is long, and counting must stay cheap."""
_REPLAY_SLICE = 5_000
_BACKLOG = """
select count(*), coalesce(extract(epoch from clock_timestamp() - min(create_time)), 0)::float8
from (select create_time from {table} where published_time is null order by partition, event_id limit %s) as waiting
"""
_REPLAY = """
with slice as (select event_id, create_time from {table} where event_id > %s order by event_id limit %s),
again as (
    update {table} o set published_time = null from slice s
    where o.event_id = s.event_id and s.create_time >= to_timestamp(%s) and o.published_time is not null
    returning 1)
select coalesce((select max(event_id) from slice), 0), (select count(*) from again)
"""
_GENERATION = """
insert into runtime.outbox_replay (schema_name, generation) values (%s, 1)
on conflict (schema_name) do update set generation = outbox_replay.generation + 1
"""


class Relay:
    """All outboxes of a database."""

    def __init__(self, dsn: str, database: Database, nats: Nats, metrics: Metrics, log: Log, settings: Settings = DEFAULTS) -> None:
        self._dsn, self._database, self._nats, self._metrics, self._log = dsn, database, nats, metrics, log
        self._settings = settings
        self._workers: dict[str, asyncio.Task[None]] = {}
        label = ("schema",)
        self._waiting = metrics.gauge("chirp_outbox_waiting", "Events not yet published, at most 100,000", label)
        self._oldest = metrics.gauge("chirp_outbox_oldest_seconds", "Age of the oldest event not yet published", label)

    async def run(self) -> None:
        """Relays until cancelled; raises what a worker did not foresee."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample())
            while True:
                await self._discover(group)
                await asyncio.sleep(DISCOVERY_SECONDS)

    async def backlogs(self) -> Sequence[Backlog]:
        """What waits in each outbox: its number, at most 100,000, and the age of the oldest."""
        found: list[Backlog] = []
        for schema in await tables(self._database, "outbox"):
            statement = SQL(_BACKLOG).format(table=Identifier(schema, "outbox")).as_bytes(None)
            ((count, oldest),) = await self._database.query(statement, (_COUNTED,))
            found.append(Backlog(f"outbox.{schema}", count, oldest))
        return found

    async def replay(self, schema: str, since_ms: int) -> int:
        """Has the events committed since a moment (unix ms) published again; the number of those events.

        Under new message ids, so that a stream which still has some takes them twice rather than drops what it lost.
        NotFound if the schema has no outbox.
        """
        if schema not in await tables(self._database, "outbox"):
            raise errors.NotFound(errorspb.ERROR_REASON_FIELD_INVALID, f"{schema} has no outbox", schema=schema)
        statement = SQL(_REPLAY).format(table=Identifier(schema, "outbox")).as_bytes(None)
        await self._database.execute(_GENERATION, (schema,))
        total, position = 0, 0
        while True:
            ((last, count),) = await self._database.query(statement, (position, _REPLAY_SLICE, since_ms / 1000), timeout=10.0)
            if not last:
                return total
            total, position = total + count, last

    async def drained(self, timeout: float = 10.0) -> None:
        """Waits until nothing waits in any outbox; raises TimeoutError. For tests and orderly stops."""
        async with asyncio.timeout(timeout):
            while any(backlog.waiting for backlog in await self.backlogs()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        try:
            await self._ensure_streams()
            schemas = await tables(self._database, "outbox")
        except errors.ServiceError as error:
            self._log.warning("outboxes not looked for", error=str(error))
            return
        for schema in schemas:
            if schema not in self._workers:
                self._log.info("relaying", schema=schema)
                worker = Worker(self._dsn, schema, self._nats, self._metrics, self._log, self._settings)
                self._workers[schema] = group.create_task(worker.run(), name=f"relay-{schema}")

    async def _ensure_streams(self) -> None:
        """Also between events: a consumer of a stream that was lost waits for it to exist again."""
        try:
            if self._nats.connected:
                await jetstream.ensure_streams(self._nats.js, replicas=self._settings.replicas)
        except (nats.errors.Error, OSError) as error:
            self._log.warning("streams cannot be made", error=repr(error))

    async def _sample(self) -> None:
        while True:
            try:
                for backlog in await self.backlogs():
                    schema = backlog.name.removeprefix("outbox.")
                    self._waiting.labels(schema).set(backlog.waiting)
                    self._oldest.labels(schema).set(backlog.oldest_seconds)
            except errors.ServiceError as error:
                self._log.warning("outboxes not counted", error=str(error))
            await asyncio.sleep(SAMPLE_SECONDS)


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, log = Stop(), Metrics("relay"), logs.logger(config.log, "relay", sys.stderr)
    database = await stack.enter_async_context(postgres.connect(config.postgres, "relay", metrics))
    nats = await stack.enter_async_context(
        jetstream.connect(config.nats, "relay", metrics, on_closed=lambda: stop.fail(RuntimeError("NATS closed for good")))
    )
    relay = Relay(config.postgres, database, nats, metrics, log, Settings(replicas=_replicas(config.nats)))
    server = Server(config, metrics, log)
    server.ops.dead_letters = DeadLetters(database, nats)
    server.ops.outbox = relay
    server.ops.backlogs.append(relay.backlogs)
    await stack.enter_async_context(server)
    for work in (relay.run(), Retention(database, metrics, log).run()):
        task = asyncio.create_task(work)
        stack.push_async_callback(_cancel, task)
        stop.watch(task)
    return stop


def _replicas(urls: Sequence[str]) -> int:
    """Three copies of every stream as soon as there are three servers to hold them."""
    return 3 if len(urls) >= 3 else 1


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    process.run(main, "relay")
