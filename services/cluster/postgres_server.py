"""The embedded PostgreSQL 18: one data folder, a unix socket, trust for whoever can enter the socket's folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from services.cluster import binaries, confinement
from services.cluster.program import ClusterError, Confinement, Program

NAME = "postgres"
USER = "chirp"
DATABASE = "chirp"
# The kernel's limit for a socket path is 107 bytes; PostgreSQL adds "/.s.PGSQL.5432" to the folder.
LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
# How long a server of an earlier run may take to finish its shutdown before we say that it is in the way.
PREDECESSOR_PATIENCE = 15.0

# The built-in locale is the same on every system, whatever locales are installed.
ENCODING = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # Half an hour of writes between checkpoints at our rates, so that full-page images do not double the WAL.
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "wal_buffers": "16MB",
    "wal_compression": "on",
    # The data is on SSDs or in memory wherever this runs; the default of 4 is for turning disks.
    "random_page_cost": "1.1",
    # Compiling a plan takes longer than any of our statements.
    "jit": "off",
    "log_line_prefix": "%m [%p] %q%a ",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """Where an embedded server keeps its data and its socket."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def socket_folder(self) -> Path:
        """The folder of the socket: ours when its path is short enough, else a private one under the temp folder."""
        own = self.folder / "run"
        if len(os.fsencode(own)) <= LONGEST_SOCKET_FOLDER:
            return own
        digest = hashlib.blake2b(os.fsencode(own), digest_size=6).hexdigest()
        return Path(tempfile.gettempdir()) / f"chirp-{os.getuid()}-{digest}"

    def dsn(self, database: str = DATABASE) -> str:
        """How libpq reaches a database of this server."""
        return f"host={self.socket_folder} user={USER} dbname={database}"

    def program(self) -> Program:
        """The server as a program for the supervisor."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        server = str(binaries.postgres("postgres"))
        return Program(
            name=NAME,
            argv=(server, "-D", str(self.data), "-k", str(self.socket_folder), *settings),
            probe=self._serves,
            prepare=self._prepare,
            # INT is "fast shutdown": transactions are rolled back, a checkpoint is written, nobody is waited for.
            stop_signal=signal.SIGINT,
            stop_timeout=60.0,
            # Replaying the write-ahead log after a crash can take a while.
            start_timeout=120.0,
            orphan_signal=signal.SIGINT,
            confinement=confinement.unprivileged(),
        )

    async def _serves(self) -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(self.dsn("postgres"), autocommit=True, connect_timeout=2)
        except psycopg.OperationalError:
            return False
        async with connection:
            found = await connection.execute("select 1 from pg_database where datname = %s", [DATABASE])
            if await found.fetchone() is None:
                await connection.execute(f'create database "{DATABASE}"')
        return True

    async def _prepare(self) -> None:
        await self._await_predecessor()
        await asyncio.to_thread(self._create_folders)

    def _create_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _private_folder(self.socket_folder)
        how = confinement.unprivileged()
        confinement.check_reachable(how, binaries.postgres("postgres"), self.folder)
        if how is Confinement.SETUID:
            os.chown(self.folder, confinement.SETUID_USER, -1)
            os.chown(self.socket_folder, confinement.SETUID_USER, -1)
        if not (self.data / "PG_VERSION").is_file():
            self._create_data(how)

    def _create_data(self, how: Confinement) -> None:
        # A folder without PG_VERSION is what an interrupted initdb left: it holds no data of anybody.
        shutil.rmtree(self.data, ignore_errors=True)
        server = (str(binaries.postgres("initdb")), "-D", str(self.data), "-U", USER)
        initdb = (*server, "--auth=trust", *ENCODING)
        made = subprocess.run(confinement.launch_command(initdb, how, signal.SIGKILL), capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            raise ClusterError(f"initdb could not create {self.data}: {reason}")

    async def _await_predecessor(self) -> None:
        """A server that lost its supervisor stops by itself; starting before it has done so would fail."""
        pid_file = self.data / "postmaster.pid"
        deadline = asyncio.get_running_loop().time() + PREDECESSOR_PATIENCE
        while (pid := _running_postmaster(pid_file, self.data)) is not None:
            if asyncio.get_running_loop().time() > deadline:
                raise ClusterError(f"another PostgreSQL (pid {pid}) uses {self.data}: stop it with `kill -INT {pid}`")
            await asyncio.sleep(0.05)
        # PostgreSQL would refuse to start if an unrelated process had been given the old process id meanwhile.
        pid_file.unlink(missing_ok=True)


def _running_postmaster(pid_file: Path, data: Path) -> int | None:
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        process = psutil.Process(pid)
        ours = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).resolve() == data.resolve()
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return pid if ours else None


def _private_folder(folder: Path) -> None:
    """Creates the folder for ourselves alone; one that somebody else made in the shared temp folder is refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (os.geteuid() != 0 and status.st_uid != os.geteuid()):
        raise ClusterError(f"{folder} belongs to somebody else: remove it, or use a shorter state folder (CHIRP_STATE)")
    folder.chmod(0o700)
