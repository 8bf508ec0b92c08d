"""Writes edges: all follows and unfollows that wait together are decided and committed together.

One transaction: lock the accounts of both ends by increasing id, so that no two transactions wait for each other in a
circle; read the edges and the earlier requests; decide in memory (services.graph.changes); write everything in one
statement. Before it, the fences of the followers are raised.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeVar

from psycopg.rows import args_row

from services.graph.changes import Account, Changes, Pair, Remembered, Wish
from services.graph.events import GraphCounters
from services.runtime import outbox
from services.runtime.arrays import ByteaArray, Int8Array, TextArray
from services.runtime.clock import Clock
from services.runtime.coalesce import Coalescer
from services.runtime.fences import Fences
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database, Transaction

Decided = TypeVar("Decided")

BULK_TIMEOUT = 10.0
"""Seconds for a loader's ten thousand edges, which take half of one."""


def fence(user_id: int) -> str:
    """The fence of what a user follows."""
    return f"graph:fence:{{{user_id}}}"


class Edges:
    """Makes and ends edges."""

    def __init__(
        self,
        database: Database,
        fences: Fences,
        clock: Clock,
        limit: Callable[[], int],
        counters: GraphCounters,
        metrics: Metrics,
    ) -> None:
        """`limit`: users that one may follow, at this moment."""
        self._database, self._fences, self._clock = database, fences, clock
        self._limit, self._counters = limit, counters
        self._wishes = Coalescer[Wish, bytes](self._grant, "graph.edges", metrics)
        self._loading = asyncio.Lock()

    async def submit(self, wish: Wish) -> bytes:
        """The encoded reply, once it is committed. Raises FailedPrecondition (FOLLOW_LIMIT), AlreadyExists (key reused)."""
        return await self._wishes.submit(wish)

    async def make(self, pairs: Iterable[Pair]) -> int:
        """Makes many edges in one transaction, without limit; how many did not stand. One such call at a time."""
        wanted = sorted({pair for pair in pairs if pair.follower_id != pair.followee_id})
        async with self._loading:
            asked = _Asked(wanted, _ends(wanted), ())
            return await self._transact(asked, lambda changes: changes.make(wanted), BULK_TIMEOUT)

    async def _grant(self, wishes: list[Wish]) -> Sequence[bytes | Exception]:
        asked = _asked(wishes)
        return await self._transact(asked, lambda changes: [changes.answer(wish) for wish in wishes], None)

    async def _transact(self, asked: "_Asked", decide: Callable[[Changes], Decided], timeout: float | None) -> Decided:
        """Decides on these edges while nobody else can change them, and writes what was decided."""

        async def unit(transaction: Transaction) -> tuple[Decided, Changes]:
            changes = await self._read(transaction, asked)
            decided = decide(changes)
            if changes.gained or changes.lost or changes.new_replies:
                await transaction.execute(_WRITE, _written(changes))
            return decided, changes

        async with self._fences.raised({fence(pair.follower_id) for pair in asked.pairs}):
            decided, changes = await self._with_accounts(unit, timeout)
        self._counters.count_edges(changes.made, changes.ended, changes.refused)
        return decided

    async def _with_accounts(self, unit: Callable[[Transaction], Awaitable[Decided]], timeout: float | None) -> Decided:
        try:
            return await self._database.run(unit, timeout=timeout)
        except _NewAccounts as new:
            # Committed apart: rows made under the locks of others could be waited for in a circle.
            await self._database.execute(_CREATE_ACCOUNTS, (Int8Array(new.user_ids),))
            return await self._database.run(unit, timeout=timeout)

    async def _read(self, transaction: Transaction, asked: "_Asked") -> Changes:
        accounts = await self._lock(transaction, asked)
        pairs = asked.pairs
        ends = Int8Array([pair.follower_id for pair in pairs]), Int8Array([pair.followee_id for pair in pairs])
        standing = {Pair(*pair): since for *pair, since in await transaction.query(_STANDING, ends)}
        # Made after the accounts were locked, by somebody who had to make the accounts first.
        _insist(accounts, _ends(standing))
        remembered = await self._remembered(transaction, asked.keyed) if asked.keyed else {}
        return Changes(accounts, standing, remembered, self._limit(), self._clock.now_ms())

    async def _lock(self, transaction: Transaction, asked: "_Asked") -> dict[int, Account]:
        users = Int8Array(sorted(_ends(asked.pairs)))
        rows = await transaction.query(_LOCK_ACCOUNTS, (users,), row=args_row(Account))
        accounts = {account.user_id: account for account in rows}
        _insist(accounts, asked.needed)
        return accounts

    async def _remembered(self, transaction: Transaction, keyed: Sequence[Wish]) -> dict[tuple[int, str], Remembered]:
        """The accounts' locks cover them: a request_id belongs to the follower."""
        keys = Int8Array([wish.pair.follower_id for wish in keyed]), TextArray([wish.request_id for wish in keyed])
        rows = await transaction.query(_REMEMBERED, keys)
        return {(actor_id, request_id): Remembered(digest, reply) for actor_id, request_id, digest, reply in rows}


class _Asked(NamedTuple):
    """What a transaction is about."""

    pairs: Sequence[Pair]
    needed: AbstractSet[int]
    """Users whose accounts must be there to be locked; an unfollow of nobody makes no account."""
    keyed: Sequence[Wish]
    """Wishes with a request_id."""


def _asked(wishes: Sequence[Wish]) -> _Asked:
    keyed = [wish for wish in wishes if wish.request_id]
    followed = _ends(wish.pair for wish in wishes if wish.follow)
    return _Asked(sorted({wish.pair for wish in wishes}), followed | {wish.pair.follower_id for wish in keyed}, keyed)


