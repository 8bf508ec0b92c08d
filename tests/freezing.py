"""A server that neither answers nor hangs up, as a stopped machine or a dead disk looks from outside."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stops a process and all its descendants (Postgres serves each connection from one) for the block."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    try:
        for process in tree:
            process.send_signal(signal.SIGSTOP)
        for process in tree:
            _await_stop(process)
        yield
    finally:
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def _await_stop(process: psutil.Process) -> None:
    """The signal is on its way when kill(2) returns: threads on other processors run on for a moment."""
    deadline = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} does not stop")
        time.sleep(0.001)
