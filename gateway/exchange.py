"""One HTTP request and its answer on the bare ASGI interface: what was asked, what is known of it, and how the answer leaves."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway import cors, headers, status

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
UNMATCHED = "unmatched"
"""The route label of requests that no template matched."""


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class Exchange:
    """A request in progress. `route` and `code` are what it is counted under."""

    __slots__ = (
        "_receive", "_send", "code", "cut_off", "fields", "gone", "head", "method", "path", "query", "request_id", "route",
        "sent", "started",
    )  # fmt: skip

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.query: bytes = scope["query_string"]
        self.sent: headers.Sent = scope["headers"]
        """The headers one by one, as they came."""
        self.fields: dict[bytes, bytes] = dict(self.sent)
        self.request_id = headers.request_id(self.fields)
        self.head = self.method == "HEAD"
        self.route = UNMATCHED
        self.code = 0
        """0 until an answer was begun."""
        self.started = False
        self.gone = False
        self.cut_off = False
        """Whether the process is stopping and cancelled what served this request."""
        self._receive = receive
        self._send = send

    async def chunk(self) -> tuple[bytes, bool]:
        """The next part of the body, and whether more follows; ClientGone if the client left."""
        message = await self._receive()
        if message["type"] != "http.request":
            self.gone = True
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)

    async def disconnected(self) -> None:
        """Returns when the client leaves. Only after the body was read or given up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def answer(self, code: int, content_type: bytes, body: bytes, more: status.Headers | None = None) -> None:
        """A whole answer; for HEAD the listener keeps the body back."""
        await self._start(code, content_type, [(b"content-length", b"%d" % len(body)), *(more or ())])
        await self._send({"type": "http.response.body", "body": body})

    async def empty(self, code: int, more: status.Headers) -> None:
        """An answer without a body."""
        await self._start(code, b"", more)
        await self._send({"type": "http.response.body", "body": b""})

    async def begin(self, code: int, content_type: bytes) -> None:
        """The head of an answer that comes in parts."""
        await self._start(code, content_type, [])

    async def part(self, body: bytes) -> None:
        """A part of an answer; waits while the client takes them too slowly."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """The end of an answer that came in parts."""
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, code: int, content_type: bytes, more: status.Headers) -> None:
        out: status.Headers = [(b"x-request-id", self.request_id.encode("ascii")), *more]
        if content_type:
            out += [(b"content-type", content_type), (b"x-content-type-options", b"nosniff")]
        if b"origin" in self.fields:
            out += cors.ANSWER
        if b"traceparent" in self.fields:
            out.append((b"traceparent", self.fields[b"traceparent"]))
        self.code, self.started = code, True
        await self._send({"type": "http.response.start", "status": code, "headers": out})
