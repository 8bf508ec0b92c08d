"""The three backends of a cluster: embedded servers, or those that CHIRP_POSTGRES, CHIRP_REDIS and CHIRP_NATS name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from services.cluster import nats_server, postgres_server, probes, redis_servers
from services.cluster.nats_server import NatsServer
from services.cluster.postgres_server import PostgresServer
from services.cluster.program import ClusterError, Step, Unit
from services.cluster.redis_servers import RedisServers
from services.cluster.topology import BackendAddresses

POSTGRES = postgres_server.NAME
NATS = nats_server.NAME
REDIS = redis_servers.CLUSTER
NAMES = (POSTGRES, REDIS, NATS)


@dataclass(frozen=True, slots=True)
class Backends:
    """The addresses of the backends, and the units that bring them up.

    The units always include `postgres`, `redis` and `nats`, so that a service can need them whoever runs them.
    """

    addresses: BackendAddresses
    units: tuple[Unit, ...]


def assemble(postgres: PostgresServer, redis: RedisServers, nats: NatsServer, external: BackendAddresses | None = None) -> Backends:
    """Chooses for each backend between the embedded server and, where an address is given, the external one."""
    given = external or BackendAddresses()
    return Backends(
        BackendAddresses(given.postgres or postgres.dsn(), given.redis or redis.addresses, given.nats or nats.url),
        units=(
            *([_external_postgres(given.postgres)] if given.postgres else [postgres.program()]),
            *([_external_redis(given.redis)] if given.redis else redis.units()),
            *([_external_nats(given.nats)] if given.nats else [nats.program()]),
        ),
    )


def embedded(folder: Path, redis_ports: Sequence[int], nats_port: int, nats_monitoring_port: int) -> Backends:
    """All three embedded with their data under the folder and default settings."""
    return assemble(
        PostgresServer(folder / POSTGRES),
        RedisServers(folder / REDIS, tuple(redis_ports)),
        NatsServer(folder / NATS, nats_port, nats_monitoring_port),
    )


def _external_postgres(dsn: str) -> Step:
    async def check() -> None:
        try:
            connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=3)
        except psycopg.Error as problem:
            reason = str(problem).strip().splitlines()[0]
            raise ClusterError(f"CHIRP_POSTGRES cannot be reached ({reason}): start that server or unset it") from None
        await connection.close()

    return Step(POSTGRES, check)


def _external_redis(addresses: str) -> Step:
    async def check() -> None:
        await _some_open("CHIRP_REDIS", addresses.split(","))

    return Step(REDIS, check)


def _external_nats(urls: str) -> Step:
    async def check() -> None:
        await _some_open("CHIRP_NATS", [url.rsplit("/", 1)[-1].rsplit("@", 1)[-1] for url in urls.split(",")])

    return Step(NATS, check)


async def _some_open(variable: str, addresses: Sequence[str]) -> None:
    """One reachable server is enough: the clients find the others and live with a missing one."""
    for address in addresses:
        host, _, port = address.strip().rpartition(":")
        if port.isdigit() and await probes.tcp_open(host, int(port)):
            return
    raise ClusterError(f"{variable}={','.join(addresses)} cannot be reached: start that server or unset the variable")
