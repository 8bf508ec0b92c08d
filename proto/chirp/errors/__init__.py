"""The errors of the cluster: one class per gRPC code, carrying a machine-readable reason, the same on both sides of a
call.

A handler raises `NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, "tweet 12 does not exist", tweet_id=12)`; it travels
as a `google.rpc.Status` with ErrorInfo (reason, domain "chirp", metadata), BadRequest (fields) and RetryInfo, and the
caller's side raises the same class with the same parts. The reasons are the enum `chirp.errors.v1.ErrorReason`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Self

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from chirp.errors import v1 as errorspb

DOMAIN = "chirp"
STATUS_METADATA_KEY = "grpc-status-details-bin"
_REASON_PREFIX = "ERROR_REASON_"


class FieldViolation(NamedTuple):
    """One field that is wrong: its path in proto spelling (`media_ids[2]`) and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """A failure that a caller may see: code by class, reason for programs, message for people (no internals)."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        reason: errorspb.ErrorReason.ValueType,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        retry_after: float | None = None,
        details: Iterable[any_pb2.Any] = (),
        **metadata: object,
    ) -> None:
        """`retry_after` in seconds; `details` are further parts of the status, passed on as they are; `metadata` values
        become strings.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.details = tuple(details)
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def __reduce__(self) -> Any:
        return type(self).from_status, (self.status(),)

    def status(self) -> status_pb2.Status:
        """The error as it travels."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason != errorspb.ERROR_REASON_UNSPECIFIED:
            name = reason_name(self.reason)
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=self.metadata))
        if self.violations:
            status.details.add().Pack(_bad_request(self.violations))
        if self.retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after * 1e9))
            status.details.add().Pack(retry)
        status.details.extend(self.details)
        return status

    @staticmethod
    def from_status(status: status_pb2.Status) -> ServiceError:
        """The error that a status stands for, as the class of its code; parts that this version does not know are kept
        in `details`.
        """
        error = _class_of(status.code)(errorspb.ERROR_REASON_UNSPECIFIED, status.message)
        unknown = [detail for detail in status.details if not error._absorb(detail)]
        error.details = tuple(unknown)
        return error

    def _absorb(self, detail: any_pb2.Any) -> bool:
        """Takes over a known part of a status; False leaves it to `details`."""
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return self._absorb_info(info)
        if detail.Unpack(bad):
            self.violations += tuple(FieldViolation(each.field, each.description) for each in bad.field_violations)
            return True
        if detail.Unpack(retry):
            self.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
            return True
        return False

    def _absorb_info(self, info: error_details_pb2.ErrorInfo) -> bool:
        name = _REASON_PREFIX + info.reason
        if info.domain != DOMAIN or name not in errorspb.ErrorReason.DESCRIPTOR.values_by_name:
            return False
        self.reason = errorspb.ErrorReason.Value(name)
        self.metadata = dict(info.metadata)
        return True


class InvalidArgument(ServiceError):
    """The request is wrong whatever the state of the system; the same request will fail again."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def field(
        cls,
        field: str,
        description: str,
        *,
        reason: errorspb.ErrorReason.ValueType = errorspb.ERROR_REASON_FIELD_INVALID,
        **metadata: object,
    ) -> Self:
        """One wrong field: its path in proto spelling, and a description that reads on from it ("is too long")."""
        error = cls(reason, f"{field} {description}", violations=[FieldViolation(field, description)])
        error.metadata = {name: str(value) for name, value in metadata.items()}
        return error


class NotFound(ServiceError):
    """What the request names does not exist, or the caller may not know that it does."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """What the request would create exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(ServiceError):
    """The call needs a user, and says none or not credibly."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(ServiceError):
    """A limit is reached: too many calls, too large a message, a full queue. Usually says when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(ServiceError):
    """The state of the system forbids it; repeating helps only after the state was changed."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Lost against a concurrent change; repeating from the start may succeed."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(ServiceError):
    """Past the end of what exists."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unavailable(ServiceError):
    """A part is away or does not answer; repeating soon, elsewhere, may succeed. A write may have happened: repeat it
    under its request_id.
    """

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The time ran out. A write may have happened: repeat it under its request_id."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(ServiceError):
    """The caller gave up."""

    code = grpc.StatusCode.CANCELLED


class Unimplemented(ServiceError):
    """The method does not exist here."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(ServiceError):
    """A fault of the server; the message carries a correlation id and nothing else of what happened."""

    code = grpc.StatusCode.INTERNAL


_CLASSES: dict[int, type[ServiceError]] = {
    each.code.value[0]: each
    for each in (
        InvalidArgument, NotFound, AlreadyExists, PermissionDenied, Unauthenticated, ResourceExhausted,
        FailedPrecondition, Aborted, OutOfRange, Unavailable, DeadlineExceeded, Cancelled, Unimplemented, Internal,
    )
}  # fmt: skip


def reason_name(reason: errorspb.ErrorReason.ValueType) -> str:
    """The reason as it travels in ErrorInfo: the enum name without its prefix (`TWEET_NOT_FOUND`)."""
    return errorspb.ErrorReason.Name(reason).removeprefix(_REASON_PREFIX)


def from_rpc_error(error: grpc.RpcError) -> ServiceError:
    """The ServiceError behind what a bare grpc stub raised; without a status in the trailers, code and text alone decide."""
    code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == STATUS_METADATA_KEY:
            status = status_pb2.Status.FromString(value)
            if status.code == code.value[0]:
                return ServiceError.from_status(status)
    return _class_of(code.value[0])(errorspb.ERROR_REASON_UNSPECIFIED, error.details() or "")  # type: ignore[attr-defined]


def _class_of(code: int) -> type[ServiceError]:
    return _CLASSES.get(code, Internal)


def _bad_request(violations: Iterable[FieldViolation]) -> error_details_pb2.BadRequest:
    fields = [error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in violations]
    return error_details_pb2.BadRequest(field_violations=fields)
