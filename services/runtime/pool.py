"""The Postgres pool: every setting explicit, since no default of the libraries survives every fault, and the checks of a
connection before it is used.
"""

import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from services.runtime import arrays
from services.runtime.metrics import Metrics

_RECOVERY_CHECK_SECONDS = 5.0
_LOST_STATES = ("08", "57P01", "57P02", "57P03", "25006")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a pool promises and how it finds out that a server is gone. Times in seconds."""

    min_size: int = 2
    max_size: int = 8
    timeout: float = 2.0
    """How long a caller waits for a statement, or for a whole transaction, who gives no timeout."""
    checkout_timeout: float = 0.5
    """How long for a free connection: a queue longer than that is an overload, better refused."""
    max_waiting: int = 256
    """Callers who may wait for a connection; the time above is what bounds them, this bounds the memory."""
    max_lifetime: float = 300.0
    max_idle: float = 60.0
    reconnect_timeout: float = 2.0
    """Attempts to reconnect back off for that long, then start afresh with the next caller: longer pauses would keep a
    pool away from a server that is back."""
    statement_timeout: float = 3.0
    lock_timeout: float = 1.0
    idle_in_transaction_timeout: float = 5.0
    connect_timeout: int = 2
    prepare_threshold: int = 2


class PoolMetrics:
    """What happens to one pool, its labels bound."""

    def __init__(self, metrics: Metrics, name: str, stats: Callable[[], Mapping[str, int]]) -> None:
        pool = ("pool",)
        counter, gauge = metrics.counter, metrics.gauge
        self.abandoned = counter("chirp_postgres_abandoned", "Statements whose caller stopped waiting", pool).labels(name)
        self.retried = counter("chirp_postgres_retried", "Units repeated after a conflict", pool).labels(name)
        self.lost = counter("chirp_postgres_lost_connections", "Connections found broken", pool).labels(name)
        self.refused = counter("chirp_postgres_refused", "Callers who got no connection in time", pool).labels(name)
        waiting = gauge("chirp_postgres_waiting", "Callers waiting for a connection", pool).labels(name)
        waiting.set_function(lambda: stats().get("requests_waiting", 0))
        size = gauge("chirp_postgres_connections", "Connections of the pool", pool).labels(name)
        size.set_function(lambda: stats().get("pool_size", 0))


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A pooled connection that remembers when its server was last known to accept writes (monotonic seconds)."""

    proven: float = 0.0


class _Adapting:
    """The context that gives new connections the dumpers of `arrays`."""

    connection: psycopg.AsyncConnection[Any] | None = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters


def conninfo(dsn: str, name: str, settings: Settings) -> str:
    """The DSN with every setting of the session made explicit; `name` shows in pg_stat_activity."""
    given = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    limits = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    options = [given.pop("options", "")] + [f"-c {key}={int(value * 1000)}" for key, value in limits.items()]
    explicit = {
        "application_name": name,
        "options": " ".join(options).strip(),
        "connect_timeout": settings.connect_timeout,
        "target_session_attrs": "read-write",
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 5000,
    }
    return make_conninfo("", **{**given, **explicit})


def open_pool(dsn: str, name: str, settings: Settings) -> AsyncConnectionPool[Connection]:
    """The pool, not yet open. Without `check`: the pool's own loop pauses a second for each broken connection."""
    context: AdaptContext = _Adapting(arrays.adapters())
    return AsyncConnectionPool(
        conninfo(dsn, name, settings),
        connection_class=Connection,
        kwargs={"autocommit": True, "prepare_threshold": settings.prepare_threshold, "context": context},
        min_size=settings.min_size,
        max_size=settings.max_size,
        open=False,
        name=name,
        timeout=settings.checkout_timeout,
        max_waiting=settings.max_waiting,
        max_lifetime=settings.max_lifetime,
        max_idle=settings.max_idle,
        reconnect_timeout=settings.reconnect_timeout,
        num_workers=2,
        check=None,
    )


async def connect_one(dsn: str, name: str) -> Connection:
    """A connection of its own, for session locks; the session's limits and adapters are those of a pool."""
    settings = Settings(statement_timeout=30.0)
    context: AdaptContext = _Adapting(arrays.adapters())
    return await Connection.connect(
        conninfo(dsn, name, settings),
        autocommit=True,
        prepare_threshold=settings.prepare_threshold,
        context=context,
    )


def hung_up(connection: Connection) -> bool:
    """Whether the server said something unasked, which at rest is good-bye. A system call instead of a round trip."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def writable(connection: Connection) -> bool:
    """Whether the server is not a demoted primary, which would go on answering reads for days; asked every 5 s."""
    now = time.monotonic()
    if now - connection.proven < _RECOVERY_CHECK_SECONDS:
        return True
    row = await (await connection.execute("select pg_is_in_recovery()")).fetchone()
    connection.proven = now
    return row == (False,)


def lost(error: psycopg.Error) -> bool:
    """Whether the error says that the connection, or its server's right to accept writes, is gone."""
    if error.sqlstate is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return error.sqlstate.startswith(_LOST_STATES)
