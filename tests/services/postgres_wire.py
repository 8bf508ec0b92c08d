"""A wire to Postgres that a test can cut after the server has answered and before the client hears it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET = ".s.PGSQL.5432"


class Wire:
    """Passes bytes on, until a marked statement: then the connection ends, with the server's answer unheard."""

    def __init__(self, server: Path) -> None:
        self._server = server
        self._marker = b""
        self.cuts = 0

    def cut_after(self, marker: bytes) -> None:
        """For the next statement that holds these bytes in a parameter."""
        self._marker = marker

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the client."""
        there_reader, there_writer = await asyncio.open_unix_connection(str(self._server))
        doomed = asyncio.Event()
        pumps = [
            asyncio.create_task(self._requests(reader, there_writer, doomed)),
            asyncio.create_task(self._answers(there_reader, writer, doomed)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, there_writer):
                each.close()

    async def _requests(self, client: asyncio.StreamReader, server: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while sent := await client.read(1 << 16):
            if self._marker and self._marker in sent:
                self._marker = b""
                doomed.set()
            server.write(sent)

    async def _answers(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while answer := await server.read(1 << 16):
            if doomed.is_set():
                self.cuts += 1
                return
            client.write(answer)


@asynccontextmanager
async def wired(dsn: str, folder: Path) -> AsyncIterator[tuple[str, Wire]]:
    """A DSN that reaches the same server over a wire."""
    wire = Wire(Path(str(conninfo_to_dict(dsn)["host"])) / SOCKET)
    server = await asyncio.start_unix_server(wire.serve, str(folder / SOCKET))
    try:
        yield make_conninfo(dsn, host=str(folder)), wire
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 1.0)
