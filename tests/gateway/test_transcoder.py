"""Requests into messages over HTTP, against a real gRPC server of a contract that Chirp does not have."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway import intake
from gateway.app import BODY_LIMIT
from tests.gateway.client import echoed, written
from tests.gateway.zookeeper import Zoo


class TestPaths:
    async def test_a_variable_is_a_field(self, zoo: Zoo) -> None:
        assert echoed(await zoo.get("/v1/echo/7"))["id"] == "7"

    async def test_a_literal_beats_a_variable(self, zoo: Zoo) -> None:
        assert echoed(await zoo.get("/v1/echo/me"))["id"] == "0"

    async def test_a_verb_is_not_part_of_the_value(self, zoo: Zoo) -> None:
        assert echoed(await zoo.get("/v1/echo/7:peek"))["id"] == "7"

    @pytest.mark.parametrize(
        ("path", "name"), [("a%20b", "a b"), ("a%2Fb", "a/b"), ("%E2%82%AC", "€"), ("a:b", "a:b"), ("a+b", "a+b"), ("%25", "%")]
    )
    async def test_one_segment_is_decoded_fully(self, zoo: Zoo, path: str, name: str) -> None:
        assert echoed(await zoo.get(f"/v1/named/{path}"))["name"] == name

    @pytest.mark.parametrize(("path", "name"), [("a/b", "files/a/b"), ("a%2Fb/c%20d", "files/a%2Fb/c d"), ("", "files/")])
    async def test_several_segments_keep_their_slashes_apart(self, zoo: Zoo, path: str, name: str) -> None:
        assert echoed(await zoo.get(f"/v1/files/files/{path}"))["name"] == name

    async def test_a_nested_variable(self, zoo: Zoo) -> None:
        assert echoed(await zoo.get("/v1/leaf/oak"))["animal"]["leaf"]["name"] == "oak"

    @pytest.mark.parametrize(
        "path", ["/v1/echo/x", "/v1/echo/9223372036854775808", "/v1/echo/%zz", "/v1/echo/%ff", "/v1/echo/1.0", "/v1/named/%FF"]
    )
    async def test_a_value_that_does_not_fit_is_400_and_names_its_field(self, zoo: Zoo, path: str) -> None:
        answer = await zoo.get(path)
        assert (answer.status, answer.json["code"], answer.reason) == (400, 3, "FIELD_INVALID")
        assert answer.json["details"][1]["fieldViolations"][0]["field"] in ("id", "name")

    @pytest.mark.parametrize(
        "path", ["/", "/v1", "/v1/echo/", "/v1/echo/7/", "/v2/echo/7", "/v1//echo", "/v1/echo/7/8", "/%zz", "/zoo.v1.Zoo/Hidden"]
    )
    async def test_an_unknown_path_is_404(self, zoo: Zoo, path: str) -> None:
        answer = await zoo.get(path)
        assert (answer.status, answer.json["code"], answer.reason) == (404, 5, "ROUTE_NOT_FOUND")

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("POST", "/v1/echo/7", "DELETE, GET, HEAD, OPTIONS, PATCH"),
            ("DELETE", "/v1/echo", "OPTIONS, POST"),
            ("GET", "/v1/locks/1", "LOCK, OPTIONS"),
            ("PUT", "/healthz", "GET, HEAD, OPTIONS"),
            ("PURGE", "/v1/echo/7", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ],
    )
    async def test_a_wrong_method_is_405_and_names_the_right_ones(self, zoo: Zoo, method: str, path: str, allow: str) -> None:
        answer = await zoo.request(method, path)
        assert (answer.status, answer.headers["allow"], answer.json["code"], answer.reason) == (
            405,
            allow,
            12,
            "METHOD_NOT_ALLOWED",
        )

    async def test_a_method_that_http_does_not_know_is_400(self, zoo: Zoo) -> None:
        assert (await zoo.request("BREW", "/v1/echo/7")).reason == "REQUEST_MALFORMED"

    async def test_custom_methods(self, zoo: Zoo) -> None:
        assert echoed(await zoo.request("LOCK", "/v1/locks/5"))["id"] == "5"
        for method in ("GET", "PUT", "LOCK"):
            assert echoed(await zoo.request(method, "/v1/any/5"))["id"] == "5"

    async def test_head_is_get_without_its_body(self, zoo: Zoo) -> None:
        get, head = await zoo.get("/v1/text/x"), await zoo.request("HEAD", "/v1/text/x")
        assert (head.status, head.headers["content-length"], head.body) == (200, get.headers["content-length"], b"")
        assert (await zoo.request("HEAD", "/v1/nope")).status == 404


class TestQueries:
    async def test_a_query_sets_fields(self, zoo: Zoo) -> None:
        sent = echoed(
            await zoo.get(
                "/v1/echo/7?name=x&ids=1&ids=2&animal.colour=COLOUR_RED&animal.aBool=t&animal.some_bytes=YQ&updateMask=a,bC"
            )
        )
        assert (sent["name"], sent["ids"], sent["updateMask"]) == ("x", ["1", "2"], "a,bC")
        assert (sent["animal"]["colour"], sent["animal"]["aBool"], sent["animal"]["someBytes"]) == ("COLOUR_RED", True, "YQ==")

    @pytest.mark.parametrize(
        "query",
        [
            "nope=1",
            "id=8",
            "name=a&name=b",
            "animal=1",
            "ids=x",
            "name=%ff",
            "animal.chosen_string=a&animal.chosenInt64=1",
            "leaves.name=x",
        ],
    )
    async def test_a_query_that_means_nothing_is_400(self, zoo: Zoo, query: str) -> None:
        answer = await zoo.get("/v1/echo/7?" + query)
        assert (answer.status, answer.reason) == (400, "FIELD_INVALID")

    async def test_beside_a_whole_body_there_is_no_query(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/echo?name=x", {})).status == 400

    async def test_beside_a_body_field_the_others_are_the_querys(self, zoo: Zoo) -> None:
        sent = echoed(await zoo.request("PATCH", "/v1/echo/7?name=x", {"aString": "y"}))
        assert (sent["id"], sent["name"], sent["animal"]["aString"]) == ("7", "x", "y")
        assert (await zoo.request("PATCH", "/v1/echo/7?animal.a_string=x", {})).status == 400


class TestBodies:
    async def test_a_whole_body_and_the_status_of_success(self, zoo: Zoo) -> None:
        answer = await zoo.post("/v1/echo", {"id": "9007199254740993", "name": "ü", "animal": {"an_int64": 5}})
        assert answer.status == 201
        assert (answer.json["id"], answer.json["name"], answer.json["animal"]["anInt64"]) == ("9007199254740993", "ü", "5")

    async def test_ids_are_strings_or_numbers(self, zoo: Zoo) -> None:
        for identifier in (7, "7"):
            assert (await zoo.post("/v1/echo", {"id": identifier})).json["id"] == "7"

    async def test_the_path_outranks_the_body(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/echo/7:copy", {"id": 8})).json["request"]["id"] == "7"

    async def test_a_field_may_be_the_body_and_a_list(self, zoo: Zoo) -> None:
        answer = await zoo.request("PUT", "/v1/echo/7/leaves?name=x", [{"name": "a"}, {"weight": 5}])
        assert answer.status == 201, answer.body
        assert (await zoo.request("PUT", "/v1/echo/7/leaves", {})).status == 400

    async def test_a_field_may_be_the_answer(self, zoo: Zoo) -> None:
        assert (await zoo.get("/v1/text/x")).json == "hello x"
        assert (await zoo.get("/v1/leaves")).json == []

    async def test_nothing_is_an_empty_message(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/echo")).status == 201
        assert (await zoo.post("/v1/echo", b"", content_type="text/plain")).status == 201
        assert (await zoo.request("DELETE", "/v1/echo/7")).json == {}

    async def test_a_method_without_a_body_takes_none(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/ping/7", {})).status == 201
        for method, path in (("POST", "/v1/ping/7"), ("DELETE", "/v1/echo/7"), ("GET", "/v1/echo/7")):
            assert (await zoo.request(method, path, {"name": "x"})).status == 400

    @pytest.mark.parametrize(
        "body",
        [
            b"{", b"[]", b"nul", b'{"id": 1, "id": 2}', b'{"id": 1, "nope": 2}', b'{"name": "\xff"}', b'{"name": "\\ud800"}',
            b'{"id": "x"}', b'{"\xf0": 1}',
            b'{"animal": ' * 33 + b"{}" + b"}" * 33, b"[" * 60_000, b'{"id": ' + b"1" * 10_000 + b"}", b'{"a\\ud800": 1}',
            b'{"animal": {"labels": {"\\ud800": "x"}}}',
        ],
        ids=lambda body: repr(body[:24]),
    )  # fmt: skip
    async def test_a_body_that_means_nothing_is_400(self, zoo: Zoo, body: bytes) -> None:
        answer = await zoo.post("/v1/echo", body)
        assert (answer.status, answer.json["code"]) == (400, 3)
        assert answer.reason in ("FIELD_INVALID", "REQUEST_MALFORMED")

    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "application/json; charset=utf-16",
            "multipart/form-data",
            "x",
        ],
    )
    async def test_another_content_type_is_415(self, zoo: Zoo, content_type: str) -> None:
        answer = await zoo.post("/v1/echo", {}, content_type=content_type)
        assert (answer.status, answer.reason) == (415, "MEDIA_TYPE")

    @pytest.mark.parametrize(
        "content_type",
        ["application/json", "Application/JSON", 'application/json; charset="UTF-8"', "application/json;charset=utf-8"],
    )
    async def test_json_may_be_spelled_in_several_ways(self, zoo: Zoo, content_type: str) -> None:
        assert (await zoo.post("/v1/echo", {}, content_type=content_type)).status == 201

    async def test_a_compressed_body_is_415(self, zoo: Zoo) -> None:
        assert (await zoo.post("/v1/echo", {}, content_encoding="gzip")).status == 415

    async def test_a_body_that_is_too_large_is_413(self, zoo: Zoo) -> None:
        fits = json.dumps({"name": "x" * (BODY_LIMIT - 12)}).encode()
        assert len(fits) == BODY_LIMIT
        assert (await zoo.post("/v1/echo", fits)).status == 201
        answer = await zoo.post("/v1/echo", fits + b" ")
        assert (answer.status, answer.reason) == (413, "BODY_TOO_LARGE")

    async def test_a_body_that_says_it_is_too_large_is_not_waited_for(self, zoo: Zoo) -> None:
        connection = await zoo.connect()
        await connection.send(written("POST", "/v1/echo", b"", {"content_length": str(10**9)}))
        assert (await asyncio.wait_for(connection.answer(), 2)).status == 413
        connection.close()

    async def test_a_body_of_unknown_length_is_bounded_too(self, zoo: Zoo) -> None:
        head = written("POST", "/v1/echo", None, {"content_type": "application/json", "transfer_encoding": "chunked"})
        connection = await zoo.connect()
        await connection.send(head + b'd\r\n{"name": "x"}\r\n0\r\n\r\n')
        assert (await connection.answer()).status == 201
        await connection.send(head + b"8000\r\n" + b"x" * 0x8000 + b"\r\n" + b"8001\r\n" + b"x" * 0x8001 + b"\r\n")
        assert (await connection.answer()).status == 413
        connection.close()

    async def test_a_body_that_does_not_come_is_408(self, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(intake, "WITHIN", 0.1)
        connection = await zoo.connect()
        await connection.send(written("POST", "/v1/echo", b"{}", {"content_length": "10"}))
        assert (await connection.answer()).status == 408
        connection.close()

    async def test_raw_bodies_pass_both_ways(self, zoo: Zoo) -> None:
        down = await zoo.get("/v1/download/x")
        assert (down.headers["content-type"], down.body) == ("text/plain; charset=utf-8", b"file x")
        up = await zoo.post("/v1/upload/n", b"\x00\xff", content_type="image/x")
        assert (up.status, up.headers["content-type"], up.body) == (200, "image/x", b"\x00\xff")


class TestPatch:
    async def test_the_mask_is_what_the_body_names(self, zoo: Zoo) -> None:
        sent = echoed(await zoo.request("PATCH", "/v1/echo/7", {"aString": "x", "leaf": {"name": "y"}, "tags": []}))
        assert sent["updateMask"] == "aString,leaf.name,tags"

    async def test_a_mask_that_was_given_stays(self, zoo: Zoo) -> None:
        sent = echoed(await zoo.request("PATCH", "/v1/echo/7?updateMask=leaf", {"aString": "x"}))
        assert sent["updateMask"] == "leaf"

    async def test_an_empty_body_names_nothing(self, zoo: Zoo) -> None:
        assert echoed(await zoo.request("PATCH", "/v1/echo/7", {})).get("updateMask", "") == ""
