"""A server that neither answers nor hangs up, as a stopped machine or a dead disk looks from outside."""

from __future__ import annotations

import signal
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
        yield
    finally:
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
