"""`chirp up` and `chirp down`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from services.cluster import summary, terminal
from services.cluster.program import ClusterError
from services.cluster.settings import PROJECT, Settings
from services.cluster.state import Phase, Record, StateFolder
from services.cluster.terminal import JsonOption

POLL = 0.05
DOWN_PATIENCE = 120.0
SUPERVISOR_LOG = "supervisor.log"
# How terminal.fail begins its line.
FAILURE = "chirp: "

OffsetOption = Annotated[int, typer.Option(help="Added to every port, to run beside something else.", min=0, max=4000)]
ReplicasOption = Annotated[list[str], typer.Option(help="NAME=COUNT, such as timeline=2; may be repeated.")]


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when all is healthy and leave it running.")] = False,
    port_offset: OffsetOption = 0,
    replicas: ReplicasOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = False,
) -> None:
    """Start the cluster: PostgreSQL, NATS, Redis, all services and the gateway. Ctrl-C stops it; the data stays."""
    with terminal.clear_failures():
        settings = terminal.read_settings(port_offset, replicas)
        if (running := _running(settings)) is not None:
            _show(running, json, "already running")
        elif detach:
            _show(_start_detached(settings, json), json, "up")
        else:
            _run_here(settings, json)


def down(json: JsonOption = False) -> None:
    """Stop the running cluster in order; its data stays."""
    with terminal.clear_failures():
        folder = terminal.state_folder()
        record = folder.read()
        if record is None or not folder.is_running():
            return _told(json, False, "nothing is running")
        began = time.monotonic()
        os.kill(record.pid, signal.SIGTERM)
        if not _wait_until(lambda: not folder.is_running(), DOWN_PATIENCE):
            raise ClusterError(f"the supervisor (pid {record.pid}) is still stopping: `chirp status` shows what remains")
        _told(json, True, f"stopped in {time.monotonic() - began:.1f} s; the data stays until `chirp reset`")


def _running(settings: Settings) -> Record | None:
    folder = StateFolder(settings.state)
    return folder.read() if folder.is_running() else None


def _show(record: Record, json: bool, how: str) -> None:
    if json:
        print(record.to_json())
        return
    console = terminal.console()
    console.print(f"chirp is {how} (pid {record.pid}, {record.phase}); `chirp down` stops it")
    summary.show(console, record)


def _run_here(settings: Settings, json: bool) -> None:
    from services.cluster.runner import Run

    # Progress goes to stderr when the facts are to be read by a script.
    stream = sys.stderr if json else sys.stdout
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=stream, flush=True)

    def on_up(record: Record) -> None:
        if json:
            print(record.to_json(), flush=True)
            return
        console = terminal.console()
        summary.show(console, record)
        console.print(f"\nUp after {time.monotonic() - began:.1f} s. Ctrl-C stops everything; logs are in {settings.logs}.")

    Run(settings, say, on_up).until_stopped()


def _start_detached(settings: Settings, json: bool) -> Record:
    """Starts the supervisor in a session of its own, passes on what it says, and returns its record when all is up."""
    folder = StateFolder(settings.state)
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / SUPERVISOR_LOG
    child = _spawn_supervisor(settings, log)
    with log.open() as said:
        while True:
            ended = child.poll() is not None
            record = folder.read()
            if record is not None and record.pid == child.pid and record.phase is Phase.UP:
                return record
            for line in said:
                if line.startswith(FAILURE):
                    raise ClusterError(line.removeprefix(FAILURE).strip())
                if not json:
                    print(line, end="", flush=True)
            if ended:
                raise ClusterError(f"the supervisor ended with status {child.returncode}: see `chirp logs supervisor`")
            time.sleep(POLL)


def _spawn_supervisor(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    replicas = [option for name, count in settings.replicas.items() for option in ("--replicas", f"{name}={count}")]
    offset = ("--port-offset", str(settings.port_offset))
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cluster.cli", "up", *offset, *replicas],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=PROJECT,
            start_new_session=True,
        )


def _told(json: bool, stopped: bool, line: str) -> None:
    if json:
        terminal.print_json({"stopped": stopped, "message": line})
    else:
        print(line)


def _wait_until(check: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
