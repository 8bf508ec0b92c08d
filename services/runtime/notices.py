"""Notices: what every reader must know from its next read on: tweets that were deleted, authors whose tweets are
pulled from now on.

The log is a Redis list, newest first, in sixteen copies ("cells"), so that a reader finds one next to whatever it
reads: the cell of a key lies in the same sixteenth of the slots, usually on the same server, and its head comes
with the read in one round trip. A writer puts its entry into all cells before its COMMIT. A reader whose process
has not seen the head reads what is newer and applies it.

Entries: "d<tweet_id>:<nonce>" deleted, "p<author_id>:<nonce>" pulled, "e:<nonce>" nothing, put into an empty cell
so that the next loss of memory shows. No two entries are alike, which is what lets a reader find its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, cast

from services.runtime.clock import Clock, SystemClock
from services.runtime.nonces import Nonces
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisroutes import Answer
from services.runtime.resp import SLOTS, CacheUnavailable, key_slot, pack

COUNT: Final = 16
KEPT: Final = 1_000
"""Entries of a cell. A process that misses more between two reads forgets all it has cached."""
LIFE_MS: Final = 24 * 3600 * 1000
SLOW_COMMIT: Final = 5.0
SUSPECT: Final = 30.0
"""Seconds for which a deletion may still be uncommitted after it was noticed, with a wide margin over SLOW_COMMIT."""
_WIDTH = SLOTS // COUNT
_RECENT = 32


@dataclass(frozen=True, slots=True)
class Cell:
    """One copy of the log."""

    index: int
    key: bytes
    slot: int
    head: bytes
    """Packed command that gives its newest entry."""


def _cells() -> Iterator[Cell]:
    for index in range(COUNT):
        number = next(n for n in range(SLOTS) if key_slot(b"n%d" % n) // _WIDTH == index)
        key = b"runtime:notices:{n%d}" % number
        yield Cell(index, key, key_slot(key), pack("LINDEX", key, 0))


CELLS: Final = tuple(_cells())


def cell_for(key: bytes | str) -> Cell:
    """The cell to read along with a key: `(cell.slot, cell.head)` is the command to scatter, its answer goes to
    `NoticeReader.observe`.
    """
    return CELLS[key_slot(key if isinstance(key, bytes) else key.encode()) // _WIDTH]


class Notices:
    """The writers' side."""

    def __init__(self, redis: RedisCluster, clock: Clock | None = None) -> None:
        """The clock measures how long COMMITs take."""
        again = redis.metrics.counter("chirp_notices_announced_again", "Cells told again after COMMIT, by why.", ["why"])
        self._slow, self._gone = again.labels("slow"), again.labels("gone")
        self._failed = redis.metrics.counter("chirp_notices_not_announced", "Cells that could not be told at once.")
        self._redis, self._clock, self._nonces = redis, clock or SystemClock(), Nonces()

    @asynccontextmanager
    async def announced(self, *, deleted: Iterable[int] = (), pulled: Iterable[int] = ()) -> AsyncGenerator[None]:
        """Wraps a write up to and including its COMMIT; answer the caller after it, not within.

        On entering, every reader is told that the tweets are being deleted and that the authors' tweets are not pushed
        from now on. Cells that Redis does not answer for are told in the background.
        """
        facts, start = [f"d{each}" for each in deleted] + [f"p{each}" for each in pulled], self._clock.monotonic()
        last = await self._announce(facts, CELLS)
        yield
        if facts:
            await self._confirm(facts, last, self._clock.monotonic() - start)

    async def _announce(self, facts: Sequence[str], cells: Sequence[Cell]) -> str:
        """Puts the facts into the cells; gives the entry that is then newest in each."""
        if not facts:
            return ""
        entries = self._entries(facts)
        commands = [(cell.slot, command) for cell in cells for command in _put(cell, entries)]
        answers = (await self._redis.scatter(commands))[::3]
        for cell, answer in zip(cells, answers, strict=True):
            if not isinstance(answer, int):
                self._failed.inc()
                self._redis.insist(cell.slot, lambda cell=cell: _put(cell, self._entries(facts))[0])
        return entries[-1]

    async def _confirm(self, facts: Sequence[str], last: str, elapsed: float) -> None:
        """Announces again when the COMMIT was slow, and in cells whose entry is gone: a reader may have read the tweet
        before the COMMIT without having been told.
        """
        if elapsed > SLOW_COMMIT:
            self._slow.inc(COUNT)
            await self._announce(facts, CELLS)
            return
        answers = await self._redis.scatter([(cell.slot, pack("LPOS", cell.key, last, "MAXLEN", KEPT)) for cell in CELLS])
        gone = [cell for cell, answer in zip(CELLS, answers, strict=True) if not isinstance(answer, int)]
        if gone:
            self._gone.inc(len(gone))
            await self._announce(facts, gone)

    def _entries(self, facts: Sequence[str]) -> list[str]:
        return [f"{fact}:{self._nonces.next()}" for fact in facts]


def _put(cell: Cell, entries: Sequence[str]) -> tuple[bytes, bytes, bytes]:
    return (
        pack("LPUSH", cell.key, *entries),
        pack("LTRIM", cell.key, 0, KEPT - 1),
        pack("PEXPIRE", cell.key, LIFE_MS),
    )


