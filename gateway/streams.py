"""Server streams as HTTP: one JSON object a line, `{"result": …}` for each message, `{"error": …}` last if it fails.

An error that comes before the first message, or at once, still has its HTTP status. google.api.HttpBody messages are sent
as they are, under the content type of the first.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import orjson

from chirp import errors
from gateway.exchange import Exchange
from gateway.status import ErrorWriter
from gateway.transcode import Transcoder
from gateway.watch import stopping

NDJSON = b"application/x-ndjson"
PATIENCE = 0.25
"""Seconds that an answer's status waits for the first message; a quiet stream then begins with 200."""


class StreamWriter:
    """Writes the streams of all routes."""

    def __init__(self, errors_as: ErrorWriter) -> None:
        self._errors = errors_as

    async def write(self, exchange: Exchange, transcoder: Transcoder, replies: AsyncIterator[bytes]) -> None:
        """Sends a whole stream; raises ServiceError as long as no answer was begun."""
        async with AsyncExitStack() as stack:
            close: Any = getattr(replies, "aclose", None)
            if close:
                stack.push_async_callback(close)
            first = await self._first(exchange, transcoder, replies)
            if not exchange.head:
                await self._all(exchange, transcoder, first, replies)
        # Last of all: once the answer is complete, the listener says that the client is gone.
        await exchange.end()

    async def _first(self, exchange: Exchange, transcoder: Transcoder, replies: AsyncIterator[bytes]) -> list[bytes]:
        """Begins the answer, and returns the first message, or nothing if there is none at all."""
        waiting = asyncio.ensure_future(_next(replies))
        try:
            if not transcoder.raw_reply:
                await asyncio.wait({waiting}, timeout=PATIENCE)
                if not waiting.done():
                    await exchange.begin(transcoder.route.success, NDJSON)
            first = await self._guarded(exchange, waiting)
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})
        if not exchange.started:
            content_type = NDJSON
            if transcoder.raw_reply:
                content_type = transcoder.raw(first[0]).content_type.encode("ascii") if first else b""
            await exchange.begin(transcoder.route.success, content_type)
        return first

    async def _guarded(self, exchange: Exchange, waiting: "asyncio.Future[list[bytes]]") -> list[bytes]:
        try:
            return await waiting
        except errors.ServiceError as error:
            if not exchange.started:
                raise
            await self._fail(exchange, error)
            return []

    async def _all(self, exchange: Exchange, transcoder: Transcoder, first: list[bytes], replies: AsyncIterator[bytes]) -> None:
        try:
            for message in first:
                await exchange.part(_line(transcoder, message))
            async for message in replies:
                await exchange.part(_line(transcoder, message))
        except errors.ServiceError as error:
            await self._fail(exchange, error)
        except asyncio.CancelledError:
            if not exchange.cut_off or exchange.gone:
                raise
            await self._fail(exchange, stopping())

    async def _fail(self, exchange: Exchange, error: errors.ServiceError) -> None:
        await exchange.part(orjson.dumps({"error": self._errors.body(error)}) + b"\n")


async def _next(replies: AsyncIterator[bytes]) -> list[bytes]:
    async for message in replies:
        return [message]
    return []


def _line(transcoder: Transcoder, message: bytes) -> bytes:
    if transcoder.raw_reply:
        return transcoder.raw(message).data
    return b'{"result":' + transcoder.reply(message) + b"}\n"
