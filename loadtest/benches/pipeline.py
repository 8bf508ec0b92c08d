"""From commit to home: the Postgres stage, the relay, the fan-out worker as a whole, and the time until a tweet is visible."""

import asyncio
import random
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import psycopg
from aioredis_cluster import create_redis_cluster

from loadtest.benches.world import World
from loadtest.drive import percentiles
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
EVENTS = 20_000
LPUSHX_KEYS = 10_000
POSTS, ACTIVE = 200, 100
VISIBLE_MS = 100


async def printed(*arguments: str, stdin: bytes = b"") -> float:
    """The number that a program prints."""
    child = await asyncio.create_subprocess_exec(*arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate(stdin)
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments[:4])} ended with status {child.returncode}")
    return float(out.split()[-1])


def python(module: str, *arguments: object) -> Callable[[], Awaitable[Rate]]:
    """A side that is a program of this package."""

    async def measure() -> Rate:
        return Rate(await printed(sys.executable, "-m", module, *map(str, arguments)))

    return measure


async def stage(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """Writes that wait together, committed together, against one CTE per write."""
    with rig.paused("relay"):
        rates = await interleaved(
            {
                "floor": python("loadtest.floors.inserts", rig.target.postgres, seconds),
                "chirp": python("loadtest.benches.stage", rig.target.postgres, seconds),
            },
            rounds,
        )
    await _truncate(rig)
    return [
        compared("post, Postgres stage", rates, 4.0, note="64 waiting against one CTE per request over 16 connections, fsync on")
    ]


async def _truncate(rig: Rig) -> None:
    """What the stage wrote is no tweet of anybody: it goes before the relay sees it."""
    async with await psycopg.AsyncConnection.connect(rig.target.postgres, autocommit=True) as connection:
        await connection.execute("truncate tweet.tweet, tweet.idempotency, tweet.outbox")


async def relay(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """A backlog of the outbox until all of it is published and marked."""

    async def drain() -> Rate:
        async with await psycopg.AsyncConnection.connect(rig.target.postgres, autocommit=True) as connection:
            with rig.paused("relay"):
                await connection.execute(
                    "insert into graph.outbox (partition, subject, payload) "
                    "select n %% 16, 'graph.benched.' || n %% 1000, decode(repeat('00', 60), 'hex') from generate_series(1, %s) n",
                    (EVENTS,),
                )
                began = time.perf_counter()
            while await _waiting(connection):  # noqa: ASYNC110 - the relay is another process
                await asyncio.sleep(0.005)
            return Rate(EVENTS / (time.perf_counter() - began))

    with rig.paused("fanout"):
        rates = await interleaved({"floor": python("loadtest.floors.publish", rig.target.nats, seconds), "chirp": drain}, rounds)
    return [compared("relay", rates, 0.8, note="against 64 concurrent js.publish")]


async def _waiting(connection: psycopg.AsyncConnection) -> bool:
    cursor = await connection.execute("select exists (select 1 from graph.outbox where published_time is null)")
    row = await cursor.fetchone()
    return row is not None and row[0]


async def fanout(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """The whole worker: JetStream → followers remembered → push → progress → acknowledgement."""
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

        async def worker() -> Rate:
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

        async def floor() -> Rate:
            found = await asyncio.gather(
                *(
                    printed(sys.executable, "-m", "loadtest.floors.pushes", node, str(seconds), stdin="\n".join(some).encode())
                    for node, some in nodes.items()
                )
            )
            return Rate(sum(found))

        rates = await interleaved({"floor": floor, "chirp": worker}, rounds)
        public = await _public_api(rig, keys, seconds)
        benchmark = await _redis_benchmark(rig, redis, nodes)
    servers = "one node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    results = [
        compared(
            f"fan-out, whole worker, {servers}",
            rates,
            0.6 if len(nodes) == 1 else 0.0,
            unit=" pushes/s",
            note=f"{FOLLOWERS:,} followers, against the same LPUSHX blasted in pipelines of 100",
        ),
        Result(
            f"fan-out against the package's public API, {servers}",
            f"{rates['chirp'].per_second:,.0f} pushes/s",
            f"{public:,.0f} pushes/s",
            round(rates["chirp"].per_second / public, 1),
            20,
            note="gather of 500 lpushx",
        ),
    ]
    if benchmark:
        ratio = round(rates["chirp"].per_second / benchmark, 3)
        results.insert(
            1,
            Result(
                f"fan-out against redis-benchmark -P 100, {servers}",
                f"{rates['chirp'].per_second:,.0f} pushes/s",
                f"{benchmark:,.0f} pushes/s",
                ratio,
                0.6 if len(nodes) == 1 else 0.0,
                note="one node's figure, lists of its own",
            ),
        )
    return results


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


async def _redis_benchmark(rig: Rig, redis: RedisCluster, nodes: Mapping[str, Sequence[str]]) -> float | None:
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


async def visible(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """From the acknowledgement of a post to its being in an active follower's home, the cluster otherwise idle."""
    (author,) = await people.people(1, "idol")
    readers = await people.people(ACTIVE, "watcher")
    await people.follow([(reader, author) for reader in readers])
    await people.warm(readers)
    dice, lags = random.Random(1), list[float]()
    for number in range(POSTS):
        reader = dice.choice(readers)
        (tweet_id,) = await people.post([author], f"visible yet? {number}")
        acknowledged = time.perf_counter()
        while tweet_id not in [item.tweet.tweet_id for item in (await people.home(reader, 3)).items]:  # noqa: ASYNC110 - a poll is the point
            await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - acknowledged)
        await asyncio.sleep(0.01)
    found = percentiles(lags)
    return [
        Result(
            "acknowledged → visible, p99",
            f"{found['p99']} ms",
            f"p50 {found['p50']} ms",
            found["p99"],
            VISIBLE_MS,
            at_most=True,
            note=f"{POSTS} posts, {ACTIVE} active followers, cluster idle",
        )
    ]
