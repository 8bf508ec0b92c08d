"""Pure: what an id is made of, and the sequence that one worker issues."""

from typing import NamedTuple

from services.runtime import ids

WORKERS = 1 << 10
"""Worker ids there are."""
SEQUENCES = 1 << 12
"""Ids that one worker can issue in a millisecond."""
EARLIEST_MS = ids.EPOCH_MS
LATEST_MS = ids.EPOCH_MS + (1 << 41) - 1
"""Unix time in milliseconds of the last ids of the format, in 2093."""
_WORKER_SHIFT = 12


class Parts(NamedTuple):
    """An id taken apart."""

    time_ms: int
    """When it was issued: unix time in milliseconds."""
    worker_id: int
    sequence: int


class ClockBehind(Exception):
    """The clock shows less than the last id issued: only waiting helps."""

    def __init__(self, milliseconds: int) -> None:
        super().__init__(f"the clock is {milliseconds} ms behind the last id")
        self.milliseconds = milliseconds


def compose(time_ms: int, worker_id: int, sequence: int = 0) -> int:
    """The id of these parts."""
    return ids.first_at(time_ms) | worker_id << _WORKER_SHIFT | sequence


def describe(snowflake: int) -> Parts:
    """The parts of an id."""
    return Parts(ids.time_ms(snowflake), snowflake >> _WORKER_SHIFT & WORKERS - 1, snowflake & SEQUENCES - 1)


class Sequence:
    """The ids of a process, strictly increasing, in runs of consecutive numbers: one worker, one millisecond."""

    def __init__(self) -> None:
        self._worker_id = 0
        self._last_ms = EARLIEST_MS - 1
        self._used = SEQUENCES

    @property
    def last_ms(self) -> int:
        """The latest millisecond that may hold an id of this process; none will be issued before it."""
        return self._last_ms

    def begin(self, worker_id: int, floor_ms: int) -> None:
        """Goes on as this worker, after `floor_ms` and after every millisecond that was touched before."""
        self._worker_id = worker_id
        self._last_ms = max(self._last_ms, floor_ms)
        self._used = SEQUENCES

    def run(self, now_ms: int, count: int) -> range:
        """At most `count` ids of this millisecond; none when it is used up. Raises ClockBehind, having issued none."""
        if now_ms < self._last_ms:
            raise ClockBehind(self._last_ms - now_ms)
        if now_ms > self._last_ms:
            self._last_ms, self._used = now_ms, 0
        first = self._used
        self._used = min(first + count, SEQUENCES)
        start = compose(now_ms, self._worker_id)
        return range(start + first, start + self._used)
