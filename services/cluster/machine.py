"""This machine's cluster: the rows of the table turned into programs for the supervisor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from services.cluster import backends, probes, topology
from services.cluster.backends import Backends
from services.cluster.nats_server import NatsServer
from services.cluster.postgres_server import PostgresServer
from services.cluster.program import ClusterError, Port, Program, Step, Unit
from services.cluster.redis_servers import RedisServers
from services.cluster.settings import PROJECT, Settings
from services.cluster.topology import Instance
from services.runtime import migrations

# Importing grpc and opening the pools takes a second alone, several when all start together on two cores.
START_TIMEOUT = 60.0
# The drain of a process is bounded by CHIRP_DRAIN_GRACE (10 s); what takes longer than this hangs.
STOP_TIMEOUT = 20.0
# One connection serves many questions, yet a process that ends is noticed.
PROBE_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything a supervisor needs to run the cluster, and the addresses to reach it."""

    backends: Backends
    instances: tuple[Instance, ...]
    units: tuple[Unit, ...]
    redis_servers: RedisServers

    def instance(self, name: str) -> Instance:
        """The running replica of that name; KeyError when there is none."""
        return {each.name: each for each in self.instances}[name]


def assemble(settings: Settings, port: Callable[[int], int] | None = None) -> Machine:
    """Plans the cluster. `port` turns a port of the table into the real one; the default adds the port offset."""
    real_port = port or (lambda number: number + settings.port_offset)
    redis = RedisServers(
        settings.state / topology.REDIS,
        tuple(map(real_port, topology.REDIS_PORTS)),
        settings.redis_maxmemory,
        settings.redis_server,
    )
    around = backends.assemble(
        PostgresServer(settings.state / topology.POSTGRES),
        redis,
        NatsServer(
            settings.state / topology.NATS,
            real_port(topology.NATS_PORT),
            real_port(topology.NATS_MONITORING_PORT),
            settings.nats_sync,
        ),
        settings.external,
    )
    instances = topology.instances(settings.replicas, real_port)
    # A development cluster believes X-User-Id; whoever sets CHIRP_AUTH decides otherwise.
    extra = {} if "CHIRP_AUTH" in settings.inherited else {"CHIRP_AUTH": "header"}
    programs = [_program(instance, instances, around, extra) for instance in instances]
    return Machine(around, tuple(instances), (*around.units, _migrations(around.addresses.postgres), *programs), redis)


def _program(instance: Instance, running: Sequence[Instance], around: Backends, extra: Mapping[str, str]) -> Program:
    return Program(
        name=instance.name,
        argv=(sys.executable, "-m", instance.process.module),
        probe=lambda: is_healthy(instance, PROBE_PATIENCE),
        env={**extra, **topology.environment(instance, running, around.addresses)},
        cwd=PROJECT,
        needs=topology.needs(instance, running),
        ports=tuple(_ports(instance)),
        start_timeout=START_TIMEOUT,
        stop_timeout=STOP_TIMEOUT,
    )


def _ports(instance: Instance) -> list[Port]:
    door = Port(instance.http_port, "REST") if instance.http_port else Port(instance.grpc_port, "gRPC")
    return [door, Port(instance.metrics_port, "metrics")]


async def is_healthy(instance: Instance, patience: float = 0.0) -> bool:
    """What the process itself says: gRPC health, asked again for up to `patience` seconds, or /readyz of the gateway."""
    if instance.http_port:
        return await probes.http_ok(instance.host, instance.http_port, "/readyz")
    return await probes.grpc_serving(instance.address, patience)


def _migrations(dsn: str) -> Step:
    async def run() -> None:
        await migrate(dsn)

    return Step(topology.MIGRATE, run, (topology.POSTGRES,))


async def migrate(dsn: str) -> list[str]:
    """Applies the migrations that are missing and returns their names; ClusterError names the one that fails."""
    try:
        return [str(each) for each in await migrations.apply(dsn)]
    except (migrations.MigrationError, psycopg.Error) as problem:
        raise ClusterError(f"the migrations cannot be applied: {' '.join(str(problem).split())}") from None
