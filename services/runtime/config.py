"""The configuration of a process: one table of variables, read once from the environment into a frozen dataclass.

An unknown CHIRP_* name, a value that cannot be read, and a missing address that a process asks for are each a
ConfigError that names the variable; the process then exits with 78. `chirp config` prints the table.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PREFIX = "CHIRP_"
METRICS_OFFSET = 1_000
GRPC_PORTS: Mapping[str, int] = {
    "id": 50051, "user": 50052, "graph": 50053, "tweet": 50054, "timeline": 50055, "fanout": 50070, "relay": 50071,
}  # fmt: skip
"""Where each process listens unless told otherwise; a name that is not listed takes any free port."""
GATEWAY_METRICS_PORT = 9080
PEERS = ("id", "user", "graph", "tweet", "timeline")


class ConfigError(Exception):
    """The environment is not usable; the message is one line for an operator and names the variable."""


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """A row of the table: what `chirp config` prints and how the value is read."""

    name: str
    default: str
    meaning: str
    parse: Callable[[str], T]
    unit: str = ""
    secret: bool = False


def _text(value: str) -> str:
    return value.strip()


def _whole(least: int, greatest: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not least <= number <= greatest:
            raise ValueError(f"must be from {least} to {greatest}")
        return number

    return parse


def _port(value: str) -> int | None:
    return _whole(0, 65_535)(value) if value else None


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number <= 3_600:
        raise ValueError("must be from 0 to 3600")
    return number


def _switch(value: str) -> bool:
    return {"1": True, "0": False}[one_of("0", "1")(value)]


def one_of(*allowed: str) -> Callable[[str], str]:
    """Reads one of a few words."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError("must be one of " + ", ".join(repr(each) for each in allowed))
        return value

    return parse


def _addresses(value: str) -> tuple[str, ...]:
    """Comma separated host:port."""
    addresses = tuple(each.strip() for each in value.split(",") if each.strip())
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
            raise ValueError(f"{address!r} is not host:port")
    return addresses


def _urls(value: str) -> tuple[str, ...]:
    urls = tuple(each.strip() for each in value.split(",") if each.strip())
    for url in urls:
        if not url.startswith(("nats://", "tls://")):
            raise ValueError(f"{url!r} does not start with nats:// or tls://")
    return urls


def _key(value: str) -> bytes:
    if not 16 <= len(value.encode()) <= 64:
        raise ValueError("must have 16 to 64 bytes")
    return value.encode()


POSTGRES = Variable("CHIRP_POSTGRES", "", "PostgreSQL, as a libpq connection string", _text, secret=True)
REDIS = Variable("CHIRP_REDIS", "", "Redis Cluster nodes to start from", _addresses, "host:port,…")
NATS = Variable("CHIRP_NATS", "", "NATS servers", _urls, "nats://host:port,…", secret=True)
REDIS_SERVER = Variable(
    "CHIRP_REDIS_SERVER", "", "path of the Redis server that `chirp up` starts; empty: the first one found", _text
)
PEER_TARGETS = tuple(
    Variable(PREFIX + name.upper(), "", f"replicas of the {name} service", _addresses, "host:port,…") for name in PEERS
)
HOST = Variable("CHIRP_HOST", "127.0.0.1", "address on which the process listens", _text)
GRPC_PORT = Variable("CHIRP_GRPC_PORT", "", "gRPC port; empty: the service's own; 0: any free one", _port)
METRICS_PORT = Variable("CHIRP_METRICS_PORT", "", "port of /metrics and /healthz; empty: gRPC port + 1000; 0: any free one", _port)
HTTP_PORT = Variable("CHIRP_HTTP_PORT", "8080", "REST port of the gateway; 0: any free one", _whole(0, 65_535))
AUTH = Variable(
    "CHIRP_AUTH",
    "",
    "'header': believe X-User-Id unproven (development only); empty: identify nobody",
    one_of("", "header"),
)
LOG = Variable("CHIRP_LOG", "console", "form of the log lines", one_of("console", "json"))
LOG_LEVEL = Variable("CHIRP_LOG_LEVEL", "info", "least level that is logged", one_of("debug", "info", "warning", "error"))
LOG_SAMPLE = Variable("CHIRP_LOG_SAMPLE", "0", "log every n-th successful call at info; 0: none", _whole(0, 1_000_000_000), "calls")
SCHED_BATCH = Variable("CHIRP_SCHED_BATCH", "1", "run under SCHED_BATCH: fewer preemptions, more calls a second", _switch)
REFLECTION = Variable("CHIRP_REFLECTION", "1", "serve gRPC reflection and channelz", _switch)
MAX_IN_FLIGHT = Variable(
    "CHIRP_MAX_IN_FLIGHT",
    "2000",
    "unary calls in progress in one process before it sheds load",
    _whole(1, 1_000_000),
    "calls",
)
DRAIN_LINGER = Variable(
    "CHIRP_DRAIN_LINGER",
    "0.25",
    "after SIGTERM, time to take calls while clients turn to other replicas",
    _seconds,
    "s",
)
DRAIN_GRACE = Variable("CHIRP_DRAIN_GRACE", "10", "after that, time for calls in progress to end", _seconds, "s")
PAGE_KEY = Variable(
    "CHIRP_PAGE_KEY",
    "development-only-page-key",
    "seals page tokens; the same in all processes",
    _key,
    "16-64 bytes",
    secret=True,
)
TWEET_MAX_LENGTH = Variable("CHIRP_TWEET_MAX_LENGTH", "280", "greatest weighted length of a tweet", _whole(1, 25_000), "characters")

