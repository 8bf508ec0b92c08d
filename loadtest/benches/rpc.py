"""Home, post and ids over unary gRPC, each against a bare echo under the same settings."""

import asyncio
import random

from chirp.id import v1 as idpb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from loadtest.benches.world import World
from loadtest.drive import Load
from loadtest.floors import echo
from loadtest.measure import Rate, Result, compared, interleaved, program, rpc_side
from loadtest.rig import Rig
from services.cluster.ports import FreePorts
from services.runtime import fences

IN_FLIGHT = 64
READERS, FOLLOWEES, TWEETS = 500, 50, 4000
SMALL = 50


async def home(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """Window and tweets cached; replies of the same size from the floor."""
    readers = await people.people(READERS, "reader")
    dice = random.Random(1)
    await people.follow([(reader, other) for reader in readers for other in dice.sample(readers, FOLLOWEES) if other != reader])
    await people.post([dice.choice(readers) for _ in range(TWEETS)])
    await people.delivered()
    await asyncio.sleep(fences.PENDING_MS / 1000 + 1)  # until nobody's own writes send reads to the primaries any more
    await people.warm(readers)
    await people.warm(readers)
    size = (await people.home(readers[0])).ByteSize()
    request = timelinepb.GetHomeTimelineRequest(page_size=20).SerializeToString().hex()
    address = rig.target.replicas["timeline"][0]

    def load(address: str, method: str) -> Load:
        return Load(address, method, IN_FLIGHT, seconds, [request], readers)

    port = FreePorts().take()
    async with program("loadtest.floors.echo", str(port), str(size)) as echo_pid:
        rates = await interleaved(
            {
                "floor": rpc_side(lambda: load(f"127.0.0.1:{port}", echo.METHOD), [echo_pid]),
                "chirp": rpc_side(
                    lambda: load(address, "/chirp.timeline.v1.TimelineService/GetHomeTimeline"), rig.pids("timeline")
                ),
            },
            rounds,
        )
    cpu = rates["chirp"].cpu_us - rates["floor"].cpu_us
    return [
        compared("home over unary gRPC", rates, 0.70, note=f"{IN_FLIGHT} in flight, {size} bytes, cached"),
        Result(
            "home: server CPU above the echo's",
            f"{rates['chirp'].cpu_us:,.0f} µs",
            f"{rates['floor'].cpu_us:,.0f} µs",
            round(cpu),
            100,
            at_most=True,
            note="µs a call",
        ),
    ]


async def post(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """Answered after the commit, fsync on. Relay and fan-out stand still: what they do is measured by itself."""
    authors = await people.people(200, "author")
    requests = [
        tweetpb.CreateTweetRequest(text=f"number {number} of the tweets that a benchmark posts").SerializeToString().hex()
        for number in range(50)
    ]
    address = rig.target.replicas["tweet"][0]
    turn = iter(range(1 << 30))

    def candidate() -> Load:
        method = "/chirp.tweet.v1.TweetService/CreateTweet"
        return Load(address, method, IN_FLIGHT, seconds, requests, authors, f"bench-{next(turn)}-")

    port = FreePorts().take()
    async with program("loadtest.floors.echo", str(port), str(SMALL)) as echo_pid:
        floor = rpc_side(lambda: Load(f"127.0.0.1:{port}", echo.METHOD, IN_FLIGHT, seconds, requests, authors), [echo_pid])
        sides = {"floor": floor, "chirp": rpc_side(candidate, rig.pids("tweet"))}
        with rig.paused("relay", "fanout"):
            rates = await interleaved(sides, rounds)
        whole = await interleaved(sides, rounds)
    await people.delivered()
    return [
        compared(
            "post over unary gRPC", rates, 0.65, note=f"{IN_FLIGHT} in flight, {SMALL}-byte echo, relay and fan-out standing still"
        ),
        compared("post, relay and fan-out at work", whole, 0.0, note="stated: they take their share of the same two cores"),
    ]


async def ids(rig: Rig, people: World, rounds: int, seconds: float) -> list[Result]:
    """A hundred ids in a call against one."""
    address = rig.target.replicas["id"][0]

    def side(count: int):
        request = idpb.GenerateIdsRequest(count=count).SerializeToString().hex()
        return rpc_side(lambda: Load(address, "/chirp.id.v1.IdService/GenerateIds", IN_FLIGHT, seconds, [request]), rig.pids("id"))

    rates = await interleaved({"floor": side(1), "chirp": side(100)}, rounds)
    hundred = Rate(rates["chirp"].per_second * 100)
    return [
        compared(
            "GenerateIds(100)", {"floor": rates["floor"], "chirp": hundred}, 80, unit=" ids/s", note="against ids by calls for one"
        )
    ]
