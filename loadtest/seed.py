"""`chirp seed`: fills a running cluster with users, follows and tweets."""

import asyncio
import hashlib
import json as jsonlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chirp.graph import v1 as graphpb
from chirp.ops import v1 as opspb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from loadtest import graphs, target, texts
from loadtest.graphs import Graph, GraphError
from loadtest.loader import Loaded, Loader, Plan
from loadtest.target import Target
from loadtest.texts import TextError, Writer
from services.runtime.metrics import Metrics

DRAIN_SECONDS = 600.0
DRAIN_POLL = 0.1

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class World:
    """What to load."""

    graph: Graph
    texts: list[str]
    tweets: int
    prefix: str
    seed: int


@app.command()
def seed(
    graph: Annotated[
        Path | None, typer.Option(help="Edge list, `from to` a line: from follows to. Default: a made-up graph.")
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option("--texts", help="Texts, the first column of a TSV. Default: made-up ones.")
    ] = None,
    tweets: Annotated[int | None, typer.Option(help="Tweets to post; default 20 a user, 100,000 at most.", min=0)] = None,
    users: Annotated[int, typer.Option(help="Users of the made-up graph.", min=2)] = 500,
    celebrities: Annotated[int, typer.Option(help="Users of the made-up graph whom nearly everybody follows.", min=0)] = 3,
    number: Annotated[int, typer.Option("--seed", help="Another number makes other tweets.", min=1)] = 1,
    wait: Annotated[bool, typer.Option(help="Wait until every tweet is delivered.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Load users, follows and tweets through the services. Run it again to resume: what is there is not made twice."""
    world = _world(graph, text_file, tweets, users, celebrities, number)
    console = Console(stderr=True)
    report = target.run(_load(target.find(), world, console, wait))
    print(jsonlib.dumps(report) if json else _sentence(report))


def _world(graph: Path | None, text_file: Path | None, tweets: int | None, users: int, celebrities: int, seed: int) -> World:
    for path in (graph, text_file):
        if path is not None and not path.is_file():
            target.fail(f"{path} is not a file")
    try:
        read = graphs.read(graph) if graph else graphs.generate(users, min(celebrities, users), seed)
        written = texts.read(text_file) if text_file else texts.made_up()
    except (GraphError, TextError) as error:
        target.fail(str(error))
    prefix = "u" if graph is None else "n" + hashlib.sha256(graph.name.encode()).hexdigest()[:4]
    count = min(100_000, 20 * len(read.nodes)) if tweets is None else tweets
    return World(read, written, count, prefix, seed)


async def _load(where: Target, world: World, console: Console, wait: bool) -> dict[str, object]:
    async with AsyncExitStack() as stack:
        metrics = Metrics("seed")

        async def channel(process: str, service: str) -> target.Channel:
            return await stack.enter_async_context(where.connect(process, service, metrics))

        loader = Loader(
            userpb.UserServiceStub(await channel("user", "chirp.user.v1.UserService")),
            graphpb.GraphServiceStub(await channel("graph", "chirp.graph.v1.GraphService")),
            tweetpb.TweetServiceStub(await channel("tweet", "chirp.tweet.v1.TweetService")),
            world.prefix,
        )
        workers = [opspb.OpsServiceStub(await channel(name, "chirp.ops.v1.OpsService")) for name in ("relay", "fanout")]
        with _bars(console) as progress:
            seconds = await _phases(loader, world, progress)
            if wait:
                seconds["fan-out"] = await _drain(workers, progress)
    return _report(loader.loaded, world, seconds)


async def _phases(loader: Loader, world: World, progress: Progress) -> dict[str, float]:
    graph = world.graph
    writer = Writer(world.texts, lambda dice: loader.username(dice.choice(graph.nodes)), world.seed)
    seconds: dict[str, float] = {}

    def bar(name: str, total: int) -> Callable[[int], None]:
        task = progress.add_task(name, total=total)
        return lambda count: progress.advance(task, count)

    began = time.monotonic()
    await loader.users(graph.nodes, bar("users", len(graph.nodes)))
    seconds["users"] = time.monotonic() - began
    began = time.monotonic()
    await loader.follows(graph.edges, bar("follows", len(graph.edges)))
    seconds["follows"] = time.monotonic() - began
    began = time.monotonic()
    await loader.tweets(Plan(graph, world.tweets, world.seed), writer, bar("tweets", world.tweets))
    seconds["tweets"] = time.monotonic() - began
    return seconds


async def _drain(workers: "list[opspb.OpsServiceAsyncStub]", progress: Progress) -> float:
    """Waits until nothing waits for the relay and the fan-out any more; seconds it took."""
    began, most, task = time.monotonic(), 0, TaskID(-1)
    while time.monotonic() - began < DRAIN_SECONDS:
        waiting = await waiting_events(workers)
        most = max(most, waiting)
        if most and task == -1:
            task = progress.add_task("fan-out", total=most)
        if most:
            progress.update(task, total=most, completed=most - waiting)
        if not waiting:
            return time.monotonic() - began
        await asyncio.sleep(DRAIN_POLL)
    target.fail(f"events still wait after {DRAIN_SECONDS:.0f} s: see `chirp status` and `chirp logs fanout`")


async def waiting_events(workers: "list[opspb.OpsServiceAsyncStub]") -> int:
    """What waits in outboxes and consumers, all together; asked in the order in which events pass, so that none slips by."""
    waiting = 0
    for worker in workers:
        reply = await worker.ListBacklogs(opspb.ListBacklogsRequest(), timeout=5.0)
        waiting += sum(row.waiting_count for row in reply.items)
    return waiting


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _report(loaded: Loaded, world: World, seconds: dict[str, float]) -> dict[str, object]:
    sizes = {"users": len(world.graph.nodes), "follows": len(world.graph.edges), "tweets": world.tweets}
    return {
        **sizes,
        "created": {"users": loaded.created_users, "follows": loaded.created_edges, "tweets": loaded.created_tweets},
        "refused": loaded.refused,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "rates": {name: round(size / max(seconds[name], 0.001)) for name, size in sizes.items()},
        "first_user": {
            "user_id": str(next(iter(loaded.user_ids.values()), 0)),
            "username": f"{world.prefix}{world.graph.nodes[0]}",
        },
        "most_followed": _most_followed(loaded, world),
    }


def _most_followed(loaded: Loaded, world: World) -> dict[str, str]:
    node = world.graph.by_followers()[0]
    return {"user_id": str(loaded.user_ids[node]), "username": f"{world.prefix}{node}"}


def _sentence(report: dict[str, object]) -> str:
    rates, seconds, most = report["rates"], report["seconds"], report["most_followed"]
    assert isinstance(rates, dict) and isinstance(seconds, dict) and isinstance(most, dict)  # noqa: PT018 - built above
    lines = [
        f"{report[name]:,} {name} in {seconds[name]:,.1f} s: {rates[name]:,} a second" for name in ("users", "follows", "tweets")
    ]
    if "fan-out" in seconds:
        lines.append(f"delivered {seconds['fan-out']:,.1f} s later; {sum(seconds.values()):,.1f} s in all")
    if report["refused"]:
        lines.append(f"refused tweets by reason: {report['refused']}")
    lines.append(f"the most followed account: {most['username']}, X-User-ID {most['user_id']}")
    return "\n".join(lines)
