"""TCP ports of this machine: which are free, and who holds one that is not."""

from __future__ import annotations

import random
import socket

import psutil

LOOPBACK = "127.0.0.1"
# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection can take a chosen port first; low
# enough that a Redis bus port (+10000) stays below it too.
FREE_RANGE = range(12000, 22500)
BUS_OFFSET = 10000


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on the port now."""
    try:
        _bound(port, host).close()
    except OSError:
        return False
    return True


def _bound(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket that is bound and does not listen: servers, which all reuse addresses, can still bind beside it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Reservation:
    """Keeps ports for our children, running or not.

    The gRPC ports lie where the kernel takes the ports of outgoing connections from: without this a connection of one
    child can be given the port of another, which then cannot start, or not start again after a crash.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def hold(self, port: int) -> bool:
        """Takes the port; False when somebody else has it."""
        if port not in self._held:
            try:
                self._held[port] = _bound(port)
            except OSError:
                return False
        return True

    def release(self) -> None:
        """Gives all ports back."""
        for held in self._held.values():
            held.close()
        self._held.clear()


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


def listener(port: int) -> str | None:
    """Who listens on the port, as "name (pid 12)"; None when nobody does or the system does not tell us."""
    return _owner(port, listening=True)


def holder(port: int) -> str:
    """Who has the port: a listener, or somebody whose outgoing connection was given it."""
    if owner := listener(port):
        return owner
    owner = _owner(port, listening=False)
    return f"a connection of {owner}" if owner else "another user, or a connection closed a moment ago"


def _owner(port: int, listening: bool) -> str | None:
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    for each in connections:
        if each.laddr and each.laddr.port == port and each.pid and (each.status == psutil.CONN_LISTEN) is listening:
            return f"{_name(each.pid)} (pid {each.pid})"
    return None


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process that just ended"
