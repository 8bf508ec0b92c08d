"""THE table: which processes and backends a cluster has, where they listen, and what each needs.

`chirp up` runs it on this machine, docker-compose.yml is the same in containers (tests/rules/test_compose.py compares
the two), and the test cluster is the same on free ports. Replica n of a process listens on its port + 100·n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

REPLICA_STEP = 100
METRICS_OFFSET = 1000
GATEWAY_METRICS_PORT = 9080
NATS_PORT = 4222
NATS_MONITORING_PORT = 8222
REDIS_PORTS = (7000, 7001, 7002)
POSTGRES, REDIS, NATS, MIGRATE = "postgres", "redis", "nats", "migrate"
"""What processes may need besides each other; `migrate` is done once, when `postgres` is healthy."""


class Kind(StrEnum):
    """What a process is to its callers."""

    SERVICE = "service"
    WORKER = "worker"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Process:
    """A row of the table. `port` is its gRPC port (the gateway: HTTP); what it `needs` is healthy before it starts."""

    name: str
    kind: Kind
    module: str
    port: int
    needs: tuple[str, ...]
    replicas: int = 1
    env: Mapping[str, str] = field(default_factory=dict[str, str])


BACKENDS = (MIGRATE, REDIS, NATS)

PROCESSES = (
    Process("id", Kind.SERVICE, "services.id", 50051, (MIGRATE,)),
    Process("user", Kind.SERVICE, "services.user", 50052, (*BACKENDS, "id")),
    Process("graph", Kind.SERVICE, "services.graph", 50053, (*BACKENDS, "user")),
    Process("tweet", Kind.SERVICE, "services.tweet", 50054, (*BACKENDS, "id", "user", "graph")),
    Process("timeline", Kind.SERVICE, "services.timeline", 50055, (*BACKENDS, "user", "graph", "tweet")),
    Process("fanout", Kind.WORKER, "services.timeline.fanout_worker", 50070, (*BACKENDS, "graph", "tweet")),
    Process("relay", Kind.WORKER, "services.runtime.relay", 50071, (MIGRATE, NATS)),
    Process("gateway", Kind.GATEWAY, "gateway", 8080, ("user", "graph", "tweet", "timeline")),
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One replica of a process and where it listens; `grpc_port` is 0 for the gateway, `http_port` for the others."""

    process: Process
    replica: int
    host: str
    grpc_port: int
    metrics_port: int
    http_port: int

    @property
    def name(self) -> str:
        """The process's name; from the second replica on with its number."""
        return f"{self.process.name}-{self.replica}" if self.replica else self.process.name

    @property
    def address(self) -> str:
        """host:port of its main door."""
        return f"{self.host}:{self.grpc_port or self.http_port}"


@dataclass(frozen=True, slots=True)
class BackendAddresses:
    """The backends as the CHIRP_ variables name them; empty where none is given."""

    postgres: str = ""
    redis: str = ""
    nats: str = ""


def instances(
    replicas: Mapping[str, int] | None = None,
    port: Callable[[int], int] = int,
    host: Callable[[str], str] = lambda name: "127.0.0.1",
) -> list[Instance]:
    """Every process to run. `port` turns a port of the table into the real one, `host` a process name into its host."""
    wanted = replicas or {}
    return [
        _instance(process, replica, port, host(process.name))
        for process in PROCESSES
        for replica in range(wanted.get(process.name, process.replicas))
    ]


def _instance(process: Process, replica: int, port: Callable[[int], int], host: str) -> Instance:
    main = port(process.port + REPLICA_STEP * replica)
    if process.kind is Kind.GATEWAY:
        return Instance(process, replica, host, 0, port(GATEWAY_METRICS_PORT + REPLICA_STEP * replica), main)
    metrics = port(process.port + METRICS_OFFSET + REPLICA_STEP * replica)
    return Instance(process, replica, host, main, metrics, 0)


def needs(instance: Instance, running: Sequence[Instance]) -> tuple[str, ...]:
    """The units an instance waits for: every replica of every process it needs, and the backends as they are."""
    found: list[str] = []
    for need in instance.process.needs:
        replicas = [other.name for other in running if other.process.name == need]
        found.extend(replicas or [need])
    return tuple(found)


def environment(
    instance: Instance, running: Sequence[Instance], backends: BackendAddresses, listen: str = "127.0.0.1"
) -> dict[str, str]:
    """The CHIRP_ variables of an instance: where it listens, the backends, and the replicas of every service."""
    doors = {"CHIRP_HTTP_PORT": instance.http_port} if instance.http_port else {"CHIRP_GRPC_PORT": instance.grpc_port}
    return {
        "CHIRP_HOST": listen,
        **{name: str(port) for name, port in doors.items()},
        "CHIRP_METRICS_PORT": str(instance.metrics_port),
        "CHIRP_POSTGRES": backends.postgres,
        "CHIRP_REDIS": backends.redis,
        "CHIRP_NATS": backends.nats,
        **peers(running),
        **instance.process.env,
    }


def peers(running: Sequence[Instance]) -> dict[str, str]:
    """CHIRP_<SERVICE> for each service: the addresses of all its replicas."""
    found: dict[str, list[str]] = {}
    for instance in running:
        if instance.process.kind is Kind.SERVICE:
            found.setdefault(f"CHIRP_{instance.process.name.upper()}", []).append(instance.address)
    return {name: ",".join(addresses) for name, addresses in found.items()}
