"""The leases of worker ids in Postgres. Time is the server's: the clocks of the holders are what is not trusted."""

from typing import NamedTuple

from services.runtime.postgres import Database


class Leased(NamedTuple):
    """A worker id taken."""

    worker_id: int
    floor_ms: int
    """Its mark until now: every id of a former holder is of this millisecond or earlier."""
    mark_ms: int
    """Its mark from now on."""


class LeaseStore:
    """One row per worker id. A mark only rises, and only for the owner of the row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, owner: str, lease_ms: int, ahead_ms: int) -> Leased | None:
        """Leases the free worker id that has rested longest; None when all are held."""
        rows = await self._database.query(_TAKE, {"owner": owner, "lease_ms": lease_ms, "ahead_ms": ahead_ms})
        return Leased(*rows[0]) if rows else None

    async def renew(self, worker_id: int, owner: str, lease_ms: int, ahead_ms: int) -> int | None:
        """Prolongs the lease and raises its mark, which it returns; None when somebody else has taken the worker id."""
        keys = {"worker_id": worker_id, "owner": owner, "lease_ms": lease_ms, "ahead_ms": ahead_ms}
        rows = await self._database.query(_RENEW, keys)
        return rows[0][0] if rows else None

    async def release(self, worker_id: int, owner: str) -> None:
        """Ends the lease; its owner must have stopped issuing."""
        await self._database.execute(_RELEASE, {"worker_id": worker_id, "owner": owner})


_TAKE = """
with free as (
    select worker_id, mark_ms from id.worker_lease
    where lease_until < clock_timestamp()
    order by mark_ms, worker_id
    limit 1
    for update skip locked
)
update id.worker_lease as lease
set owner = %(owner)s,
    lease_until = clock_timestamp() + %(lease_ms)s * interval '1 millisecond',
    mark_ms = greatest(lease.mark_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint + %(ahead_ms)s)
from free
where lease.worker_id = free.worker_id
returning lease.worker_id, free.mark_ms, lease.mark_ms
"""

_RENEW = """
update id.worker_lease
set lease_until = clock_timestamp() + %(lease_ms)s * interval '1 millisecond',
    mark_ms = greatest(mark_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint + %(ahead_ms)s)
where worker_id = %(worker_id)s and owner = %(owner)s
returning mark_ms
"""

_RELEASE = """
update id.worker_lease set lease_until = '-infinity' where worker_id = %(worker_id)s and owner = %(owner)s
"""
