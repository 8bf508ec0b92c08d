"""`chirp bench`: every figure against its floor, both measured in this run."""

import asyncio
import json as jsonlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadtest import machine, target
from loadtest.benches import memory, pipeline, pushing, rpc, seeding
from loadtest.benches.world import World, world
from loadtest.measure import Result
from loadtest.rig import Rig, cluster, one_node

Bench = Callable[[Rig, World, int, float], Awaitable[list[Result]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A benchmark by name."""

    name: str
    run: Bench
    one_node: bool = False
    """Whether it wants a cluster whose Redis is a single node."""


BENCHES = (
    Entry("stage", pipeline.stage),
    Entry("home", rpc.home),
    Entry("post", rpc.post),
    Entry("ids", rpc.ids),
    Entry("ids-in-process", memory.ids),
    Entry("window", memory.window),
    Entry("visible", pipeline.visible),
    Entry("relay", pipeline.relay),
    Entry("degraded", memory.degraded),
    Entry("fanout", pushing.fanout),
    Entry("fanout-one-node", pushing.fanout, one_node=True),
)

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(entry.name for entry in BENCHES)}; all if none.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each side, after one that warms up.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a round.", min=0.2)] = 2.0,
    graph: Annotated[Path | None, typer.Option(help="Also measure seeding this edge list …")] = None,
    texts: Annotated[Path | None, typer.Option(help="… with these texts.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure a cluster of the benchmark's own against the floors of this machine. Takes some ten minutes."""
    known = {entry.name for entry in BENCHES}
    for name in names or ():
        if name not in known:
            target.fail(f"there is no benchmark {name!r}: {', '.join(sorted(known))}")
    wanted = [entry for entry in BENCHES if not names or entry.name in names]
    console = Console(stderr=True)
    results = asyncio.run(_run(wanted, rounds, seconds, console))
    if graph is not None:
        results += asyncio.run(seeding.measure(graph, texts, console))
    facts = machine.facts()
    print(
        jsonlib.dumps({"machine": facts, "results": [{**asdict(each), "met": each.met} for each in results]}) if json else "",
        end="",
    )
    if not json:
        _table(results, facts)


async def _run(wanted: list[Entry], rounds: int, seconds: float, console: Console) -> list[Result]:
    results: list[Result] = []
    for single in (False, True):
        entries = [entry for entry in wanted if entry.one_node is single]
        if not entries:
            continue
        async with AsyncExitStack() as stack:
            rig = await stack.enter_async_context(one_node() if single else cluster())
            people = await stack.enter_async_context(world(rig))
            for entry in entries:
                console.print(f"{entry.name} …")
                try:
                    results += await entry.run(rig, people, rounds, seconds)
                except Exception as error:  # one benchmark that fails does not take the figures of the others along
                    results.append(Result(entry.name, "failed", str(error)[:100], 0.0, 1.0))
    return results


def _table(results: list[Result], facts: dict[str, str]) -> None:
    table = Table("", "measured", "floor", "figure", "target", "", "")
    for result in results:
        bound = f"{'≤' if result.at_most else '≥'} {result.target:g}" if result.target or result.at_most else "stated"
        mark = "met" if result.met else "MISSED"
        table.add_row(
            result.name, result.measured, result.floor, f"{result.figure:g}", bound, mark if bound != "stated" else "", result.note
        )
    console = Console(width=200)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
