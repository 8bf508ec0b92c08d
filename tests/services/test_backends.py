"""The embedded servers: what they promise about settings, crashes, and being root."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.cluster import backends as assembly
from services.cluster import binaries, confinement, form, postgres_server, redis_servers
from services.cluster.nats_server import NatsServer
from services.cluster.ports import FreePorts
from services.cluster.postgres_server import PostgresServer
from services.cluster.program import ClusterError, Confinement
from services.cluster.redis_servers import Node, RedisServers
from services.cluster.supervisor import Supervisor
from services.cluster.topology import BackendAddresses
from tests.running import BackendServers, Lines


@pytest.fixture
def nodes(redis_nodes: str) -> list[Node]:
    return [Node(host, int(port)) for host, port in (each.split(":") for each in redis_nodes.split(","))]


async def test_postgres_is_18_with_fsync_on_a_socket_only(postgres_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as connection:
        shown = [
            await (await connection.execute(f"show {name}")).fetchone()
            for name in ("server_version_num", "fsync", "max_connections", "shared_buffers", "listen_addresses")
        ]
    version, *settings = [row[0] for row in shown if row]
    assert version.startswith("18")
    assert settings == ["on", "200", "256MB", ""]


async def test_redis_nodes_share_all_slots(nodes: list[Node]) -> None:
    for node in nodes:
        slots = await redis_servers.command(node, "CLUSTER", "SLOTS")
        assert isinstance(slots, list)
        assert sorted((low, high) for low, high, *_ in slots) == [(0, 5460), (5461, 10922), (10923, 16383)]


async def test_redis_keeps_nothing_on_disk(nodes: list[Node]) -> None:
    assert await redis_servers.command(nodes[0], "CONFIG", "GET", "save") == ["save", ""]
    assert await redis_servers.command(nodes[0], "CONFIG", "GET", "appendonly") == ["appendonly", "no"]


async def test_a_killed_redis_node_rejoins_with_its_slots(backends: BackendServers, nodes: list[Node]) -> None:
    backends.kill("redis-2")
    await backends.healthy("redis")
    assert backends.restarts("redis-2") >= 1
    slots = await redis_servers.command(nodes[1], "CLUSTER", "SLOTS")
    assert isinstance(slots, list)
    assert {(low, high): owner[1] for low, high, owner in slots}[5461, 10922] == nodes[1].port


async def test_redis_stops_and_starts_as_a_whole(backends: BackendServers, nodes: list[Node]) -> None:
    await backends.stop("redis")
    with pytest.raises(OSError):
        await redis_servers.command(nodes[0], "PING")
    await backends.start("redis")
    assert await redis_servers.command(nodes[0], "PING") == "PONG"


async def test_a_killed_postgres_keeps_what_was_committed(backends: BackendServers, postgres_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        await connection.execute("create table survivor (number int)")
        await connection.execute("insert into survivor values (7)")
        backends.kill("postgres")
    await backends.healthy("postgres")
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        assert await (await connection.execute("select number from survivor")).fetchone() == (7,)
        await connection.execute("drop table survivor")


async def test_forming_a_formed_cluster_changes_nothing(redis_nodes: str, nodes: list[Node]) -> None:
    before = await redis_servers.command(nodes[0], "CLUSTER", "SLOTS")
    await redis_servers.form(nodes)
    assert await redis_servers.command(nodes[0], "CLUSTER", "SLOTS") == before


def test_forming_from_outside_says_when_it_cannot(capsys: pytest.CaptureFixture[str], ports: FreePorts) -> None:
    assert form.main([f"localhost:{ports.take()}"]) == 1
    assert "was not formed" in capsys.readouterr().err


async def test_a_killed_nats_comes_back_with_its_store(backends: BackendServers, nats_url: str) -> None:
    backends.kill("nats")
    await backends.healthy("nats")
    assert backends.restarts("nats") >= 1


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter; skips where they cannot run the PostgreSQL of this checkout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            confinement.check_reachable(Confinement.SETUID, binaries.postgres("postgres"), folder)
        except ClusterError as problem:
            pytest.skip(str(problem))
        yield folder


def external(given: BackendAddresses, folder: Path) -> Supervisor:
    """A supervisor of backends that somebody else runs."""
    embedded = (PostgresServer(folder), RedisServers(folder, (1, 2, 3)), NatsServer(folder, 1, 2))
    return Supervisor(assembly.assemble(*embedded, given).units, folder, {}, Lines())


async def test_external_servers_are_used_instead(postgres_dsn: str, redis_nodes: str, nats_url: str, tmp_path: Path) -> None:
    async with external(BackendAddresses(postgres_dsn, redis_nodes, nats_url), tmp_path) as supervisor:
        assert supervisor.children == {}


@pytest.mark.parametrize("missing", ["postgres", "redis", "nats"])
async def test_an_external_server_that_is_away_is_named(
    missing: str, postgres_dsn: str, redis_nodes: str, nats_url: str, tmp_path: Path, ports: FreePorts
) -> None:
    port = ports.take()
    nowhere = {
        "postgres": f"host=127.0.0.1 port={port} dbname=x",
        "redis": f"127.0.0.1:{port}",
        "nats": f"nats://127.0.0.1:{port}",
    }
    given = {"postgres": postgres_dsn, "redis": redis_nodes, "nats": nats_url, missing: nowhere[missing]}
    with pytest.raises(ClusterError, match=f"CHIRP_{missing.upper()}.* cannot be reached.*start that server or unset"):
        await external(BackendAddresses(**given), tmp_path).start()


def test_a_long_path_gets_a_short_private_socket_folder(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / ("deep" * 30))
    assert server.socket_folder.parent == Path(tempfile.gettempdir())
    assert len(f"{server.socket_folder}/.s.PGSQL.5432") <= 107
    assert PostgresServer(tmp_path / ("deep" * 30)).socket_folder == server.socket_folder
    assert PostgresServer(tmp_path / ("dear" * 30)).socket_folder != server.socket_folder


def test_only_its_owner_can_enter_the_socket_folder(postgres_dsn: str) -> None:
    folder = Path(psycopg.conninfo.conninfo_to_dict(postgres_dsn)["host"])  # type: ignore[arg-type]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_root_without_namespaces_runs_postgres_as_another_user(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "unprivileged", lambda: Confinement.SETUID)
    server = PostgresServer(open_folder / "postgres")
    async with Supervisor([server.program()], open_folder, {}, Lines()):
        assert os.stat(server.data / "PG_VERSION").st_uid == confinement.SETUID_USER
        async with await psycopg.AsyncConnection.connect(server.dsn()) as connection:
            await connection.execute("select 1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_what_another_user_cannot_reach_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "unprivileged", lambda: Confinement.SETUID)
    with tempfile.TemporaryDirectory() as name:
        server = PostgresServer(Path(name) / "postgres")
        with pytest.raises(ClusterError, match="run chirp as an ordinary user, or set CHIRP_POSTGRES"):
            await Supervisor([server.program()], Path(name), {}, Lines()).start()


async def test_a_stale_process_id_does_not_stop_postgres(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres")
    async with Supervisor([server.program()], tmp_path, {}, Lines()):
        pass
    # As after a power cut, when an unrelated process has been given the old number.
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n")
    async with Supervisor([server.program()], tmp_path, {}, Lines()) as supervisor:
        assert supervisor.children[postgres_server.NAME].pid is not None
