"""What a running cluster leaves in its state folder: a lock that says it runs, and run.json that says where and how."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from services.cluster.program import ClusterError

LOCK_ATTEMPTS = 4
LOCK_PAUSE = 0.02


class Phase(StrEnum):
    """Where the whole cluster is in its life."""

    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One child. `born`, in seconds since 1970, tells its process from a later one of the same id."""

    name: str
    kind: str
    state: str
    restarts: int
    pid: int | None
    born: float
    address: str = ""
    metrics: str = ""


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A user to try things with: send the id as X-User-ID."""

    user_id: int
    username: str


@dataclass(frozen=True, slots=True)
class Record:
    """run.json: the cluster as its supervisor last saw it."""

    phase: Phase
    pid: int
    started: float
    rest: str
    postgres: str
    redis: str
    nats: str
    port_offset: int
    replicas: Mapping[str, int]
    processes: tuple[ProcessRecord, ...] = ()
    demo_user: DemoUser | None = None
    problem: str = ""

    def process(self, name: str) -> ProcessRecord | None:
        """The record of that process."""
        return next((each for each in self.processes if each.name == name), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folder, by default .chirp in the checkout."""

    path: Path
    _record_file: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_record_file", self.path / "run.json")

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Held by whoever runs servers on this folder; ClusterError when somebody does already."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            if not _lock(file):
                raise ClusterError(f"a chirp cluster is running on {self.path}: `chirp down` stops it")
            yield

    def is_running(self) -> bool:
        """Whether a supervisor holds the lock; the kernel lets go of it however that ended."""
        try:
            with self.locked():
                return False
        except ClusterError:
            return True

    def read(self) -> Record | None:
        """The last record; None when there is none that can be read."""
        try:
            values = json.loads(self._record_file.read_text())
            return _record(values)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, record: Record) -> None:
        """Replaces the record as a whole, so that a reader never sees half of it."""
        draft = self._record_file.with_suffix(".new")
        draft.write_text(record.to_json())
        os.replace(draft, self._record_file)

    def forget(self) -> None:
        """Removes the record."""
        self._record_file.unlink(missing_ok=True)


def _lock(file: TextIO) -> bool:
    # Whoever only looks whether a cluster runs holds the lock for an instant: that must not stop a start.
    for _ in range(LOCK_ATTEMPTS):
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(LOCK_PAUSE)
    return False


def _record(values: dict[str, Any]) -> Record:
    processes = tuple(ProcessRecord(**each) for each in values.pop("processes"))
    demo_user = values.pop("demo_user")
    phase = Phase(values.pop("phase"))
    return Record(phase, processes=processes, demo_user=DemoUser(**demo_user) if demo_user else None, **values)
