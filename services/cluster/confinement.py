"""How a program that refuses root is started when we are root, without touching anything outside the state folder."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from services.cluster.program import ClusterError, Confinement

LAUNCHER = Path(__file__).with_name("launch.py")
# "nobody" on Linux: owns nothing, so a server running as it can reach only what the state folder gives it.
SETUID_USER = 65534


def launch_command(argv: tuple[str, ...], confinement: Confinement, orphan_signal: int) -> list[str]:
    """The command that starts `argv` as our child: it dies with us, and runs as `confinement` says."""
    user = f"setuid:{SETUID_USER}" if confinement is Confinement.SETUID else confinement.value
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(orphan_signal), user, *argv]


@cache
def unprivileged() -> Confinement:
    """The way that works here: nothing to do unless root, else a user namespace, else another user id."""
    if os.geteuid() != 0:
        return Confinement.NONE
    if _works(Confinement.NAMESPACE, "/bin/true"):
        return Confinement.NAMESPACE
    return Confinement.SETUID


def check_reachable(confinement: Confinement, program: Path, folder: Path) -> None:
    """Another user id must be able to run the program and enter the folder; in a namespace we keep our own rights."""
    if confinement is not Confinement.SETUID:
        return
    if not (_works(confinement, str(program), "--version") and _works(confinement, "/bin/ls", str(folder))):
        raise ClusterError(
            f"PostgreSQL refuses to run as root, this system has no user namespaces, and user {SETUID_USER} cannot "
            f"reach {program} and {folder}: run chirp as an ordinary user, or set CHIRP_POSTGRES to a running server"
        )


def _works(confinement: Confinement, *argv: str) -> bool:
    command = launch_command(argv, confinement, 9)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
