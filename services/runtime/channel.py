"""Calls to other services: one channel per service for the life of the process, every call with a deadline, errors as
ServiceErrors.
"""

import asyncio
import ipaddress
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import methods
from services.runtime.config import ConfigError
from services.runtime.grpcsettings import CHANNEL_ARGUMENTS, service_config
from services.runtime.interceptors import was_withdrawn
from services.runtime.methods import Method
from services.runtime.metrics import Metrics, RpcCell


def connect(replicas: Sequence[str], service: ServiceDescriptor | str, metrics: Metrics, *, retry: bool = False) -> "Channel":
    """A channel to the replicas ("host:port", as config.peer gives them) of a service, for its generated stub.

    `retry` is for the process nearest to the user alone (gateway, load test, command line): one retry layer. It repeats
    only calls that the contract calls idempotent and only UNAVAILABLE. Use as an async context manager, or close().
    """
    rows = methods.of_service(service)
    options = [*CHANNEL_ARGUMENTS, ("grpc.service_config", json.dumps(service_config(rows.values() if retry else ())))]
    channel = grpc.aio.insecure_channel(target(replicas), options, compression=grpc.Compression.NoCompression)
    return Channel(channel, rows, metrics)


def target(replicas: Sequence[str]) -> str:
    """gRPC's spelling of a list of addresses, or of one name that may stand for several."""
    if not replicas:
        raise ConfigError("a channel needs the address of at least one replica")
    versions = {_ip_version(each.rpartition(":")[0]) for each in replicas}
    if versions == {4} or versions == {6}:
        return f"ipv{versions.pop()}:{','.join(replicas)}"
    if len(replicas) == 1:
        return f"dns:///{replicas[0]}"
    raise ConfigError(f"{','.join(replicas)}: list addresses of one IP version, or give one name that resolves to all replicas")


def _ip_version(host: str) -> int:
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        return 0


class Channel(grpc.aio.Channel):
    """What a generated stub is constructed with. Its methods take `timeout` (seconds, always) and `metadata`, and are
    to be awaited or iterated.

    They raise ServiceError, never AioRpcError. Cancelling the awaiting task cancels the call.
    """

    def __init__(self, channel: grpc.aio.Channel, rows: dict[str, Method], metrics: Metrics) -> None:
        """Takes over an open channel; `rows` are the methods of its service by path."""
        self._channel, self._rows, self._metrics = channel, rows, metrics.client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends the connections; calls in progress get `grace` seconds."""
        await self._channel.close(grace)
        await asyncio.sleep(0)  # the poller's last events are taken by the loop, or it complains at exit (grpc #34139)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """State of the connections as a whole."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when a replica is connected; put a timeout around it."""
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *serializers: Any, **more: Any) -> Any:
        """Called by the generated stub."""
        return _unary(self._channel.unary_unary(method, *serializers, **more), self._metrics.cell(self._rows[method]))

    def stream_unary(self, method: str, *serializers: Any, **more: Any) -> Any:
        """Called by the generated stub."""
        return _unary(self._channel.stream_unary(method, *serializers, **more), self._metrics.cell(self._rows[method]))

    def unary_stream(self, method: str, *serializers: Any, **more: Any) -> Any:
        """Called by the generated stub."""
        return _stream(self._channel.unary_stream(method, *serializers, **more), self._metrics.cell(self._rows[method]))

    def stream_stream(self, method: str, *serializers: Any, **more: Any) -> Any:
        """Called by the generated stub."""
        return _stream(self._channel.stream_stream(method, *serializers, **more), self._metrics.cell(self._rows[method]))


