"""Applies services/*/migrations/NNNN_name.sql, each once and in order: `runtime` first, then the services by name.

Every service owns its schema and its files; no file refers to another service, so their order among services is free.
A file that was applied never changes: correct it with a new one.
"""

import asyncio
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

SERVICES = Path(__file__).parent.parent
_LOCK = 0x63686972  # "chir": whoever migrates holds this session lock
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LEDGER = """
create schema if not exists runtime;
create table if not exists runtime.migration (
    service text not null, number integer not null, name text not null, checksum text not null,
    applied_at timestamptz not null default clock_timestamp(), primary key (service, number))
"""


class MigrationError(Exception):
    """The files do not fit what was applied before; names the file."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    service: str
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Tells a changed file from the applied one."""
        return blake2b(self.text.encode(), digest_size=16).hexdigest()

    def __str__(self) -> str:
        return f"services/{self.service}/migrations/{self.name}"


def find(root: Path = SERVICES) -> list[Migration]:
    """All files below `root`, in the order of application; raises MigrationError for a bad or doubled number."""
    found = [_read(path) for path in root.glob("*/migrations/*.sql")]
    found.sort(key=lambda each: (each.service != "runtime", each.service, each.number))
    for before, after in itertools.pairwise(found):
        if (before.service, before.number) == (after.service, after.number):
            raise MigrationError(f"{after} has the number of {before.name}")
    return found


def _read(path: Path) -> Migration:
    match = _NAME.fullmatch(path.name)
    if not match:
        raise MigrationError(f"{path} is not named NNNN_words.sql")
    return Migration(path.parent.parent.name, int(match[1]), path.name, path.read_text())


async def apply(dsn: str, root: Path = SERVICES) -> list[Migration]:
    """Applies what is missing, each file in a transaction of its own, and returns it.

    Whoever comes second waits for the first and then finds nothing to do. Raises MigrationError if an applied file was
    changed or a new one is numbered below an applied one, psycopg.Error if a file fails (those before it stay applied).
    """
    migrations = await asyncio.to_thread(find, root)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        await connection.execute("select set_config('lock_timeout', '0', false)")
        await connection.execute("select set_config('statement_timeout', '0', false)")
        await connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
        await connection.execute(_LEDGER)
        missing = await _missing(connection, migrations)
        for migration in missing:
            await _apply(connection, migration)
        return missing


async def _missing(connection: psycopg.AsyncConnection[TupleRow], all_: Sequence[Migration]) -> list[Migration]:
    cursor = await connection.execute("select service, number, checksum from runtime.migration")
    applied = {(service, number): checksum for service, number, checksum in await cursor.fetchall()}
    newest: dict[str, int] = {}
    for service, number in applied:
        newest[service] = max(number, newest.get(service, 0))
    missing = [each for each in all_ if (each.service, each.number) not in applied]
    for migration in all_:
        if applied.get((migration.service, migration.number), migration.checksum) != migration.checksum:
            raise MigrationError(f"{migration} was changed after it was applied")
    for migration in missing:
        if migration.number < newest.get(migration.service, 0):
            raise MigrationError(f"{migration} is new, but a later one was applied before")
    return missing


async def _apply(connection: psycopg.AsyncConnection[TupleRow], migration: Migration) -> None:
    async with connection.transaction():
        # Bytes without parameters go as one simple query, which may hold many statements.
        await connection.execute(migration.text.encode())
        await connection.execute(
            "insert into runtime.migration (service, number, name, checksum) values (%s, %s, %s, %s)",
            (migration.service, migration.number, migration.name, migration.checksum),
        )
