"""The configuration table: names, defaults, refusals."""

import pytest

from services.runtime import config
from services.runtime.config import Config, ConfigError, Environ, Variable


def read(process: str = "tweet", **variables: str) -> Config:
    return config.read(Environ(variables), process)


def test_every_declared_variable_is_in_the_table_once() -> None:
    declared = [value for value in vars(config).values() if isinstance(value, Variable)]
    names = [variable.name for variable in config.TABLE]

    assert {variable.name for variable in declared} <= set(names)
    assert len(names) == len(set(names))
    assert all(variable.meaning for variable in config.TABLE)


def test_every_default_can_be_read() -> None:
    environ = Environ({})

    for variable in config.TABLE:
        environ.get(variable)


@pytest.mark.parametrize(
    ("process", "grpc", "metrics"),
    [("id", 50051, 51051), ("timeline", 50055, 51055), ("fanout", 50070, 51070), ("relay", 50071, 51071), ("gateway", 0, 9080)],
)
def test_ports_of_the_processes(process: str, grpc: int, metrics: int) -> None:
    server = read(process).server

    assert (server.grpc_port, server.metrics_port) == (grpc, metrics)


def test_metrics_follow_the_grpc_port_unless_told_otherwise() -> None:
    assert read(CHIRP_GRPC_PORT="50154").server.metrics_port == 51154
    assert read(CHIRP_GRPC_PORT="0").server.metrics_port == 0
    assert read(CHIRP_METRICS_PORT="9").server.metrics_port == 9


def test_an_unknown_variable_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"CHIRP_POSTGRESS.*CHIRP_POSTGRES\?"):
        read(CHIRP_POSTGRESS="x")


def test_variables_of_others_are_none_of_our_business() -> None:
    assert read(PATH="/bin", CHIRPY="1").process == "tweet"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHIRP_GRPC_PORT", "http"),
        ("CHIRP_GRPC_PORT", "65536"),
        ("CHIRP_AUTH", "Header"),
        ("CHIRP_LOG_LEVEL", "loud"),
        ("CHIRP_REDIS", "localhost"),
        ("CHIRP_REDIS", "localhost:1,:2"),
        ("CHIRP_NATS", "127.0.0.1:4222"),
        ("CHIRP_TWEET", "127.0.0.1:x"),
        ("CHIRP_PAGE_KEY", "short"),
        ("CHIRP_SCHED_BATCH", "yes"),
        ("CHIRP_TWEET_MAX_LENGTH", "0"),
        ("CHIRP_DRAIN_GRACE", "-1"),
        ("CHIRP_DRAIN_GRACE", "nan"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read(**{name: value})


def test_secrets_are_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        read(CHIRP_PAGE_KEY="hush")
    loaded = read(CHIRP_PAGE_KEY="hush-hush-hush-hush", CHIRP_POSTGRES="password=hush")
    shown = {row.name: text for row, text, given in Environ({"CHIRP_POSTGRES": "password=hush"}).describe()}

    assert "hush" not in str(caught.value)
    assert "hush" not in repr(loaded)
    assert shown["CHIRP_POSTGRES"] == "***"


def test_addresses_are_asked_for_and_insisted_on() -> None:
    loaded = read(CHIRP_REDIS="a:1, b:2", CHIRP_NATS="nats://h:4222", CHIRP_ID="127.0.0.1:50051")

    assert loaded.redis == ("a:1", "b:2")
    assert loaded.nats == ("nats://h:4222",)
    assert loaded.peer("id") == ("127.0.0.1:50051",)
    with pytest.raises(ConfigError, match="CHIRP_POSTGRES is not set"):
        _ = loaded.postgres
    with pytest.raises(ConfigError, match="CHIRP_GRAPH is not set"):
        loaded.peer("graph")