class Listener(Protocol):
    """What a process caches and must drop."""

    def on_delete(self, tweet_id: int) -> None:
        """Drop what is cached of the tweet; it is suspect from now on."""
        ...

    def on_pull(self, author_id: int) -> None:
        """The author's tweets are to be pulled from now on."""
        ...

    def on_void(self) -> None:
        """Drop everything: notices may have been missed. What was being read meanwhile must not be cached either
        (`epoch`).
        """
        ...


class _Place:
    """How far this process has read a cell."""

    __slots__ = ("generation", "lock", "recent")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.recent: tuple[bytes, ...] = ()
        self.generation = 0


class NoticeReader:
    """The readers' side, one for a process: tells the listener what it must know before a read may use what is cached.

    Before it caches what it reads from an owner, a process notes `epoch`, and afterwards caches only if the epoch
    is unchanged and the tweet not `suspect`.
    """

    def __init__(self, redis: RedisCluster, listener: Listener, clock: Clock | None = None) -> None:
        self._voids = redis.metrics.counter("chirp_notices_void", "Times that everything cached was dropped.")
        self._applied = redis.metrics.counter("chirp_notices_applied", "Notices applied.")
        self._redis, self._listener, self._clock, self._nonces = redis, listener, clock or SystemClock(), Nonces()
        self._places = [_Place() for _ in CELLS]
        self._syncing = asyncio.Lock()
        self._suspects: dict[int, float] = {}
        self.epoch = 0
        """Changes whenever everything cached became void."""

    def suspect(self, tweet_id: int) -> bool:
        """True for thirty seconds after a deletion was noticed: read the tweet from its owner's primary at each use,
        cache nothing.
        """
        until = self._suspects.get(tweet_id)
        return until is not None and self._clock.monotonic() < until

    async def observe(self, cell: Cell, head: Answer) -> None:
        """Takes the head of a cell as it came with a read; once this returns, what is cached may be used for that read.

        Raises CacheUnavailable when it cannot be known what was missed: then nothing cached may be used.
        """
        place = self._places[cell.index]
        if place.recent and head == place.recent[0] and place.generation == self._redis.generation(cell.slot):
            return
        if isinstance(head, CacheUnavailable):
            raise CacheUnavailable(head.cause)
        async with place.lock:
            if not self._knows(cell, head):
                await self._catch_up(cell, place, head)

    def _knows(self, cell: Cell, head: Answer) -> bool:
        """A connection that was replaced may have hidden an outage in which writers could not reach the cell."""
        place = self._places[cell.index]
        return head in place.recent and place.generation == self._redis.generation(cell.slot)

    async def _catch_up(self, cell: Cell, place: _Place, head: Answer) -> None:
        if place.recent and place.generation == self._redis.generation(cell.slot):
            for last in (_RECENT - 1, -1):
                (reply,) = await self._redis.run(cell.slot, pack("LRANGE", cell.key, 0, last))
                entries = cast("list[bytes]", reply) if isinstance(reply, list) else []
                if place.recent[0] in entries:
                    self._apply(entries[: entries.index(place.recent[0])])
                    place.recent = tuple(entries[:_RECENT])
                    return
        async with self._syncing:
            if not self._knows(cell, head):
                await self._sync()
        if not place.recent:
            raise CacheUnavailable("the notices cannot be read")

    async def _sync(self) -> None:
        """Starts over with all cells at once, so that one loss of memory costs the cache once."""
        generations = [self._redis.generation(cell.slot) for cell in CELLS]
        answers = await self._redis.scatter([(cell.slot, pack("LRANGE", cell.key, 0, -1)) for cell in CELLS])
        await self._fill([cell for cell in CELLS if answers[cell.index] == []], answers)
        logs = [cast("list[bytes]", answer) if isinstance(answer, list) else [] for answer in answers]
        self.epoch += 1
        self._voids.inc()
        self._listener.on_void()
        self._apply(set[bytes]().union(*logs))
        for place, generation, log in zip(self._places, generations, logs, strict=True):
            place.recent, place.generation = tuple(log[:_RECENT]), generation

    async def _fill(self, empty: Sequence[Cell], answers: list[Answer]) -> None:
        """Gives empty cells an entry and reads them again, into `answers`."""
        commands = [
            (cell.slot, command)
            for cell in empty
            for command in (*_put(cell, [f"e:{self._nonces.next()}"]), pack("LRANGE", cell.key, 0, -1))
        ]
        filled = (await self._redis.scatter(commands))[3::4]
        for cell, answer in zip(empty, filled, strict=True):
            answers[cell.index] = answer

    def _apply(self, entries: Collection[bytes]) -> None:
        self._applied.inc(len(entries))
        now = self._clock.monotonic()
        self._suspects = {tweet_id: until for tweet_id, until in self._suspects.items() if until > now}
        for entry in entries:
            kind, number = entry[:1], entry[1:].partition(b":")[0]
            # Entries of a later version are none of ours; their nonces still mark the place.
            if kind == b"d" and number.isdigit():
                self._suspects[int(number)] = now + SUSPECT
                self._listener.on_delete(int(number))
            elif kind == b"p" and number.isdigit():
                self._listener.on_pull(int(number))
