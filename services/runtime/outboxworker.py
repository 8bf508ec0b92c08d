"""Publishes the outbox of one schema: rows in, acknowledged messages out, a mark on what was acknowledged.

Everything runs on one connection that holds a session lock for each of its partitions. If the connection is lost, so are
the locks, and nothing can be selected any more: two relays never work on one partition from different rows on.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nats.errors
import psycopg
from nats.aio.msg import Msg
from psycopg.rows import args_row
from psycopg.sql import SQL, Identifier

from services.runtime import jetstream, outbox, pool
from services.runtime.arrays import Int2Array, Int8Array
from services.runtime.jetstream import Nats
from services.runtime.logs import Log
from services.runtime.metrics import Metrics
from services.runtime.pool import Connection
from services.runtime.publisher import Outgoing, Publisher

CONSUMER = "relay"
"""Who gave an event up, in its dead letter."""
_HEADER_ROOM = 512
"""Bytes for the headers of a message, which count towards the server's largest payload."""

_SELECT = """
select o.event_id, p.partition, o.subject, o.payload, o.age,
       (select coalesce(max(generation), 0) from runtime.outbox_replay where schema_name = {schema})
from unnest(%s::smallint[]) as p (partition)
cross join lateral (
    select event_id, subject, payload, extract(epoch from clock_timestamp() - create_time)::float8 as age
    from {table} where partition = p.partition and published_time is null
    order by event_id limit %s) as o
order by p.partition, o.event_id
"""
_MARK = "update {table} set published_time = clock_timestamp() where event_id = any(%s::bigint[])"
_CONDEMN = """
with condemned as (
    update {table} set published_time = clock_timestamp() where event_id = %s returning event_id)
insert into runtime.dead_letter (consumer, stream, subject, message_id, event_id, payload, reason, error, deliveries)
select %s, '', %s, %s, %s, %s, %s, %s, 0 from condemned
on conflict (consumer, message_id) do update set resolved_time = null, resolution = null
"""
_LOCK = """
select p from unnest(%s::integer[]) as p where pg_try_advisory_lock(hashtext('outbox.' || {schema}), p)
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker works. Times in seconds."""

    rows_per_partition: int = 128
    """Of each partition in one window: a window holds at most 16 times as many."""
    publish_timeout: float = 5.0
    poll: float = 0.25
    """Between looks at an outbox whose bell does not ring."""
    claim: float = 1.0
    """Between attempts to lock the partitions that another relay holds."""
    give_up: float = 10.0
    """Of failing to publish, after which the partitions are left to another relay that may do better."""
    replicas: int = 1
    """Copies of each stream, where the relay has to make it."""


DEFAULTS = Settings()


class Row(NamedTuple):
    """An event that waits."""

    event_id: int
    partition: int
    subject: str
    payload: bytes
    age: float
    """Seconds since it was committed, about."""
    generation: int
    """How often the outbox was published again."""


