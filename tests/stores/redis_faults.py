"""A private Redis Cluster for tests that break it, and what they need to move slots and count answers."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from services.cluster.ports import FreePorts
from services.cluster.redis_servers import Node, command
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisnode import Patience
from services.runtime.resp import SLOTS, CacheUnavailable, key_slot
from tests.running import BackendServers
from tests.waiting import eventually

NAMES = ("redis-1", "redis-2", "redis-3")
UNHURRIED = Patience(reply=2.0, connect=2.0)
"""For tests that are about other things than time, on machines that are busy."""


class PrivateCluster:
    """Three servers of its own; "redis-1" to "redis-3" own a third of the slots each, in order."""

    def __init__(self, folder: Path, ports: FreePorts) -> None:
        self.servers = BackendServers(folder, ports)
        self.addresses = self.servers.redis()
        self.nodes = [Node(host, int(port)) for host, port in (each.split(":") for each in self.addresses.split(","))]

    def close(self) -> None:
        """Ends the servers."""
        self.servers.close()

    def name_of(self, key: bytes) -> str:
        """The server that owned the key's slot from the beginning."""
        return NAMES[_third(key)]

    async def calls(self, name: str) -> int:
        """How often a command was executed, on all servers together."""
        statistics = [str(await command(node, "INFO", "commandstats")) for node in self.nodes]
        found = [re.search(rf"cmdstat_{name}:calls=(\d+)", each) for each in statistics]
        return sum(int(each[1]) for each in found if each)

    async def identity(self, node: Node) -> str:
        """The node id by which the cluster knows it."""
        return str(await command(node, "CLUSTER", "MYID"))

    @asynccontextmanager
    async def moving(self, key: bytes, gone: Sequence[bytes]) -> AsyncGenerator[None]:
        """The key's slot is on its way to the next server, where the keys `gone` are already; afterwards all is back."""
        slot, index = key_slot(key), owner_index(key)
        source, target = self.nodes[index], self.nodes[(index + 1) % 3]
        await self._begin(slot, source, target)
        for each in gone:
            await self._migrate(each, source, target)
        yield
        await self._finish(slot, source, target)
        await self._move(slot, target, source)

    @asynccontextmanager
    async def moved(self, key: bytes) -> AsyncGenerator[None]:
        """The key's slot with all its keys belongs to the next server; afterwards to its first owner again."""
        slot, index = key_slot(key), owner_index(key)
        source, target = self.nodes[index], self.nodes[(index + 1) % 3]
        await self._move(slot, source, target)
        yield
        await self._move(slot, target, source)

    async def take_over(self, dead: int, heir: int) -> None:
        """Gives all slots of a dead server to another one; the dead one must not come back."""
        bounds = [round(each * SLOTS / 3) for each in (dead, dead + 1)]
        slots = [str(slot) for slot in range(*bounds)]
        for index, node in enumerate(self.nodes):
            if index != dead:
                assert await command(node, "CLUSTER", "DELSLOTS", *slots) == "OK"
        assert await command(self.nodes[heir], "CLUSTER", "ADDSLOTS", *slots) == "OK"

    async def _move(self, slot: int, source: Node, target: Node) -> None:
        await self._begin(slot, source, target)
        await self._finish(slot, source, target)

    async def _finish(self, slot: int, source: Node, target: Node) -> None:
        for each in await self._keys(source, slot):
            await self._migrate(each, source, target)
        identity = await self.identity(target)
        for node in (target, source, *(each for each in self.nodes if each not in (source, target))):
            assert await command(node, "CLUSTER", "SETSLOT", str(slot), "NODE", identity) == "OK"

    async def _begin(self, slot: int, source: Node, target: Node) -> None:
        """From here on the source answers ASK for keys of the slot that it does not have."""
        importing = ("CLUSTER", "SETSLOT", str(slot), "IMPORTING", await self.identity(source))
        migrating = ("CLUSTER", "SETSLOT", str(slot), "MIGRATING", await self.identity(target))
        assert await command(target, *importing) == "OK"
        assert await command(source, *migrating) == "OK"

    async def _keys(self, node: Node, slot: int) -> list[bytes]:
        found = await command(node, "CLUSTER", "GETKEYSINSLOT", str(slot), "1000")
        return [str(key).encode() for key in cast("list[object]", found)]

    async def _migrate(self, key: bytes, source: Node, target: Node) -> None:
        words = ("MIGRATE", target.host, str(target.port), key.decode(), "0", "2000")
        assert await command(source, *words) in ("OK", "NOKEY")

    async def flush(self) -> None:
        """Empties all servers."""
        for node in self.nodes:
            await command(node, "FLUSHALL")


@asynccontextmanager
async def connected(addresses: str, patience: Patience | None = None) -> AsyncGenerator[RedisCluster]:
    """A client with metrics of its own; returns its `RedisCluster` when all servers are connected."""
    async with RedisCluster.open(addresses, Metrics("test"), patience or Patience()) as redis:
        await eventually(lambda: metric(redis, "chirp_redis_nodes_up") == len(addresses.split(",")))
        yield redis


def metric(redis: RedisCluster, name: str, **labels: str) -> float:
    """The present value of a metric."""
    return redis.metrics.registry.get_sample_value(name, labels) or 0.0


def keys_on(third: int, count: int, prefix: str = "k") -> list[bytes]:
    """Different keys whose slots lie in the first, second or third third (0, 1, 2)."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = b"%b:{%d}" % (prefix.encode(), number)
        if _third(key) == third:
            found.append(key)
        number += 1
    return found


def unavailable(answers: Iterable[object]) -> list[bool]:
    """Which answers are missing."""
    return [isinstance(answer, CacheUnavailable) for answer in answers]


def owner_index(key: bytes) -> int:
    """0, 1 or 2: the server of the key."""
    return _third(key)


def _third(key: bytes) -> int:
    bounds = [round(index * SLOTS / 3) for index in (1, 2)]
    return sum(key_slot(key) >= bound for bound in bounds)