TABLE: tuple[Variable[Any], ...] = (
    POSTGRES, REDIS, NATS, REDIS_SERVER, *PEER_TARGETS, HOST, GRPC_PORT, METRICS_PORT, HTTP_PORT,
    AUTH, LOG, LOG_LEVEL, LOG_SAMPLE, SCHED_BATCH, REFLECTION, MAX_IN_FLIGHT, DRAIN_LINGER, DRAIN_GRACE, PAGE_KEY, TWEET_MAX_LENGTH,
)  # fmt: skip
"""Every variable there is."""
ADDRESSES: tuple[Variable[Any], ...] = (POSTGRES, REDIS, NATS, *PEER_TARGETS)


class Environ:
    """The variables of an environment, refused as a whole if one of them is not in the table."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Takes os.environ or what a test makes up; raises ConfigError for an unknown CHIRP_* name."""
        self._values = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
        known = [variable.name for variable in TABLE]
        for name in sorted(self._values):
            if name not in known:
                raise ConfigError(f"{name} is not a variable of Chirp{_suggestion(name, known)}")

    def get(self, variable: Variable[T]) -> T:
        """The value of a variable, or its default; raises ConfigError if it cannot be read."""
        text = self._values.get(variable.name, variable.default)
        try:
            return variable.parse(text)
        except ValueError as error:
            shown = "its value" if variable.secret else repr(text)
            raise ConfigError(f"{variable.name}: {shown} cannot be used: {error} ({variable.meaning})") from error

    def describe(self) -> Iterator[tuple[Variable[Any], str, bool]]:
        """Each variable with its text (secrets hidden) and whether the environment sets it."""
        for variable in TABLE:
            given = variable.name in self._values
            text = self._values.get(variable.name, variable.default)
            yield variable, "***" if variable.secret and given else text, given


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How a process logs."""

    form: str
    """"json" or "console"."""
    level: str
    sample: int
    """Every n-th OK answer is logged at info; 0 none."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how a process serves gRPC and metrics."""

    host: str
    grpc_port: int
    """0: any free port."""
    metrics_port: int
    reflection: bool
    max_in_flight: int
    """Unary calls in progress at which load is shed."""
    linger: float
    """Seconds between NOT_SERVING and refusing calls."""
    grace: float
    """Seconds that calls in progress get to end."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a process was told. Addresses are asked for by `postgres`, `redis`, `nats` and `peer`, which insist on a value."""

    process: str
    server: ServerConfig
    log: LogConfig
    header_auth: bool
    """Whether X-User-Id is believed."""
    page_key: bytes = field(repr=False)
    sched_batch: bool
    http_port: int
    tweet_max_length: int
    addresses: Mapping[str, Any] = field(repr=False)
    """Backends and peers by variable name, as read; empty where not set."""

    @property
    def postgres(self) -> str:
        """The libpq connection string."""
        return self._needed(POSTGRES)

    @property
    def redis(self) -> tuple[str, ...]:
        """host:port of cluster nodes."""
        return self._needed(REDIS)

    @property
    def nats(self) -> tuple[str, ...]:
        """nats:// URLs."""
        return self._needed(NATS)

    def peer(self, service: str) -> tuple[str, ...]:
        """host:port of the replicas of a service ("id", "user", "graph", "tweet", "timeline"); what channel.connect takes."""
        return self._needed(PEER_TARGETS[PEERS.index(service)])

    def _needed(self, variable: Variable[T]) -> T:
        value = self.addresses[variable.name]
        if not value:
            raise ConfigError(f"{variable.name} is not set: {variable.meaning} is needed by {self.process}")
        return value


def read(environ: Environ, process: str = "") -> Config:
    """The configuration of the process of that name; raises ConfigError."""
    return Config(
        process=process,
        server=_server(environ, process),
        log=LogConfig(environ.get(LOG), environ.get(LOG_LEVEL), environ.get(LOG_SAMPLE)),
        header_auth=environ.get(AUTH) == "header",
        page_key=environ.get(PAGE_KEY),
        sched_batch=environ.get(SCHED_BATCH),
        http_port=environ.get(HTTP_PORT),
        tweet_max_length=environ.get(TWEET_MAX_LENGTH),
        addresses={variable.name: environ.get(variable) for variable in ADDRESSES},
    )


def _server(environ: Environ, process: str) -> ServerConfig:
    given = environ.get(GRPC_PORT)
    grpc_port = GRPC_PORTS.get(process, 0) if given is None else given
    metrics_port = environ.get(METRICS_PORT)
    return ServerConfig(
        host=environ.get(HOST),
        grpc_port=grpc_port,
        metrics_port=_metrics_port(process, grpc_port) if metrics_port is None else metrics_port,
        reflection=environ.get(REFLECTION),
        max_in_flight=environ.get(MAX_IN_FLIGHT),
        linger=environ.get(DRAIN_LINGER),
        grace=environ.get(DRAIN_GRACE),
    )


def _metrics_port(process: str, grpc_port: int) -> int:
    if process == "gateway":
        return GATEWAY_METRICS_PORT
    return grpc_port + METRICS_OFFSET if grpc_port else 0


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
