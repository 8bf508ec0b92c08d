"""The gRPC server of a process: handler tables behind the interceptors, health, reflection, channelz, operations,
metrics; an orderly stop.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from services.runtime import handlers, interceptors, methods, viewer
from services.runtime.admission import Admission
from services.runtime.clock import Clock, SystemClock
from services.runtime.config import Config
from services.runtime.grpcdoor import Door, OpenStreams, interruptible, method_handler
from services.runtime.grpcsettings import SERVER_ARGUMENTS
from services.runtime.guarded import Guarded
from services.runtime.health import Check, Health
from services.runtime.logs import Log
from services.runtime.metrics import Metrics, MetricsServer
from services.runtime.ops import SERVICE as OPS_SERVICE
from services.runtime.ops import Ops, OpsSources
from services.runtime.paging import PageTokens
from services.runtime.viewer import Authenticator

BACKSTOP = 10
"""grpc itself refuses calls at this multiple of the admitted total: for streams, which admission does not count in the total."""
STREAM_GRACE = 2.0
"""Seconds that streams get to end by themselves when the process stops; watchers never would."""


class Server:
    """Serves the added services from entering until leaving; leaving loses no unary call that was accepted.

    Stop: NOT_SERVING, linger while clients turn away, refuse new calls, let calls end (unary: the grace; streams: 2 s),
    close.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        log: Log,
        clock: Clock | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        """The authenticator is the configured one unless given."""
        self._config, self._metrics, self._log = config.server, metrics, log
        self._clock = clock or SystemClock()
        self._admission = Admission(config.server.max_in_flight)
        self._chain = interceptors.standard(
            metrics.server,
            log,
            config.log.sample,
            self._clock,
            self._admission,
            authenticator or viewer.authenticator(config),
        )
        self._streams, self._library_streams = OpenStreams(), OpenStreams()
        self._checks: dict[str, Check] = {}
        self._server: grpc.aio.Server | None = None
        self._polling: asyncio.Task[None] | None = None
        self._open = AsyncExitStack()
        self.guarded: dict[str, Guarded] = {}
        """Handlers by path on the wire, for doors other than this one."""
        self.ops = OpsSources()
        """What OpsService shows; fill before entering."""
        self.port = config.server.grpc_port
        """The gRPC port; the one taken, once entered."""
        self.metrics_port = config.server.metrics_port
        """The port of /metrics and /healthz; the one taken, once entered."""
        self.add(Ops(self.ops, PageTokens(config.page_key)), OPS_SERVICE)

    def add(self, implementation: object, *services: ServiceDescriptor | str, healthy: Check | None = None) -> None:
        """Serves services (descriptors or full names) by an object, see `handlers`. Health asks `healthy`, or the
        object's own method.
        """
        check: Check = healthy or getattr(implementation, "healthy", _always)
        for path, handler in handlers.table(implementation, *services).items():
            self.guarded[path] = Guarded(handler, self._chain)
        for service in services:
            self._checks[methods.service_descriptor(service).full_name] = check

    async def __aenter__(self) -> Self:
        self._health = Health(self._checks, self._log)
        await self._health.refresh()
        async with AsyncExitStack() as stack:
            pages = MetricsServer(self._metrics, self._config.host, self.metrics_port, self._is_serving)
            self.metrics_port = (await stack.enter_async_context(pages)).port
            self._server = await self._start()
            self._open = stack.pop_all()
        self._metrics.gauge("chirp_runtime_calls_in_flight", "Unary calls in progress.").set_function(
            lambda: self._admission.in_flight
        )
        self._metrics.gauge("chirp_runtime_streams_open", "Streams in progress.").set_function(lambda: len(self._streams))
        self._polling = asyncio.create_task(self._health.poll(), name="health")
        self._log.info("serving", host=self._config.host, grpc_port=self.port, metrics_port=self.metrics_port)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._polling:
            self._polling.cancel()
        await self._health.stop()
        await asyncio.sleep(self._config.linger)
        if self._server:
            await self._drain(self._server)
        await self._open.aclose()
        self._log.info("stopped")

    async def _start(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            handlers=[Door(self._method_handlers())],
            options=SERVER_ARGUMENTS,
            maximum_concurrent_rpcs=self._config.max_in_flight * BACKSTOP,
            compression=grpc.Compression.NoCompression,
        )
        address = f"{self._config.host}:{self.port}"
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} (CHIRP_HOST, CHIRP_GRPC_PORT): is another process there?") from error
        await server.start()
        return server

    async def _drain(self, server: grpc.aio.Server) -> None:
        stopping = asyncio.create_task(server.stop(self._config.grace))
        self._library_streams.end()
        await self._streams.ended(min(STREAM_GRACE, self._config.grace))
        self._streams.end()
        await stopping

    def _method_handlers(self) -> dict[str, Any]:
        ours = {path: method_handler(guarded, self._clock, self._streams) for path, guarded in self.guarded.items()}
        return self._library_handlers() | ours

    def _library_handlers(self) -> dict[str, Any]:
        library = _Registrar(self._library_streams)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, library)
        if self._config.reflection:
            names = [*self._checks, *(health_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Health",))]
            names += [channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name, reflection.SERVICE_NAME]
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), library)
            channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), library)
        return library.handlers

    async def _is_serving(self) -> bool:
        return self._health.serving


class _Registrar:
    """Stands in for a server where generated code registers a library's servicer, and keeps its handlers by path."""

    def __init__(self, streams: OpenStreams) -> None:
        self._streams = streams
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """The same handlers once more, in the other form."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Called by generated code."""
        for name, handler in method_handlers.items():
            self.handlers[f"/{service_name}/{name}"] = interruptible(handler, self._streams)


async def _always() -> bool:
    return True
