"""All SQL of the tweet service.

A write is one statement that commits by itself: the rows that wait together come in as packed arrays. Lock order is the
same everywhere, so that batches of different processes do not deadlock: tweets by id, then keys in order.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row
from psycopg.types.numeric import Int8

from services.runtime import outbox, postgres
from services.runtime.arrays import BoolArray, ByteaArray, Int2Array, Int8Array, TextArray
from services.runtime.metrics import Metrics
from services.runtime.outbox import Event
from services.runtime.pool import Settings
from services.runtime.postgres import Database
from services.tweet.model import Claim, Reference, Removal, Stored

SCHEMA = "tweet"

INSERT = """
with parent as materialized (
    select tweet_id from tweet.tweet where tweet_id = any(%s::bigint[]) and delete_time is null order by tweet_id for share
), admissible as materialized (
    select * from unnest(
        %s::bigint[], %s::bigint[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::bytea[],
        %s::boolean[], %s::text[], %s::bytea[], %s::smallint[], %s::text[], %s::bytea[]
    ) as input (
        tweet_id, author_id, kind, in_reply_to_tweet_id, in_reply_to_user_id, conversation_id, text, entities,
        pull, request_id, payload_hash, partition, subject, payload)
    where in_reply_to_tweet_id = 0 or in_reply_to_tweet_id in (select tweet_id from parent)
), claimed as (
    insert into tweet.idempotency (actor_id, request_id, payload_hash, tweet_id)
    select author_id, request_id, payload_hash, tweet_id from admissible where request_id <> ''
    order by author_id, request_id
    on conflict do nothing
    returning tweet_id
), winner as materialized (
    select * from admissible where request_id = '' or tweet_id in (select tweet_id from claimed) order by tweet_id
), made as (
    insert into tweet.tweet (
        tweet_id, author_id, kind, in_reply_to_tweet_id, in_reply_to_user_id, conversation_id, text, entities, pull,
        create_time)
    select
        tweet_id, author_id, kind, in_reply_to_tweet_id, in_reply_to_user_id, conversation_id, text, entities, pull,
        timestamptz '2024-01-01 00:00:00+00' + (tweet_id >> 22) * interval '1 millisecond'
    from winner
), told as (
    insert into tweet.outbox (partition, subject, payload)
    select partition, subject, payload from winner
)
select tweet_id from winner
"""

DELETE = """
with input as materialized (
    select * from unnest(
        %s::bigint[], %s::bigint[], %s::text[], %s::bytea[], %s::boolean[], %s::smallint[], %s::text[], %s::bytea[]
    ) with ordinality
        as input (tweet_id, author_id, request_id, payload_hash, repeated, partition, subject, payload, ordinal)
), target as materialized (
    select tweet_id, author_id, delete_time is not null as deleted from tweet.tweet
    where tweet_id = any(%s::bigint[]) order by tweet_id for no key update
), admissible as materialized (
    select input.*, target.deleted or input.repeated as already_deleted
    from input join target using (tweet_id, author_id)
), claimed as (
    insert into tweet.idempotency (actor_id, request_id, payload_hash, tweet_id, already_deleted)
    select author_id, request_id, payload_hash, tweet_id, already_deleted from admissible where request_id <> ''
    order by author_id, request_id
    on conflict do nothing
    returning actor_id, request_id
), winner as materialized (
    select * from admissible
    where request_id = '' or (author_id, request_id) in (select actor_id, request_id from claimed)
), gone as (
    update tweet.tweet set text = null, entities = null, delete_time = clock_timestamp()
    from (select distinct on (tweet_id) * from winner order by tweet_id) as doomed
    where tweet.tweet_id = doomed.tweet_id and tweet.delete_time is null
    returning doomed.tweet_id, partition, subject, payload
), told as (
    insert into tweet.outbox (partition, subject, payload)
    select partition, subject, payload from gone order by tweet_id
)
select ordinal, already_deleted from winner
"""

REPLAY = """
with used as (
    update tweet.idempotency set replays = replays + 1
    from unnest(%s::bigint[], %s::text[]) as wanted (actor_id, request_id)
    where idempotency.actor_id = wanted.actor_id and idempotency.request_id = wanted.request_id
    returning idempotency.actor_id, idempotency.request_id, payload_hash, already_deleted, tweet_id
)
select
    used.actor_id, used.request_id, used.payload_hash, used.already_deleted,
    tweet_id, author_id, kind, in_reply_to_tweet_id, in_reply_to_user_id, conversation_id, text, entities
from used join tweet.tweet using (tweet_id)
"""

GET = """
select tweet_id, author_id, kind, in_reply_to_tweet_id, in_reply_to_user_id, conversation_id, text, entities
from tweet.tweet where tweet_id = any(%s::bigint[])
"""

# No equality on the author: with one, the order would be that of the primary key too, and with the statistics of a young
# table the planner walks all tweets to find the few of an author. Rows compared as pairs are a range of one index alone.
NEWEST = """
select tweet.tweet_id, tweet.author_id, tweet.in_reply_to_user_id, tweet.pull
from unnest(%s::bigint[], %s::bigint[]) as author (author_id, start)
cross join lateral (
    select tweet_id, author_id, in_reply_to_user_id, pull from tweet.tweet
    where delete_time is null
        and (author_id, tweet_id) < (author.author_id, author.start)
        and (author_id, tweet_id) > (author.author_id, %s::bigint)
    order by author_id desc, tweet_id desc limit %s::bigint
) as tweet
order by tweet.tweet_id desc limit %s::bigint
"""

OLDEST = """
select tweet.tweet_id, tweet.author_id, tweet.in_reply_to_user_id, tweet.pull
from unnest(%s::bigint[], %s::bigint[]) as author (author_id, start)
cross join lateral (
    select tweet_id, author_id, in_reply_to_user_id, pull from tweet.tweet
    where delete_time is null
        and (author_id, tweet_id) > (author.author_id, author.start)
        and (author_id, tweet_id) < (author.author_id, %s::bigint)
    order by author_id, tweet_id limit %s::bigint
) as tweet
order by tweet.tweet_id limit %s::bigint
"""

Key = tuple[int, str]
"""An actor and the request_id that they chose."""


PLANNING = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off"
"""Every statement goes by an index. A plan is made once; made while a table was small it must not scan it ever after."""
FEW = Settings(min_size=2, max_size=4)
"""Connections for what is committed or read by one task; the others are for statements whose caller stopped waiting."""


class Pools(NamedTuple):
    """Pools of the primary, of different use, so that none starves another."""

    writes: Database
    reads: Database
    """By id."""
    lists: Database
    """By author."""


@asynccontextmanager
async def connect(dsn: str, metrics: Metrics) -> AsyncGenerator[Pools]:
    """Opens the pools; does not wait for the server."""
    async with (
        postgres.connect(_planned(dsn, PLANNING), "tweet_write", metrics, settings=FEW) as writes,
        postgres.connect(_planned(dsn, PLANNING), "tweet_read", metrics, settings=FEW) as reads,
        postgres.connect(_planned(dsn, PLANNING), "tweet_list", metrics) as lists,
    ):
        yield Pools(writes, reads, lists)


def _planned(dsn: str, options: str) -> str:
    given = conninfo_to_dict(dsn).get("options") or ""
    return make_conninfo(dsn, options=f"{given} {options}".strip())


class IdInUse(Exception):
    """A tweet of that id exists already; nothing was written."""


class TweetStore:
    """The tables of the schema `tweet`."""

    def __init__(self, pools: Pools) -> None:
        self._writes, self._reads, self._lists = pools

    async def insert(
        self, rows: Sequence[Stored], pulls: Sequence[bool], keys: Sequence[tuple[str, bytes]], events: Sequence[Event]
    ) -> set[int]:
        """Commits tweets with their keys (request_id, payload hash) and events; the ids of those that were made.

        Not made, and without a trace: whose key was used before, and whose parent is missing or deleted. A parent that
        somebody deletes at this moment is waited for. Raises IdInUse, and psycopg.DataError and the like for a row that
        cannot be.
        """
        columns = tuple(zip(*rows, strict=True))
        requests, hashes = zip(*keys, strict=True)
        parents = sorted({row.in_reply_to_tweet_id for row in rows if row.in_reply_to_tweet_id})
        parameters = (
            Int8Array(parents),
            *(Int8Array(columns[0]), Int8Array(columns[1]), Int2Array(columns[2]), Int8Array(columns[3])),
            *(Int8Array(columns[4]), Int8Array(columns[5]), TextArray(columns[6]), ByteaArray(columns[7])),
            *(BoolArray(pulls), TextArray(requests), ByteaArray(hashes)),
            *outbox.columns(events),
        )
        try:
            return set(await self._writes.query(INSERT, parameters, row=scalar_row))
        except UniqueViolation as error:
            raise IdInUse from error

    async def delete(self, removals: Sequence[Removal], events: Sequence[Event]) -> list[bool | None]:
        """Turns tweets of the actors into tombstones; for each removal, whether the tweet was one before.

        None, and no trace: for one whose key was used before, and for a tweet of somebody else.
        """
        order = sorted(range(len(removals)), key=lambda index: (removals[index].actor_id, removals[index].request_id))
        actors, tweets, requests, hashes = zip(*[removals[index] for index in order], strict=True)
        seen: set[int] = set()
        repeated = [tweet_id in seen or seen.add(tweet_id) is not None for tweet_id in tweets]
        parameters = (
            *(Int8Array(tweets), Int8Array(actors), TextArray(requests), ByteaArray(hashes), BoolArray(repeated)),
            *outbox.columns([events[index] for index in order]),
            Int8Array(sorted(set(tweets))),
        )
        answers: list[bool | None] = [None] * len(removals)
        for ordinal, already_deleted in await self._writes.query(DELETE, parameters):
            answers[order[ordinal - 1]] = already_deleted
        return answers

    async def replay(self, keys: Iterable[Key]) -> dict[Key, Claim]:
        """What keys were used for, after a commit of its own: whatever it says has reached the standbys then."""
        wanted = sorted(set(keys))
        parameters = (Int8Array([key[0] for key in wanted]), TextArray([key[1] for key in wanted]))
        rows = await self._writes.query(REPLAY, parameters)
        return {(row[0], row[1]): Claim(row[2], row[3], Stored(*row[4:])) for row in rows}

    async def get(self, tweet_ids: Iterable[int], timeout: float | None = None) -> dict[int, Stored]:
        """Tweets and tombstones by id; ids that never were are left out."""
        rows = await self._reads.query(GET, (Int8Array(list(tweet_ids)),), row=args_row(Stored), timeout=timeout)
        return {row.tweet_id: row for row in rows}

    async def recent(
        self, author_ids: Sequence[int], starts: Sequence[int], end: int, each: int, limit: int, *, upwards: bool
    ) -> list[Reference]:
        """See `recent.Fetch`. Each author costs one descent of the index and at most `each` of its entries."""
        parameters = (Int8Array(author_ids), Int8Array(starts), Int8(end), Int8(each), Int8(limit))
        return await self._lists.query(OLDEST if upwards else NEWEST, parameters, row=args_row(Reference))

    async def healthy(self) -> bool:
        """Whether statements get through."""
        return await self._writes.healthy() and await self._reads.healthy()
