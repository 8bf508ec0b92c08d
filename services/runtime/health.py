"""Whether a process serves: per service by asking it every second, as a whole, and as a replica that is not about to stop."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from grpc_health.v1 import health_pb2

# The stub hides it behind a check of the Python version that type checkers do not follow.
from grpc_health.v1.health import aio as health_aio  # pyright: ignore[reportAttributeAccessIssue]

from services.runtime.logs import Log

Check: TypeAlias = Callable[[], Awaitable[bool]]

REPLICA = "chirp.replica"
"""The name that clients watch: NOT_SERVING only when the process is stopping. A store that is away must not take every
replica out of rotation at once, since most of them still have something to answer.
"""
INTERVAL = 1.0
PATIENCE = 2.0
"""Seconds after which a check that does not return counts as failed."""


class Health:
    """The standard health service of a process: its services by name, "" for all together, and REPLICA."""

    def __init__(self, checks: Mapping[str, Check], log: Log) -> None:
        """`checks` by full service name."""
        self.servicer = health_aio.HealthServicer()
        self.serving = False
        """Whether all services were healthy when last asked, and the process is not stopping."""
        self._checks, self._log = checks, log
        self._last: dict[str, bool] = {}

    async def poll(self) -> None:
        """Asks all services, for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL)

    async def refresh(self) -> None:
        """Asks all services once and publishes what they say."""
        names = list(self._checks)
        answers = await asyncio.gather(*(self._ask(name) for name in names))
        self.serving = all(answers)
        for name, healthy in zip(names, answers, strict=True):
            await self._publish(name, healthy)
        await self._publish("", self.serving)
        await self._publish(REPLICA, True)

    async def stop(self) -> None:
        """NOT_SERVING for everything, for good."""
        self.serving = False
        await self.servicer.enter_graceful_shutdown()

    async def _ask(self, name: str) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._checks[name]()
        except Exception as error:
            if self._last.get(name, True):
                self._log.warning("health check failed", checked=name, error=repr(error))
            return False

    async def _publish(self, name: str, healthy: bool) -> None:
        if self._last.get(name) is not healthy:
            self._last[name] = healthy
            response = health_pb2.HealthCheckResponse
            await self.servicer.set(name, response.SERVING if healthy else response.NOT_SERVING)
