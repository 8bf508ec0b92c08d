"""The running cluster that a command of this package works on."""

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import psycopg
import typer

from chirp import errors
from services.cluster import settings, terminal
from services.cluster.state import Phase, Record, StateFolder
from services.runtime import channel
from services.runtime.channel import Channel
from services.runtime.metrics import Metrics

T = TypeVar("T")


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
    with terminal.clear_failures():
        chosen = settings.read(os.environ)
    folder = StateFolder(chosen.state)
    record = folder.read()
    if record is None or record.phase is not Phase.UP or not folder.is_running():
        fail(f"no cluster runs on {chosen.state}: start one with `chirp up`")
    return of(record)


def run(work: Coroutine[None, None, T]) -> T:
    """Does a command's work; a cluster that refuses it or does not answer ends the command with one line."""
    try:
        return asyncio.run(work)
    except Exception as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, errors.ServiceError | psycopg.Error | OSError):
            raise
        fail(f"broken off: {' '.join(str(first).split())} (see `chirp status`)")


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
