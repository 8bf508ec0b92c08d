"""Commands that Redis owes us an answer to: sent again until it is reachable, so that a short outage leaves no mark
unset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from services.runtime.metrics import Metrics
from services.runtime.redisroutes import Answer, Key
from services.runtime.resp import CacheUnavailable

PERIOD = 0.25
PATIENCE = 60.0
"""Seconds after which a command is given up: versions of fences have ended by then."""
LIMIT = 10_000
"""Commands kept; beyond it the oldest is given up."""
_AT_A_TIME = 1_000

Scatter = Callable[[Sequence[tuple[Key, bytes]]], Awaitable[list[Answer]]]


class Arrears:
    """Sends commands again in the background. Each attempt is packed anew, for one whose reply was lost may have been
    done.
    """

    def __init__(self, scatter: Scatter, metrics: Metrics) -> None:
        self._scatter = scatter
        self._owed: dict[int, tuple[Key, Callable[[], bytes], float]] = {}
        self._next = 0
        self._task: asyncio.Task[None] | None = None
        self._given_up = metrics.counter("chirp_redis_arrears_given_up", "Commands that were not repeated any longer.")
        metrics.gauge("chirp_redis_arrears", "Commands that wait to be repeated.").set_function(lambda: len(self._owed))

    def add(self, key: Key, command: Callable[[], bytes]) -> None:
        """Takes on a command; `command()` packs it for the owner of `key`."""
        if len(self._owed) >= LIMIT:
            del self._owed[next(iter(self._owed))]
            self._given_up.inc()
        self._next += 1
        self._owed[self._next] = key, command, monotonic() + PATIENCE
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._settle(), name="redis arrears")

    async def close(self) -> None:
        """Gives up what is left."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _settle(self) -> None:
        while self._owed:
            await asyncio.sleep(PERIOD)
            due = list(self._owed.items())
            for start in range(0, len(due), _AT_A_TIME):
                await self._send(due[start : start + _AT_A_TIME])
        self._task = None

    async def _send(self, due: Sequence[tuple[int, tuple[Key, Callable[[], bytes], float]]]) -> None:
        answers = await self._scatter([(key, command()) for _, (key, command, _) in due])
        for (number, (_, _, until)), answer in zip(due, answers, strict=True):
            failed = isinstance(answer, CacheUnavailable)
            if failed and monotonic() < until:
                continue
            if self._owed.pop(number, None) and failed:
                self._given_up.inc()
