"""Errors as HTTP: the one table of gRPC codes to statuses, and the one shape of an error body.

{"code": 5, "message": "tweet 12 does not exist", "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", …}]}
"""

import math
from typing import Any

import orjson
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc import StatusCode

from chirp import errors
from chirp.errors import v1 as errorspb
from gateway.encode import Encoder
from gateway.matcher import ANY_METHOD

Headers = list[tuple[bytes, bytes]]

HTTP_STATUS: dict[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
}
"""As grpc-gateway has it."""


class Refusal(Exception):
    """An answer of the gateway itself, where HTTP has a more exact status than the code's own (405, 413, 415 …)."""

    def __init__(self, http_status: int, error: errors.ServiceError, headers: Headers | None = None) -> None:
        super().__init__(error.message)
        self.http_status = http_status
        self.error = error
        self.headers = headers or []


def no_route() -> Refusal:
    """404: the path is not served."""
    return Refusal(404, errors.NotFound(errorspb.ERROR_REASON_ROUTE_NOT_FOUND, "this path is not served"))


def method_not_allowed(allowed: set[str]) -> Refusal:
    """405, with the methods that the path has."""
    methods = allow(allowed)
    error = errors.Unimplemented(errorspb.ERROR_REASON_METHOD_NOT_ALLOWED, f"this path is served for {methods} only")
    return Refusal(405, error, [(b"allow", methods.encode())])


def allow(methods: set[str]) -> str:
    """The Allow header for a path's methods; HEAD and OPTIONS come with every path that has them."""
    every = {*methods, "OPTIONS", *({"HEAD"} if "GET" in methods else ())}
    return ", ".join(sorted(every - {ANY_METHOD}))


def body_too_large(limit: int) -> Refusal:
    """413."""
    return Refusal(413, errors.InvalidArgument(errorspb.ERROR_REASON_BODY_TOO_LARGE, f"a body has at most {limit} bytes"))


def body_too_slow(seconds: float) -> Refusal:
    """408: the body did not arrive."""
    text = f"the body did not arrive within {seconds:g} seconds"
    return Refusal(408, errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_EXCEEDED, text))


def headers_too_large(limit: int) -> Refusal:
    """431."""
    return Refusal(431, malformed(f"Grpc-Metadata-* headers have at most {limit} bytes together"))


def head_too_large(limit: int) -> Refusal:
    """431, for the whole head."""
    return Refusal(431, malformed(f"request line and headers have at most {limit} bytes"))


def head_too_slow(seconds: float) -> Refusal:
    """408: the head did not arrive."""
    text = f"the request did not arrive within {seconds:g} seconds"
    return Refusal(408, errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_EXCEEDED, text))


def media_type(problem: str) -> Refusal:
    """415."""
    return Refusal(415, errors.InvalidArgument(errorspb.ERROR_REASON_MEDIA_TYPE, problem))


def malformed(problem: str) -> errors.InvalidArgument:
    """400 for a request that cannot be read."""
    return errors.InvalidArgument(errorspb.ERROR_REASON_REQUEST_MALFORMED, problem)


def internal(request_id: str) -> errors.Internal:
    """500 without a word of what happened, but with the id under which it was logged."""
    return errors.Internal(
        errorspb.ERROR_REASON_INTERNAL, f"internal error, correlation id {request_id}", correlation_id=request_id
    )


class ErrorWriter:
    """Turns errors into HTTP status, headers and body. `encoder` knows the types of the details."""

    def __init__(self, encoder: Encoder) -> None:
        self._any = encoder.to_json(any_pb2.Any.DESCRIPTOR)

    def answer(self, error: errors.ServiceError | Refusal) -> tuple[int, Headers, bytes]:
        """Status, headers of its own, and JSON body."""
        refusal = error if isinstance(error, Refusal) else Refusal(HTTP_STATUS[error.code], error)
        headers = [*refusal.headers, *_headers(refusal.error)]
        return refusal.http_status, headers, orjson.dumps(self.body(refusal.error))

    def body(self, error: errors.ServiceError) -> dict[str, Any]:
        """The error's JSON: code, message and every detail that came with it."""
        status: status_pb2.Status = error.status()
        return {"code": status.code, "message": status.message, "details": [self._any(each) for each in status.details]}


def _headers(error: errors.ServiceError) -> Headers:
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(0, math.ceil(error.retry_after))))
    if error.code is StatusCode.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
