"""A bare HTTP/1.1 client: what it sends is exactly what the test says, and what came back is kept as it was."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """An answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """NDJSON."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def reason(self) -> str:
        """The reason of an error."""
        return self.json["details"][0]["reason"]


class Connection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @staticmethod
    async def to(port: int) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer, after any 100 Continue."""
        while True:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status != 100:
                pairs = [line.partition(":") for line in lines[1:] if line]
                return status, {name.lower(): value.strip() for name, _, value in pairs}

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer."""
        status, headers = await self.head()
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        if "content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        return Answer(status, headers, b"".join([chunk async for chunk in self.chunks()]))

    async def chunks(self) -> Any:
        """The chunks of a chunked body."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    def close(self) -> None:
        self.writer.close()


class Client:
    """Requests to one port, a connection each."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> Connection:
        return await Connection.to(self.port)

    async def request(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        """`body`: bytes as they are, anything else as JSON. Header names with _ for -."""
        connection = await self.connect()
        try:
            await connection.send(written(method, target, body, headers))
            return await asyncio.wait_for(connection.answer(method), 10)
        finally:
            connection.close()

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.request("GET", target, **headers)

    async def post(self, target: str, body: Any = None, **headers: str) -> Answer:
        return await self.request("POST", target, body, **headers)


def written(method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """A request as bytes."""
    given = {name.replace("_", "-").lower(): value for name, value in (headers or {}).items()}
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if body is not None:
        given = {"content-type": "application/json", "content-length": str(len(data))} | given
    lines = [f"{method} {target} HTTP/1.1", "host: test", *(f"{name}: {value}" for name, value in given.items() if value)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


def echoed(answer: Answer) -> Any:
    """The request as the zoo's server got it."""
    assert answer.status == 200, answer.body
    return answer.json["request"]
