"""The `chirp` command as its users run it, on the cluster of the tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cluster.settings import PROJECT
from services.cluster.state import Phase, ProcessRecord, Record, StateFolder
from tests.conftest import Cluster


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    complaints: str

    @property
    def json(self) -> Any:
        """What --json printed."""
        return json.loads(self.out)


@contextmanager
def recorded(cluster: Cluster, state: Path) -> Iterator[Path]:
    """The state folder that `chirp up` would have left: run.json, and the lock held."""
    folder = StateFolder(state)
    with folder.locked():
        folder.write(record_of(cluster))
        yield state


def record_of(cluster: Cluster) -> Record:
    """run.json of the cluster."""
    processes = tuple(
        ProcessRecord(
            each.name,
            str(each.process.kind),
            "healthy",
            0,
            cluster.pid(each.name),
            time.time(),
            each.address,
            cluster.metrics(each.name),
        )
        for each in cluster.machine.instances
    )
    replicas = {"timeline": 2}
    return Record(
        Phase.UP, os.getpid(), time.time(), cluster.rest, cluster.postgres, cluster.redis, cluster.nats, 0, replicas, processes
    )


async def start(state: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Starts `chirp` with these arguments."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cluster.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=PROJECT,
        env=environment | {"CHIRP_STATE": str(state), "NO_COLOR": "1", "COLUMNS": "200"},
    )  # fmt: skip


async def chirp(state: Path, *arguments: str) -> Done:
    """Runs `chirp` with these arguments to its end."""
    process = await start(state, *arguments)
    out, complaints = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), complaints.decode())
