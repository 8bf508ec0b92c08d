"""`chirp doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from services.cluster import terminal
from services.cluster.terminal import JsonOption

COLORS = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    port_offset: Annotated[int, typer.Option(help="As for `chirp up`.", min=0, max=4000)] = 0, json: JsonOption = False
) -> None:
    """Check Python, servers, user, disk and ports. Exit status 1 when this machine cannot run the cluster."""
    from services.cluster.doctor import Verdict, examine

    with terminal.clear_failures():
        findings = list(examine(terminal.read_settings(port_offset)))
    if json:
        terminal.print_json([asdict(finding) for finding in findings])
    else:
        table = Table("check", "verdict", "detail", box=None, pad_edge=False)
        for finding in findings:
            table.add_row(finding.check, f"[{COLORS[finding.verdict]}]{finding.verdict}", finding.detail)
        terminal.console().print(table)
    raise typer.Exit(terminal.FAILED if any(each.verdict is Verdict.FAILED for each in findings) else 0)
