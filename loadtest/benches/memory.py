"""What a home costs in Redis, ids in process, and homes with Redis away."""

import statistics
import time

from loadtest.benches.world import World
from loadtest.drive import percentiles
from loadtest.measure import Result
from loadtest.rig import Rig
from services.id.generator import Generator, Grant
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import pack

WINDOW_BYTES = 9_500
FORMAT_LIMIT = 4_096_000
"""Ids that 12 bits of sequence allow in a second."""
AWAY_SECONDS = 4.0


async def window(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """A home of 800 entries with all keys that belong to it, as Redis counts them."""
    author, reader = await people.people(2, "full")
    await people.follow([(reader, author)])
    await people.post([author] * 900)
    await people.warm([reader])
    await people.post([author])
    await people.delivered()
    await people.post([reader])
    await people.home(reader)
    names = [f"timeline:home:{{{reader}}}", f"graph:fence:{{{reader}}}", f"tweet:fence:{{{reader}}}", f"user:fence:{{{reader}}}"]
    async with RedisCluster.open(rig.target.redis.split(","), Metrics("bench")) as redis:
        sizes = await redis.run(names[0], *(pack("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names))
        (length,) = await redis.run(names[0], pack("LLEN", names[0]))
    total = sum(size for size in sizes if isinstance(size, int))
    return [
        Result(
            "a home of 800 entries",
            f"{total:,} bytes",
            f"{8 * 800:,} bytes of ids",
            total,
            WINDOW_BYTES,
            at_most=True,
            note=f"{length} elements; window and fences together",
        )
    ]


async def ids(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """The generator of the id service, a thousand at a time, against what 12 bits of sequence allow."""
    clock = SystemClock()
    generator = Generator(clock)
    now = clock.now_ms()
    generator.admit(Grant(1, now, now + 3_600_000, clock.monotonic() + 3_600.0))
    rates: list[float] = []
    for _ in range(rounds):
        taken, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            taken += len(await generator.take(1000))
        rates.append(taken / (time.perf_counter() - began))
    rate = statistics.median(rates)
    return [
        Result(
            "ids in process",
            f"{rate:,.0f} ids/s",
            f"{FORMAT_LIMIT:,} ids/s",
            round(rate / FORMAT_LIMIT, 3),
            0.9,
            note="the floor is the format's own limit",
        )
    ]


async def degraded(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """Homes while every Redis node stands still: from Postgres, slower, without errors."""
    readers = await people.people(20, "stoic")
    await people.follow([(reader, other) for reader in readers for other in readers if other != reader])
    await people.post(readers * 3)
    await people.delivered()
    await people.warm(readers)
    latencies: list[float] = []
    failed = 0
    with rig.paused("redis-1", "redis-2", "redis-3"):
        end = time.perf_counter() + AWAY_SECONDS
        while time.perf_counter() < end:
            reader = readers[len(latencies) % len(readers)]
            began = time.perf_counter()
            page = await people.home(reader)
            latencies.append(time.perf_counter() - began)
            failed += not page.degraded or len(page.items) != 20
    found = percentiles(latencies)
    return [
        Result(
            "homes with Redis standing still: wrong or failed",
            f"{failed} of {len(latencies)}",
            f"p50 {found['p50']} ms, p99 {found['p99']} ms",
            failed,
            0,
            at_most=True,
            note="one reader at a time, all nodes stopped",
        )
    ]
