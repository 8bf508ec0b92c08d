"""Errors as HTTP: statuses, headers and bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc import StatusCode

from chirp import errors
from chirp.errors import v1 as errorspb
from gateway import status
from gateway.encode import Encoder
from gateway.status import ErrorWriter

WRITER = ErrorWriter(Encoder())
TYPE = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    ("code", "http"),
    [
        ("OK", 200), ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504),
        ("NOT_FOUND", 404),
        ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429), ("FAILED_PRECONDITION", 400),
        ("ABORTED", 409),
        ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500), ("UNAVAILABLE", 503), ("DATA_LOSS", 500),
        ("UNAUTHENTICATED", 401),
    ],
)  # fmt: skip
def test_every_code_has_its_status(code: str, http: int) -> None:
    assert status.HTTP_STATUS[StatusCode[code]] == http


def test_no_code_is_without_a_status() -> None:
    assert set(status.HTTP_STATUS) == set(StatusCode)


def answer(error: errors.ServiceError | status.Refusal) -> tuple[int, dict[bytes, bytes], Any]:
    code, headers, body = WRITER.answer(error)
    return code, dict(headers), json.loads(body)


def test_an_error_keeps_its_parts() -> None:
    error = errors.InvalidArgument.field("text", "must not be blank", reason=errorspb.ERROR_REASON_TEXT_BLANK, max=280)
    code, headers, body = answer(error)
    assert (code, headers) == (400, {})
    assert body == {
        "code": 3,
        "message": "text must not be blank",
        "details": [
            {"@type": TYPE + "ErrorInfo", "reason": "TEXT_BLANK", "domain": "chirp", "metadata": {"max": "280"}},
            {
                "@type": TYPE + "BadRequest",
                "fieldViolations": [
                    body["details"][1]["fieldViolations"][0] | {"field": "text", "description": "must not be blank"}
                ],
            },
        ],
    }


@pytest.mark.parametrize(("seconds", "header"), [(0.0, b"0"), (0.2, b"1"), (1.0, b"1"), (1.001, b"2"), (30.0, b"30")])
def test_retry_info_is_retry_after_in_whole_seconds(seconds: float, header: bytes) -> None:
    code, headers, body = answer(errors.ResourceExhausted(errorspb.ERROR_REASON_OVERLOADED, "busy", retry_after=seconds))
    assert (code, headers[b"retry-after"]) == (429, header)
    assert [each["@type"] for each in body["details"]] == [TYPE + "ErrorInfo", TYPE + "RetryInfo"]


def test_details_that_are_not_ours_are_passed_on() -> None:
    help_text, unknown = any_pb2.Any(), any_pb2.Any(type_url="type.googleapis.com/no.Such", value=b"x")
    help_text.Pack(error_details_pb2.Help(links=[error_details_pb2.Help.Link(description="see", url="https://x")]))
    _, _, body = answer(errors.Aborted(errorspb.ERROR_REASON_UNSPECIFIED, "lost", details=[help_text, unknown]))
    assert body["details"] == [
        {"@type": TYPE + "Help", "links": [{"description": "see", "url": "https://x"}]},
        {"@type": "type.googleapis.com/no.Such", "value": "eA=="},
    ]


def test_who_is_not_known_is_asked_for_a_token() -> None:
    code, headers, _ = answer(errors.Unauthenticated(errorspb.ERROR_REASON_VIEWER_REQUIRED, "who?"))
    assert (code, headers) == (401, {b"www-authenticate": b"Bearer"})


def test_a_wrong_method_names_the_right_ones() -> None:
    code, headers, body = answer(status.method_not_allowed({"GET", "POST", "*"}))
    assert (code, headers, body["code"]) == (405, {b"allow": b"GET, HEAD, OPTIONS, POST"}, 12)
    assert body["details"][0]["reason"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("refusal", "http", "code", "reason"),
    [
        (status.no_route(), 404, 5, "ROUTE_NOT_FOUND"),
        (status.body_too_large(5), 413, 3, "BODY_TOO_LARGE"),
        (status.media_type("no"), 415, 3, "MEDIA_TYPE"),
        (status.body_too_slow(1), 408, 4, "DEADLINE_EXCEEDED"),
        (status.headers_too_large(1), 431, 3, "REQUEST_MALFORMED"),
        (status.internal("abc"), 500, 13, "INTERNAL"),
    ],
)
def test_the_gateways_own_answers(refusal: Any, http: int, code: int, reason: str) -> None:
    got, _, body = answer(refusal)
    assert (got, body["code"], body["details"][0]["reason"]) == (http, code, reason)
    assert body["details"][0]["domain"] == "chirp"
