"""Writes edges: all follows and unfollows that wait together are decided and committed together.

A batch takes two statements: one reads the accounts, edges and earlier requests concerned in one snapshot, then it is
decided in memory (services.graph.changes), and the other writes everything, provided that no account has changed since.
Every change of an edge changes the accounts of both its ends, so nothing else need be compared. Where somebody else was
quicker it starts afresh, and the third time it locks the accounts first. Locks are taken by increasing id: no two
transactions wait for each other in a circle. The followers' fences are raised before the write.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeVar

from services.graph import snapshot
from services.graph.changes import Changes, Pair, Wish
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
UNLOCKED = 2
"""Attempts before the accounts are locked first, which is slower and always succeeds."""


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
        if not wanted:
            return 0
        asked = _Asked(wanted, _ends(wanted), ())
        async with self._loading:
            return await self._change(asked, lambda changes: changes.make(wanted), BULK_TIMEOUT)

    async def _grant(self, wishes: list[Wish]) -> Sequence[bytes | Exception]:
        return await self._change(_asked(wishes), lambda changes: [changes.answer(wish) for wish in wishes], None)

    async def _change(self, asked: "_Asked", decide: Callable[[Changes], Decided], timeout: float | None) -> Decided:
        """Decides on these edges, and commits what was decided while nobody else changed them."""
        reading = asyncio.create_task(self._read(asked, timeout))
        try:
            async with self._fences.raised({fence(pair.follower_id) for pair in asked.pairs}):
                decided, changes = await self._commit(asked, await reading, decide, timeout)
        finally:
            reading.cancel()
        self._counters.count_edges(changes.made, changes.ended, changes.refused)
        return decided

    async def _commit(
        self, asked: "_Asked", changes: Changes, decide: Callable[[Changes], Decided], timeout: float | None
    ) -> tuple[Decided, Changes]:
        for _ in range(UNLOCKED):
            decided = decide(changes)
            if not changes.touched or await self._database.query(_WRITE, _written(changes), timeout=timeout):
                return decided, changes
            changes = await self._read(asked, timeout)

        async def unit(transaction: Transaction) -> tuple[Decided, Changes]:
            users = Int8Array(sorted(_ends(asked.pairs)))
            await transaction.execute(_LOCK, (users,))
            changes = await self._read_once(transaction, asked)
            decided = decide(changes)
            if not await transaction.query(_WRITE, _written(changes)):
                raise RuntimeError("accounts changed under their locks")
            return decided, changes

        return await self._database.run(unit, timeout=timeout)

    async def _read(self, asked: "_Asked", timeout: float | None) -> Changes:
        try:
            return await self._read_once(self._database, asked)
        except _NewAccounts as new:
            await self._database.execute(_CREATE_ACCOUNTS, (Int8Array(new.user_ids),), timeout=timeout)
            return await self._read_once(self._database, asked)

    async def _read_once(self, session: Database | Transaction, asked: "_Asked") -> Changes:
        seen = await snapshot.read(session, asked.pairs, asked.keyed)
        missing = asked.needed - seen.accounts.keys()
        if missing:
            raise _NewAccounts(sorted(missing))
        return Changes(*seen, self._limit(), self._clock.now_ms())


class _Asked(NamedTuple):
    """What a batch is about."""

    pairs: Sequence[Pair]
    needed: AbstractSet[int]
    """Users whose accounts must be there; an unfollow of nobody makes no account."""
    keyed: Sequence[Wish]
    """Wishes with a request_id."""


class _NewAccounts(Exception):
    """Users whose first edge this is."""

    def __init__(self, user_ids: list[int]) -> None:
        super().__init__(user_ids)
        self.user_ids = user_ids


def _asked(wishes: Sequence[Wish]) -> _Asked:
    keyed = [wish for wish in wishes if wish.request_id]
    followed = _ends(wish.pair for wish in wishes if wish.follow)
    return _Asked(sorted({wish.pair for wish in wishes}), followed | {wish.pair.follower_id for wish in keyed}, keyed)


def _ends(pairs: Iterable[Pair]) -> set[int]:
    return {user_id for pair in pairs for user_id in pair}


def _written(changes: Changes) -> dict[str, object]:
    """The parameters of the statement that writes a batch."""
    gained, remade, accounts = changes.gained, changes.remade, changes.changed()
    events = outbox.columns(changes.events)
    lost, replies = sorted(changes.lost), changes.new_replies
    return {
        "time": changes.now_ms,
        "gained_follower": Int8Array([pair.follower_id for pair in gained]),
        "gained_followee": Int8Array([pair.followee_id for pair in gained]),
        "gained_revision": Int8Array([edge.revision for edge in gained.values()]),
        "gained_position": Int8Array([edge.position for edge in gained.values()]),
        "remade_follower": Int8Array([pair.follower_id for pair in remade]),
        "remade_followee": Int8Array([pair.followee_id for pair in remade]),
        "remade_revision": Int8Array([edge.revision for edge in remade.values()]),
        "remade_position": Int8Array([edge.position for edge in remade.values()]),
        "lost_follower": Int8Array([pair.follower_id for pair in lost]),
        "lost_followee": Int8Array([pair.followee_id for pair in lost]),
        "user_id": Int8Array([each.user_id for each in accounts]),
        "follower_count": Int8Array([each.follower_count for each in accounts]),
        "following_count": Int8Array([each.following_count for each in accounts]),
        "follow_revision": Int8Array([each.follow_revision for each in accounts]),
        "edge_revision": Int8Array([each.edge_revision for each in accounts]),
        "follower_revision": Int8Array([each.follower_revision for each in accounts]),
        "edge_revision_seen": Int8Array([each.edge_revision_seen for each in accounts]),
        "follower_revision_seen": Int8Array([each.follower_revision_seen for each in accounts]),
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

_LOCK = """
select user_id from graph.account where user_id = any(%s::bigint[]) order by user_id for no key update
"""

# `unchanged` has one row, or none if an account changed since it was read; then nothing is written and no row returned.
# Each table is written in the order of its own key, so that neighbours of an index are touched together.
_WRITE = """
with account_now as materialized (
    select * from unnest(
        %(user_id)s::bigint[], %(follower_count)s::bigint[], %(following_count)s::bigint[], %(follow_revision)s::bigint[],
        %(edge_revision)s::bigint[], %(follower_revision)s::bigint[],
        %(edge_revision_seen)s::bigint[], %(follower_revision_seen)s::bigint[]
    ) as account_now (
        user_id, follower_count, following_count, follow_revision, edge_revision, follower_revision,
        edge_revision_seen, follower_revision_seen
    )
), locked as materialized (
    select account.user_id
    from graph.account join account_now on account.user_id = account_now.user_id
    where account.edge_revision = edge_revision_seen and account.follower_revision = follower_revision_seen
    order by account.user_id
    for no key update of account
), unchanged as materialized (
    select from (select count(*) from locked) as l (n) where n = cardinality(%(user_id)s::bigint[])
), gained as materialized (
    select follower_id, followee_id, revision, position, to_timestamp(%(time)s / 1000.0) as follow_time
    from unchanged cross join unnest(
        %(gained_follower)s::bigint[], %(gained_followee)s::bigint[],
        %(gained_revision)s::bigint[], %(gained_position)s::bigint[]
    ) as gained (follower_id, followee_id, revision, position)
), remade as materialized (
    select follower_id, followee_id, revision, position, to_timestamp(%(time)s / 1000.0) as follow_time
    from unchanged cross join unnest(
        %(remade_follower)s::bigint[], %(remade_followee)s::bigint[],
        %(remade_revision)s::bigint[], %(remade_position)s::bigint[]
    ) as remade (follower_id, followee_id, revision, position)
), lost as materialized (
    select follower_id, followee_id
    from unchanged cross join unnest(%(lost_follower)s::bigint[], %(lost_followee)s::bigint[])
        as lost (follower_id, followee_id)
), made_following as (
    insert into graph.following (follower_id, followee_id, revision, follow_time)
    select follower_id, followee_id, revision, follow_time from gained order by follower_id, followee_id
), made_followers as (
    insert into graph.followers (followee_id, follower_id, position, follow_time)
    select followee_id, follower_id, position, follow_time from gained order by followee_id, follower_id
), remade_following as (
    update graph.following set revision = remade.revision, follow_time = remade.follow_time from remade
    where following.follower_id = remade.follower_id and following.followee_id = remade.followee_id
), remade_followers as (
    update graph.followers set position = remade.position, follow_time = remade.follow_time from remade
    where followers.followee_id = remade.followee_id and followers.follower_id = remade.follower_id
), ended_following as (
    delete from graph.following using lost
    where following.follower_id = lost.follower_id and following.followee_id = lost.followee_id
), ended_followers as (
    delete from graph.followers using lost
    where followers.followee_id = lost.followee_id and followers.follower_id = lost.follower_id
), counted as (
    update graph.account
    set follower_count = account_now.follower_count, following_count = account_now.following_count,
        follow_revision = account_now.follow_revision, edge_revision = account_now.edge_revision,
        follower_revision = account_now.follower_revision
    from account_now cross join unchanged
    where account.user_id = account_now.user_id
), remembered as (
    insert into graph.idempotency (actor_id, request_id, method, payload_hash, reply)
    select k.* from unchanged cross join unnest(
        %(actor_id)s::bigint[], %(request_id)s::text[], %(method)s::text[], %(digest)s::bytea[], %(reply)s::bytea[]
    ) as k
), told as (
    insert into graph.outbox (partition, subject, payload)
    select k.* from unchanged cross join unnest(%(partition)s::smallint[], %(subject)s::text[], %(payload)s::bytea[]) as k
)
select true from unchanged
"""
