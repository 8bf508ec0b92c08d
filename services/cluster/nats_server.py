"""The embedded NATS server with JetStream on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from services.cluster import binaries, probes
from services.cluster.ports import LOOPBACK
from services.cluster.program import Port, Program

NAME = "nats"

CONFIGURATION = """\
# Written by chirp before every start.
server_name: chirp
listen: {host}:{port}
http: {host}:{monitoring_port}
pid_file: {pid_file}
# A client that stops reading must not hold memory for long.
write_deadline: 2s
ping_interval: 20s
jetstream {{
  store_dir: {store}
  # Acknowledged messages reach the disk at least this often; a killed server loses none, a power cut at most these.
  sync_interval: {sync_interval}
}}
"""


@dataclass(frozen=True, slots=True)
class NatsServer:
    """Where an embedded server listens and keeps its streams; `sync_interval` is a duration like "10s" or "always"."""

    folder: Path
    port: int
    monitoring_port: int
    sync_interval: str = "10s"

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    def program(self) -> Program:
        """The server as a program for the supervisor."""
        return Program(
            name=NAME,
            argv=(str(binaries.nats()), "--config", str(self._configuration)),
            probe=self._serves,
            prepare=self._prepare,
            ports=(Port(self.port, "NATS"), Port(self.monitoring_port, "NATS monitoring")),
        )

    @property
    def _configuration(self) -> Path:
        return self.folder / "nats.conf"

    async def _prepare(self) -> None:
        await asyncio.to_thread(self._write_configuration)

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            host=LOOPBACK,
            port=self.port,
            monitoring_port=self.monitoring_port,
            pid_file=_quoted(self.folder / "nats.pid"),
            store=_quoted(self.folder / "store"),
            sync_interval=self.sync_interval,
        )
        self._configuration.write_text(text)

    async def _serves(self) -> bool:
        """/healthz is green only when JetStream has recovered its streams."""
        return await probes.http_ok(LOOPBACK, self.monitoring_port, "/healthz")


def _quoted(path: Path) -> str:
    return f'"{path}"'
