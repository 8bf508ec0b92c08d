"""Events leave a service through its outbox: rows written in the transaction of what they announce, relayed afterwards.

Each owning schema has the table (in its own migration):

    create table <schema>.outbox (
        event_id bigint generated always as identity primary key, partition smallint not null, subject text not null,
        payload bytea not null, create_time timestamptz not null default clock_timestamp(), published_time timestamptz);
    create index outbox_waiting on <schema>.outbox (partition, event_id) where published_time is null;

Events of one partition are published in the order of their event_id. Rows stay seven days, so that a lost stream can be
published again.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import nats.errors
from psycopg.sql import SQL, Identifier

from services.runtime.arrays import ByteaArray, Int2Array, TextArray
from services.runtime.jetstream import Nats
from services.runtime.postgres import Transaction

PARTITIONS = 16
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def partition(user_id: int) -> int:
    """The partition, 0 to 15, of all events of one user. Mixed, because the low bits of Snowflake ids are mostly 0."""
    return ((user_id * _GOLDEN) & _MASK) >> 60


class Event(NamedTuple):
    """A row of an outbox: `partition(user_id)`, the subject it is published under, the encoded message."""

    partition: int
    subject: str
    payload: bytes


def event(subject: str, user_id: int, payload: bytes) -> Event:
    """An event about a user: `event(f"tweet.created.{author_id}", author_id, created.SerializeToString())`."""
    return Event(partition(user_id), subject, payload)


class Columns(NamedTuple):
    """The parameters of `unnest(%s::smallint[], %s::text[], %s::bytea[]) as e (partition, subject, payload)`."""

    partitions: Int2Array
    subjects: TextArray
    payloads: ByteaArray


def columns(events: Sequence[Event]) -> Columns:
    """Events as packed arrays, for stores that insert them in the very statement that writes the data."""
    return Columns(
        Int2Array([event.partition for event in events]),
        TextArray([event.subject for event in events]),
        ByteaArray([event.payload for event in events]),
    )


class Outbox:
    """The outbox table of one schema."""

    def __init__(self, schema: str) -> None:
        statement = SQL(
            "insert into {} (partition, subject, payload) select * from unnest(%s::smallint[], %s::text[], %s::bytea[])"
        )
        self._insert = statement.format(Identifier(schema, "outbox")).as_bytes(None)

    async def append(self, transaction: Transaction, events: Sequence[Event]) -> None:
        """Writes events, in their order, in the transaction of what they announce. Ring the bell after COMMIT."""
        if events:
            await transaction.execute(self._insert, columns(events))


def bell_subject(schema: str) -> str:
    """The core NATS subject on which the relay listens for news of a schema."""
    return f"outbox.bell.{schema}"


class Bell:
    """Wakes the relay after a COMMIT. Costs nothing, never waits, never fails: the relay looks by itself every 250 ms."""

    def __init__(self, nats: Nats, schema: str) -> None:
        self._nats, self._subject = nats, bell_subject(schema)
        self._wanted = False
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """To be called after COMMIT, from the event loop. Many calls in one turn of the loop ring once."""
        if not self._nats.connected:
            return
        self._wanted = True
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._ring())

    async def _ring(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                await self._nats.client.publish(self._subject)
        except (nats.errors.Error, OSError):
            self._wanted = False
        finally:
            self._ringing = None
