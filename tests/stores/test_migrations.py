"""Migrations: once each, in order, by one at a time; a changed file is refused."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from services.runtime import migrations
from services.runtime.migrations import MigrationError

NAMES = count(1)


@pytest.fixture
def empty(postgres_dsn: str) -> Iterator[str]:
    """The DSN of a database in which nothing was ever done."""
    name = f"migrations_{next(NAMES)}"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")  # type: ignore[arg-type]
        yield make_conninfo(postgres_dsn, dbname=name)
        connection.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
async def connection(empty: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as opened:
        yield opened


def write(root: Path, service: str, name: str, text: str) -> None:
    folder = root / service / "migrations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two services, one with two files."""
    write(tmp_path, "zoo", "0001_create.sql", "create schema zoo; create table zoo.animal (id bigint)")
    write(tmp_path, "zoo", "0002_name.sql", "alter table zoo.animal add name text; create index on zoo.animal (name)")
    write(tmp_path, "bar", "0001_create.sql", "create schema bar; -- a percent sign: 100 %\n select '%s'")
    return tmp_path


async def test_all_of_ours_apply_to_an_empty_database_and_twice_is_a_no_op(empty: str) -> None:
    first = await migrations.apply(empty)
    assert first == migrations.find()
    assert first[0].service == "runtime"
    assert await migrations.apply(empty) == []


async def test_the_ledger_says_what_was_applied(
    empty: str, root: Path, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    applied = await migrations.apply(empty, root)
    assert [str(each) for each in applied] == [
        "services/bar/migrations/0001_create.sql",
        "services/zoo/migrations/0001_create.sql",
        "services/zoo/migrations/0002_name.sql",
    ]
    cursor = await connection.execute("select service, number, name, length(checksum) from runtime.migration order by 1, 2")
    assert await cursor.fetchall() == [
        ("bar", 1, "0001_create.sql", 32),
        ("zoo", 1, "0001_create.sql", 32),
        ("zoo", 2, "0002_name.sql", 32),
    ]


async def test_a_changed_file_is_refused_by_name(empty: str, root: Path) -> None:
    await migrations.apply(empty, root)
    write(root, "zoo", "0001_create.sql", "create schema zoo; create table zoo.animal (id integer)")
    write(root, "zoo", "0003_more.sql", "create table zoo.cage (id bigint)")
    with pytest.raises(MigrationError, match=r"services/zoo/migrations/0001_create.sql was changed"):
        await migrations.apply(empty, root)


async def test_a_file_numbered_below_an_applied_one_is_refused(empty: str, root: Path) -> None:
    (root / "zoo/migrations/0001_create.sql").rename(root / "zoo/migrations/0002_create.sql")
    (root / "zoo/migrations/0002_name.sql").rename(root / "zoo/migrations/0003_name.sql")
    await migrations.apply(empty, root)
    write(root, "zoo", "0001_late.sql", "select 1")
    with pytest.raises(MigrationError, match=r"0001_late\.sql is new, but a later one was applied"):
        await migrations.apply(empty, root)


async def test_a_failing_file_leaves_nothing_of_itself_and_all_before_it(
    empty: str, root: Path, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    write(root, "zoo", "0002_name.sql", "create table zoo.half (id bigint); create table zoo.animal (id bigint)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        await migrations.apply(empty, root)
    cursor = await connection.execute("select to_regclass('zoo.animal') is null, to_regclass('zoo.half') is null")
    assert await cursor.fetchall() == [(False, True)]
    write(root, "zoo", "0002_name.sql", "create table zoo.half (id bigint)")
    assert [each.number for each in await migrations.apply(empty, root)] == [2]


async def test_a_file_and_its_entry_in_the_ledger_are_one(
    empty: str, root: Path, connection: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    write(root, "zoo", "0002_name.sql", "create table zoo.half (id bigint); alter table runtime.migration rename to gone")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await migrations.apply(empty, root)
    cursor = await connection.execute("select to_regclass('zoo.half') is null, to_regclass('runtime.gone') is null")
    assert await cursor.fetchall() == [(True, True)]


@pytest.mark.parametrize("name", ["1_create.sql", "0001-create.sql", "0001_Create.sql"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "zoo", name, "select 1")
    with pytest.raises(MigrationError, match="is not named"):
        migrations.find(tmp_path)


def test_a_doubled_number_is_refused(root: Path) -> None:
    write(root, "zoo", "0002_other.sql", "select 1")
    with pytest.raises(MigrationError, match="has the number of"):
        migrations.find(root)


async def test_two_processes_at_once_apply_each_file_once(empty: str, root: Path) -> None:
    write(root, "zoo", "0002_name.sql", "select pg_sleep(0.3); alter table zoo.animal add name text")
    program = (
        "import asyncio, sys; from pathlib import Path; from services.runtime import migrations; "
        "print(len(asyncio.run(migrations.apply(sys.argv[1], Path(sys.argv[2])))))"
    )
    both = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, empty, str(root), stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    answers = sorted([(await each.communicate())[0].decode().strip() for each in both])
    assert [each.returncode for each in both] == [0, 0]
    assert answers == ["0", "3"]
