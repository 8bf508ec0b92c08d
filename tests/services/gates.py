"""Interleavings that are forced: whoever reaches a gate waits there until the test opens it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from services.runtime import handlers, validation
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.methods import Kind
from services.runtime.rediscluster import Grouped, RedisCluster
from services.runtime.redisroutes import Answer, Key
from services.runtime.resp import CacheUnavailable, Reply, key_slot
from services.timeline import window

BEFORE, AFTER = "before", "after"
SCRIPTS = {window.BEGIN: "begin", window.FINISH: "finish", window.TRIM: "trim"}


class Gate:
    """Holds the first who comes. `await gate.reached()`, do what must happen meanwhile, `gate.open()`."""

    def __init__(self) -> None:
        self._arrived, self._opened = asyncio.Event(), asyncio.Event()

    async def reached(self) -> None:
        """Returns when somebody waits at the gate."""
        async with asyncio.timeout(5):
            await self._arrived.wait()

    def open(self) -> None:
        """Lets them go on."""
        self._opened.set()

    async def passing(self) -> None:
        """What the one who is held calls."""
        self._arrived.set()
        async with asyncio.timeout(10):
            await self._opened.wait()


class Gates:
    """Gates by the step they stand before or after. Each holds one passer-by, then it is gone."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, str], Gate] = {}

    def hold(self, step: str, moment: str = BEFORE) -> Gate:
        """Sets up a gate."""
        gate = self._standing[step, moment] = Gate()
        return gate

    async def around(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does a step, held before or after it where a gate stands."""
        await self._pass(step, BEFORE)
        found = await work()
        await self._pass(step, AFTER)
        return found

    async def _pass(self, step: str, moment: str) -> None:
        gate = self._standing.pop((step, moment), None)
        if gate:
            await gate.passing()


class Stub:
    """A client of a service object in the same process: requests are validated, counted and held as a test wants."""

    def __init__(self, implementation: object, service: str, clock: Clock) -> None:
        self.gates, self.calls, self._clock = Gates(), Counter[str](), clock
        self.altering: dict[str, Callable[[Any], Any]] = {}
        """What becomes of replies, by RPC: a fault that a test plants."""
        for handler in handlers.table(implementation, service).values():
            adapter = self._stream if handler.method.kind is Kind.SERVER_STREAM else self._unary
            setattr(self, handler.method.name, adapter(handler, validation.compiled(handler.method.request_class)))

    def _unary(self, handler: handlers.Handler, validate: validation.Validate | None) -> Callable[..., Awaitable[Message]]:
        name, reply_class = handler.method.name, handler.method.response_class

        async def call(request: Message, *, timeout: float, metadata: Any = None) -> Message:
            onward = self._begin(name, request, validate, timeout, metadata)
            reply = await self.gates.around(name, lambda: handler.invoke(request, onward))
            reply = reply_class.FromString(reply if isinstance(reply, bytes) else reply.SerializeToString())
            return self.altering.get(name, lambda same: same)(reply)

        return call

    def _stream(self, handler: handlers.Handler, validate: validation.Validate | None) -> Callable[..., AsyncIterator[Message]]:
        async def call(request: Message, *, timeout: float, metadata: Any = None) -> AsyncIterator[Message]:
            onward = self._begin(handler.method.name, request, validate, timeout, metadata)
            async for reply in handler.invoke(request, onward):
                yield reply

        return call

    def _begin(self, name: str, request: Message, validate: validation.Validate | None, timeout: float, metadata: Any) -> Call:
        assert timeout > 0
        self.calls[name] += 1
        if validate:
            validate(request)
        return Call.background(self._clock, timeout, viewer_id=int(dict(metadata or ()).get("x-user-id", "0")))


class HeldRedis:
    """A RedisCluster whose steps can be held, and which can be away for some keys.

    Steps: "look" (scatter), "torn" (between the first command of a scatter and the others), "read" (run), "push",
    "begin", "finish", "trim".
    """

    def __init__(self, inner: RedisCluster) -> None:
        self.gates, self.calls, self._inner = Gates(), Counter[str](), inner
        self.away: Callable[[Key], bool] = lambda key: False
        """For which keys no command is sent."""
        self.mute: Callable[[Key], bool] = lambda key: False
        """For which keys commands are done and their replies lost."""
        self._torn = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tear(self) -> Gate:
        """Has the next look send its first command alone and wait at the gate before the others."""
        self._torn = True
        return self.gates.hold("torn")

    async def script(self, source: str, key: bytes | str, *arguments: Any) -> Reply:
        return await self._step(SCRIPTS.get(source, "script"), key, lambda: self._inner.script(source, key, *arguments))

    async def run(self, key: Key, *commands: bytes) -> list[Reply]:
        return await self._step("read", key, lambda: self._inner.run(key, *commands))

    async def scatter(self, commands: Sequence[tuple[Key, bytes]]) -> list[Answer]:
        self.calls["look"] += 1
        if any(self.away(key) for key, _ in commands):
            return [CacheUnavailable("away")] * len(commands)
        if self._torn:
            self._torn = False
            first = await self._inner.scatter(commands[:1])
            return first + await self.gates.around("torn", lambda: self._inner.scatter(commands[1:]))
        return await self.gates.around("look", lambda: self._inner.scatter(commands))

    async def push(self, keys: Sequence[bytes] | Grouped, head: bytes, tail: bytes) -> list[int | Exception]:
        self.calls["push"] += 1
        grouped = keys if isinstance(keys, Grouped) else self._inner.group(keys)
        sent = [key for key in grouped.keys if not self.away(key)]
        pushed = await self.gates.around("push", lambda: self._inner.push(sent, head, tail))
        replies = dict(zip(sent, pushed, strict=True))
        return [self._lost(key) or replies[key] for key in grouped.keys]

    async def _step(self, name: str, key: Key, work: Callable[[], Awaitable[Any]]) -> Any:
        self.calls[name] += 1
        if self.away(key):
            raise CacheUnavailable("away")
        return await self.gates.around(name, work)

    def _lost(self, key: bytes) -> CacheUnavailable | None:
        return CacheUnavailable("away") if self.away(key) or self.mute(key) else None


def third(key: Key) -> int:
    """Which of the three servers of a fresh cluster owns a key: 0, 1 or 2."""
    slot = key if isinstance(key, int) else key_slot(key if isinstance(key, bytes) else key.encode())
    return sum(slot >= round(index * 16_384 / 3) for index in (1, 2))
