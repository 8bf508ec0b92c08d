"""What a running cluster tells its operator: who listens where, a user to try it with, lines to paste."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from services.cluster.state import DemoUser, ProcessRecord, Record

COLORS = {
    "healthy": "green",
    "starting": "yellow",
    "restarting": "yellow",
    "failed": "red",
    "stopped": "red",
    "unhealthy": "red",
}


def show(console: Console, record: Record) -> None:
    """Prints everything about a cluster that is up."""
    console.print(table(record.processes))
    console.print(f"REST        {record.rest}")
    console.print(f"PostgreSQL  {record.postgres}", markup=False)
    console.print(f"Redis       {record.redis}")
    console.print(f"NATS        {record.nats}")
    if record.demo_user is not None:
        console.print(f"Demo user   {record.demo_user.username}, X-User-ID: {record.demo_user.user_id}")
        console.print("\nTry it:")
        for line in examples(record, record.demo_user):
            console.print(f"  {line}", markup=False)


def table(processes: Iterable[ProcessRecord], with_state: bool = False) -> Table:
    """Processes and their addresses; with their state for `chirp status`."""
    made = Table("process", "kind", "address", "metrics", box=None, pad_edge=False)
    if with_state:
        for column in ("state", "pid", "restarts"):
            made.add_column(column)
    for process in processes:
        row = [process.name, process.kind, process.address or "unix socket", process.metrics]
        made.add_row(*row, *(_state(process) if with_state else ()))
    return made


def _state(process: ProcessRecord) -> tuple[str, str, str]:
    color = COLORS.get(process.state, "default")
    return f"[{color}]{process.state}[/{color}]", str(process.pid or ""), str(process.restarts)


def examples(record: Record, user: DemoUser) -> list[str]:
    """Command lines for curl, grpcurl and buf: post a tweet, read the home timeline, look around."""
    header = f"'X-User-ID: {user.user_id}'"
    tweet, timeline = _address(record, "tweet"), _address(record, "timeline")
    post = _quoted({"text": "Hello from chirp"})
    page = _quoted({"pageSize": 5})
    create, home = "chirp.tweet.v1.TweetService/CreateTweet", "chirp.timeline.v1.TimelineService/GetHomeTimeline"
    buf = "uv run buf curl --protocol grpc --http2-prior-knowledge"
    return [
        f"curl -s -H {header} -H 'Content-Type: application/json' -d {post} {record.rest}/v1/tweets",
        f"curl -s -H {header} {record.rest}/v1/timeline/home",
        f"grpcurl -plaintext {timeline} list",
        f"grpcurl -plaintext -H {header} -d {page} {timeline} {home}",
        f"{buf} -H {header} -d {post} http://{tweet}/{create}",
        f"{buf} -H {header} -d {page} http://{timeline}/{home}",
        f"curl -s {_metrics(record, 'timeline')}",
    ]


def _address(record: Record, name: str) -> str:
    process = record.process(name)
    return process.address if process else ""


def _metrics(record: Record, name: str) -> str:
    process = record.process(name)
    return process.metrics if process else ""


def _quoted(body: object) -> str:
    return f"'{json.dumps(body)}'"
