"""Reads of the graph, and the marks of authors who are pulled. Every statement has its own snapshot and reads the primary."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from psycopg.rows import args_row

from services.runtime.arrays import Int8Array, unpack_int8
from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database

PULL_DAYS = 8
"""How long after the last tweet that was pulled readers are told of its author."""
LAST = 2**63 - 1
"""Above every position: where the first page of a list begins."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is counted of a user."""

    user_id: int
    follower_count: int = 0
    following_count: int = 0
    follower_revision: int = 0
    last_pull_time: datetime | None = None
    """When a tweet of the user was last planned to be pulled, to the hour; None for never."""


class Listed(NamedTuple):
    """One edge in the list of one of its ends."""

    user_id: int
    """The other end."""
    position: int
    follow_ms: int
    """Unix time in milliseconds."""


class Relation(NamedTuple):
    """How one user stands to another, and the other's counts."""

    user_id: int
    follow_ms: int | None
    """Since when the one follows the other; None if not."""
    followed_by: bool
    follower_count: int
    following_count: int


class ViewerFacts(NamedTuple):
    """What decides what a reader sees, of one snapshot."""

    followee_ids: tuple[int, ...]
    pull_author_ids: tuple[int, ...]
    follow_revision: int


class GraphStore:
    """The tables of the schema `graph`, for reading."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._accounts = Coalescer[Sequence[int], Mapping[int, Standing]](self._read, "graph.accounts", metrics)

    async def standings(self, user_ids: Sequence[int]) -> list[Standing]:
        """Of each user in that order, as it is after this was asked; zeros for who has no edges."""
        found = await self._accounts.submit(user_ids)
        return [found.get(user_id) or Standing(user_id) for user_id in user_ids]

    async def followers(self, user_id: int, below: int, limit: int) -> list[Listed]:
        """Who follows a user, latest first, from below a position."""
        return await self._database.query(_FOLLOWERS, (user_id, below, limit), row=args_row(Listed))

    async def follower_lists(self, user_ids: Collection[int]) -> dict[int, tuple[int, ...]]:
        """All followers of users, by increasing id; users without any are left out."""
        rows = await self._database.query(_LISTS, (Int8Array(list(user_ids)),))
        return {user_id: unpack_int8(packed) for user_id, packed in rows}

    async def following(self, user_id: int, below: int, limit: int) -> list[Listed]:
        """Whom a user follows, latest first, from below a position."""
        return await self._database.query(_FOLLOWING, (user_id, below, limit), row=args_row(Listed))

    async def relations(self, viewer_id: int, user_ids: Sequence[int]) -> list[Relation]:
        """How the viewer stands to each user, in that order."""
        keys = {"viewer_id": viewer_id, "user_ids": Int8Array(user_ids)}
        return await self._database.query(_RELATIONS, keys, row=args_row(Relation))

    async def viewer_facts(self, viewer_id: int, now_ms: int) -> ViewerFacts:
        """The reader's followees and those of them who are pulled; `now_ms` is unix time."""
        since = _moment(now_ms - PULL_DAYS * 86_400_000)
        (row,) = await self._database.query(_FACTS, {"viewer_id": viewer_id, "since": since})
        return ViewerFacts(unpack_int8(row[0]), unpack_int8(row[1]), row[2])

    async def follower_page(self, user_id: int, above: int, limit: int) -> tuple[int, ...]:
        """Ids of followers above an id, increasing."""
        (row,) = await self._database.query(_FOLLOWER_PAGE, (user_id, above, limit))
        return unpack_int8(row[0])

    async def mark_pulled(self, author_ids: Sequence[int], now_ms: int) -> None:
        """Has readers' facts name these authors from now on."""
        authors = Int8Array(sorted(set(author_ids)))
        await self._database.execute(_MARK_PULLED, (_moment(now_ms), authors))

    async def healthy(self) -> bool:
        """Whether the database answers."""
        return await self._database.healthy()

    async def _read(self, asked: list[Sequence[int]]) -> list[Mapping[int, Standing] | Exception]:
        wanted = Int8Array(sorted(set[int]().union(*asked)))
        rows = await self._database.query(_STANDINGS, (wanted,), row=args_row(Standing))
        found = {each.user_id: each for each in rows}
        return [found] * len(asked)


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1_000, UTC)


_STANDINGS = """
select user_id, follower_count, following_count, follower_revision, last_pull_time
from graph.account left join graph.pull_author on author_id = user_id
where user_id = any(%s::bigint[])
"""

_LISTS = """
select followee_id, string_agg(int8send(follower_id), '' order by follower_id)
from graph.followers where followee_id = any(%s::bigint[]) group by followee_id
"""

_FOLLOWERS = """
select follower_id, position, (extract(epoch from follow_time) * 1000)::bigint
from graph.followers where followee_id = %s and position < %s
order by position desc limit %s
"""

_FOLLOWING = """
select followee_id, revision, (extract(epoch from follow_time) * 1000)::bigint
from graph.following where follower_id = %s and revision < %s
order by revision desc limit %s
"""

_RELATIONS = """
select asked.user_id, (extract(epoch from f.follow_time) * 1000)::bigint, b.follower_id is not null,
       coalesce(account.follower_count, 0), coalesce(account.following_count, 0)
from unnest(%(user_ids)s::bigint[]) with ordinality as asked (user_id, place)
left join graph.following f on f.follower_id = %(viewer_id)s and f.followee_id = asked.user_id
left join graph.followers b on b.followee_id = %(viewer_id)s and b.follower_id = asked.user_id
left join graph.account on account.user_id = asked.user_id
order by place
"""

_FACTS = """
select
    (select string_agg(int8send(followee_id), '' order by followee_id)
     from graph.following where follower_id = %(viewer_id)s),
    (select string_agg(int8send(author_id), '' order by author_id)
     from graph.following join graph.pull_author on author_id = followee_id
     where follower_id = %(viewer_id)s and last_pull_time >= %(since)s),
    coalesce((select follow_revision from graph.account where user_id = %(viewer_id)s), 0)
"""

_FOLLOWER_PAGE = """
select string_agg(int8send(follower_id), '' order by follower_id)
from (
    select follower_id from graph.followers where followee_id = %s and follower_id > %s order by follower_id limit %s
) as page
"""

_MARK_PULLED = """
insert into graph.pull_author as known (author_id, last_pull_time)
select author_id, %s from unnest(%s::bigint[]) as k (author_id) order by author_id
on conflict (author_id) do update set last_pull_time = greatest(known.last_pull_time, excluded.last_pull_time)
"""
