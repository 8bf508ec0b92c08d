"""`chirp status`, `chirp logs` and `chirp config`."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from services.cluster import logfiles, settings, summary, terminal
from services.cluster.program import ClusterError, Program
from services.cluster.state import ProcessRecord, Record
from services.cluster.terminal import JsonOption
from services.runtime import config as process_config

FOLLOW_INTERVAL = 0.1


def status(json: JsonOption = False) -> None:
    """Ask every process for its health. Exit status 0 only when all are healthy."""
    with terminal.clear_failures():
        record = asyncio.run(_asked(terminal.running_record()))
        well = all(process.state == "healthy" for process in record.processes)
        if json:
            print(record.to_json())
        else:
            _show_status(record)
        raise typer.Exit(0 if well else terminal.FAILED)


def _show_status(record: Record) -> None:
    console = terminal.console()
    age = timedelta(seconds=int(time.time() - record.started))
    console.print(f"cluster {record.phase} for {age}, pid {record.pid}, REST {record.rest}")
    console.print(summary.table(record.processes, with_state=True))


async def _asked(record: Record) -> Record:
    """The record with what each process says of itself now."""
    from services.cluster import machine

    current = settings.read(os.environ, record.port_offset, record.replicas)
    programs = {unit.name: unit for unit in machine.assemble(current).units if isinstance(unit, Program)}
    processes = await asyncio.gather(*(_asked_one(each, programs.get(each.name)) for each in record.processes))
    return dataclasses.replace(record, processes=tuple(processes))


async def _asked_one(process: ProcessRecord, program: Program | None) -> ProcessRecord:
    if program is None or process.state != "healthy":
        return process
    try:
        well = await program.probe()
    except (OSError, TimeoutError):
        well = False
    return process if well else dataclasses.replace(process, state="unhealthy")


def logs(
    name: Annotated[str, typer.Argument(help="A process of `chirp status`, or supervisor.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
) -> None:
    """Print the log of one process."""
    with terminal.clear_failures():
        folder = terminal.read_settings().logs
        path = folder / f"{name}.log"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in folder.glob("*.log"))) or "none yet"
            raise ClusterError(f"there is no log of {name}; there are: {known}")
        for line in logfiles.tail(path, lines):
            print(line)
        if follow:
            _follow(path)


def _follow(path: Path) -> None:
    try:
        for text in _growth(path):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        return


def _growth(path: Path) -> Iterator[str]:
    with path.open(errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            if path.stat().st_size < file.tell():
                # The supervisor has cut the file.
                file.seek(0)
            if text := file.read():
                yield text
            time.sleep(FOLLOW_INTERVAL)


def config(json: JsonOption = False) -> None:
    """Print every CHIRP_ variable: its value here, its default, its unit and what it means."""
    with terminal.clear_failures():
        rows = _variables()
        if json:
            terminal.print_json(rows)
            return
        table = Table("variable", "value", "default", "unit", "meaning", box=None, pad_edge=False)
        for row in rows:
            value = f"[bold]{row['value']}[/bold]" if row["set"] else str(row["value"])
            table.add_row(str(row["name"]), value, str(row["default"]), str(row["unit"]), str(row["meaning"]))
        terminal.console().print(table)


def _variables() -> list[dict[str, object]]:
    own = {variable.name for variable in settings.TABLE}
    environ = process_config.Environ({name: value for name, value in os.environ.items() if name not in own})
    command = [(each, os.environ.get(each.name, each.default), each.name in os.environ) for each in settings.TABLE]
    return [
        {
            "name": variable.name,
            "value": value,
            "default": variable.default,
            "unit": variable.unit,
            "meaning": variable.meaning,
            "set": given,
        }
        for variable, value, given in [*environ.describe(), *command]
    ]
