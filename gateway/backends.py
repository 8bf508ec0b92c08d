"""The services behind the gateway: generic calls by full method name, bytes in and bytes out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from gateway.headers import Metadata
from services.runtime import channel
from services.runtime.metrics import Metrics

READY_WITHIN = 1.0
"""Seconds that a peer gets to become reachable while readiness is asked for."""


class Unary(Protocol):
    """An RPC with one reply; raises ServiceError."""

    def __call__(self, request: bytes, /, *, timeout: float, metadata: Metadata) -> Awaitable[bytes]:
        """Cancelling the awaiting task cancels the call."""
        ...


class Stream(Protocol):
    """An RPC with a stream of replies; raises ServiceError while iterated."""

    def __call__(self, request: bytes, /, *, timeout: float, metadata: Metadata) -> AsyncIterator[bytes]:
        """Cancelling the iterating task cancels the call."""
        ...


class Backends:
    """One channel per service. This is the process nearest to the user, so idempotent calls are retried here and only here."""

    def __init__(self, replicas: Mapping[ServiceDescriptor, Sequence[str]], metrics: Metrics) -> None:
        """`replicas`: "host:port" of each, by the service they serve."""
        self._replicas = replicas
        self._metrics = metrics
        self._channels: dict[str, channel.Channel] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for service, replicas in self._replicas.items():
            opened = channel.connect(replicas, service, self._metrics, retry=True)
            self._channels[service.full_name] = await self._stack.enter_async_context(opened)
            opened.get_state(try_to_connect=True)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def unary(self, service: str, rpc: str) -> Unary:
        """The RPC at `rpc` ("/package.Service/Method") of a service known here."""
        return self._channels[service].unary_unary(rpc)

    def stream(self, service: str, rpc: str) -> Stream:
        """As `unary`, for a server stream."""
        return self._channels[service].unary_stream(rpc)

    async def unreachable(self) -> list[str]:
        """Full names of the services of which no replica can be reached now."""
        names = sorted(self._channels)
        answers = await asyncio.gather(*(self._reachable(self._channels[name]) for name in names))
        return [name for name, reachable in zip(names, answers, strict=True) if not reachable]

    @staticmethod
    async def _reachable(peer: channel.Channel) -> bool:
        if peer.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(READY_WITHIN):
                await peer.channel_ready()
        except TimeoutError:
            return False
        return True
