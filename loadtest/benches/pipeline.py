"""From commit to home: the Postgres stage, the relay, and the time until a tweet is visible."""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable

import psycopg

from loadtest.benches.world import World
from loadtest.drive import percentiles
from loadtest.measure import Rate, Result, compared, interleaved
from loadtest.rig import Rig

EVENTS = 20_000
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
