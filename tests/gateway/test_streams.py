"""Server streams over HTTP."""

from __future__ import annotations

import pytest

from gateway import streams
from tests.gateway.zookeeper import Zoo


class TestStreams:
    async def test_a_stream_is_a_line_per_message(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/watch?count=3")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        assert [line["result"]["text"] for line in answer.lines] == ["message 0", "message 1", "message 2"]
        assert (await zoo.get("/v1/watch")).body == b""
        assert (await zoo.request("HEAD", "/v1/watch?count=3")).body == b""

    async def test_an_error_before_the_first_message_has_its_status(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/watch?failCode=7")
        assert (answer.status, answer.json["code"]) == (403, 7)
        assert (await zoo.get("/v1/stream?failCode=7")).status == 403

    async def test_a_later_error_is_the_last_line(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/watch?count=1&failCode=14")
        assert answer.status == 200
        assert [list(line) for line in answer.lines] == [["result"], ["error"]]
        assert answer.lines[1]["error"]["code"] == 14

    async def test_a_quiet_stream_begins_all_the_same(self, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "PATIENCE", 0.01)
        answer = await zoo.get("/v1/watch?delayMs=100&failCode=5")
        assert (answer.status, answer.lines[0]["error"]["code"]) == (200, 5)

    async def test_raw_streams_are_passed_on_as_they_are(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/stream?count=3")
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/csv", b"0\n1\n2\n")
        assert (await zoo.get("/v1/stream")).body == b""
