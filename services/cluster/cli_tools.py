"""`chirp lint` and `chirp test`: the developer's checks, with the tools of this environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from services.cluster import terminal
from services.cluster.settings import PROJECT
from services.cluster.terminal import JsonOption

BASELINE = "proto/baseline.binpb"
CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff check", ("ruff", "check", ".")),
    ("ruff format", ("ruff", "format", "--check", ".")),
    ("types", ("basedpyright", "--warnings")),
    ("buf lint", ("buf", "lint")),
    ("buf format", ("buf", "format", "-d", "--exit-code", "proto")),
    ("buf breaking", ("buf", "breaking", "proto", "--against", BASELINE)),
)
SUITES = ("unit", "stores", "services", "gateway", "cluster", "rules")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went."""

    name: str
    ok: bool
    seconds: float
    output: str


def lint(json: JsonOption = False) -> None:
    """Run all static checks: ruff, types, and buf lint, format and breaking."""
    outcomes: list[Outcome] = []
    for name, command in CHECKS:
        outcome = _check(name, command)
        outcomes.append(outcome)
        if not json:
            _tell(outcome)
    if json:
        terminal.print_json([asdict(outcome) for outcome in outcomes])
    raise typer.Exit(0 if all(outcome.ok for outcome in outcomes) else terminal.FAILED)


def _tell(outcome: Outcome) -> None:
    verdict = "[green]ok[/green]    " if outcome.ok else "[red]FAILED[/red]"
    terminal.console().print(f"{verdict} {outcome.name} ({outcome.seconds:.1f} s)")
    if not outcome.ok:
        print(outcome.output)


def _check(name: str, command: tuple[str, ...]) -> Outcome:
    tool = Path(sysconfig.get_path("scripts")) / command[0]
    began = time.monotonic()
    try:
        done = subprocess.run([tool, *command[1:]], cwd=PROJECT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return Outcome(name, False, 0.0, f"{command[0]} is not installed here: run `uv sync`")
    return Outcome(name, done.returncode == 0, time.monotonic() - began, done.stdout + done.stderr)


def run_tests(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(help=f"One of {', '.join(SUITES)}; all when none is named.")] = "",
) -> None:
    """Run the tests, on real backends that they start themselves. What follows -- goes to pytest."""
    known = suite in SUITES
    paths = [f"tests/{suite}"] if known else []
    further = [suite] if suite and not known else []
    command = [sys.executable, "-m", "pytest", *paths, *further, *context.args]
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, check=False).returncode)
