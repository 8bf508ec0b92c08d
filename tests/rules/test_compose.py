"""docker-compose.yml and services/cluster/topology.py are the same topology."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import yaml

from services.cluster import nats_server, postgres_server, redis_servers, topology
from services.cluster.settings import PROJECT
from services.cluster.topology import BackendAddresses, Instance, Kind
from services.runtime import config

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INSTANCES = topology.instances(host=str)
REDIS_NAMES = [redis_servers.node_name(index) for index in range(len(topology.REDIS_PORTS))]
BACKENDS = BackendAddresses(
    postgres="host=postgres user=chirp dbname=chirp password=${CHIRP_POSTGRES_PASSWORD:-chirp}",
    redis=",".join(f"{name}:{port}" for name, port in zip(REDIS_NAMES, topology.REDIS_PORTS, strict=True)),
    nats=f"nats://nats:{topology.NATS_PORT}",
)
ONCE = {topology.MIGRATE, topology.REDIS}
PINNED = re.compile(r":v?\d+\.\d+[\w.-]*$")

each_instance = pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: instance.name)


def environment(name: str) -> dict[str, str]:
    return SERVICES[name]["environment"]


def settings_of(command: list[str], option: str) -> dict[str, str]:
    """What follows each `-c` as name=value."""
    given = [value for flag, value in pairwise(command) if flag == option]
    return dict(each.split("=", 1) for each in given)


def test_the_containers_are_the_processes_and_backends_of_the_table() -> None:
    expected = {instance.name for instance in INSTANCES} | {topology.POSTGRES, topology.NATS, *REDIS_NAMES} | ONCE
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == expected


def test_ports_of_the_table_are_the_defaults_of_the_processes() -> None:
    grpc = {process.name: process.port for process in topology.PROCESSES if process.kind is not Kind.GATEWAY}
    assert grpc == dict(config.GRPC_PORTS)
    assert topology.GATEWAY_METRICS_PORT == config.GATEWAY_METRICS_PORT
    assert topology.METRICS_OFFSET == config.METRICS_OFFSET
    assert {f"CHIRP_{name.upper()}" for name in config.PEERS} == set(topology.peers(INSTANCES))


@each_instance
def test_a_container_runs_the_module(instance: Instance) -> None:
    assert SERVICES[instance.name]["command"] == ["python", "-m", instance.process.module]


@each_instance
def test_a_container_has_the_environment_of_the_table(instance: Instance) -> None:
    expected = topology.environment(instance, INSTANCES, BACKENDS, listen="0.0.0.0")
    assert {name: value for name, value in environment(instance.name).items() if name in expected} == expected
    assert set(environment(instance.name)) - set(expected) == {"CHIRP_AUTH", "CHIRP_LOG"}


@each_instance
def test_a_container_publishes_its_ports_on_loopback(instance: Instance) -> None:
    ports = (instance.grpc_port or instance.http_port, instance.metrics_port)
    assert SERVICES[instance.name]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]


@each_instance
def test_a_container_waits_for_what_the_table_says(instance: Instance) -> None:
    done, healthy = "service_completed_successfully", "service_healthy"
    needs = topology.needs(instance, INSTANCES)
    expected = {need: {"condition": done if need in ONCE else healthy} for need in needs}
    assert SERVICES[instance.name]["depends_on"] == expected


@each_instance
def test_a_container_is_asked_for_its_health_at_its_own_port(instance: Instance) -> None:
    local = f"127.0.0.1:{instance.grpc_port or instance.http_port}"
    path = ["/readyz"] if instance.http_port else []
    expected = ["CMD", "python", "-m", "services.cluster.healthcheck", local, *path]
    assert SERVICES[instance.name]["healthcheck"]["test"] == expected


def test_every_long_running_container_has_a_health_check_and_every_dependency_exists() -> None:
    assert [name for name in SERVICES.keys() - ONCE if "test" not in SERVICES[name].get("healthcheck", {})] == []
    needed = {need for service in SERVICES.values() for need in service.get("depends_on", {})}
    assert needed <= SERVICES.keys()


def test_images_are_pinned_and_nothing_is_left_over() -> None:
    foreign = {service["image"] for service in SERVICES.values()} - {"chirp:local"}
    assert [image for image in foreign if not PINNED.search(image)] == []
    assert "version" not in COMPOSE
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_our_image_is_pinned_and_does_not_run_as_root() -> None:
    text = (PROJECT / "deploy" / "Dockerfile").read_text()
    assert [base for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if not PINNED.search(base)] == []
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    assert users
    assert not users[-1].startswith(("0", "root"))


def test_postgres_has_the_settings_of_the_embedded_one() -> None:
    local = {"listen_addresses", "unix_socket_permissions"}
    expected = {name: value for name, value in postgres_server.SETTINGS.items() if name not in local}
    assert settings_of(SERVICES["postgres"]["command"], "-c") == expected
    assert SERVICES["postgres"]["image"].startswith("postgres:18")
    assert environment("postgres")["POSTGRES_INITDB_ARGS"].split() == list(postgres_server.ENCODING)


@pytest.mark.parametrize(("name", "port"), [*zip(REDIS_NAMES, topology.REDIS_PORTS, strict=True)])
def test_redis_has_the_settings_of_the_embedded_one(name: str, port: int) -> None:
    server, *options = SERVICES[name]["command"]
    given = {flag.removeprefix("--"): value for flag, value in zip(options[::2], options[1::2], strict=True)}
    own = {
        "port": str(port),
        "cluster-announce-ip": SERVICES[name]["networks"]["chirp"]["ipv4_address"],
        "maxmemory": "1gb",
        # The network of the composition is its wall; there is no loopback to bind to.
        "protected-mode": "no",
    }
    assert server == "valkey-server"
    assert given == own | redis_servers.SETTINGS


def test_redis_is_formed_of_all_nodes() -> None:
    assert SERVICES["redis"]["command"] == ["python", "-m", "services.cluster.form", *BACKENDS.redis.split(",")]
    assert set(SERVICES["redis"]["depends_on"]) == set(REDIS_NAMES)


def test_nats_has_the_configuration_of_the_embedded_one() -> None:
    def directives(text: str) -> list[str]:
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(("#", "pid_file"))]

    expected = nats_server.CONFIGURATION.format(
        host="0.0.0.0",
        port=topology.NATS_PORT,
        monitoring_port=topology.NATS_MONITORING_PORT,
        pid_file="",
        store='"/data/jetstream"',
        sync_interval="10s",
    )
    assert directives(COMPOSE["configs"]["nats"]["content"]) == directives(expected)


def test_prometheus_reads_every_process() -> None:
    read = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    targets = read["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"{instance.host}:{instance.metrics_port}" for instance in INSTANCES]
