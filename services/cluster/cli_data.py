"""`chirp reset` and `chirp migrate`."""

from __future__ import annotations

import asyncio
import shutil
from typing import Annotated

import typer

from services.cluster import terminal
from services.cluster.settings import Settings
from services.cluster.state import StateFolder
from services.cluster.terminal import JsonOption

# Only what a cluster makes: the state folder may hold other things, such as a bootstrapped uv.
OURS = ("postgres", "nats", "redis", "logs", "run.json")


def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete all data of the embedded servers and all logs. External servers are not touched."""
    with terminal.clear_failures():
        settings = terminal.read_settings()
        with StateFolder(settings.state).locked():
            if not yes and not typer.confirm(f"Delete all tweets, users and logs in {settings.state}?"):
                raise typer.Exit(terminal.FAILED)
            _delete(settings)
    print(f"{settings.state} is empty; `chirp up` starts afresh")


def _delete(settings: Settings) -> None:
    for name in OURS:
        path = settings.state / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def migrate(json: JsonOption = False) -> None:
    """Apply the missing migrations to CHIRP_POSTGRES, or to the embedded server, which is started for it if need be."""
    with terminal.clear_failures():
        applied = asyncio.run(_migrate(terminal.read_settings()))
        if json:
            terminal.print_json({"applied": applied})
            return
        for name in applied:
            print(f"applied {name}")
        print(f"{len(applied)} migrations applied" if applied else "all migrations were applied before")


async def _migrate(settings: Settings) -> list[str]:
    from services.cluster import machine, topology
    from services.cluster.postgres_server import PostgresServer
    from services.cluster.supervisor import Supervisor

    if settings.external.postgres:
        return await machine.migrate(settings.external.postgres)
    server = PostgresServer(settings.state / topology.POSTGRES)
    folder, dsn = StateFolder(settings.state), server.dsn()
    if folder.is_running():
        return await machine.migrate(dsn)
    with folder.locked():
        supervisor = Supervisor([server.program()], settings.logs, settings.inherited, _Silence())
        try:
            await supervisor.start()
            return await machine.migrate(dsn)
        finally:
            await supervisor.stop()


class _Silence:
    """A reporter for a server that is up for a moment."""

    def say(self, line: str) -> None:
        pass

    def changed(self) -> None:
        pass
