"""Messages that can never succeed: kept in Postgres with the reason, until an operator replays or discards them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg.types.json

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.ops import v1 as opspb
from services.runtime.jetstream import Nats
from services.runtime.postgres import Database
from services.runtime.publisher import Outgoing, Publisher

_SHOWN = ("dead_letter_id", "consumer", "subject", "event_id", "payload", "reason", "error", "deliveries")


@dataclass(frozen=True, slots=True)
class Condemned:
    """A message as its consumer (or the relay) gives it up."""

    consumer: str
    stream: str
    subject: str
    message_id: str
    """What made it this message: the Nats-Msg-Id, or stream and sequence where it has none."""
    event_id: str
    """The outbox row behind it, "<schema>:<number>"; the same in every replay."""
    payload: bytes
    headers: dict[str, str]
    reason: str
    error: str
    deliveries: int


class DeadLetters:
    """The table runtime.dead_letter, as OpsService shows it (see `services.runtime.ops`) and workers fill it."""

    def __init__(self, database: Database, nats: Nats) -> None:
        self._database, self._nats = database, nats

    async def put(self, letter: Condemned) -> None:
        """Keeps a message. The same one again updates its row and opens it again."""
        await self._database.execute(
            """
            insert into runtime.dead_letter (
                consumer, stream, subject, message_id, event_id, payload, headers, reason, error, deliveries)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (consumer, message_id) do update set
                subject = excluded.subject, payload = excluded.payload, headers = excluded.headers,
                reason = excluded.reason, error = excluded.error, deliveries = excluded.deliveries,
                resolved_time = null, resolution = null
            """,
            (
                letter.consumer,
                letter.stream,
                letter.subject,
                letter.message_id,
                letter.event_id,
                letter.payload,
                psycopg.types.json.Jsonb(letter.headers),
                letter.reason,
                _text(letter.error),
                letter.deliveries,
            ),
        )

    async def list(self, before: int, limit: int, include_resolved: bool) -> Sequence[opspb.DeadLetter]:
        """At most `limit` with a number below `before`, newest first."""
        rows = await self._database.query(
            """
            select id, consumer, subject, event_id, payload, reason, error, deliveries, create_time, resolved_time,
                   coalesce(resolution, '')
            from runtime.dead_letter
            where id < %s and (%s or resolved_time is null)
            order by id desc limit %s
            """,
            (before, include_resolved, limit),
        )
        return [_dead_letter(row) for row in rows]

    async def count(self) -> int:
        """How many wait for an operator."""
        return (await self._database.query("select count(*) from runtime.dead_letter where resolved_time is null"))[0][0]

    async def discard(self, dead_letter_id: int) -> None:
        """Settles a letter without doing anything. NotFound if there is none or it was settled another way."""
        touched = await self._database.execute(
            """
            update runtime.dead_letter set resolved_time = coalesce(resolved_time, clock_timestamp()),
                resolution = 'discarded'
            where id = %s and (resolved_time is null or resolution = 'discarded')
            """,
            (dead_letter_id,),
        )
        if not touched:
            raise _not_found(dead_letter_id)

    async def replay(self, dead_letter_id: int) -> None:
        """Publishes a letter again, under a message id that the stream has not seen, and settles it once it is stored.

        All consumers of the stream get it. NotFound if there is none or it was discarded; Unavailable if JetStream does
        not take it, and then it stays open.
        """
        counted = await self._database.query(
            """
            update runtime.dead_letter set replays = replays + 1
            where id = %s and resolution is distinct from 'discarded'
            returning subject, payload, event_id, replays
            """,
            (dead_letter_id,),
        )
        if not counted:
            raise _not_found(dead_letter_id)
        subject, payload, event_id, replays = counted[0]
        # An event may have several letters: of several consumers, or of replays that failed again.
        message_id = f"{event_id}:replay{dead_letter_id}.{replays}"
        (failure,) = await Publisher(self._nats).publish([Outgoing(subject, payload, message_id)])
        if failure:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, f"not replayed: {failure}")
        await self._database.execute(
            """
            update runtime.dead_letter set resolved_time = clock_timestamp(), resolution = 'replayed' where id = %s
            """,
            (dead_letter_id,),
        )


def _text(value: str) -> str:
    """Errors may quote what Postgres refuses in text, or a whole payload."""
    return value.replace("\0", "�")[:4000]


def _dead_letter(row: tuple[Any, ...]) -> opspb.DeadLetter:
    *known, create_time, resolved_time, resolution = row
    letter = opspb.DeadLetter(resolution=resolution, **dict(zip(_SHOWN, known, strict=True)))
    letter.create_time.FromDatetime(create_time)
    if resolved_time:
        letter.resolve_time.FromDatetime(resolved_time)
    return letter


def _not_found(letter_id: int) -> errors.NotFound:
    return errors.NotFound(errorspb.ERROR_REASON_DEAD_LETTER_NOT_FOUND, f"there is no open dead letter {letter_id}")
