"""Connections: clients that leave, dribble or talk nonsense, and a process that stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from gateway import http
from tests.gateway.client import echoed, written
from tests.gateway.zookeeper import Zoo
from tests.gateway.zookeeper import zoo as running_zoo
from tests.waiting import eventually


class TestClientsThatLeave:
    @pytest.mark.parametrize(
        "path",
        [
            "/v1/echo/7?delayMs=30000",
            "/v1/watch?count=1&delayMs=30000",
            "/v1/watch?delayMs=30000",
            "/v1/stream?count=1&delayMs=30000",
        ],
    )
    async def test_their_call_is_cancelled(self, zoo: Zoo, path: str) -> None:
        before = zoo.keeper.cancelled
        connection = await zoo.connect()
        await connection.send(written("GET", path))
        await eventually(lambda: zoo.keeper.running == 1)
        connection.close()
        await eventually(lambda: zoo.keeper.cancelled == before + 1)
        await eventually(lambda: b'status="499"' in zoo.metrics.page() or "watch" in path or "stream" in path)

    async def test_nothing_is_kept_of_requests_that_have_ended(self, zoo: Zoo) -> None:
        assert (await zoo.get("/v1/echo/7?delayMs=60")).status == 200
        assert (await zoo.get("/v1/watch?count=2")).status == 200
        await eventually(lambda: zoo.application.watched == 0)

    async def test_one_that_leaves_in_the_middle_of_its_body_is_forgotten(self, zoo: Zoo) -> None:
        calls = zoo.keeper.calls
        connection = await zoo.connect()
        await connection.send(written("POST", "/v1/echo", b'{"na', {"content_length": "100"}))
        connection.close()
        assert (await zoo.get("/v1/echo/7")).status == 200
        assert zoo.keeper.calls == calls + 1


class TestStopping:
    async def test_requests_in_progress_end_and_streams_are_told(self, free_port: Callable[[], int]) -> None:
        async with running_zoo(free_port) as other:
            quick, watcher = await other.connect(), await other.connect()
            await watcher.send(written("GET", "/v1/watch?count=1&delayMs=30000"))
            await watcher.head()
            await quick.send(written("GET", "/v1/echo/7?delayMs=300"))
            await eventually(lambda: other.keeper.running == 2)
            other.application.draining = True
            assert (await other.get("/readyz")).json == {"status": "stopping"}
            other.application.cut_off(streams=True)
            await other.listener.stop(5, lambda: other.application.cut_off(streams=False))
            assert (await quick.answer()).status == 200
            lines = b"".join([chunk async for chunk in watcher.chunks()]).splitlines()
            assert json.loads(lines[-1])["error"]["code"] == 14
            with pytest.raises(OSError):
                await other.connect()
            quick.close()
            watcher.close()

    async def test_what_does_not_end_in_time_is_cut_off_with_503(self, free_port: Callable[[], int]) -> None:
        async with running_zoo(free_port) as other:
            slow = await other.connect()
            await slow.send(written("GET", "/v1/echo/7?delayMs=30000", None, {"grpc_timeout": "60S"}))
            await eventually(lambda: other.keeper.running == 1)
            await asyncio.sleep(0.05)
            await other.listener.stop(0.1, lambda: other.application.cut_off(streams=False))
            answer = await slow.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            await eventually(lambda: other.keeper.cancelled == 1)
            slow.close()

    async def test_a_client_that_does_not_read_cannot_hold_the_process(self, free_port: Callable[[], int]) -> None:
        async with running_zoo(free_port) as other:
            deaf = await other.connect()
            await deaf.send(written("GET", f"/v1/stream?count=2000000&name={'x' * 20_000}"))
            await eventually(lambda: any(each.flow.write_paused for each in other.listener.connections()))
            async with asyncio.timeout(3):
                await other.listener.stop(0.1, lambda: other.application.cut_off(streams=True))
            deaf.close()


class TestConnections:
    async def test_a_connection_serves_many_requests_even_sent_at_once(self, zoo: Zoo) -> None:
        connection = await zoo.connect()
        await connection.send(b"".join(written("GET", f"/v1/echo/{number}") for number in range(20)))
        assert [(await connection.answer()).json["request"]["id"] for _ in range(20)] == [str(number) for number in range(20)]
        connection.close()

    @pytest.mark.parametrize("raw", [b"", b"GET /v1/echo/7 HTTP/1.1\r\nhost: a\r\nx: ", written("GET", "/v1/echo/7") + b"GET /"])
    async def test_a_head_that_does_not_come_ends_the_connection(
        self, zoo: Zoo, monkeypatch: pytest.MonkeyPatch, raw: bytes
    ) -> None:
        monkeypatch.setattr(http, "HEAD_WITHIN", 0.1)
        connection = await zoo.connect()
        await connection.send(raw)
        async with asyncio.timeout(2):
            rest = await connection.reader.read()
        assert (b" 408 " in rest) == (raw != b"")
        connection.close()

    @pytest.mark.parametrize(
        "head", [b"GET /v1/echo/7?name=" + b"x" * 70_000, b"GET /v1/echo/7 HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000]
    )
    async def test_a_head_that_is_too_large_is_431(self, zoo: Zoo, head: bytes) -> None:
        for end in (b"", b" HTTP/1.1\r\n\r\n" if b"?" in head else b"\r\n\r\n"):
            connection = await zoo.connect()
            await connection.send(head + end)
            answer = await asyncio.wait_for(connection.answer(), 2)
            assert (answer.status, answer.reason) == (431, "REQUEST_MALFORMED")
            connection.close()

    async def test_a_long_query_fits(self, zoo: Zoo) -> None:
        ids = "&".join(f"ids={2**62 + number}" for number in range(1_000))
        assert len(echoed(await zoo.get(f"/v1/echo/7?{ids}"))["ids"]) == 1_000


GARBAGE = [
    b"garbage\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nhost: a\r\n\r\n", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
    b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5_000 + b"\r\n",
]  # fmt: skip


@pytest.mark.parametrize("raw", GARBAGE, ids=lambda raw: repr(raw[:40]))
async def test_what_is_not_http_is_refused_and_harms_nobody(zoo: Zoo, raw: bytes) -> None:
    connection = await zoo.connect()
    try:
        async with asyncio.timeout(2):
            await connection.send(raw)
            status, _ = await connection.head()
            assert 400 <= status < 500
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        pass
    finally:
        connection.close()
    assert (await zoo.get("/v1/echo/7")).status == 200
