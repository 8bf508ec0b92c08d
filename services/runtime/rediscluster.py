"""The Redis Cluster behind one port: aioredis-cluster finds nodes and slots, follows failovers and does rare commands;
the hot ones go as packed RESP over one plain connection a server, some thirty times cheaper. No other file knows
aioredis-cluster.

Callers use only commands whose repetition does no harm. Nothing here waits much longer than `Patience.reply`: a
server that does not answer costs its keys a `CacheUnavailable`, at once while it is known to be away, and no key of
another server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self, cast

import aioredis_cluster
from aioredis_cluster._aioredis.errors import RedisError as LibraryError
from aioredis_cluster._aioredis.errors import ReplyError
from aioredis_cluster.pool import ConnectionsPool

from services.runtime.arrears import Arrears
from services.runtime.metrics import Metrics
from services.runtime.redisnode import Patience
from services.runtime.redisroutes import Answer, Key, Range, Routes, Server
from services.runtime.resp import SLOTS, Argument, CacheUnavailable, RedisError, Reply, joined, key_slot, pack

CHUNK = 2_500
"""Commands that are sent at a time when there are many: a few milliseconds of a server's time."""
_LOOK = 0.25
_FIRST_LOOK = 1.0


class _Chunk(NamedTuple):
    """Keys of one length and one owner, and their places among all keys."""

    server: Server
    keys: list[bytes]
    places: list[int]


class Grouped:
    """Keys sorted by owner and length for `push`; made by `RedisCluster.group`, kept and used again by whoever pushes
    to them often.
    """

    __slots__ = ("chunks", "epoch", "keys")

    def __init__(self, keys: Sequence[bytes], chunks: list[_Chunk], epoch: int) -> None:
        self.keys, self.chunks, self.epoch = keys, chunks, epoch


class RedisCluster:
    """A cluster of Redis servers, for any number of tasks of one event loop; make one with `open`."""

    def __init__(self, nodes: Sequence[str], metrics: Metrics, patience: Patience) -> None:
        """Nothing is connected yet."""
        self.metrics = metrics
        self._discovery = _Discovery(nodes)
        self._routes = Routes(metrics, patience, self._discovery.hurry)
        self._arrears = Arrears(self.scatter, metrics)

    @classmethod
    @asynccontextmanager
    async def open(cls, nodes: str | Sequence[str], metrics: Metrics, patience: Patience | None = None) -> AsyncGenerator[Self]:
        """Connects to the cluster of which `nodes` are members ("host:port", several as a sequence or joined by
        commas).

        Servers that are away stop nothing: their keys are unavailable until they come.
        """
        cluster = cls(nodes.split(",") if isinstance(nodes, str) else nodes, metrics, patience or Patience())
        try:
            await cluster._discovery.start(cluster._routes.adopt)
            await cluster._routes.settled()
            yield cluster
        finally:
            await cluster._arrears.close()
            await cluster._discovery.close()
            await cluster._routes.close()

    @property
    def epoch(self) -> int:
        """Changes with the owners of slots."""
        return self._routes.epoch

    def generation(self, key: Key) -> int:
        """Number of the connection to the key's server, 0 if there was none yet. While it stays the same no reply was
        missed.
        """
        return self._routes.owner(key).generation

    async def run(self, key: Key, *commands: bytes) -> list[Reply]:
        """Packed commands to the owner of the key, in one round trip. Error replies come back as RedisError instances.

        Raises CacheUnavailable unless all were answered.
        """
        outcome = await self._routes.owner(key).submit(commands[0] if len(commands) == 1 else b"".join(commands), len(commands))
        if type(outcome) is list:
            return outcome
        answers = await self._routes.settle(outcome, len(commands), commands.__getitem__)
        for answer in answers:
            if isinstance(answer, CacheUnavailable):
                raise CacheUnavailable(answer.cause)
        return cast("list[Reply]", answers)

    async def scatter(self, commands: Sequence[tuple[Key, bytes]]) -> list[Answer]:
        """Packed commands, each to the owner of its key, in parallel; answers in their order, CacheUnavailable among
        them.
        """
        if len(commands) > CHUNK:
            parts = [commands[start : start + CHUNK] for start in range(0, len(commands), CHUNK)]
            return [answer for part in parts for answer in await self.scatter(part)]
        groups: dict[Server, list[int]] = {}
        owner = self._routes.owner
        for index, (key, _) in enumerate(commands):
            groups.setdefault(owner(key), []).append(index)
        sent = [
            (places, server.submit(b"".join([commands[place][1] for place in places]), len(places)))
            for server, places in groups.items()
        ]
        answers: list[Answer] = [None] * len(commands)
        for places, future in sent:
            outcome = await future
            if type(outcome) is not list:
                outcome = await self._routes.settle(outcome, len(places), _picker(commands, places))
            for place, answer in zip(places, cast("list[Answer]", outcome), strict=True):
                answers[place] = answer
        return answers

    def group(self, keys: Sequence[bytes]) -> Grouped:
        """Sorts keys for `push`."""
        owners, groups = self._routes.owners, dict[tuple[Server, int], tuple[list[bytes], list[int]]]()
        for index, key in enumerate(keys):
            kind = (owners[key_slot(key)], len(key))
            group = groups.get(kind)
            if group is None:
                group = groups[kind] = ([], [])
            group[0].append(key)
            group[1].append(index)
        chunks = [
            _Chunk(server, some[start : start + CHUNK], places[start : start + CHUNK])
            for (server, _), (some, places) in groups.items()
            for start in range(0, len(some), CHUNK)
        ]
        return Grouped(keys, chunks, self._routes.epoch)

    async def push(self, keys: Sequence[bytes] | Grouped, head: bytes, tail: bytes) -> list[int | Exception]:
        """One command a key, alike but for the key: `head, tail = resp.around_key("LPUSHX", value)`.

        Gives the integer replies in the order of the keys, with RedisError or CacheUnavailable in the place of
        those that failed.
        """
        grouped = keys if isinstance(keys, Grouped) else self.group(keys)
        if grouped.epoch != self._routes.epoch:
            grouped = self.group(grouped.keys)
        replies: list[int | Exception] = [0] * len(grouped.keys)
        if len(grouped.chunks) == 1:
            await self._push(grouped.chunks[0], head, tail, replies)
        else:
            await asyncio.gather(*(self._push(chunk, head, tail, replies) for chunk in grouped.chunks))
        return replies

    async def script(self, source: str, key: bytes | str, *arguments: Argument) -> Reply:
        """EVAL of a script that may be run twice, with one key. Raises RedisError, CacheUnavailable."""
        (reply,) = await self.run(key, pack("EVAL", source, 1, key, *arguments))
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def insist(self, key: Key, command: Callable[[], bytes]) -> None:
        """Has a command sent in the background until it is answered, for a minute at most. `command` packs it for each
        attempt.
        """
        self._arrears.add(key, command)

    async def execute(self, *words: Argument) -> object:
        """A rare command through aioredis-cluster, which may repeat it. Raises RedisError, CacheUnavailable."""
        return await self._discovery.execute(*words)

    async def _push(self, chunk: _Chunk, head: bytes, tail: bytes, replies: list[int | Exception]) -> None:
        server, keys, places = chunk
        async with server.turns:
            outcome = await server.submit(joined(keys, head, tail), len(keys))
        if type(outcome) is not list:
            outcome = await self._routes.settle(outcome, len(keys), lambda index: joined(keys[index : index + 1], head, tail))
        for place, reply in zip(places, cast("list[int]", outcome), strict=True):
            replies[place] = reply


