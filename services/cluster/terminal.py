"""What the commands share towards the operator: consoles, the settings of the environment, one line for a failure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from services.cluster import settings
from services.cluster.program import ClusterError
from services.cluster.settings import Settings
from services.cluster.state import Record, StateFolder
from services.runtime.config import ConfigError

FAILED = 1
CONFIGURATION = 78

JsonOption = Annotated[bool, typer.Option("--json", help="Print the facts as JSON, for scripts.")]


def console() -> Console:
    """The operator's terminal; NO_COLOR and pipes are respected by rich."""
    # A pipe has no width: long paths and addresses must not be cut for it.
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 250)


def fail(line: str, status: int = FAILED) -> NoReturn:
    """Ends the command with one line on stderr."""
    print(f"chirp: {line}", file=sys.stderr)
    raise typer.Exit(status)


@contextmanager
def clear_failures() -> Generator[None]:
    """Turns what the operator has to act on into one line and an exit status: 1, or 78 for the configuration."""
    try:
        yield
    except ClusterError as problem:
        fail(str(problem))
    except ConfigError as problem:
        fail(str(problem), CONFIGURATION)


def print_json(facts: object) -> None:
    """Facts for a script."""
    print(json.dumps(facts, indent=2, default=str))


def read_settings(port_offset: int = 0, replicas: Sequence[str] = ()) -> Settings:
    """The settings of this environment and these options."""
    return settings.read(os.environ, port_offset, parse_replicas(replicas))


def parse_replicas(given: Sequence[str]) -> Mapping[str, int]:
    """`NAME=COUNT` options as numbers by name."""
    found: dict[str, int] = {}
    for each in given:
        name, _, count = each.partition("=")
        if not count.isdecimal():
            raise ConfigError(f"--replicas {each}: write it as NAME=COUNT, such as timeline=2")
        found[name] = int(count)
    return found


def state_folder() -> StateFolder:
    """The state folder of this environment."""
    return StateFolder(read_settings().state)


def running_record() -> Record:
    """The record of the running cluster; ClusterError when none runs."""
    folder = state_folder()
    record = folder.read()
    if record is None or not folder.is_running():
        raise ClusterError(f"no cluster is running on {folder.path}: `chirp up` starts one")
    return record
