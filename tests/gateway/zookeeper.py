"""The zoo's server, plain grpc.aio, and a gateway in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from gateway.app import Application
from gateway.backends import Backends
from gateway.http import Listener
from gateway.telemetry import HttpMetrics
from services.runtime import logs
from services.runtime.metrics import Metrics
from services.runtime.viewer import HeaderAuthenticator, NobodyAuthenticator
from tests.gateway import contracts
from tests.gateway.client import Client

ZOO = contracts.zoo()
SERVICE = ZOO.service("Zoo")
EchoResponse, Upload, HttpBody = (
    ZOO.message("EchoResponse"),
    ZOO.message("Upload"),
    contracts.message_factory.GetMessageClass(ZOO.pool.FindMessageTypeByName("google.api.HttpBody")),
)


class Zookeeper:
    """Echoes; on demand waits, fails, or streams. Remembers which calls were cancelled."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.running = 0

    async def echo(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        self.calls += 1
        await self._misbehave(request, context)
        metadata = {key: value if isinstance(value, str) else value.hex() for key, value in context.invocation_metadata() or ()}
        remaining = round((context.time_remaining() or 0) * 1000)
        return EchoResponse(
            request=request, metadata=metadata, text=f"hello {request.name}", leaves=request.leaves, remaining_ms=remaining
        )

    async def watch(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for number in range(request.count):
            yield EchoResponse(text=f"message {number}")
        await self._misbehave(request, context)

    async def download(self, request: Any, _: grpc.aio.ServicerContext) -> Any:
        return HttpBody(content_type=request.request_id or "text/plain; charset=utf-8", data=f"file {request.name}".encode())

    async def stream(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        for number in range(request.count):
            yield HttpBody(content_type="text/csv", data=b"%d%s\n" % (number, request.name.encode()))
        await self._misbehave(request, context)

    async def _misbehave(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        self.running += 1
        try:
            await asyncio.sleep(request.delay_ms / 1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if request.fail_code:
            await _fail(request.fail_code, context)


async def _fail(number: int, context: grpc.aio.ServicerContext) -> None:
    code = next(each for each in grpc.StatusCode if each.value[0] == number)
    status = status_pb2.Status(code=number, message="as you wish")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="chirp"))
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status.details.add().Pack(retry)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, "as you wish")


def handlers(keeper: Zookeeper) -> grpc.GenericRpcHandler:
    """The keeper as generic handlers, one per method of the contract."""
    special: dict[str, Any] = {"Watch": keeper.watch, "Download": keeper.download, "Stream": keeper.stream, "Send": _send}
    made: dict[str, Any] = {}
    for method in SERVICE.methods:
        request = contracts.message_factory.GetMessageClass(method.input_type)
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        behaviour = special.get(method.name) or (_empty if method.name == "Remove" else keeper.echo)
        made[method.name] = make(behaviour, request.FromString, lambda reply: reply.SerializeToString())
    return grpc.method_handlers_generic_handler(SERVICE.full_name, made)


async def _empty(_: Any, __: grpc.aio.ServicerContext) -> Any:
    return ZOO.message("Leaf")()  # encodes to nothing, as Empty does


async def _send(request: Any, _: grpc.aio.ServicerContext) -> Any:
    return request


class Zoo(Client):
    """Everything at once: the keeper behind, the gateway in front, a client of it."""

    def __init__(self, keeper: Zookeeper, application: Application, listener: Listener, metrics: Metrics, server: Any) -> None:
        super().__init__(listener.port)
        self.keeper, self.application, self.listener, self.metrics, self.server = keeper, application, listener, metrics, server


@asynccontextmanager
async def zoo(port: Callable[[], int], *, header_auth: bool = True) -> AsyncIterator[Zoo]:
    """A running zoo."""
    keeper, metrics = Zookeeper(), Metrics("gateway")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(keeper),))
    backend = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    authenticator = HeaderAuthenticator() if header_auth else NobodyAuthenticator()
    try:
        async with Backends({SERVICE: [f"127.0.0.1:{backend}"]}, metrics) as backends:
            application = Application([SERVICE], backends, authenticator, HttpMetrics(metrics.registry), logs.silent(), ZOO.pool)
            async with Listener(application, "127.0.0.1", port()) as listener:
                yield Zoo(keeper, application, listener, metrics, server)
    finally:
        await server.stop(0)
