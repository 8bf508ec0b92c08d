"""A write repeated under the same request_id happens once and answers the same; in the transaction of the write itself.

Each owning schema has the table (in its own migration):

    create table <schema>.idempotency (
        actor_id bigint not null, request_id text not null, method text not null, payload_hash bytea not null,
        reply bytea not null, create_time timestamptz not null default clock_timestamp(),
        primary key (actor_id, request_id));
    create index idempotency_age on <schema>.idempotency using brin (create_time);

The relay deletes rows after seven days. A write that fails rolls its row back, so a failure burns no key.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import blake2b

from google.protobuf.message import Message
from psycopg.sql import SQL, Identifier

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.postgres import Transaction


class Claim:
    """The right to do the write, or the reply of whoever did it. The block must set `reply` unless `replay` is true."""

    def __init__(self, replay: bool, reply: bytes | None) -> None:
        self.replay, self.reply = replay, reply


class Ledger:
    """The idempotency table of one schema."""

    def __init__(self, schema: str) -> None:
        table = Identifier(schema, "idempotency")
        self._insert = (
            SQL(
                "insert into {} (actor_id, request_id, method, payload_hash, reply) values (%s, %s, %s, %s, '')"
                " on conflict do nothing returning 1"
            )
            .format(table)
            .as_bytes(None)
        )
        # The row lock makes the replay a writing transaction: its commit waits for the standbys, and so for the first.
        self._select = (
            SQL("select payload_hash, reply from {} where actor_id = %s and request_id = %s for update")
            .format(table)
            .as_bytes(None)
        )
        self._update = SQL("update {} set reply = %s where actor_id = %s and request_id = %s").format(table).as_bytes(None)

    @asynccontextmanager
    async def once(
        self, transaction: Transaction, actor_id: int, request_id: str, method: str, request: Message
    ) -> AsyncGenerator[Claim]:
        """Around the write; a concurrent twin waits here until the first has committed or failed.

        An empty request_id asks for nothing and remembers nothing. Raises AlreadyExists (IDEMPOTENCY_KEY_REUSED) if the
        actor used the id for another method or payload, Unavailable if the first is still at work after a second.
        """
        if not request_id:
            yield Claim(False, None)
            return
        claim = await self._claim(transaction, actor_id, request_id, method, payload_hash(method, request))
        yield claim
        if claim.replay:
            return
        if claim.reply is None:
            raise RuntimeError(f"{method} ended without a reply to remember")
        await transaction.execute(self._update, (claim.reply, actor_id, request_id))

    async def _claim(self, transaction: Transaction, actor_id: int, request_id: str, method: str, digest: bytes) -> Claim:
        if await transaction.query(self._insert, (actor_id, request_id, method, digest)):
            return Claim(False, None)
        found = await transaction.query(self._select, (actor_id, request_id))
        if not found:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the request_id expired this moment")
        known, reply = found[0]
        if known != digest:
            raise reused(request_id)
        return Claim(True, reply)


def payload_hash(method: str, request: Message) -> bytes:
    """16 bytes that tell one request from another, whatever its request_id; also for stores that batch their writes."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    return blake2b(method.encode() + b"\0" + bare.SerializeToString(deterministic=True), digest_size=16).digest()


def reused(request_id: str) -> errors.AlreadyExists:
    """The error for a key that comes back with another payload."""
    return errors.AlreadyExists(
        errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
        "the request_id was used before with another payload",
        request_id=request_id,
    )
