"""What a batch of wishes is decided on: accounts, edges and earlier requests, of one snapshot, in one statement."""

from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import NamedTuple

from services.graph.changes import Account, Pair, Remembered, Wish
from services.runtime.arrays import Int8Array, TextArray, unpack_int8
from services.runtime.postgres import Database, Transaction


class Seen(NamedTuple):
    """The state at one moment; see services.graph.changes.Changes."""

    accounts: dict[int, Account]
    standing: dict[Pair, int]
    remembered: dict[tuple[int, str], Remembered]


async def read(session: Database | Transaction, pairs: Sequence[Pair], keyed: Sequence[Wish]) -> Seen:
    """The accounts of all ends of these pairs that have one, those of the pairs that stand, the requests that came before."""
    users = sorted({user_id for pair in pairs for user_id in pair})
    parameters = {
        "users": Int8Array(users),
        "followers": Int8Array([pair.follower_id for pair in pairs]),
        "followees": Int8Array([pair.followee_id for pair in pairs]),
        "actors": Int8Array([wish.pair.follower_id for wish in keyed]),
        "request_ids": TextArray([wish.request_id for wish in keyed]),
    }
    ((accounts, edges, *requests),) = await session.query(_READ, parameters)
    return Seen(
        {row[0]: Account(*row) for row in _rows(accounts, 6)},
        {Pair(row[0], row[1]): row[2] for row in _rows(edges, 3)},
        dict(starmap(_request, zip(*requests, strict=True))) if requests[0] else {},
    )


def _rows(packed: bytes | None, width: int) -> Iterator[tuple[int, ...]]:
    return zip(*[iter(unpack_int8(packed))] * width, strict=True)


def _request(actor_id: int, request_id: str, digest: bytes, reply: bytes) -> tuple[tuple[int, str], Remembered]:
    return (actor_id, request_id), Remembered(digest, reply)


# Numbers packed into one value a table cost a sixth of what rows cost to fetch.
_READ = """
select
    (
        select string_agg(
            int8send(user_id) || int8send(follower_count) || int8send(following_count) || int8send(follow_revision)
            || int8send(edge_revision) || int8send(follower_revision), ''
        )
        from graph.account where user_id = any(%(users)s::bigint[])
    ),
    (
        select string_agg(
            int8send(follower_id) || int8send(followee_id) || int8send((extract(epoch from follow_time) * 1000)::bigint), ''
        )
        from unnest(%(followers)s::bigint[], %(followees)s::bigint[]) as asked (follower_id, followee_id)
        join graph.following using (follower_id, followee_id)
    ),
    known.*
from (
    select array_agg(actor_id), array_agg(request_id), array_agg(payload_hash), array_agg(reply)
    from unnest(%(actors)s::bigint[], %(request_ids)s::text[]) as asked (actor_id, request_id)
    join graph.idempotency using (actor_id, request_id)
) as known
"""
