"""The REST shim as a bare ASGI application: finds the route, translates, calls, answers, counts."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from chirp import errors
from gateway import cors, headers, intake, routes, status
from gateway.backends import Backends
from gateway.decode import Decoder
from gateway.encode import Encoder
from gateway.exchange import JSON, ClientGone, Exchange, Message, Receive, Send
from gateway.matcher import Match, MethodNotAllowed, NoRoute, UndecodablePath
from gateway.routes import Route
from gateway.status import ErrorWriter, Refusal
from gateway.streams import StreamWriter
from gateway.telemetry import HttpMetrics
from gateway.transcode import Transcoder
from gateway.watch import Watched
from services.runtime.clock import SystemClock
from services.runtime.logs import LineLimit, Log
from services.runtime.viewer import Authenticator

BODY_LIMIT = 64 * 1024
CLIENT_CLOSED_REQUEST = 499
_PROBES = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route with all that serving it needs."""

    label: str
    transcoder: Transcoder
    call: Callable[..., Any]


class Application:
    """Serves the annotated RPCs of a set of services, `/healthz` and `/readyz`."""

    def __init__(
        self,
        services: Iterable[ServiceDescriptor],
        backends: Backends,
        authenticator: Authenticator,
        metrics: HttpMetrics,
        log: Log,
        pool: descriptor_pool.DescriptorPool | None = None,
    ) -> None:
        """Raises routes.RouteError if the annotations cannot be served. `pool` knows the types that an Any may hold."""
        decoder, encoder = Decoder(pool), Encoder(pool)
        self._backends = backends
        self._authenticator = authenticator
        self._metrics = metrics
        self._log = log
        self._lines = LineLimit(SystemClock())
        self._errors = ErrorWriter(encoder)
        self._streams = StreamWriter(self._errors)
        self._watched = Watched()
        self._probes = {"/healthz": self._alive, "/readyz": self._ready}
        self._routes = routes.table(services, lambda route: self._endpoint(route, Transcoder(route, decoder, encoder)))
        self.draining = False
        """Set when the process is about to stop: it is not ready any more."""

    def _endpoint(self, route: Route, transcoder: Transcoder) -> Endpoint:
        call = self._backends.stream if route.streams else self._backends.unary
        return Endpoint(route.template.text, transcoder, call(route.service, route.rpc))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            return
        began, exchange = time.perf_counter(), Exchange(scope, receive, send)
        try:
            await self._serve(exchange)
        except ClientGone:
            exchange.code = CLIENT_CLOSED_REQUEST
        except (errors.ServiceError, Refusal) as error:
            await self._refuse(exchange, error)
        except Exception as error:
            await self._fault(exchange, error)
        finally:
            self._metrics.observe(exchange.method, exchange.route, exchange.code, time.perf_counter() - began)

    @property
    def watched(self) -> int:
        """Requests in progress that take long, and streams."""
        return len(self._watched)

    async def healthy(self) -> bool:
        """Whether the process wants requests."""
        return not self.draining

    def cut_off(self, *, streams: bool) -> None:
        """Ends the streams, or all other requests, that are still in progress; their clients are told UNAVAILABLE."""
        self._watched.cut_off(streams=streams)

    async def _serve(self, exchange: Exchange) -> None:
        if exchange.path in self._probes or exchange.method == "OPTIONS":
            await self._serve_itself(exchange)
            return
        match = self._find(exchange)
        transcoder = match.value.transcoder
        route = transcoder.route
        exchange.route = match.value.label
        headers.refuse_repeated(exchange.sent, exchange.fields)
        inbound = headers.read(exchange.fields, exchange.request_id, self._authenticator, stream=route.streams)
        body = await intake.read(exchange, BODY_LIMIT, raw=transcoder.raw_request, json=route.takes_body)
        request = transcoder.request(match.captured, exchange.query, body, inbound.idempotency_key)
        with self._watched.over(exchange, stream=route.streams):
            reply = match.value.call(request, timeout=inbound.timeout, metadata=inbound.metadata)
            if route.streams:
                await self._streams.write(exchange, transcoder, reply)
                return
            encoded = await reply
        await self._answer(exchange, transcoder, encoded)

    def _find(self, exchange: Exchange) -> Match[Endpoint]:
        try:
            return self._routes.find(exchange.method, exchange.path)
        except NoRoute:
            raise status.no_route() from None
        except MethodNotAllowed as error:
            raise status.method_not_allowed(error.allowed) from None
        except UndecodablePath as error:
            raise errors.InvalidArgument.field(error.variable, error.problem) from None

    async def _answer(self, exchange: Exchange, transcoder: Transcoder, encoded: bytes) -> None:
        if transcoder.raw_reply:
            body = transcoder.raw(encoded)
            await exchange.answer(transcoder.route.success, body.content_type.encode("ascii"), body.data)
        else:
            await exchange.answer(transcoder.route.success, JSON, transcoder.reply(encoded))

    async def _refuse(self, exchange: Exchange, error: errors.ServiceError | Refusal) -> None:
        code, more, body = self._errors.answer(error)
        if exchange.started:
            return
        if code >= 500 and (withheld := self._lines.admit()) is not None:
            self._log.info("request failed", route=exchange.route, status=code, request_id=exchange.request_id, withheld=withheld)
        await exchange.answer(code, JSON, body, more)

    async def _fault(self, exchange: Exchange, error: Exception) -> None:
        self._log.error("request crashed", route=exchange.route, request_id=exchange.request_id, exc_info=error)
        await self._refuse(exchange, status.internal(exchange.request_id))

    async def _serve_itself(self, exchange: Exchange) -> None:
        """Probes, and OPTIONS for every path."""
        probe = self._probes.get(exchange.path)
        methods = set(_PROBES) if probe else self._routes.methods(exchange.path)
        if not methods:
            raise status.no_route()
        if exchange.method == "OPTIONS":
            allowed = status.allow(methods)
            preflight = b"access-control-request-method" in exchange.fields
            more = cors.preflight(allowed) if preflight else []
            await exchange.empty(204, [(b"allow", allowed.encode("ascii")), *more])
        elif probe is None or exchange.method not in methods:
            raise status.method_not_allowed(methods)
        else:
            exchange.route = exchange.path
            code, said = await probe()
            await exchange.answer(code, JSON, orjson.dumps(said), [(b"cache-control", b"no-store")])

    async def _alive(self) -> tuple[int, dict[str, Any]]:
        return 200, {"status": "ok"}

    async def _ready(self) -> tuple[int, dict[str, Any]]:
        if self.draining:
            return 503, {"status": "stopping"}
        unreachable = await self._backends.unreachable()
        return (503, {"status": "unreachable", "peers": unreachable}) if unreachable else (200, {"status": "ready"})
