"""The `chirp` command without a cluster: what it says, prints as JSON, refuses, and leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cluster import cli, cli_tools, settings, summary
from services.cluster.ports import FreePorts
from services.cluster.program import ClusterError
from services.cluster.settings import PROJECT
from services.cluster.state import DemoUser, Phase, ProcessRecord, Record, StateFolder
from services.runtime import config

OWN = ("up", "down", "status", "logs", "test", "lint", "doctor", "reset", "migrate", "config")
GROUP = ("list", "replay", "discard")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """An empty state folder that the command uses."""
    for name in [name for name in os.environ if name.startswith("CHIRP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHIRP_STATE", str(tmp_path))
    return StateFolder(tmp_path)


@pytest.fixture
def running(state: StateFolder) -> Iterator[Record]:
    """A state folder that a supervisor (this test) holds."""
    record = Record(
        phase=Phase.UP,
        pid=4711,
        started=0.0,
        rest="http://127.0.0.1:8080",
        postgres="host=/x dbname=chirp",
        redis="127.0.0.1:7000",
        nats="nats://127.0.0.1:4222",
        port_offset=0,
        replicas={"timeline": 2},
        processes=(
            ProcessRecord("tweet", "service", "healthy", 0, 1, 1.0, "127.0.0.1:50054", "http://127.0.0.1:51054/metrics"),
            ProcessRecord("timeline", "service", "healthy", 1, 2, 1.0, "127.0.0.1:50055", "http://h:51055/metrics"),
        ),
        demo_user=DemoUser(42, "demo"),
    )
    with state.locked():
        state.write(record)
        yield record


def chirp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def facts(result: Result) -> Any:
    return json.loads(result.stdout)


def test_help_shows_every_command() -> None:
    shown = chirp("--help").stdout
    assert [name for name in (*OWN, "seed", "audit", "bench", "dlq") if f"│ {name} " not in shown] == []


@pytest.mark.parametrize("words", [*((name,) for name in OWN), *(("dlq", name) for name in GROUP)], ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    result = chirp(*words, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_is_fast_because_it_loads_neither_grpc_nor_the_database() -> None:
    source = "import sys, services.cluster.cli; print([each for each in ('grpc', 'psycopg', 'nats') if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_of_the_load_tester_are_called_with_their_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], str]] = []

    class Module:
        @staticmethod
        def app(args: list[str], prog_name: str) -> None:
            calls.append((args, prog_name))

    monkeypatch.setattr(cli.importlib, "import_module", {"loadtest.seed": Module}.__getitem__)
    assert chirp("seed", "--graph", "g.txt", "--help").exit_code == 0
    assert calls == [(["--graph", "g.txt", "--help"], "chirp seed")]


def test_config_lists_every_variable_and_hides_secrets(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRP_POSTGRES", "host=secret")
    monkeypatch.setenv("CHIRP_TWEET_MAX_LENGTH", "140")
    rows = {row["name"]: row for row in facts(chirp("config", "--json"))}
    assert set(rows) == {each.name for each in (*config.TABLE, *settings.TABLE)}
    assert rows["CHIRP_TWEET_MAX_LENGTH"]["value"] == "140"
    assert rows["CHIRP_TWEET_MAX_LENGTH"]["default"] == "280"
    assert rows["CHIRP_STATE"]["set"]
    assert not rows["CHIRP_REDIS_MAXMEMORY"]["set"]
    assert "secret" not in json.dumps(rows["CHIRP_POSTGRES"]["value"])
    assert "CHIRP_TWEET_MAX_LENGTH" in chirp("config").stdout


@pytest.mark.parametrize("command", ["up", "config", "status", "doctor"])
def test_an_unknown_variable_is_refused_by_name(command: str, state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRP_REDDIS", "x")
    result = chirp(command)
    assert result.exit_code == 78
    assert "CHIRP_REDDIS is not a variable of Chirp" in result.stderr


@pytest.mark.parametrize(("option", "told"), [("timeline", "NAME=COUNT"), ("nobody=2", "tweet"), ("tweet=0", "1 to 9")])
def test_replicas_that_make_no_sense_are_refused(state: StateFolder, option: str, told: str) -> None:
    result = chirp("up", "--replicas", option)
    assert result.exit_code == 78
    assert told in result.stderr


def test_nothing_runs(state: StateFolder) -> None:
    status = chirp("status")
    assert status.exit_code == 1
    assert "`chirp up` starts one" in status.stderr
    assert facts(chirp("down", "--json")) == {"stopped": False, "message": "nothing is running"}
    assert "`chirp up` starts one" in chirp("dlq", "list").stderr


def test_a_second_up_says_what_runs_and_where(running: Record) -> None:
    result = chirp("up")
    assert result.exit_code == 0
    assert "already running (pid 4711" in result.stdout
    assert "127.0.0.1:50054" in result.stdout
    assert "X-User-ID: 42" in result.stdout
    assert facts(chirp("up", "--json"))["rest"] == running.rest


def test_the_printed_lines_name_the_user_and_the_doors(running: Record) -> None:
    curl, home, *_, buf = [line for line in summary.examples(running, DemoUser(42, "demo")) if "metrics" not in line]
    assert curl.endswith("http://127.0.0.1:8080/v1/tweets")
    assert "-H 'X-User-ID: 42'" in curl
    assert home.endswith("/v1/timeline/home")
    assert buf.endswith("http://127.0.0.1:50055/chirp.timeline.v1.TimelineService/GetHomeTimeline")


def test_a_record_survives_the_file(running: Record, state: StateFolder) -> None:
    assert state.read() == running


def test_a_broken_record_is_no_record(state: StateFolder) -> None:
    (state.path / "run.json").write_text('{"phase": "up"')
    assert state.read() is None


def test_two_supervisors_cannot_share_a_folder(running: Record, state: StateFolder) -> None:
    assert state.is_running()
    with pytest.raises(ClusterError, match="chirp down"), state.locked():
        pass


def test_logs_prints_the_tail_and_names_what_there_is(state: StateFolder) -> None:
    (state.path / "logs").mkdir()
    (state.path / "logs" / "tweet.log").write_text("one\ntwo\nthree\n")
    assert chirp("logs", "tweet", "-n", "2").stdout == "two\nthree\n"
    unknown = chirp("logs", "twet")
    assert unknown.exit_code == 1
    assert "there is no log of twet; there are: tweet" in unknown.stderr


def test_reset_deletes_our_data_and_nothing_else(state: StateFolder) -> None:
    for name in ("postgres", "redis", "nats", "logs", "uv"):
        (state.path / name).mkdir()
    assert chirp("reset", "--yes").exit_code == 0
    assert sorted(path.name for path in state.path.iterdir()) == ["lock", "uv"]


def test_reset_asks_first(state: StateFolder) -> None:
    (state.path / "postgres").mkdir()
    assert CliRunner().invoke(cli.app, ["reset"], input="n\n").exit_code == 1
    assert (state.path / "postgres").exists()


def test_reset_leaves_a_running_cluster_alone(running: Record, state: StateFolder) -> None:
    result = chirp("reset", "--yes")
    assert result.exit_code == 1
    assert "`chirp down` stops it" in result.stderr
    assert state.read() == running


def test_doctor_names_a_missing_server_and_what_to_do(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRP_REDIS_SERVER", "/nowhere/redis-server")
    result = chirp("doctor", "--json")
    found = {row["check"]: row for row in facts(result)}
    assert result.exit_code == 1
    assert found["redis"]["verdict"] == "failed"
    assert "correct the path" in found["redis"]["detail"]
    assert found["postgres"]["verdict"] == found["nats"]["verdict"] == found["python"]["verdict"] == "ok"


def test_up_without_a_server_program_is_one_line(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIRP_REDIS_SERVER", "/nowhere/redis-server")
    result = chirp("up")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "CHIRP_REDIS_SERVER=/nowhere/redis-server is not a program" in result.stderr


def test_addresses_of_external_servers_replace_the_embedded_ones(ports: FreePorts, tmp_path: Path) -> None:
    from services.cluster import machine

    given = {"CHIRP_POSTGRES": "host=db", "CHIRP_REDIS": "r1:7000,r2:7000", "CHIRP_NATS": "nats://n:4222"}
    assembled = machine.assemble(settings.read({"CHIRP_STATE": str(tmp_path), **given}))
    names = [unit.name for unit in assembled.units]
    assert names[:4] == ["postgres", "redis", "nats", "migrate"]
    assert "redis-1" not in names
    tweet = next(unit for unit in assembled.units if unit.name == "tweet")
    assert given.items() <= tweet.env.items()  # type: ignore[union-attr]


def test_test_runs_pytest_on_a_suite_and_passes_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(cli_tools.subprocess, "run", run)
    assert chirp("test", "unit", "--", "-k", "paging").exit_code == 3
    assert chirp("test", "--", "-x").exit_code == 3
    assert [command[3:] for command in commands] == [["tests/unit", "-k", "paging"], ["-x"]]


def test_lint_runs_every_check_and_fails_with_any(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, command: tuple[str, ...]) -> cli_tools.Outcome:
        return cli_tools.Outcome(name, name != "buf lint", 0.1, "proto/x.proto:1:1: bad")

    monkeypatch.setattr(cli_tools, "_check", check)
    result = chirp("lint")
    assert result.exit_code == 1
    assert "FAILED buf lint" in result.stdout
    assert "proto/x.proto:1:1: bad" in result.stdout
    assert [row["name"] for row in facts(chirp("lint", "--json"))] == [name for name, _ in cli_tools.CHECKS]
