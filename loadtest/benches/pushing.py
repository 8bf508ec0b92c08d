"""The fan-out worker as a whole: JetStream → followers remembered → push → progress → acknowledgement."""

import asyncio
import random
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import psycopg
from aioredis_cluster import create_redis_cluster

from loadtest.benches.pipeline import printed
from loadtest.benches.world import World
from loadtest.measure import Rate, Result, compared, interleaved
from loadtest.rig import Rig
from services.cluster import redis_servers
from services.cluster.redis_servers import Node
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import key_slot, pack

FOLLOWERS, BURST, ENTRIES = 10_000, 100, 800
LONGEST = 20.0
"""Seconds after which a burst is given up: tweets older than five seconds are not pushed any more."""
LPUSHX_KEYS = 10_000
ONE_NODE, PUBLIC_API = 0.6, 20
"""Targets: of the least one node could cost, and times the package's public API."""


async def fanout(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """A burst of tweets by an author with 10,000 active followers, against the same pushes without the worker around them."""
    await people.push_up_to(100 * FOLLOWERS)
    (author,) = await people.people(1, "star")
    followers = await people.people(FOLLOWERS, "fan")
    await people.follow([(fan, author) for fan in followers])
    keys = [f"timeline:home:{{{fan}}}" for fan in followers]
    async with RedisCluster.open(rig.target.redis.split(","), Metrics("bench")) as redis:
        await _fill(redis, keys)
        await people.post([author])
        await people.delivered()
        nodes = await _owned(rig, keys)
        sides = {"floor": lambda: _blasted(nodes, seconds), "chirp": lambda: _burst(rig, people, author)}
        rates = await interleaved(sides, rounds)
        public = Rate(await _public_api(rig, keys, seconds))
        benchmark = await _redis_benchmark(redis, nodes)
    return _results(rates, public, benchmark, len(nodes))


def _results(rates: Mapping[str, Rate], public: Rate, benchmark: float | None, nodes: int) -> list[Result]:
    servers = "one node" if nodes == 1 else f"{nodes} nodes"
    target = ONE_NODE if nodes == 1 else 0.0
    worker = rates["chirp"]
    note = f"{FOLLOWERS:,} followers; the same LPUSHX blasted in pipelines of 100"
    results = [compared(f"fan-out, whole worker, {servers}", rates, target, unit=" pushes/s", note=note)]
    if benchmark:
        sides = {"chirp": worker, "floor": Rate(benchmark)}
        note = "redis-benchmark on one node, lists of its own"
        results.append(compared(f"fan-out against redis-benchmark -P 100, {servers}", sides, target, unit=" pushes/s", note=note))
    sides = {"chirp": worker, "floor": public}
    note = "gather of 500 lpushx"
    results.append(compared(f"fan-out against the package's public API, {servers}", sides, PUBLIC_API, unit=" pushes/s", note=note))
    return results


async def _burst(rig: Rig, people: World, author: int) -> Rate:
    with rig.paused("fanout"):
        before = await _pushed(rig)
        await people.post([author] * BURST)
        await _relayed(rig)
        began = time.perf_counter()
    while (missing := BURST - (await _pushed(rig) - before)) > 0:
        if time.perf_counter() - began > LONGEST:
            raise RuntimeError(f"{missing} of {BURST} tweets were not pushed: too late, or Redis was away")
        await asyncio.sleep(0.002)
    return Rate(BURST * FOLLOWERS / (time.perf_counter() - began))


async def _blasted(nodes: Mapping[str, Sequence[str]], seconds: float) -> Rate:
    """All nodes at once, a program each."""
    programs = (
        printed(sys.executable, "-m", "loadtest.floors.pushes", node, str(seconds), stdin="\n".join(some).encode())
        for node, some in nodes.items()
    )
    return Rate(sum(await asyncio.gather(*programs)))


async def _fill(redis: RedisCluster, keys: Sequence[str]) -> None:
    """Windows of 800 entries, ready, so that every follower counts as active."""
    entries = [str(382_000_000_000_000_000 + number) for number in range(ENTRIES)]
    sentinel = f"#r:1:{1 << 40}:{1 << 61}:1:{int(time.time() * 1000)}"
    for first in range(0, len(keys), 500):
        some = keys[first : first + 500]
        await redis.scatter([(key, pack("DEL", key)) for key in some])
        await redis.scatter([(key, pack("RPUSH", key, *entries, sentinel)) for key in some])


async def _owned(rig: Rig, keys: Sequence[str]) -> dict[str, list[str]]:
    """Keys by the node that holds them, as the first node says."""
    host, port = rig.target.redis.split(",")[0].rsplit(":", 1)
    reply = await redis_servers.command(Node(host, int(port)), "CLUSTER", "SLOTS")
    ranges = [(int(low), int(high), f"{master[0]}:{master[1]}") for low, high, master, *_ in cast("list[list[Any]]", reply)]
    nodes: dict[str, list[str]] = {}
    for key in keys:
        slot = key_slot(key.encode())
        nodes.setdefault(next(node for low, high, node in ranges if low <= slot <= high), []).append(key)
    return nodes


async def _pushed(rig: Rig) -> int:
    """Tweets whose delivery to many is done."""
    async with await psycopg.AsyncConnection.connect(rig.target.postgres, autocommit=True) as connection:
        cursor = await connection.execute("select count(*) from timeline.fanout where outcome = 1 and targets > 1000")
        row = await cursor.fetchone()
        return row[0] if row else 0


async def _relayed(rig: Rig) -> None:
    async with await psycopg.AsyncConnection.connect(rig.target.postgres, autocommit=True) as connection:
        query = "select exists (select 1 from tweet.outbox where published_time is null)"
        # The relay is another process: nothing tells us when it is done.
        while (row := await (await connection.execute(query)).fetchone()) and row[0]:  # noqa: ASYNC110 - the relay is another process
            await asyncio.sleep(0.005)


async def _public_api(rig: Rig, keys: Sequence[str], seconds: float) -> float:
    """`await redis.lpushx(…)` of aioredis-cluster, 500 at a time."""
    redis = await create_redis_cluster(
        [(host, int(port)) for host, port in (each.rsplit(":", 1) for each in rig.target.redis.split(","))]
    )
    done, began = 0, time.perf_counter()
    dice = random.Random(1)
    while time.perf_counter() - began < seconds:
        await asyncio.gather(*(redis.lpushx(key, "382120579974561810") for key in dice.sample(keys, 500)))
        done += 500
    elapsed = time.perf_counter() - began
    redis.close()
    await redis.wait_closed()
    return done / elapsed


async def _redis_benchmark(redis: RedisCluster, nodes: Mapping[str, Sequence[str]]) -> float | None:
    """`redis-benchmark -P 100 lpushx` on lists of 800 entries, on one node; None where it is not installed."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return None
    node, some = next(iter(nodes.items()))
    tag = some[0][some[0].index("{") :]
    await _fill(redis, [f"bench:{tag}:{number:012d}" for number in range(LPUSHX_KEYS)])
    host, port = node.rsplit(":", 1)
    options = ["-h", host, "-p", port, "--csv", "-P", "100", "-r", str(LPUSHX_KEYS), "-n", "1000000"]
    figures: list[float] = []
    for _ in range(5):
        child = await asyncio.create_subprocess_exec(
            program, *options, "lpushx", f"bench:{tag}:__rand_int__", "382120579974561810", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await child.communicate()
        figures.append(float(out.decode().strip().splitlines()[-1].split(",")[1].strip('"')))
    return statistics.median(figures)
