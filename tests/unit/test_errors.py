"""chirp.errors: every class round trips through its status, and what a newer server says is not lost."""

import pickle

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from chirp import errors
from chirp.errors import v1 as errorspb

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ServiceError)]


def test_one_class_per_code_that_a_service_may_answer() -> None:
    codes = {each.code for each in CLASSES if each is not errors.ServiceError}

    assert codes == set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@pytest.mark.parametrize("kind", [each for each in CLASSES if each is not errors.ServiceError])
def test_a_status_brings_back_the_same_error(kind: type[errors.ServiceError]) -> None:
    sent = kind(
        errorspb.ERROR_REASON_TWEET_NOT_FOUND,
        "tweet 12 does not exist",
        violations=[errors.FieldViolation("a.b[0]", "is odd")],
        retry_after=0.25,
        tweet_id=12,
    )

    got = errors.ServiceError.from_status(status_pb2.Status.FromString(sent.status().SerializeToString()))

    assert type(got) is kind
    assert (got.reason, got.message, got.metadata) == (sent.reason, sent.message, {"tweet_id": "12"})
    assert (got.violations, got.retry_after, got.details) == (sent.violations, 0.25, ())


def test_the_reason_travels_without_its_prefix_in_our_domain() -> None:
    status = errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, "no").status()

    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("USER_NOT_FOUND", "chirp")


def test_unknown_reasons_and_details_are_kept_and_sent_on() -> None:
    status = status_pb2.Status(code=5, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="chirp"))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="TWEET_NOT_FOUND", domain="elsewhere"))
    status.details.append(any_pb2.Any(type_url="type.googleapis.com/who.Knows", value=b"\x01"))

    error = errors.ServiceError.from_status(status)

    assert error.reason == errorspb.ERROR_REASON_UNSPECIFIED
    assert list(error.details) == list(status.details)
    assert error.status() == status


def test_a_wrong_field_names_itself() -> None:
    error = errors.InvalidArgument.field(
        "text", "is 291 long; at most 280", reason=errorspb.ERROR_REASON_TEXT_TOO_LONG, weighted_length=291, max=280
    )

    assert str(error) == "text is 291 long; at most 280"
    assert error.violations == (("text", "is 291 long; at most 280"),)
    assert error.metadata == {"weighted_length": "291", "max": "280"}
    assert errors.InvalidArgument.field("a", "b").reason == errorspb.ERROR_REASON_FIELD_INVALID


def test_an_rpc_error_without_our_status_keeps_code_and_text() -> None:
    empty = grpc.aio.Metadata()
    bare = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, empty, empty, details="lost")
    unknown = grpc.aio.AioRpcError(grpc.StatusCode.DATA_LOSS, empty, empty)

    assert type(errors.from_rpc_error(bare)) is errors.Aborted
    assert str(errors.from_rpc_error(bare)) == "lost"
    assert type(errors.from_rpc_error(unknown)) is errors.Internal


def test_a_status_that_contradicts_the_code_is_not_believed() -> None:
    lie = errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, "x").status().SerializeToString()
    trailers = grpc.aio.Metadata((errors.STATUS_METADATA_KEY, lie))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, details="away")

    assert type(errors.from_rpc_error(error)) is errors.Unavailable


def test_errors_survive_pickling() -> None:
    error = errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, "tweet 1", tweet_id=1)

    got = pickle.loads(pickle.dumps(error))

    assert (type(got), got.reason, got.metadata) == (errors.NotFound, error.reason, error.metadata)
