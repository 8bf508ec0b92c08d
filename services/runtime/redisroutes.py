"""Which server owns which slot, the servers themselves, and what becomes of commands that a server would not do:
MOVED, ASK, not now.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from services.runtime.metrics import Metrics
from services.runtime.redisnode import Absent, Node, NodeCounters, Patience
from services.runtime.resp import SLOTS, CacheUnavailable, Flawed, Outcome, RedisError, Reply, key_slot, pack

Key: TypeAlias = "bytes | str | int"
"""A key, or the slot of one where the caller has it at hand."""
Server: TypeAlias = "Node | Absent"
Answer: TypeAlias = "Reply | CacheUnavailable"

_ASKING = pack("ASKING")
_NOT_NOW = frozenset(("MOVED", "ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN", "READONLY"))


class Range(NamedTuple):
    """Slots `first` to `last`, both included, and the address of their owner."""

    first: int
    last: int
    host: str
    port: int


class _Onward(NamedTuple):
    """Where redirected commands go, and whether they must ask."""

    node: Node
    asking: bool


class Routes:
    """The map from slot to server. It starts empty: then every slot belongs to nobody, who refuses."""

    def __init__(self, metrics: Metrics, patience: Patience, outdated: Callable[[], None]) -> None:
        """`outdated` is told whenever the map may have become wrong."""
        redirects = metrics.counter("chirp_redis_redirects", "Commands sent on to another server.", ["kind"])
        self._moved, self._asked = redirects.labels("moved"), redirects.labels("ask")
        metrics.gauge("chirp_redis_nodes_up", "Servers that answer.").set_function(self._up)
        self._counters, self._patience, self._generations = NodeCounters(metrics), patience, itertools.count(1)
        self._outdated = outdated
        self._absent = Absent(self._counters)
        self._nodes: dict[tuple[str, int], Node] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.owners: list[Server] = [self._absent] * SLOTS
        self.epoch = 0
        """Changes with the map."""

    def owner(self, key: Key) -> Server:
        """The server of a key."""
        if isinstance(key, bytes):
            return self.owners[key_slot(key)]
        return self.owners[key if isinstance(key, int) else key_slot(key.encode())]

    def adopt(self, ranges: Iterable[Range]) -> None:
        """Takes a new map; servers that own nothing any more are let go."""
        owners: list[Server] = [self._absent] * SLOTS
        for each in ranges:
            owners[each.first : each.last + 1] = [self._node(each.host, each.port)] * (each.last - each.first + 1)
        if owners != self.owners:
            self.owners = owners
            self.epoch += 1
        kept = set(owners)
        for address, node in list(self._nodes.items()):
            if node not in kept and node.idle:
                del self._nodes[address]
                self._let_go(node)

    async def settled(self) -> None:
        """Returns when the first attempt to connect to each server has ended."""
        await asyncio.gather(*(node.settled() for node in self._nodes.values()))

    async def close(self) -> None:
        """Ends all connections."""
        for node in self._nodes.values():
            self._let_go(node)
        await asyncio.gather(*self._closing)

    async def settle(self, outcome: Outcome, count: int, command: Callable[[int], bytes]) -> list[Answer]:
        """The answers of a batch that did not simply succeed; its redirected commands, given by `command(index)`, are
        sent on once.
        """
        if isinstance(outcome, CacheUnavailable):
            return [outcome] * count
        answers: list[Answer] = [*outcome]
        sent = [
            (places, onward.asking, self._send(onward, [command(place) for place in places]))
            for onward, places in self._redirected(answers).items()
        ]
        for places, asking, future in sent:
            again = await future
            if not isinstance(again, CacheUnavailable) and asking:
                again = again[1::2]
            for index, place in enumerate(places):
                answers[place] = again if isinstance(again, CacheUnavailable) else again[index]
        return [self._final(answer) for answer in answers] if isinstance(outcome, Flawed) else answers

    def _redirected(self, answers: list[Answer]) -> dict[_Onward, list[int]]:
        onward: dict[_Onward, list[int]] = {}
        for place, answer in enumerate(answers):
            if isinstance(answer, RedisError) and answer.code in ("MOVED", "ASK"):
                onward.setdefault(self._follow(answer), []).append(place)
        return onward

    def _follow(self, redirect: RedisError) -> _Onward:
        """Reads "MOVED 3999 127.0.0.1:6381"; a move is remembered at once for its slot, the whole map follows."""
        kind, slot, address = str(redirect).split(" ")[:3]
        host, _, port = address.rpartition(":")
        node = self._node(host, int(port))
        if kind == "ASK":
            self._asked.inc()
            return _Onward(node, True)
        self._moved.inc()
        if self.owners[int(slot)] is not node:
            self.owners[int(slot)] = node
            self.epoch += 1
        self._outdated()
        return _Onward(node, False)

    def _send(self, onward: _Onward, commands: list[bytes]) -> asyncio.Future[Outcome]:
        if not onward.asking:
            return onward.node.submit(b"".join(commands), len(commands))
        return onward.node.submit(b"".join([_ASKING + command for command in commands]), 2 * len(commands))

    def _final(self, answer: Answer) -> Answer:
        """An error that is about the cluster and not about the command is no answer."""
        if isinstance(answer, RedisError) and answer.code in _NOT_NOW:
            self._outdated()
            return CacheUnavailable(str(answer))
        return answer

    def _node(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            node = Node(host, port, self._patience, self._counters, self._generations, self._outdated)
            self._nodes[host, port] = node
        return node

    def _let_go(self, node: Node) -> None:
        closing = asyncio.get_running_loop().create_task(node.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _up(self) -> float:
        return float(sum(node.up for node in self._nodes.values()))
