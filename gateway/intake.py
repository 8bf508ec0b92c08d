"""Takes in a request's body: bounded in size and time, JSON unless the route wants it as it is."""

import asyncio

from gateway import status
from gateway.exchange import Exchange
from gateway.transcode import Body

WITHIN = 10.0
"""Seconds for a body to arrive; a client that dribbles holds a connection no longer."""
_NOTHING = Body("", b"")
_JSON = "application/json"


async def read(exchange: Exchange, limit: int, *, raw: bool, json: bool) -> Body:
    """The body, at most `limit` bytes; Refusal with 408, 413 or 415. `json`: it must be called so if it is not empty."""
    length = exchange.fields.get(b"content-length")
    if (length is None or length == b"0") and b"transfer-encoding" not in exchange.fields:
        return _NOTHING
    if length is not None and (not length.isdigit() or len(length) > 15 or int(length) > limit):
        raise status.body_too_large(limit)
    try:
        async with asyncio.timeout(WITHIN):
            data = await _collect(exchange, limit)
    except TimeoutError:
        raise status.body_too_slow(WITHIN) from None
    content_type = exchange.fields.get(b"content-type", b"").decode("latin-1")
    if data and not raw:
        _check_encoding(exchange)
        if json:
            _check_type(content_type)
    return Body(content_type, data)


async def _collect(exchange: Exchange, limit: int) -> bytes:
    first, more = await exchange.chunk()
    if not more and len(first) <= limit:
        return first
    parts, size = [first], len(first)
    while more and size <= limit:
        part, more = await exchange.chunk()
        parts.append(part)
        size += len(part)
    if size > limit:
        raise status.body_too_large(limit)
    return b"".join(parts)


def _check_encoding(exchange: Exchange) -> None:
    if exchange.fields.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise status.media_type("a body must not be compressed")


def _check_type(content_type: str) -> None:
    media, _, parameters = content_type.partition(";")
    if media.strip().lower() != _JSON:
        raise status.media_type(f"a body must have the content type {_JSON}")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().lower().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise status.media_type("a body must be in UTF-8")
