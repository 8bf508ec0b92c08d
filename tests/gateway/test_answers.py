"""What a client is told: errors, headers, probes; and what is counted."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest

from tests.gateway.zookeeper import Zoo
from tests.gateway.zookeeper import zoo as running_zoo


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "http"),
        [
            (1, 499),
            (3, 400),
            (4, 504),
            (5, 404),
            (6, 409),
            (7, 403),
            (8, 429),
            (9, 400),
            (10, 409),
            (11, 400),
            (12, 501),
            (13, 500),
            (14, 503),
            (16, 401),
        ],
    )
    async def test_a_status_keeps_code_message_and_details(self, zoo: Zoo, code: int, http: int) -> None:
        answer = await zoo.post("/v1/echo", {"failCode": code})
        assert (answer.status, answer.json["code"], answer.json["message"]) == (http, code, "as you wish")
        assert [each["@type"].rpartition(".")[2] for each in answer.json["details"]] == ["ErrorInfo", "RetryInfo"]
        assert (answer.reason, answer.headers["retry-after"]) == ("OVERLOADED", "2")
        assert ("www-authenticate" in answer.headers) == (http == 401)

    async def test_the_deadline_is_504(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/echo/7?delayMs=5000", grpc_timeout="50m")
        assert (answer.status, answer.reason) == (504, "DEADLINE_EXCEEDED")

    @pytest.mark.parametrize(
        ("sent", "least", "most"), [("", 4_000, 5_200), ("2S", 1_000, 2_200), ("1H", 55_000, 60_200), ("3000m", 2_200, 3_200)]
    )
    async def test_the_deadline_reaches_the_service(self, zoo: Zoo, sent: str, least: int, most: int) -> None:
        answer = await zoo.get("/v1/echo/7", grpc_timeout=sent)
        assert least <= answer.json["remainingMs"] <= most

    @pytest.mark.parametrize(
        ("sent", "status"), [("x", 400), ("5", 400), ("5s", 400), ("-5S", 400), ("123456789S", 400), ("0S", 504)]
    )
    async def test_a_deadline_that_cannot_be_kept(self, zoo: Zoo, sent: str, status: int) -> None:
        assert (await zoo.get("/v1/echo/7", grpc_timeout=sent)).status == status

    async def test_a_service_that_is_away_is_503_and_not_ready(
        self, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.backends.READY_WITHIN", 0.1)
        async with running_zoo(free_port) as other:
            assert (await other.get("/readyz")).status == 200
            await other.server.stop(0)
            answer = await other.post("/v1/echo", {})
            assert (answer.status, answer.reason) == (503, "UNAVAILABLE")
            assert "127.0.0.1" not in answer.json["message"]
            ready = await other.get("/readyz")
            assert (ready.status, ready.json["peers"]) == (503, ["zoo.v1.Zoo"])
            assert (await other.get("/healthz")).status == 200

    async def test_a_reply_that_cannot_be_written_is_500_without_a_word_of_why(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/echo/7?animal.value=1e300", x_request_id="abc")
        assert answer.status == 200
        sent = {"animal": {"any": {"@type": "x/google.protobuf.Timestamp", "value": "9999-12-31T23:59:59Z"}}}
        assert (await zoo.post("/v1/echo", sent)).status == 201


class TestHeaders:
    async def test_a_request_id_is_kept_sent_on_and_echoed(self, zoo: Zoo) -> None:
        answer = await zoo.get("/v1/echo/7", x_request_id="my id-1")
        assert answer.headers["x-request-id"] == answer.json["metadata"]["x-request-id"] == "my id-1"

    @pytest.mark.parametrize("sent", ["", "x" * 129, "a\tb", "é"])
    async def test_a_request_id_is_made_where_none_is_usable(self, zoo: Zoo, sent: str) -> None:
        answer = await zoo.get("/v1/echo/7", x_request_id=sent)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert answer.json["metadata"]["x-request-id"] == answer.headers["x-request-id"]
        assert "x-request-id" in (await zoo.get("/nope")).headers

    async def test_identity_is_passed_on_in_header_mode(self, zoo: Zoo) -> None:
        assert (await zoo.get("/v1/echo/7", x_user_id="42")).json["metadata"]["x-user-id"] == "42"
        assert "x-user-id" not in (await zoo.get("/v1/echo/7")).json["metadata"]
        for wrong in ("x", "0", "-1", "9223372036854775808", "1,2", "é"):
            answer = await zoo.get("/v1/echo/7", x_user_id=wrong)
            assert (answer.status, answer.reason) == (401, "VIEWER_INVALID")

    async def test_identity_is_dropped_in_every_other_mode(self, free_port: Callable[[], int]) -> None:
        async with running_zoo(free_port, header_auth=False) as other:
            metadata = (await other.get("/v1/echo/7", x_user_id="42")).json["metadata"]
            assert "x-user-id" not in metadata

    @pytest.mark.parametrize("name", ["X-User-Id", "Idempotency-Key", "Authorization", "Content-Type"])
    async def test_a_header_that_can_be_believed_once_only_is_refused_twice(self, zoo: Zoo, name: str) -> None:
        line = f"{name}: {'application/json' if name == 'Content-Type' else '1'}\r\n"
        connection = await zoo.connect()
        try:
            for other, code in ((line.lower(), 400), ("X-Other: a\r\nx-other: a\r\n", 200)):
                await connection.send(f"GET /v1/echo/7 HTTP/1.1\r\nhost: test\r\n{line}{other}\r\n".encode())
                answer = await connection.answer()
                assert answer.status == code
                if code == 400:
                    assert (answer.reason, name.lower() in answer.json["message"]) == ("REQUEST_MALFORMED", True)
        finally:
            connection.close()

    async def test_nobody_speaks_for_the_inside(self, zoo: Zoo) -> None:
        forged = {
            "x_user_name": "a", "x_internal_caller": "b", "grpc_metadata_x_user_id": "1", "grpc_metadata_x_internal_y": "c",
            "authorization": "Bearer x",
            "grpc_metadata_authorization": "d", "grpc_metadata_grpc_timeout": "1S", "grpc_metadata_x_request_id": "e",
            "x_forwarded_for": "1.2.3.4",
            "grpc_metadata_x_user_id_bin": "AAAA", "grpc_metadata_te": "x", "cookie": "a=b",
        }  # fmt: skip
        metadata = (await zoo.get("/v1/echo/7", **forged)).json["metadata"]
        assert set(metadata) <= {"x-request-id", "user-agent"}

    async def test_metadata_can_be_sent(self, zoo: Zoo) -> None:
        raw = base64.b64encode(b"\x00\xff").decode()
        metadata = (await zoo.get("/v1/echo/7", grpc_metadata_a_b="c d", grpc_metadata_x_bin=raw, grpc_metadata_y="é")).json[
            "metadata"
        ]
        assert (metadata["a-b"], metadata["x-bin"]) == ("c d", "00ff")
        assert "y" not in metadata
        assert (await zoo.get("/v1/echo/7", grpc_metadata_x_bin="!")).status == 400
        assert (await zoo.get("/v1/echo/7", grpc_metadata_x="y" * 5_000)).status == 431

    async def test_a_trace_goes_through(self, zoo: Zoo) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = await zoo.get("/v1/echo/7", traceparent=trace)
        assert answer.json["metadata"]["traceparent"] == answer.headers["traceparent"] == trace

    async def test_the_idempotency_key_is_the_request_id_field(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/echo", {}, idempotency_key="k1")).json["requestId"] == "k1"
        assert (await zoo.post("/v1/echo", {"requestId": "k1"}, idempotency_key="k1")).json["requestId"] == "k1"
        answer = await zoo.post("/v1/echo", {"requestId": "k2"}, idempotency_key="k1")
        assert (answer.status, answer.json["details"][1]["fieldViolations"][0]["field"]) == (400, "request_id")
        assert (await zoo.post("/v1/upload/n", b"x", idempotency_key="k1")).status == 200
        assert (await zoo.post("/v1/echo", {}, idempotency_key="é")).status == 400

    async def test_a_page_of_another_origin_may_call(self, zoo: Zoo) -> None:
        preflight = await zoo.request("OPTIONS", "/v1/echo", origin="https://a.example", access_control_request_method="POST")
        assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, "*")
        assert "POST" in preflight.headers["access-control-allow-methods"]
        offered = preflight.headers["access-control-allow-headers"]
        assert "idempotency-key" in offered
        assert "x-user-id" not in offered
        answer = await zoo.get("/v1/echo/7", origin="https://a.example")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert (await zoo.get("/nope", origin="https://a.example")).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in (await zoo.get("/v1/echo/7")).headers

    async def test_options_says_what_a_path_takes(self, zoo: Zoo) -> None:
        answer = await zoo.request("OPTIONS", "/v1/echo/7")
        assert (answer.status, answer.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PATCH")
        assert (await zoo.request("OPTIONS", "/nope")).status == 404


class TestProbesAndMetrics:
    async def test_probes(self, zoo: Zoo) -> None:
        assert (await zoo.get("/healthz")).json == {"status": "ok"}
        assert (await zoo.get("/readyz")).json == {"status": "ready"}
        assert (await zoo.request("HEAD", "/readyz")).status == 200

    async def test_requests_are_counted_under_their_template(self, zoo: Zoo) -> None:
        await zoo.get("/v1/echo/123456")
        await zoo.get("/v1/secret/path")
        page = zoo.metrics.page().decode()
        assert 'http_request_duration_seconds_count{method="GET",route="/v1/echo/{id}",status="200"}' in page
        assert 'http_request_duration_seconds_count{method="GET",route="unmatched",status="404"}' in page
        assert "123456" not in page
        assert "secret" not in page

    async def test_a_port_that_is_taken_is_an_error(self, zoo: Zoo) -> None:
        with pytest.raises(OSError, match=str(zoo.port)):
            async with running_zoo(lambda: zoo.port):
                pass
