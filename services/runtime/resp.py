"""RESP as bytes and one plain connection that speaks it: requests are packed beforehand, written once per loop tick,
answered in order.

A batch is any number of packed commands with one future. What cannot be answered is a value, never an exception, so
a batch that nobody waits for any more leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic
from typing import TypeAlias, cast

import hiredis

from chirp.errors import Unavailable
from chirp.errors import v1 as errorspb

SLOTS = 16384
# What may wait unwritten for one server: sixteen megabytes are 150,000 pushes, more than it does in a reply timeout.
WRITE_BUFFER = 16 * 1024 * 1024
LAST_LOOK = 0.01
"""Seconds between finding a batch overdue and giving up: time to read what has arrived."""
_NOT_YET = object()

Argument: TypeAlias = "bytes | str | int"
Reply: TypeAlias = "bytes | int | RedisError | list[Reply] | None"
Outcome: TypeAlias = "list[Reply] | CacheUnavailable"


class CacheUnavailable(Unavailable):
    """Redis did not answer for these keys. A write may have happened, which is why only repeatable ones are used."""

    def __init__(self, cause: str) -> None:
        super().__init__(errorspb.ERROR_REASON_UNAVAILABLE, f"the cache is not available: {cause}")
        self.cause = cause


class RedisError(Exception):
    """An error reply: the server understood and refused."""

    @property
    def code(self) -> str:
        """The first word: ERR, WRONGTYPE, MOVED …"""
        return str(self).partition(" ")[0]


class Flawed(list[Reply]):
    """Replies of a batch of which at least one is an error; a plain list holds none at its top level or below."""


def bulk(value: Argument) -> bytes:
    """One argument of a command."""
    raw = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def pack(*arguments: Argument) -> bytes:
    """One command."""
    return b"*%d\r\n%b" % (len(arguments), b"".join(map(bulk, arguments)))


def around_key(command: Argument, *rest: Argument) -> tuple[bytes, bytes]:
    """What stands before and after the key in a command whose first argument is the key: the head and tail of
    `RedisCluster.push`.
    """
    return b"*%d\r\n%b" % (2 + len(rest), bulk(command)), b"".join(map(bulk, rest))


def key_slot(key: bytes) -> int:
    """The hash slot of a key, by its hash tag if it has one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


class Batch:
    """Commands that were sent together: how many replies are due, until when, and who waits."""

    __slots__ = ("count", "due", "future")

    def __init__(self, future: asyncio.Future[Outcome], count: int, due: float) -> None:
        self.future, self.count, self.due = future, count, due


class Connection(asyncio.Protocol):
    """One connection, for any number of tasks at once.

    The oldest batch decides: once it has waited `timeout` seconds the connection is given up with everything
    outstanding on it, since a late reply must never be taken for the reply to another request. `on_lost(connection,
    cause, slow)` is called once, when it is unusable.
    """

    def __init__(self, timeout: float, on_lost: Callable[[Connection, str, bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout, self._on_lost = timeout, on_lost
        self._reader = hiredis.Reader(replyError=self._error, notEnoughData=_NOT_YET)
        self._transport: asyncio.Transport | None = None
        self._unwritten: list[bytes] = []
        self._batches: deque[Batch] = deque()
        self._replies: list[Reply] = []
        self._flawed = False
        self._full = False
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: Batch | None = None
        self._lost: str | None = None

    @property
    def idle(self) -> bool:
        """True while nobody waits for a reply."""
        return not self._batches

    def submit(self, payload: bytes, count: int, due: float = 0.0) -> asyncio.Future[Outcome]:
        """Sends `count` packed commands; the future gives as many replies, or why there are none. `due` replaces the
        timeout (monotonic).
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._lost is not None or self._full:
            future.set_result(CacheUnavailable(self._lost or "too much is waiting to be written"))
            return future
        batch = Batch(future, count, due or monotonic() + self._timeout)
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(payload)
        self._batches.append(batch)
        if self._watch is None:
            self._watch = self._loop.call_later(batch.due - monotonic(), self._check)
        return future

    def close(self, cause: str, *, slow: bool = False) -> None:
        """Gives the connection up at once; whoever waits is told `cause`."""
        if self._lost is not None:
            return
        self._lost = cause
        if self._watch:
            self._watch.cancel()
        if self._transport:
            self._transport.abort()
        self._unwritten.clear()
        error = CacheUnavailable(cause)
        for batch in self._batches:
            if not batch.future.done():
                batch.future.set_result(error)
        self._batches.clear()
        self._on_lost(self, cause, slow)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        if self._lost is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(f"connection lost ({exc})" if exc else "connection closed by the server")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def data_received(self, data: bytes) -> None:
        reader, batches, replies = self._reader, self._batches, self._replies
        reader.feed(data)
        try:
            while batches:
                batch = batches[0]
                replies.extend(islice(iter(reader.gets, _NOT_YET), batch.count - len(replies)))
                if len(replies) < batch.count:
                    return
                batches.popleft()
                outcome = Flawed(replies) if self._flawed else replies
                replies = self._replies = []
                self._flawed = False
                if not batch.future.done():
                    batch.future.set_result(outcome)
        except hiredis.ProtocolError as broken:
            self.close(f"not RESP ({broken})")
            return
        if reader.has_data():
            self.close("a reply that nobody asked for")

    def _write(self) -> None:
        waiting = self._unwritten
        if waiting and self._transport:
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            waiting.clear()

    def _error(self, message: str) -> RedisError:
        self._flawed = True
        return RedisError(message)

    def _check(self) -> None:
        """Runs when the oldest batch may be overdue.

        A loop that was held up itself finds its timers before its replies: nothing is overdue until it has looked again.
        """
        self._watch = None
        if not self._batches:
            return
        now, oldest = monotonic(), self._batches[0]
        if now < oldest.due:
            delay = oldest.due - now
        elif self._overdue is not oldest:
            self._overdue, delay = oldest, LAST_LOOK
        else:
            self.close(f"no reply within {self._timeout:g} s", slow=True)
            return
        self._watch = self._loop.call_later(delay, self._check)


def joined(keys: Sequence[bytes], head: bytes, tail: bytes) -> bytes:
    """One command a key, by one join. All keys have the length of the first; head and tail are those of `around_key`."""
    before, after = b"%b$%d\r\n" % (head, len(keys[0])), b"\r\n" + tail
    return b"%b%b%b" % (before, (after + before).join(keys), after)
