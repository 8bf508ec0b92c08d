"""`chirp dlq` against a process that serves OpsService."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest
from typer.testing import CliRunner

from chirp.ops import v1 as opspb
from services.cluster import cli
from services.cluster.ports import LOOPBACK, FreePorts
from services.cluster.state import Phase, ProcessRecord, Record, StateFolder
from tests.running import LoopThread


class Letters(opspb.OpsServiceServicer):
    """Two pages of one dead letter each; remembers what it was told to do."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    async def ListDeadLetters(self, request, context):
        number = 1 if request.page_token else 2
        letter = opspb.DeadLetter(dead_letter_id=number, consumer="fanout", reason="UNDECODABLE")
        return opspb.ListDeadLettersResponse(items=[letter], next_page_token="" if request.page_token else "more")

    async def ReplayDeadLetter(self, request, context):
        if request.dead_letter_id == 9:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no dead letter 9")
        self.told.append(("replay", request.dead_letter_id))
        return opspb.ReplayDeadLetterResponse()

    async def DiscardDeadLetter(self, request, context):
        self.told.append(("discard", request.dead_letter_id))
        return opspb.DiscardDeadLetterResponse()


@pytest.fixture
def letters(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Letters]:
    """A cluster of one dead worker and one that answers."""
    folder = StateFolder(tmp_path_factory.mktemp("state"))
    monkeypatch.setenv("CHIRP_STATE", str(folder.path))
    port, silent, servicer, thread = ports.take(), ports.take(), Letters(), LoopThread()
    server = thread.wait(_serve(servicer, port))
    processes = tuple(
        ProcessRecord(name, "worker", "healthy", 0, 1, 1.0, f"{LOOPBACK}:{number}")
        for name, number in (("relay", silent), ("fanout", port))
    )
    with folder.locked():
        folder.write(Record(Phase.UP, 1, 0.0, "", "", "", "", 0, {}, processes))
        yield servicer
    thread.wait(server.stop(None))
    thread.close()


async def _serve(servicer: Letters, port: int) -> grpc.aio.Server:
    server = grpc.aio.server()
    opspb.add_OpsServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    return server


def test_lists_all_pages_of_the_first_process_that_answers(letters: Letters) -> None:
    shown = CliRunner().invoke(cli.app, ["dlq", "list", "--json"])
    assert [row["deadLetterId"] for row in json.loads(shown.stdout)] == ["2", "1"]
    assert "UNDECODABLE" in CliRunner().invoke(cli.app, ["dlq", "list"]).stdout


def test_replays_and_discards_by_number(letters: Letters) -> None:
    assert CliRunner().invoke(cli.app, ["dlq", "replay", "2"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["dlq", "discard", "1"]).exit_code == 0
    assert letters.told == [("replay", 2), ("discard", 1)]


def test_a_number_that_does_not_exist_is_one_line(letters: Letters) -> None:
    result = CliRunner().invoke(cli.app, ["dlq", "replay", "9"])
    assert result.exit_code == 1
    assert result.stderr == "chirp: there is no dead letter 9\n"
