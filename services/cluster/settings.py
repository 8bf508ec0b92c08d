"""What the operator decided about this machine's cluster: the variables of the `chirp` command itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from services.cluster import topology
from services.cluster.topology import BackendAddresses
from services.runtime import config
from services.runtime.config import Variable

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of the checkout: where the Makefile, the tests and .chirp/ are."""

STATE = Variable("CHIRP_STATE", str(PROJECT / ".chirp"), "folder of the embedded servers' data, of logs and of run.json", str)
REDIS_MAXMEMORY = Variable(
    "CHIRP_REDIS_MAXMEMORY", "1gb", "memory of each embedded Redis node before it evicts", str, "bytes, kb, mb, gb"
)
NATS_SYNC = Variable(
    "CHIRP_NATS_SYNC_INTERVAL", "10s", "how often embedded JetStream syncs to the disk; or 'always'", str, "duration"
)
TABLE: tuple[Variable[Any], ...] = (STATE, REDIS_MAXMEMORY, NATS_SYNC)
ADDRESSES = ("CHIRP_POSTGRES", "CHIRP_REDIS", "CHIRP_NATS")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this machine's cluster is to be. `external` servers are run by somebody else; `inherited` every child gets."""

    state: Path
    external: BackendAddresses
    redis_server: str
    redis_maxmemory: str
    nats_sync: str
    inherited: Mapping[str, str]
    port_offset: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def logs(self) -> Path:
        return self.state / "logs"


def read(variables: Mapping[str, str], port_offset: int = 0, replicas: Mapping[str, int] | None = None) -> Settings:
    """The settings an environment makes; raises config.ConfigError naming a variable that is unknown or wrong."""
    own = {variable.name for variable in TABLE}
    environ = config.Environ({name: value for name, value in variables.items() if name not in own})
    config.read(environ)
    return Settings(
        state=Path(_own(variables, STATE)).absolute(),
        external=BackendAddresses(*(variables.get(name, "") for name in ADDRESSES)),
        redis_server=environ.get(config.REDIS_SERVER),
        redis_maxmemory=_own(variables, REDIS_MAXMEMORY),
        nats_sync=_own(variables, NATS_SYNC),
        inherited={name: value for name, value in variables.items() if name not in own},
        port_offset=port_offset,
        replicas=checked_replicas(replicas or {}),
    )


def checked_replicas(replicas: Mapping[str, int]) -> Mapping[str, int]:
    """The same, or ConfigError for a process that does not exist or a number that the ports do not allow."""
    known = {process.name for process in topology.PROCESSES}
    for name, count in replicas.items():
        if name not in known or not 1 <= count <= 9:
            raise config.ConfigError(f"--replicas {name}={count}: a name of {', '.join(sorted(known))} and a number from 1 to 9")
    return replicas


def _own(variables: Mapping[str, str], variable: Variable[T]) -> T:
    return variable.parse(variables.get(variable.name) or variable.default)