def _unary(multi: Any, cell: RpcCell) -> Callable[..., Any]:
    """A call with one reply."""
    monotonic, sent = time.monotonic, _counter(cell)

    async def call(request: Any, *, timeout: float, metadata: Any = None) -> Any:
        if not 0 < timeout < math.inf:
            raise ValueError(f"{cell.method.full_name} needs a timeout in seconds, not {timeout}")
        started = monotonic()
        cell.started += 1
        try:
            reply = await multi(sent(request), timeout=timeout, metadata=metadata)
        except BaseException as error:
            failure = _failure(cell, error, monotonic() - started)
            if failure is None:
                raise
            raise failure from error
        cell.received += 1
        cell.ended(0, monotonic() - started)
        return reply

    return call


def _stream(multi: Any, cell: RpcCell) -> Callable[..., Any]:
    """A call with many replies; leaving the iteration early (`aclose`) cancels it. Watchers may wait infinitely."""
    monotonic, sent = time.monotonic, _counter(cell)

    async def call(request: Any, *, timeout: float, metadata: Any = None) -> AsyncGenerator[Any, None]:
        if not timeout > 0:
            raise ValueError(f"{cell.method.full_name} needs a timeout in seconds, not {timeout}")
        started = monotonic()
        cell.started += 1
        replies = multi(sent(request), timeout=None if timeout == math.inf else timeout, metadata=metadata)
        try:
            async for reply in replies:
                cell.received += 1
                yield reply
        except BaseException as error:
            failure = _failure(cell, error, monotonic() - started)
            if failure is None:
                raise
            raise failure from error
        finally:
            replies.cancel()
        cell.ended(0, monotonic() - started)

    return call


def _counter(cell: RpcCell) -> Callable[[Any], Any]:
    """Counts what is sent: the request itself, or each of a stream as grpc takes it."""

    def one(request: Any) -> Any:
        cell.sent += 1
        return request

    async def many(requests: AsyncIterable[Any] | Iterable[Any]) -> AsyncGenerator[Any, None]:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                yield one(request)
        else:
            for request in requests:
                yield one(request)

    return many if cell.method.kind.requests_stream else one


def _failure(cell: RpcCell, error: BaseException, seconds: float) -> errors.ServiceError | None:
    """Counts a failed call; the ServiceError to raise, or None when the caller itself gave up."""
    failure = None if was_withdrawn(error) else _service_error(cell, error)
    cell.ended((failure.code if failure else grpc.StatusCode.CANCELLED).value[0], seconds)
    return failure


def _service_error(cell: RpcCell, error: BaseException) -> errors.ServiceError:
    if isinstance(error, asyncio.CancelledError):  # the channel was closed under the call
        return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, f"the connection to {cell.method.service} was closed")
    if not isinstance(error, grpc.aio.AioRpcError):
        return errors.Internal(errorspb.ERROR_REASON_INTERNAL, f"{cell.method.full_name} could not be called")
    failure = errors.from_rpc_error(error)
    if failure.reason or failure.details:
        return failure
    if isinstance(failure, errors.Cancelled):  # not by us: the server stopped before or under the call (its core says CANCELLED)
        return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, f"{_name(cell)} was ended by the server")
    # Made up by grpc on this side: its text names addresses, which are nobody's business further out.
    reason, text = _LOCAL.get(failure.code, (errorspb.ERROR_REASON_INTERNAL, "failed"))
    return type(failure)(reason, f"{_name(cell)} {text}")


def _name(cell: RpcCell) -> str:
    return f"{cell.method.service.rpartition('.')[2]}.{cell.method.name}"


_LOCAL = {
    grpc.StatusCode.UNAVAILABLE: (errorspb.ERROR_REASON_UNAVAILABLE, "cannot be reached"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (errorspb.ERROR_REASON_DEADLINE_EXCEEDED, "did not answer in time"),
    grpc.StatusCode.UNIMPLEMENTED: (errorspb.ERROR_REASON_UNIMPLEMENTED, "is not served there"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        errorspb.ERROR_REASON_OVERLOADED,
        "was refused: too many calls or too much data",
    ),
}
"""Reason and text for what has no status of ours, by code."""
