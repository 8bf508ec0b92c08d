"""http_request_duration_seconds{method,route,status}: counted in plain integers, turned into samples when scraped."""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.runtime.metrics import SECONDS

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NAME = "http_request_duration_seconds"
_MEANING = "Seconds from a request's headers to the end of its answer."


class HttpMetrics(Collector):
    """One histogram per method, route template and status; a template, never a path, so that the number stays small."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cells: dict[tuple[str, str, int], list[float]] = {}
        registry.register(self)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request. Methods that HTTP does not know share a label."""
        key = (method if method in _METHODS else "OTHER", route, status)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = [0.0] * (len(SECONDS) + 2)
        cell[bisect_left(SECONDS, seconds)] += 1
        cell[-1] += seconds

    def describe(self) -> Iterator[Metric]:
        """Names only: registering reads no numbers."""
        yield HistogramMetricFamily(_NAME, _MEANING, labels=["method", "route", "status"])

    def collect(self) -> Iterator[Metric]:
        """Samples of every combination seen so far."""
        family = HistogramMetricFamily(_NAME, _MEANING, labels=["method", "route", "status"])
        for (method, route, status), cell in self._cells.items():
            family.add_metric([method, route, str(status)], _cumulative(cell[:-1]), cell[-1])
        yield family


def _cumulative(counts: list[float]) -> list[tuple[str, float]]:
    bounds, total, found = [*map(str, SECONDS), "+Inf"], 0.0, list[tuple[str, float]]()
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        found.append((bound, total))
    return found
