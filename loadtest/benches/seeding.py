"""Seeding a real graph with 100,000 tweets, until every tweet is delivered."""

import os
from pathlib import Path

from rich.console import Console

from loadtest.measure import Result
from loadtest.rig import chirp, cluster

MOST_SECONDS = 300
TWEETS = 100_000


async def measure(graph: Path, texts: Path | None, console: Console) -> list[Result]:
    """`chirp seed` into an empty cluster."""
    console.print("seeding …")
    options = ["--graph", str(graph), "--tweets", str(TWEETS), *(["--texts", str(texts)] if texts else [])]
    async with cluster() as rig:
        environment = {**os.environ, "CHIRP_STATE": str(rig.folder)}
        report = await chirp(environment, "seed", *options)
    seconds = sum(report["seconds"].values())
    parts = ", ".join(f"{name} {value:,.0f} s" for name, value in report["seconds"].items())
    return [
        Result(
            f"seeding {report['users']:,} users, {report['follows']:,} follows, {report['tweets']:,} tweets",
            f"{seconds:,.0f} s",
            parts,
            round(seconds),
            MOST_SECONDS,
            at_most=True,
            note="seconds, fan-out drained",
        )
    ]
