"""Processes that an earlier supervisor left behind when it was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil

from services.cluster.state import ProcessRecord

# The kernel told them to stop when their supervisor died; the slowest is a service that drains for 10 s.
PATIENCE = 15.0


def await_end(records: Iterable[ProcessRecord], patience: float = PATIENCE) -> int:
    """Waits until the recorded processes are gone and kills those that stay; returns how many there were."""
    left = [process for record in records if (process := _same(record))]
    _, alive = psutil.wait_procs(left, timeout=patience)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    return len(left)


def _same(record: ProcessRecord) -> psutil.Process | None:
    """The process, if it still is the one recorded and not another that was given its id."""
    if record.pid is None:
        return None
    try:
        process = psutil.Process(record.pid)
        return process if abs(process.create_time() - record.born) < 1 else None
    except psutil.Error:
        return None
