"""A closed-loop gRPC client in a process of its own: `python -m loadtest.drive` with a specification on standard input.

Raw bytes, so that it costs the same whatever it calls; floor and candidate are driven alike. Prints one JSON object.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

import grpc
import uvloop

from services.runtime.process import set_batch_scheduling

CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to call, how often at once, how long."""

    address: str
    method: str
    in_flight: int
    seconds: float
    requests: Sequence[str]
    """Requests in turn, in hex."""
    viewers: Sequence[int] = ()
    """Identities in turn; none is sent if empty."""
    unique: str = ""
    """Prefix of a request id that makes each request unique, appended to the request under field 3; empty for none."""


@dataclass(slots=True)
class Driven:
    """What came of it."""

    calls: int = 0
    seconds: float = 0.0
    reply_bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict[str, int])
    latencies_ms: dict[str, float] = field(default_factory=dict[str, float])


async def drive(load: Load) -> Driven:
    """Keeps `in_flight` calls under way for `seconds`, after one that opens the connection."""
    async with grpc.aio.insecure_channel(load.address) as channel:
        call = channel.unary_unary(load.method)
        requests = cycle([bytes.fromhex(each) for each in load.requests])
        metadata = cycle([(("x-user-id", str(viewer)),) for viewer in load.viewers] or [()])
        numbers = iter(range(1 << 62))
        driven, errors, latencies = Driven(), Counter[str](), list[float]()

        def next_request() -> bytes:
            request = next(requests)
            if not load.unique:
                return request
            key = f"{load.unique}{next(numbers)}".encode()
            return request + b"\x1a" + bytes([len(key)]) + key

        await call(next_request(), metadata=next(metadata), timeout=CALL_SECONDS)
        end = time.perf_counter() + load.seconds

        async def keep_calling() -> None:
            while (began := time.perf_counter()) < end:
                try:
                    reply: Any = await call(next_request(), metadata=next(metadata), timeout=CALL_SECONDS)
                    driven.reply_bytes = len(reply)
                    latencies.append(time.perf_counter() - began)
                except grpc.aio.AioRpcError as error:
                    errors[error.code().name] += 1

        began = time.perf_counter()
        await asyncio.gather(*(keep_calling() for _ in range(load.in_flight)))
        driven.seconds = time.perf_counter() - began
        driven.calls, driven.errors = len(latencies), dict(errors)
        driven.latencies_ms = percentiles(latencies)
        return driven


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Of latencies, in milliseconds."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        if ordered
    }


if __name__ == "__main__":
    set_batch_scheduling(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(drive(Load(**json.load(sys.stdin)))))))
