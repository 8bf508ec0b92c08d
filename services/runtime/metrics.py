"""Metrics of a process: one registry of its own, the RPC counters of go-grpc-middleware, and the /metrics page.

RPC metrics are plain integers bound once per method and turned into samples only when they are scraped: a call costs
well under a microsecond, where labelled prometheus objects cost fifteen to thirty.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services.runtime.methods import Method

Made = TypeVar("Made", bound=MetricWrapperBase)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the time buckets, in seconds: the half-millisecond is a cached read, ten seconds the longest deadline."""
_SPELT_BY_GO = {0: "OK", 1: "Canceled"}
_CODES = {code.value[0]: "".join(word.capitalize() for word in code.name.split("_")) for code in grpc.StatusCode} | _SPELT_BY_GO
CODE_COUNT = len(_CODES)


class Metrics:
    """The registry of one process. The same name asked for twice gives the same metric, so parts need not know of each other."""

    def __init__(self, process: str) -> None:
        """`process` is its name in the cluster; the scrape configuration adds instance and job."""
        self.process = process
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self.server = RpcMetrics("server", self.registry)
        self.client = RpcMetrics("client", self.registry)
        self._made: dict[str, MetricWrapperBase] = {}

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows. Bind labels once, outside the hot path: `metrics.counter(…).labels("home")`."""
        return self._once(Counter, name, lambda: Counter(name, meaning, labels, registry=self.registry))

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down; `set_function` has it computed when scraped."""
        return self._once(Gauge, name, lambda: Gauge(name, meaning, labels, registry=self.registry))

    def histogram(self, name: str, meaning: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS) -> Histogram:
        """A distribution, by default of seconds."""
        return self._once(Histogram, name, lambda: Histogram(name, meaning, labels, buckets=buckets, registry=self.registry))

    def page(self) -> bytes:
        """What /metrics answers."""
        return generate_latest(self.registry)

    def _once(self, kind: type[Made], name: str, make: Callable[[], Made]) -> Made:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = make()
        if not isinstance(made, kind):
            raise TypeError(f"{name} exists as a {type(made).__name__}")
        return made


class RpcCell:
    """The numbers of one method, incremented in place by whoever serves or calls it."""

    __slots__ = ("buckets", "codes", "method", "received", "seconds", "sent", "started")

    def __init__(self, method: Method) -> None:
        self.method = method
        self.started = 0
        self.received = 0
        self.sent = 0
        self.codes = [0] * CODE_COUNT
        """Ended calls by gRPC code number."""
        self.buckets = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0

    def ended(self, code: int, seconds: float) -> None:
        """Counts one ended call."""
        self.codes[code] += 1
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


class RpcMetrics(Collector):
    """grpc_server_* or grpc_client_* of a process, in go-grpc-middleware's names."""

    def __init__(self, side: str, registry: CollectorRegistry) -> None:
        """`side` is "server" or "client"."""
        self._side = side
        self._cells: dict[str, RpcCell] = {}
        registry.register(self)

    def cell(self, method: Method) -> RpcCell:
        """The numbers of a method; asked for once, when a handler or a stub is made."""
        return self._cells.setdefault(method.full_name, RpcCell(method))

    def describe(self) -> Iterator[Metric]:
        """Names only: registering reads no numbers."""
        return iter(self._families())

    def collect(self) -> Iterator[Metric]:
        """Samples of every method that was bound."""
        families = started, handled, received, sent, timed = self._families()
        for cell in self._cells.values():
            labels = [cell.method.kind.value, cell.method.service, cell.method.name]
            started.add_metric(labels, cell.started)
            received.add_metric(labels, cell.received)
            sent.add_metric(labels, cell.sent)
            for code, count in enumerate(cell.codes):
                if count or code == 0:
                    handled.add_metric([*labels, _CODES[code]], count)
            timed.add_metric(labels, _cumulative(cell.buckets), cell.seconds)
        return iter(families)

    def _families(
        self,
    ) -> tuple[CounterMetricFamily, CounterMetricFamily, CounterMetricFamily, CounterMetricFamily, HistogramMetricFamily]:
        name, labels = f"grpc_{self._side}", ["grpc_type", "grpc_service", "grpc_method"]
        return (
            CounterMetricFamily(f"{name}_started", "RPCs started.", labels=labels),
            CounterMetricFamily(f"{name}_handled", "RPCs ended, by code.", labels=[*labels, "grpc_code"]),
            CounterMetricFamily(f"{name}_msg_received", "Messages received.", labels=labels),
            CounterMetricFamily(f"{name}_msg_sent", "Messages sent.", labels=labels),
            HistogramMetricFamily(f"{name}_handling_seconds", "Seconds from start to end of RPCs.", labels=labels),
        )


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    bounds, total, found = [str(bound) for bound in SECONDS] + ["+Inf"], 0, list[tuple[str, float]]()
    for bound, count in zip(bounds, buckets, strict=True):
        total += count
        found.append((bound, total))
    return found


class MetricsServer:
    """GET /metrics and GET /healthz (200 when healthy, 503 otherwise) in the process's own event loop; one answer a connection."""

    def __init__(self, metrics: Metrics, host: str, port: int, healthy: Callable[[], Awaitable[bool]]) -> None:
        """Port 0 takes a free one; see `port` once entered."""
        self._metrics, self._host, self._healthy = metrics, host, healthy
        self._server: asyncio.Server | None = None
        self.port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, self._host, self.port, limit=16_384)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._server:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._response(head.split(b" ", 2)))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or spoke something else
        finally:
            writer.close()

    async def _response(self, words: list[bytes]) -> bytes:
        path = words[1].split(b"?")[0] if len(words) == 3 and words[0] == b"GET" else b""
        if path == b"/metrics":
            return _http("200 OK", CONTENT_TYPE_LATEST, self._metrics.page())
        if path == b"/healthz":
            healthy = await self._healthy()
            return _http(
                "200 OK" if healthy else "503 Service Unavailable",
                "text/plain",
                b"ok\n" if healthy else b"not serving\n",
            )
        return _http("404 Not Found", "text/plain", b"GET /metrics or /healthz\n")


def _http(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
