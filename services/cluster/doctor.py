"""The checks of `chirp doctor`: whether this machine can run a cluster, and what to do where it cannot."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from services.cluster import binaries, confinement, machine, ports
from services.cluster.postgres_server import PostgresServer
from services.cluster.program import ClusterError, Confinement, Program
from services.cluster.settings import Settings
from services.cluster.state import StateFolder

LEAST_DISK = 2 * 1024**3
SUPPORTED_PYTHON = ((3, 11), (3, 12))
LIBRARIES = ("grpcio", "protobuf", "psycopg", "nats-py", "aioredis-cluster", "hiredis", "uvloop")


class Verdict(StrEnum):
    """What a check found; only FAILED keeps the cluster from running."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, with the advice in it when it is not ok."""

    check: str
    verdict: Verdict
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Runs every check."""
    yield _python()
    yield _libraries()
    yield from _servers(settings)
    yield _user(settings)
    yield _socket(settings)
    yield _disk(settings)
    yield from _ports(settings)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] in SUPPORTED_PYTHON:
        return Finding("python", Verdict.OK, f"{version} at {sys.executable}")
    return Finding("python", Verdict.FAILED, f"{version}: aioredis-cluster needs 3.11 or 3.12; install one of them")


def _libraries() -> Finding:
    try:
        return Finding("libraries", Verdict.OK, ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES))
    except metadata.PackageNotFoundError as missing:
        return Finding("libraries", Verdict.FAILED, f"{missing.name} is not installed: run `uv sync`")


def _servers(settings: Settings) -> Iterator[Finding]:
    external = settings.external
    yield _server("postgres", external.postgres, lambda: binaries.postgres("postgres"))
    yield _server("redis", external.redis, lambda: binaries.redis(settings.redis_server))
    yield _server("nats", external.nats, binaries.nats)


def _server(name: str, external: str, find: Callable[[], Path]) -> Finding:
    if external:
        return Finding(name, Verdict.OK, f"external, CHIRP_{name.upper()} is set")
    try:
        program = find()
    except ClusterError as problem:
        return Finding(name, Verdict.FAILED, str(problem))
    return _version(name, program)


def _version(name: str, program: Path) -> Finding:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        return Finding(name, Verdict.FAILED, f"{program} cannot be run: {problem}")
    version = said.stdout.strip().splitlines()[0]
    return Finding(name, Verdict.OK, f"{version} at {program}")


def _user(settings: Settings) -> Finding:
    how = confinement.unprivileged()
    if settings.external.postgres or how is Confinement.NONE:
        return Finding("user", Verdict.OK, f"uid {os.geteuid()}: PostgreSQL runs as it is")
    if how is Confinement.NAMESPACE:
        return Finding("user", Verdict.OK, "root: PostgreSQL runs in a user namespace of its own")
    try:
        confinement.check_reachable(how, binaries.postgres("postgres"), _existing(settings.state))
    except ClusterError as problem:
        return Finding("user", Verdict.FAILED, str(problem))
    return Finding("user", Verdict.OK, f"root without namespaces: PostgreSQL runs as uid {confinement.SETUID_USER}")


def _socket(settings: Settings) -> Finding:
    folder = PostgresServer(settings.state / "postgres").socket_folder
    return Finding("socket", Verdict.OK, f"PostgreSQL listens in {folder}")


def _disk(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.state)).free
    detail = f"{free / 1024**3:.1f} GiB free for {settings.state}"
    if free >= LEAST_DISK:
        return Finding("disk", Verdict.OK, detail)
    return Finding("disk", Verdict.WARNING, f"{detail}: make room, or set CHIRP_STATE to a folder on a larger disk")


def _ports(settings: Settings) -> Iterator[Finding]:
    if StateFolder(settings.state).is_running():
        yield Finding("ports", Verdict.OK, "held by the running cluster (`chirp status`)")
        return
    try:
        units = machine.assemble(settings).units
    except ClusterError:
        # A missing binary has a finding of its own.
        return
    wanted = [(unit.name, port) for unit in units if isinstance(unit, Program) for port in unit.ports]
    taken = [(name, port) for name, port in wanted if not ports.is_free(port.number)]
    for name, port in taken:
        detail = f"{port.number} ({name}, {port.purpose}) is taken by {ports.holder(port.number)}"
        yield Finding("ports", Verdict.FAILED, f"{detail}: stop that, or use --port-offset")
    if not taken:
        yield Finding("ports", Verdict.OK, f"all {len(wanted)} are free")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
