"""A cluster of the benchmark's own, in a temporary folder and on ports of its own, so that figures start from the same state."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import single, target
from loadtest.target import Target
from services.cluster.state import Record, StateFolder

PORT_OFFSET = 3700
"""Away from a cluster that may be running beside."""


@dataclass(frozen=True, slots=True)
class Rig:
    """The running cluster."""

    record: Record
    target: Target
    folder: Path

    def pids(self, *names: str) -> list[int]:
        """Process ids by name, Postgres' children among them."""
        found = [process.pid for process in self.record.processes if process.name in names and process.pid]
        return found + [child for pid in found if "postgres" in names for child in children(pid)]

    @contextmanager
    def paused(self, *names: str) -> Generator[None]:
        """Stops processes by SIGSTOP meanwhile, so that what they do is not measured with the rest."""
        pids = self.pids(*names)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


@asynccontextmanager
async def cluster(variables: Mapping[str, str] | None = None) -> AsyncGenerator[Rig]:
    """`chirp up` until left."""
    with tempfile.TemporaryDirectory(prefix="chirp-bench-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}
        environment |= {"CHIRP_STATE": folder, "CHIRP_AUTH": "header", "CHIRP_LOG_LEVEL": "warning", **(variables or {})}
        await chirp(environment, "up", "--detach", "--port-offset", str(PORT_OFFSET))
        try:
            record = StateFolder(Path(folder)).read()
            if record is None:
                raise RuntimeError("the cluster left no record of itself")
            yield Rig(record, target.of(record), Path(folder))
        finally:
            await chirp(environment, "down")


@asynccontextmanager
async def one_node() -> AsyncGenerator[Rig]:
    """The same with a single Redis node, which holds all slots."""
    with tempfile.TemporaryDirectory(prefix="chirp-redis-") as folder:
        async with single.single_node(Path(folder)) as address, cluster({"CHIRP_REDIS": address}) as rig:
            yield rig


async def chirp(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """A command of `chirp` with --json; raises RuntimeError with its last words if it fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cluster.cli", *arguments, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(environment),
    )  # fmt: skip
    out, complaints = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"chirp {' '.join(arguments)}: {complaints.decode()[-500:] or out.decode()[-500:]}")
    return json.loads(out[out.index(b"{") :]) if b"{" in out else {}
