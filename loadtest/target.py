"""The running cluster that a command of this package works on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import typer

from services.cluster import settings
from services.cluster.state import Phase, Record, StateFolder
from services.runtime import channel
from services.runtime.channel import Channel
from services.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses of a cluster."""

    replicas: Mapping[str, Sequence[str]]
    """host:port of every gRPC process, by name."""
    postgres: str
    redis: str
    nats: str
    rest: str

    def connect(self, process: str, service: str, metrics: Metrics) -> Channel:
        """A channel to all replicas of a process; idempotent calls are repeated when a replica is away."""
        return channel.connect(self.replicas[process], service, metrics, retry=True)


def find() -> Target:
    """What `chirp up` runs on this machine. Ends the command with one line if nothing runs."""
    chosen = settings.read(os.environ)
    record = StateFolder(chosen.state).read()
    if record is None or record.phase is not Phase.UP:
        fail(f"no cluster runs on {chosen.state}: start one with `chirp up`")
    return of(record)


def of(record: Record) -> Target:
    """The addresses that a running cluster has left."""
    replicas: dict[str, list[str]] = {}
    for process in record.processes:
        replicas.setdefault(process.name.partition("-")[0], []).append(process.address)
    return Target(replicas, record.postgres, record.redis, record.nats, record.rest)


def fail(message: str) -> NoReturn:
    """Ends the command with one line and status 1."""
    typer.echo(f"chirp: {message}", err=True)
    raise typer.Exit(1)
