"""NATS as every process uses it: one connection that may be away, and the table of streams.

JetStream carries events and keeps no truth: what it loses is published again from the outboxes.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.metrics import Metrics

MESSAGE_ID = "Nats-Msg-Id"
DUPLICATE_WINDOW = 600.0
"""Seconds within which a stream drops a message with a known id: an optimisation, never what correctness rests on."""
MAX_AGE = 7 * 86_400.0
_NAME_TAKEN = 10058


@dataclass(frozen=True, slots=True)
class Stream:
    """One row of the stream table."""

    name: str
    subjects: tuple[str, ...]
    work_queue: bool = False
    """A message leaves the stream once its consumer acknowledged it."""


STREAMS = (
    Stream("TWEET", ("tweet.created.*", "tweet.deleted.*")),
    Stream("GRAPH", ("graph.*.*",)),
    Stream("USER", ("user.*.*",)),
    Stream("FANOUT", ("timeline.page.*",), work_queue=True),
)


def stream_of(subject: str) -> str | None:
    """The stream that takes a subject; None if the table has none."""
    for stream in STREAMS:
        if any(_matches(pattern, subject) for pattern in stream.subjects):
            return stream.name
    return None


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    return len(wanted) == len(given) and all(w in ("*", g) and g for w, g in zip(wanted, given, strict=True))


def stream_config(stream: Stream, replicas: int, max_bytes: int) -> StreamConfig:
    """Every setting of a stream. A full one refuses (discard new), so that the outbox keeps what does not fit."""
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.WORK_QUEUE if stream.work_queue else RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=MAX_AGE,
        max_bytes=max_bytes,
        duplicate_window=DUPLICATE_WINDOW,
        num_replicas=replicas,
    )


async def ensure_streams(js: JetStreamContext, *, replicas: int = 1, max_bytes: int = 1 << 30) -> None:
    """Makes the streams of the table, or brings them to its settings. Safe to repeat. `max_bytes`: of each stream."""
    for stream in STREAMS:
        config = stream_config(stream, replicas, max_bytes)
        try:
            await js.add_stream(config)
        except BadRequestError as error:
            if error.err_code != _NAME_TAKEN:
                raise
            await js.update_stream(config)


class Nats:
    """A connection that comes up when it can, stays up for ever, and never stops the process from serving.

    `async with connect(urls, "tweet", metrics) as nats:` returns at once, whether a server is there or not.
    """

    def __init__(self, urls: Sequence[str], name: str, metrics: Metrics, on_closed: Callable[[], None] | None = None) -> None:
        """`on_closed` is called if the library gives up for good: the process should then exit and be restarted."""
        self._urls, self._name, self._on_closed = list(urls), name, on_closed
        self.client = Client()
        self.js = JetStreamContext(self.client, timeout=5.0)
        self.connection = 0
        """Number of the present connection: what was asked on an earlier one has been forgotten by the server."""
        self._opening: asyncio.Task[None] | None = None
        self._closing = False
        self._errors = metrics.counter("chirp_nats_errors", "Errors reported by the NATS client")
        self._reconnects = metrics.counter("chirp_nats_reconnects", "Connections to NATS restored")
        metrics.gauge("chirp_nats_connected", "1 while connected to NATS").set_function(lambda: float(self.connected))

    @property
    def connected(self) -> bool:
        """Whether a server is there now."""
        return self.client.is_connected

    async def ready(self, timeout: float = 5.0) -> None:
        """Waits for the first connection; raises Unavailable after `timeout` seconds."""
        if self._opening:
            await asyncio.wait((self._opening,), timeout=timeout)
        if not self.connected:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "NATS cannot be reached")

    async def __aenter__(self) -> Self:
        self._opening = asyncio.create_task(self._open())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        if self._opening and not self._opening.done():
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._flush()
        await self.client.close()

    async def _flush(self) -> None:
        if self.connected:
            try:
                await self.client.flush(timeout=1)
            except (nats.errors.Error, OSError):
                return

    async def _open(self) -> None:
        await self.client.connect(
            servers=self._urls,
            name=self._name,
            error_cb=self._on_error,
            closed_cb=self._on_close,
            reconnected_cb=self._on_reconnect,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            # Jittered per process, so that a cluster does not come back in step. The library annotates these as int.
            reconnect_time_wait=random.uniform(0.2, 0.5),  # pyright: ignore[reportArgumentType]
            connect_timeout=2,
            ping_interval=2,
            max_outstanding_pings=2,
            pending_size=8 << 20,
            flusher_queue_size=1024,
            flush_timeout=2.0,
            drain_timeout=5,
        )

    async def _on_error(self, error: Exception) -> None:
        self._errors.inc()

    async def _on_reconnect(self) -> None:
        self.connection += 1
        self._reconnects.inc()

    async def _on_close(self) -> None:
        if self._on_closed and not self._closing:
            self._on_closed()


def connect(urls: Sequence[str], name: str, metrics: Metrics, *, on_closed: Callable[[], None] | None = None) -> Nats:
    """The connection of a process, to be entered with `async with`; `name` shows in NATS' monitoring."""
    return Nats(urls, name, metrics, on_closed)