def _picker(commands: Sequence[tuple[Key, bytes]], places: list[int]) -> Callable[[int], bytes]:
    return lambda index: commands[places[index]][1]


class _LazyPool(ConnectionsPool):
    """Connects when first used: aioredis-cluster gives a pool to every master before it accepts a map, so one dead
    master of three would otherwise keep a starting process from the other two.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options["minsize"] = 0
        super().__init__(*arguments, **options)


class _Discovery:
    """aioredis-cluster, with every setting explicit."""

    def __init__(self, nodes: Sequence[str]) -> None:
        addresses = [node.strip().rpartition(":") for node in nodes]
        self._cluster = aioredis_cluster.Cluster(
            [aioredis_cluster.Address(host, int(port)) for host, _, port in addresses],
            # Its defaults are 5 s an attempt and 10 attempts; a stopped master then holds a call for 5 s.
            attempt_timeout=0.25,
            connect_timeout=0.25,
            max_attempts=3,
            retry_min_delay=0.05,
            retry_max_delay=0.1,
            # The map is also loaded at once when a server fails or redirects.
            state_reload_interval=5.0,
            # Otherwise only the nodes named at start are ever asked for the map.
            follow_cluster=True,
            idle_connection_timeout=600.0,
            pool_minsize=1,
            pool_maxsize=2,
            pool_cls=_LazyPool,
        )
        self._follower: asyncio.Task[None] | None = None
        self._seen = 0

    async def start(self, adopt: Callable[[Iterator[Range]], None]) -> None:
        """Looks once, for a second at most, then keeps looking; each new map goes to `adopt`."""
        await self._look(adopt)
        self._follower = asyncio.create_task(self._follow(adopt), name="redis discovery")

    async def close(self) -> None:
        """Ends all of it."""
        if self._follower:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        self._cluster.close()
        await self._cluster.wait_closed()

    def hurry(self) -> None:
        """Has the map loaded soon."""
        # The library offers no public way; its version is pinned.
        self._cluster._manager.require_reload_state()  # pyright: ignore[reportPrivateUsage]

    async def execute(self, *words: Argument) -> object:
        """A command through the library."""
        try:
            return await self._cluster.execute(*words)
        except ReplyError as refused:
            raise RedisError(str(refused)) from None
        except (OSError, TimeoutError, LibraryError) as away:
            raise CacheUnavailable(repr(away)) from None

    async def _follow(self, adopt: Callable[[Iterator[Range]], None]) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self._look(adopt)

    async def _look(self, adopt: Callable[[Iterator[Range]], None]) -> None:
        try:
            async with asyncio.timeout(_FIRST_LOOK):
                state = await self._cluster.get_cluster_state()
        except Exception:
            return  # The library has logged it, whatever it was; the next look may succeed.
        if state.reload_id != self._seen:
            self._seen = state.reload_id
            adopt(_ranges(state))


def _ranges(state: aioredis_cluster.ClusterState) -> Iterator[Range]:
    slot = 0
    while slot < SLOTS:
        try:
            found = state.find_slot(slot)
        except aioredis_cluster.UncoveredSlotError:
            slot += 1
            continue
        yield Range(slot, found.end, found.master.addr.host, found.master.addr.port)
        slot = found.end + 1
