"""What the supervisor can run: programs (long-lived children) and steps (things done once between them)."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

Probe = Callable[[], Awaitable[bool]]
Action = Callable[[], Awaitable[None]]


class ClusterError(Exception):
    """A condition the operator has to act on; its text is one line that says what happened and what to do."""


class Confinement(StrEnum):
    """As whom a child runs when the supervisor is root and the child refuses root."""

    NONE = "none"
    NAMESPACE = "namespace"
    SETUID = "setuid"


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port a program listens on, and what it is for (shown when somebody else holds it)."""

    number: int
    purpose: str


async def ready() -> None:
    """The preparation of a program that needs none."""


@dataclass(frozen=True, slots=True)
class Program:
    """One child process: how it is prepared, started, asked for its health and stopped.

    `prepare` runs before every start, also before a restart. `probe` answers whether it serves; it may raise
    ConnectionError or OSError for "not yet". Timeouts are seconds.
    """

    name: str
    argv: tuple[str, ...]
    probe: Probe
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path | None = None
    needs: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    prepare: Action = ready
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 15.0
    start_timeout: float = 30.0
    orphan_signal: signal.Signals = signal.SIGTERM
    confinement: Confinement = Confinement.NONE


@dataclass(frozen=True, slots=True)
class Step:
    """Something done once when everything it needs is healthy; others may need it in turn by its name."""

    name: str
    run: Action
    needs: tuple[str, ...] = ()


Unit = Program | Step
