"""One row per RPC: what the contract says of it, read once from its descriptor."""

import enum
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from chirp.options import v1 as optionspb

DEFAULT_MAX_IN_FLIGHT = 1000


class Kind(enum.Enum):
    """The four shapes of an RPC; the value is the `grpc_type` label of its metrics."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI = "bidi_stream"

    @property
    def requests_stream(self) -> bool:
        """Whether the caller sends a stream."""
        return self in (Kind.CLIENT_STREAM, Kind.BIDI)

    @property
    def replies_stream(self) -> bool:
        """Whether the caller receives a stream."""
        return self in (Kind.SERVER_STREAM, Kind.BIDI)


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC as its contract describes it."""

    full_name: str
    """Path on the wire: "/chirp.tweet.v1.TweetService/CreateTweet"."""
    service: str
    name: str
    kind: Kind
    request_class: type[Message]
    response_class: type[Message]
    caller: optionspb.Caller.ValueType
    criticality: optionspb.Criticality.ValueType
    max_in_flight: int
    """Calls in progress in one process above which the next is refused."""
    success_status: int
    """HTTP status of an OK answer at the REST shim."""
    idempotent: bool
    """Whether repeating it does no harm (idempotency_level is NO_SIDE_EFFECTS or IDEMPOTENT)."""

    @staticmethod
    def of(descriptor: MethodDescriptor) -> "Method":
        """Reads the row of one RPC."""
        service = descriptor.containing_service.full_name
        options: Any = descriptor.GetOptions()
        policy: optionspb.MethodPolicy = options.Extensions[optionspb.policy]
        return Method(
            full_name=f"/{service}/{descriptor.name}",
            service=service,
            name=descriptor.name,
            kind=_kind(descriptor),
            request_class=message_factory.GetMessageClass(descriptor.input_type),
            response_class=message_factory.GetMessageClass(descriptor.output_type),
            caller=policy.caller,
            criticality=policy.criticality or optionspb.CRITICALITY_NORMAL,
            max_in_flight=policy.max_in_flight or DEFAULT_MAX_IN_FLIGHT,
            success_status=policy.success_status or 200,
            idempotent=options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN,
        )


def service_descriptor(service: ServiceDescriptor | str) -> ServiceDescriptor:
    """The descriptor of a service given by itself or by its full name; KeyError if its contract was not imported."""
    if isinstance(service, str):
        return descriptor_pool.Default().FindServiceByName(service)
    return service


def of_service(service: ServiceDescriptor | str) -> dict[str, Method]:
    """All RPCs of a service by their path on the wire."""
    methods = [Method.of(each) for each in service_descriptor(service).methods]
    return {method.full_name: method for method in methods}


def _kind(descriptor: MethodDescriptor) -> Kind:
    if descriptor.client_streaming:
        return Kind.BIDI if descriptor.server_streaming else Kind.CLIENT_STREAM
    return Kind.SERVER_STREAM if descriptor.server_streaming else Kind.UNARY
