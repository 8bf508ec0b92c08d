"""Worker leases without a database, for the state machine over clocks; it passes the same suite as the store in Postgres."""

from collections.abc import Callable
from dataclasses import dataclass

from services.id.store import Leased


@dataclass(slots=True)
class _Row:
    owner: str = ""
    until_ms: float = float("-inf")
    mark_ms: int = 0


class MemoryLeases:
    """The table `id.worker_lease` of a server whose clock a test moves."""

    def __init__(self, workers: int, now_ms: Callable[[], int]) -> None:
        self._rows = [_Row() for _ in range(workers)]
        self._now_ms = now_ms

    async def take(self, owner: str, lease_ms: int, ahead_ms: int) -> Leased | None:
        now = self._now_ms()
        free = [(row.mark_ms, worker_id) for worker_id, row in enumerate(self._rows) if row.until_ms < now]
        if not free:
            return None
        floor_ms, worker_id = min(free)
        self._rows[worker_id].owner = owner
        return Leased(worker_id, floor_ms, self._prolong(self._rows[worker_id], lease_ms, ahead_ms))

    async def renew(self, worker_id: int, owner: str, lease_ms: int, ahead_ms: int) -> int | None:
        row = self._rows[worker_id]
        return self._prolong(row, lease_ms, ahead_ms) if row.owner == owner else None

    async def release(self, worker_id: int, owner: str) -> None:
        if self._rows[worker_id].owner == owner:
            self._rows[worker_id].until_ms = float("-inf")

    def _prolong(self, row: _Row, lease_ms: int, ahead_ms: int) -> int:
        row.until_ms = self._now_ms() + lease_ms
        row.mark_ms = max(row.mark_ms, self._now_ms() + ahead_ms)
        return row.mark_ms
