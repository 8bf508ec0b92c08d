"""Fixtures: real backends that start when a test asks for them, a migrated database a module, and the whole cluster.

- postgres_dsn: an empty database; redis_nodes, nats_url: addresses. One set of servers a session.
- database: a fresh database with all migrations applied, one a test module.
- backends: the same servers as a handle: `backends.kill("redis-2")`, `await backends.restart("nats")`, `stop`, `start`,
  `pause`, `resume`, `await backends.healthy("redis")`.
- cluster: all processes of the topology on free ports, timeline twice: addresses, `channel(name)`, the same handle.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import grpc
import psycopg
import pytest

from services.cluster import machine, settings, topology
from services.cluster.ports import BUS_OFFSET, FreePorts
from services.runtime import migrations
from tests.running import BackendServers, ClusterServers
from tests.waiting import eventually as wait_for

DATABASES = count(1)
TEMPLATE = "chirp_template"
# Two replicas of the timeline, so that "another replica" exists in every test of the running cluster.
CLUSTER_REPLICAS = {"timeline": 2}


@pytest.fixture(scope="session")
def ports() -> FreePorts:
    """Where every fixture of the session takes its ports from, so that no two get the same."""
    return FreePorts()


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[BackendServers]:
    """A handle on the session's own PostgreSQL, NATS and Redis Cluster."""
    servers = BackendServers(tmp_path_factory.mktemp("backends"), ports)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def postgres_dsn(backends: BackendServers) -> str:
    """The DSN of a database without any table; for tables take `database`."""
    return backends.postgres()


@pytest.fixture(scope="session")
def redis_nodes(backends: BackendServers) -> str:
    """ "host:port,host:port,host:port" of a running 3-node cluster, shared by all tests: use keys of your own."""
    return backends.redis()


@pytest.fixture(scope="session")
def nats_url(backends: BackendServers) -> str:
    """ "nats://host:port" of a server with JetStream, shared by all tests: use streams of your own or purge."""
    return backends.nats()


@pytest.fixture(scope="session")
def migrated_template(backends: BackendServers, postgres_dsn: str) -> str:
    """The name of a database to which all migrations were applied once, to copy from."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"create database {TEMPLATE}")
    backends.wait(migrations.apply(_with_database(postgres_dsn, TEMPLATE)))
    return TEMPLATE


@pytest.fixture(scope="module")
def database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """The DSN of a fresh database with all migrations applied; it is dropped after the module."""
    name = f"chirp_test_{next(DATABASES)}"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name} template {migrated_template}")
        yield _with_database(postgres_dsn, name)
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """`await eventually(check, timeout=10)`: see tests.waiting, from where it can be imported too."""
    return wait_for


@pytest.fixture(scope="session")
def free_port(ports: FreePorts) -> Callable[..., int]:
    """`free_port()` gives a port nobody listens on; `free_port(1000)` one for which port + 1000 is free as well."""
    return ports.take


class Cluster(ClusterServers):
    """The running cluster with channels to its processes."""

    def __init__(self, machine: machine.Machine, logs: Path) -> None:
        super().__init__(machine, logs)
        self.channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, name: str) -> grpc.aio.Channel:
        """A channel to a replica, as outside clients have it: `tweetpb.TweetServiceStub(cluster.channel("tweet"))`."""
        if name not in self.channels:
            self.channels[name] = grpc.aio.insecure_channel(self.address(name))
        return self.channels[name]


@pytest.fixture(scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> AsyncIterator[Cluster]:
    """Everything of services/cluster/topology.py as child processes on free ports, empty at first."""
    state = tmp_path_factory.mktemp("cluster")
    wanted = settings.read({"CHIRP_STATE": str(state), **_environment()}, replicas=CLUSTER_REPLICAS)

    def free(port: int) -> int:
        return ports.take(BUS_OFFSET) if port in topology.REDIS_PORTS else ports.take()

    running = Cluster(machine.assemble(wanted, free), wanted.logs)
    try:
        running.start_blocking()
        yield running
        for channel in running.channels.values():
            await channel.close()
    finally:
        running.close()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHIRP_")}


def _with_database(dsn: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(dsn, dbname=name)