def _ends(pairs: Iterable[Pair]) -> set[int]:
    return {user_id for pair in pairs for user_id in pair}


def _insist(accounts: Mapping[int, Account], needed: AbstractSet[int]) -> None:
    missing = needed - accounts.keys()
    if missing:
        raise _NewAccounts(sorted(missing))


class _NewAccounts(Exception):
    """Users who have no account yet, or had none when the accounts were locked."""

    def __init__(self, user_ids: list[int]) -> None:
        super().__init__(user_ids)
        self.user_ids = user_ids


def _written(changes: Changes) -> dict[str, object]:
    """The parameters of the one statement that writes a batch."""
    gained, accounts, events = changes.gained, changes.changed(), outbox.columns(changes.events)
    lost, replies = sorted(changes.lost), changes.new_replies
    return {
        "time": changes.now_ms,
        "gained_follower": Int8Array([pair.follower_id for pair in gained]),
        "gained_followee": Int8Array([pair.followee_id for pair in gained]),
        "gained_revision": Int8Array([edge.revision for edge in gained.values()]),
        "gained_position": Int8Array([edge.position for edge in gained.values()]),
        "lost_follower": Int8Array([pair.follower_id for pair in lost]),
        "lost_followee": Int8Array([pair.followee_id for pair in lost]),
        "user_id": Int8Array([each.user_id for each in accounts]),
        "follower_count": Int8Array([each.follower_count for each in accounts]),
        "following_count": Int8Array([each.following_count for each in accounts]),
        "follow_revision": Int8Array([each.follow_revision for each in accounts]),
        "edge_revision": Int8Array([each.edge_revision for each in accounts]),
        "follower_revision": Int8Array([each.follower_revision for each in accounts]),
        "actor_id": Int8Array([wish.pair.follower_id for wish, _ in replies]),
        "request_id": TextArray([wish.request_id for wish, _ in replies]),
        "method": TextArray([wish.method for wish, _ in replies]),
        "digest": ByteaArray([wish.digest for wish, _ in replies]),
        "reply": ByteaArray([reply for _, reply in replies]),
        "partition": events.partitions,
        "subject": events.subjects,
        "payload": events.payloads,
    }


_CREATE_ACCOUNTS = """
insert into graph.account (user_id) select user_id from unnest(%s::bigint[]) as k (user_id) order by user_id
on conflict do nothing
"""

_LOCK_ACCOUNTS = """
select user_id, follower_count, following_count, follow_revision, edge_revision, follower_revision
from graph.account where user_id = any(%s::bigint[])
order by user_id
for no key update
"""

_STANDING = """
select follower_id, followee_id, (extract(epoch from follow_time) * 1000)::bigint
from unnest(%s::bigint[], %s::bigint[]) as asked (follower_id, followee_id)
join graph.following using (follower_id, followee_id)
"""

_REMEMBERED = """
select actor_id, request_id, payload_hash, reply
from unnest(%s::bigint[], %s::text[]) as asked (actor_id, request_id)
join graph.idempotency using (actor_id, request_id)
"""

# Each table is written in the order of its own key, so that neighbours of an index are touched together.
_WRITE = """
with gained as materialized (
    select follower_id, followee_id, revision, position, to_timestamp(%(time)s / 1000.0) as follow_time
    from unnest(
        %(gained_follower)s::bigint[], %(gained_followee)s::bigint[],
        %(gained_revision)s::bigint[], %(gained_position)s::bigint[]
    ) as gained (follower_id, followee_id, revision, position)
), lost as materialized (
    select * from unnest(%(lost_follower)s::bigint[], %(lost_followee)s::bigint[]) as lost (follower_id, followee_id)
), made_following as (
    insert into graph.following (follower_id, followee_id, revision, follow_time)
    select follower_id, followee_id, revision, follow_time from gained order by follower_id, followee_id
    on conflict (follower_id, followee_id)
    do update set revision = excluded.revision, follow_time = excluded.follow_time
), made_followers as (
    insert into graph.followers (followee_id, follower_id, position, follow_time)
    select followee_id, follower_id, position, follow_time from gained order by followee_id, follower_id
    on conflict (followee_id, follower_id)
    do update set position = excluded.position, follow_time = excluded.follow_time
), ended_following as (
    delete from graph.following using lost
    where following.follower_id = lost.follower_id and following.followee_id = lost.followee_id
), ended_followers as (
    delete from graph.followers using lost
    where followers.followee_id = lost.followee_id and followers.follower_id = lost.follower_id
), counted as (
    update graph.account
    set follower_count = k.follower_count, following_count = k.following_count, follow_revision = k.follow_revision,
        edge_revision = k.edge_revision, follower_revision = k.follower_revision
    from unnest(
        %(user_id)s::bigint[], %(follower_count)s::bigint[], %(following_count)s::bigint[], %(follow_revision)s::bigint[],
        %(edge_revision)s::bigint[], %(follower_revision)s::bigint[]
    ) as k (user_id, follower_count, following_count, follow_revision, edge_revision, follower_revision)
    where account.user_id = k.user_id
), remembered as (
    insert into graph.idempotency (actor_id, request_id, method, payload_hash, reply)
    select * from unnest(
        %(actor_id)s::bigint[], %(request_id)s::text[], %(method)s::text[], %(digest)s::bytea[], %(reply)s::bytea[]
    )
)
insert into graph.outbox (partition, subject, payload)
select * from unnest(%(partition)s::smallint[], %(subject)s::text[], %(payload)s::bytea[])
"""
