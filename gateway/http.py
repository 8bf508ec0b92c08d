"""The HTTP listener: uvicorn on httptools, in our event loop and under our signal handling, with the limits it lacks.

Chosen by measurement (2 cores, wrk -c32, median CPU of the process per request, all under SCHED_BATCH). A handler that does
nothing costs 27 µs behind uvicorn, 20 behind granian's ASGI and 17 behind its RSGI. But as soon as a handler waits for
another service, granian's threads and our loop wake each other for every request, and a page of 20 tweets costs the same
behind both: 192 µs behind uvicorn, 196 behind granian. RSGI hands over paths already decoded, so that `%2F` and bad UTF-8
cannot be told apart. And granian embedded is called experimental by itself: it shares a taken port in silence, cannot end a
request that hangs, and panics at exit after a broken chunk.

Added here: a time limit for request heads and a limit of their size, both of which uvicorn leaves open, and errors of
HTTP itself in the shape of all others.
"""

import asyncio
import contextlib
import socket
from asyncio import Task, TimerHandle, Transport
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chirp import errors
from gateway import status
from gateway.encode import Encoder
from gateway.status import ErrorWriter, Refusal

HEAD_WITHIN = 10.0
"""Seconds for the head of a request, and for the first byte of a connection."""
LARGEST_HEAD = 64 * 1024
"""Bytes of request line and headers. A query of a thousand ids fits."""
KEEP_ALIVE = 75
"""Seconds that an idle connection is kept."""
BACKLOG = 1024

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class PortTaken(OSError):
    """The address cannot be listened on; the message names it."""


class Listener:
    """Serves an ASGI application from entering until `stop`."""

    def __init__(self, application: Asgi, host: str, port: int) -> None:
        """Port 0 takes a free one; see `port` once entered."""
        self._application = application
        self._host = host
        self.port = port
        self._serving: Task[None] | None = None

    async def __aenter__(self) -> Self:
        listening = _bind(self._host, self.port)
        self.port = listening.getsockname()[1]
        self._server = _Server(_settings(self._application))
        self._serving = asyncio.create_task(self._server.serve([listening]), name="http")
        while not self._server.started:
            await asyncio.sleep(0)
            if self._serving.done():
                await self._serving
                raise RuntimeError("the HTTP listener ended as soon as it was started")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop(0)

    def connections(self) -> list[Any]:
        """The open connections, as uvicorn's protocol objects."""
        return list(self._server.server_state.connections)

    async def stop(self, grace: float, cut_off: Callable[[], None] = lambda: None) -> None:
        """Accepts no more, ends idle connections, lets requests in progress end; after `grace` seconds calls `cut_off`."""
        if self._serving is None or self._serving.done():
            return
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=grace)
        if not self._serving.done():
            cut_off()
            await asyncio.wait({self._serving}, timeout=0.5)
        self._serving.cancel()  # who does not read its answer even now is left to the end of the process
        await asyncio.wait({self._serving})


class _Server(uvicorn.Server):
    """Signals are the process's own affair."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Connection(HttpToolsProtocol):
    """A connection whose next request has to arrive in time and within size."""

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._head_size = 0
        self._in_head = True
        self._limit: TimerHandle | None = self.loop.call_later(HEAD_WITHIN, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._got_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_size = self._head_size + len(data) if self._in_head else len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head_size > LARGEST_HEAD:
            self._refuse(status.head_too_large(LARGEST_HEAD))
        elif self._limit is None:
            self._limit = self.loop.call_later(HEAD_WITHIN, self._late)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._head_size > LARGEST_HEAD and self._exact_size() > LARGEST_HEAD:
            self._refuse(status.head_too_large(LARGEST_HEAD))
            return
        self._got_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up."""
        self._refuse(status.malformed("this is not an HTTP/1.1 request"))

    def _exact_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _got_head(self) -> None:
        self._in_head = False
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _late(self) -> None:
        """Nothing came at all: just close. Something came: say why."""
        self._limit = None
        if self._head_size:
            self._refuse(status.head_too_slow(HEAD_WITHIN))
        else:
            self.transport.close()

    def _refuse(self, error: errors.ServiceError | Refusal) -> None:
        """Answers and closes; only closes if an answer to an earlier request is on its way."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # None before the first request, whatever its annotation says
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_written(error))
        self.transport.close()


def _settings(application: Asgi) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=_Connection,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # or every broken request writes a line
        access_log=False,
        proxy_headers=False,  # who is behind X-Forwarded-For is for the proxy to say, and nobody asks here
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
    )


def _bind(host: str, port: int) -> socket.socket:
    """Without SO_REUSEPORT: a second process on the port is a mistake that must show."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(BACKLOG)  # so that a port shared by two binds fails now
    except OSError as error:
        made.close()
        raise PortTaken(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    made.setblocking(False)
    return made


def _written(error: errors.ServiceError | Refusal) -> bytes:
    """A whole answer, for requests that never became one."""
    code, _, body = ErrorWriter(Encoder()).answer(error)
    head = f"HTTP/1.1 {code} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode("ascii") + body
