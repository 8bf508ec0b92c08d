"""TCP ports of this machine: which are free, and who holds one that is not."""

from __future__ import annotations

import random
import socket
from contextlib import closing

import psutil

LOOPBACK = "127.0.0.1"
# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection can take a chosen port first; low
# enough that a Redis bus port (+10000) stays below it too.
FREE_RANGE = range(12000, 22500)
BUS_OFFSET = 10000


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on the port now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class FreePorts:
    """Gives away ports that nobody listens on, none of them twice."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._chooser = random.SystemRandom()

    def take(self, *offsets: int) -> int:
        """A port p for which p + each offset is free as well."""
        for _ in range(1000):
            port = self._chooser.choice(FREE_RANGE)
            group = {port + offset for offset in (0, *offsets)}
            if not group & self._given and all(map(is_free, group)):
                self._given |= group
                return port
        raise OSError(f"no free port between {FREE_RANGE.start} and {FREE_RANGE.stop}")


def holder(port: int) -> str:
    """Who listens on the port, as "name (pid 12)"; "another process" when the system does not tell us."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return "another process"
    for connection in connections:
        local = connection.laddr
        if local and local.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
            return f"{_name(connection.pid)} (pid {connection.pid})"
    return "another process"


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process that just ended"