class Worker:
    """The relay of one schema."""

    def __init__(self, dsn: str, schema: str, nats: Nats, metrics: Metrics, log: Log, settings: Settings = DEFAULTS) -> None:
        self._dsn, self._schema, self._nats, self._log, self._settings = dsn, schema, nats, log, settings
        self._publisher = Publisher(nats)
        self._bell = asyncio.Event()
        self._listening = False
        self._overtaken: dict[int, int] = {}
        names = {"table": Identifier(schema, "outbox"), "schema": schema}
        self._select, self._mark, self._condemn, self._lock = (
            SQL(each).format(**names).as_bytes(None) for each in (_SELECT, _MARK, _CONDEMN, _LOCK)
        )
        label = ("schema",)
        self._published = metrics.counter("chirp_outbox_published", "Events published", label).labels(schema)
        self._failed = metrics.counter("chirp_outbox_failed", "Events to be published again", label).labels(schema)
        self._condemned = metrics.counter("chirp_outbox_dead_letters", "Events given up", label).labels(schema)
        self._lag = metrics.histogram("chirp_outbox_lag_seconds", "Commit to PubAck, oldest of a window", label).labels(schema)

    async def run(self) -> None:
        """Relays until cancelled, through every absence of Postgres and NATS."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                async with await pool.connect_one(self._dsn, f"relay-{self._schema}") as connection:
                    await self._relay(connection)
                # The locks are free now: a pause lets another relay find them.
                await asyncio.sleep(2 * self._settings.claim)
            except (psycopg.Error, nats.errors.Error, OSError) as error:
                self._log.warning("outbox relay interrupted", schema=self._schema, error=repr(error))
            failures = 0 if time.monotonic() - started > self._settings.give_up else failures + 1
            await asyncio.sleep(_pause(failures))

    async def _relay(self, connection: Connection) -> None:
        """On one connection, until it is better to let another relay try."""
        owned: list[int] = []
        claimed = working = time.monotonic() - self._settings.claim
        failures = 0
        while True:
            if len(owned) < outbox.PARTITIONS and time.monotonic() - claimed >= self._settings.claim:
                owned += await self._claim(connection, owned)
                claimed = time.monotonic()
            self._bell.clear()
            rows = await self._waiting(connection, owned) if owned else []
            moved = await self._move(connection, rows)
            failures = 0 if moved or not rows else failures + 1
            if not failures:
                working = time.monotonic()
            if not rows:
                await self._rest()
            elif moved < len(rows):
                if time.monotonic() - working > self._settings.give_up:
                    return
                await self._restore_streams()
                await asyncio.sleep(_pause(failures))

    async def _claim(self, connection: Connection, owned: Sequence[int]) -> list[int]:
        missing = [each for each in range(outbox.PARTITIONS) if each not in owned]
        cursor = await connection.execute(self._lock, (missing,))
        return [partition for (partition,) in await cursor.fetchall()]

    async def _waiting(self, connection: Connection, owned: Sequence[int]) -> list[Row]:
        cursor = connection.cursor(binary=True, row_factory=args_row(Row))
        await cursor.execute(self._select, (Int2Array(owned), self._settings.rows_per_partition))
        return await cursor.fetchall()

    async def _move(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Publishes a window and marks what may be marked; the number of rows that need no further attempt."""
        sendable: list[Row] = []
        for row in rows:
            if reason := self._hopeless(row):
                await self._give_up(connection, row, reason)
            else:
                sendable.append(row)
        failures = await self._publisher.publish([self._message(row) for row in sendable], self._settings.publish_timeout)
        done = self._done(sendable, failures)
        if done:
            await connection.execute(self._mark, (Int8Array(done),))
            self._published.inc(len(done))
            self._lag.observe(max(row.age for row in rows))
        self._failed.inc(len(sendable) - len(done))
        return len(rows) - len(sendable) + len(done)

    def _done(self, rows: Sequence[Row], failures: Sequence[Exception | None]) -> list[int]:
        """The events to mark: of each partition those before its first failure.

        What was stored behind a failure overtook it. It is published once more behind it, under an id that the stream
        does not know, so that the last copies stand in order.
        """
        blocked: set[int] = set()
        done: list[int] = []
        for row, failure in zip(rows, failures, strict=True):
            if failure:
                blocked.add(row.partition)
            elif row.partition in blocked:
                self._overtaken[row.event_id] = self._overtaken.get(row.event_id, 0) + 1
            else:
                self._overtaken.pop(row.event_id, None)
                done.append(row.event_id)
        return done

    def _message(self, row: Row) -> Outgoing:
        message_id = f"{self._schema}:{row.event_id}"
        if row.generation:
            message_id += f":r{row.generation}"
        if again := self._overtaken.get(row.event_id):
            message_id += f":o{again}"
        return Outgoing(row.subject, row.payload, message_id)

    def _hopeless(self, row: Row) -> str:
        """Why an event can never be published; empty for all others."""
        if self._nats.connected and len(row.payload) + len(row.subject) + _HEADER_ROOM > self._publisher.max_payload:
            return "larger than NATS takes"
        if jetstream.stream_of(row.subject) is None:
            return "no stream takes its subject"
        return ""

    async def _give_up(self, connection: Connection, row: Row, reason: str) -> None:
        """The dead letter and the mark in one statement: the event is in exactly one of the two places."""
        event_id = f"{self._schema}:{row.event_id}"
        detail = f"{len(row.payload)} bytes for {row.subject!r}"
        await connection.execute(
            self._condemn, (row.event_id, CONSUMER, row.subject, event_id, event_id, row.payload, reason, detail)
        )
        self._condemned.inc()

    async def _restore_streams(self) -> None:
        if self._nats.connected:
            try:
                await jetstream.ensure_streams(self._nats.js, replicas=self._settings.replicas)
            except (nats.errors.Error, OSError) as error:
                self._log.warning("streams cannot be made", error=repr(error))

    async def _rest(self) -> None:
        if not self._listening and self._nats.connected:
            await self._nats.client.subscribe(outbox.bell_subject(self._schema), cb=self._on_bell)
            self._listening = True
        try:
            async with asyncio.timeout(self._settings.poll):
                await self._bell.wait()
        except TimeoutError:
            return

    async def _on_bell(self, message: Msg) -> None:
        self._bell.set()


def _pause(failures: int) -> float:
    return min(0.05 * 2 ** min(failures, 10), 2.0) * random.uniform(0.5, 1.0)
