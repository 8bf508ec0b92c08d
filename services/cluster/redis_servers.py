"""The embedded Redis Cluster: masters without replicas on loopback; on disk is only who owns which slot."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import hiredis

from services.cluster import binaries, probes
from services.cluster.ports import BUS_OFFSET, LOOPBACK
from services.cluster.program import ClusterError, Port, Program, Step

CLUSTER = "redis"
SLOTS = 16384
TIMEOUT = 2.0
# A fresh master waits 2 s before it declares the cluster usable; slow machines need more for the gossip.
FORM_PATIENCE = 30.0
SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": "2000",
    # A lost node costs its own slots, not everybody's.
    "cluster-require-full-coverage": "no",
    "save": "",
    "appendonly": "no",
    # Everything here can be rebuilt, and whatever may be thrown away carries an expiry.
    "maxmemory-policy": "volatile-lru",
    "daemonize": "no",
    "loglevel": "notice",
}
"""What every node is told, here and in containers."""
Reply = object


@dataclass(frozen=True, slots=True)
class Node:
    """The address of one node."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def node_name(index: int) -> str:
    """The process name of the node, counted from 1."""
    return f"{CLUSTER}-{index + 1}"


@dataclass(frozen=True, slots=True)
class RedisServers:
    """Where the nodes listen and how much each may hold; `server` is the program to run ("" finds one)."""

    folder: Path
    ports: tuple[int, ...]
    maxmemory: str = "1gb"
    server: str = ""

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(LOOPBACK, port) for port in self.ports)

    @property
    def addresses(self) -> str:
        """The nodes as CHIRP_REDIS wants them."""
        return ",".join(map(str, self.nodes))

    def units(self) -> list[Program | Step]:
        """One program a node, and the step `redis` that joins them."""
        names = tuple(node_name(index) for index in range(len(self.ports)))
        return [*self._programs(), Step(CLUSTER, self._form, names)]

    def forget(self) -> None:
        """Removes what an earlier run knew of its cluster: its nodes are gone, and so are their ports and keys."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _programs(self) -> list[Program]:
        server = str(binaries.redis(self.server))
        return [self._program(server, node_name(index), node) for index, node in enumerate(self.nodes)]

    def _program(self, server: str, name: str, node: Node) -> Program:
        folder = self.folder / str(node.port)

        async def make_folder() -> None:
            folder.mkdir(parents=True, exist_ok=True)

        async def serves() -> bool:
            return await _answers(node)

        return Program(
            name=name,
            argv=(server, *self._settings(node.port, folder)),
            probe=serves,
            prepare=make_folder,
            ports=(Port(node.port, "Redis"), Port(node.port + BUS_OFFSET, "Redis Cluster bus")),
        )

    def _settings(self, port: int, folder: Path) -> list[str]:
        own = {
            "bind": LOOPBACK,
            "port": str(port),
            "dir": str(folder),
            "cluster-announce-ip": LOOPBACK,
            "maxmemory": self.maxmemory,
        }
        return [part for name, value in (own | SETTINGS).items() for part in (f"--{name}", value)]

    async def _form(self) -> None:
        await form(self.nodes)


async def form(nodes: Sequence[Node], patience: float = FORM_PATIENCE) -> None:
    """Joins the nodes into one cluster, unless they are one already, and waits until every node says it is usable."""
    if not await _covered(nodes[0]):
        await _assign(nodes)
    deadline = asyncio.get_running_loop().time() + patience
    while not all(await asyncio.gather(*(_usable(node, len(nodes)) for node in nodes))):
        if asyncio.get_running_loop().time() > deadline:
            raise ClusterError(
                f"the Redis nodes {', '.join(map(str, nodes))} did not form a cluster in {patience:.0f} s: "
                "see `chirp logs redis-1`; `chirp down` and `chirp up` start it afresh"
            )
        await asyncio.sleep(0.05)


async def command(node: Node, *words: str) -> Reply:
    """One administrative command; an error reply comes back as a hiredis.ReplyError instance."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(node.host, node.port)
        try:
            # Its type stub says "one word" and means "any number".
            writer.write(hiredis.pack_command(words))  # pyright: ignore[reportArgumentType]
            return await _reply(reader)
        finally:
            probes.reset(writer)


async def _reply(reader: asyncio.StreamReader) -> Reply:
    # hiredis says "nothing yet" with False.
    parser = hiredis.Reader(encoding="utf-8")
    while (reply := cast("Reply", parser.gets())) is False:
        received = await reader.read(65536)
        if not received:
            raise ConnectionResetError("the Redis node closed the connection")
        parser.feed(received)
    return reply


async def _answers(node: Node) -> bool:
    try:
        return await command(node, "PING") == "PONG"
    except (OSError, TimeoutError):
        return False


async def _assign(nodes: Sequence[Node]) -> None:
    """Gives each node its share of the slots and an epoch of its own, then introduces it to the first.

    Nodes that were given theirs by an attempt that was interrupted keep it, so this can be repeated.
    """
    bounds = [round(index * SLOTS / len(nodes)) for index in range(len(nodes) + 1)]
    for epoch, (node, (low, high)) in enumerate(zip(nodes, pairwise(bounds), strict=True), start=1):
        if (await _information(node)).get("cluster_slots_assigned") == "0":
            await _done(node, "CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
            await _done(node, "CLUSTER", "ADDSLOTS", *map(str, range(low, high)))
    for node in nodes[1:]:
        await _done(node, "CLUSTER", "MEET", nodes[0].host, str(nodes[0].port))


async def _done(node: Node, *words: str) -> None:
    reply = await command(node, *words)
    if reply != "OK":
        raise ClusterError(f"Redis node {node} refused {' '.join(words[:2])}: {reply}; stop and start the cluster")


async def _information(node: Node) -> dict[str, str]:
    reply = await command(node, "CLUSTER", "INFO")
    lines = str(reply).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


async def _covered(node: Node) -> bool:
    return (await _information(node)).get("cluster_slots_assigned") == str(SLOTS)


async def _usable(node: Node, size: int) -> bool:
    facts = await _information(node)
    return (
        facts.get("cluster_state") == "ok"
        and facts.get("cluster_slots_ok") == str(SLOTS)
        and facts.get("cluster_known_nodes") == str(size)
    )
