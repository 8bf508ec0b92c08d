"""What the headers of a request say: its id, its deadline, who asks, and the metadata that goes with the call.

Identity reaches a service only as the gateway says it: inbound x-user-* and x-internal-* are never passed on, in any disguise.
"""

import base64
import binascii
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chirp import errors
from chirp.errors import v1 as errorspb
from gateway import status
from services.runtime.call import LONGEST_REQUEST_ID, REQUEST_ID_KEY, VIEWER_KEY
from services.runtime.viewer import Authenticator

Fields = Mapping[bytes, bytes]
"""Headers by lower-case name, the last of several of a name."""
Sent = Sequence[tuple[bytes, bytes]]
"""Headers one by one, with names in lower case."""
Metadata = tuple[tuple[str, str | bytes], ...]

DEFAULT_DEADLINE = 5.0
LONGEST_DEADLINE = 60.0
"""Seconds of a unary call, whatever the client asks for."""
LONGEST_STREAM = 3600.0
"""Seconds of a server stream; its client connects again."""
MOST_METADATA = 4096
"""Bytes of client metadata, half of what gRPC servers take, so that no client can make a call fail inside."""

_REQUEST_ID = b"x-request-id"
_TIMEOUT = b"grpc-timeout"
_METADATA_PREFIX = b"grpc-metadata-"
_IDEMPOTENCY_KEY = b"idempotency-key"
_ONCE = (b"x-user-id", _IDEMPOTENCY_KEY, b"authorization", b"content-type")
"""A proxy and this gateway could each believe another one of several."""
_TRACE = (b"traceparent", b"tracestate")
_TIMEOUT_FORM = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_KEY_FORM = re.compile(r"[a-z0-9_.-]+")
_RESERVED = ("grpc-", "x-user-", "x-internal-", "x-forwarded-")
_RESERVED_WHOLE = frozenset(
    {"authorization", "connection", "content-length", "content-type", "forwarded", "host", "te", "trailer",
     "transfer-encoding", "upgrade", "user-agent", REQUEST_ID_KEY, "traceparent", "tracestate"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inbound:
    """A request's headers, understood."""

    timeout: float
    metadata: Metadata
    idempotency_key: str


def request_id(fields: Fields) -> str:
    """The client's X-Request-Id if it is 1 to 128 printable ASCII characters, else a new one."""
    sent = fields.get(_REQUEST_ID, b"")
    if 0 < len(sent) <= LONGEST_REQUEST_ID and sent.isascii():
        text = sent.decode("ascii")
        if text.isprintable():
            return text
    return f"{random.getrandbits(128):032x}"


def refuse_repeated(sent: Sent, fields: Fields) -> None:
    """Raises InvalidArgument for several headers of a name of which only one can be meant; `fields` are the same by name."""
    if len(sent) == len(fields):
        return
    names = [name for name, _ in sent]
    for name in _ONCE:
        if names.count(name) > 1:
            raise status.malformed(f"the header {name.decode()} must come only once")


def read(fields: Fields, request: str, authenticator: Authenticator, *, stream: bool) -> Inbound:
    """Deadline, metadata and key of a request; raises InvalidArgument or Unauthenticated."""
    metadata: list[tuple[str, str | bytes]] = [(REQUEST_ID_KEY, request)]
    identity = fields.get(b"x-user-id")
    viewer = authenticator.viewer({VIEWER_KEY: identity.decode("latin-1")} if identity is not None else {})
    if viewer:
        metadata.append((VIEWER_KEY, str(viewer)))
    metadata += [(name.decode(), fields[name].decode()) for name in _TRACE if name in fields and _printable(fields[name])]
    for name in fields:
        if name.startswith(_METADATA_PREFIX):
            metadata += _custom(name[len(_METADATA_PREFIX) :].decode("latin-1"), fields[name])
    if sum(len(key) + len(value) for key, value in metadata) > MOST_METADATA:
        raise status.headers_too_large(MOST_METADATA)
    return Inbound(_timeout(fields, stream), tuple(metadata), _key(fields))


def _timeout(fields: Fields, stream: bool) -> float:
    longest, usual = (LONGEST_STREAM, LONGEST_STREAM) if stream else (LONGEST_DEADLINE, DEFAULT_DEADLINE)
    sent = fields.get(_TIMEOUT)
    if sent is None:
        return usual
    found = _TIMEOUT_FORM.fullmatch(sent)
    if found is None:
        raise status.malformed("Grpc-Timeout must be up to 8 digits and one of H, M, S, m, u, n")
    timeout = int(found[1]) * _UNITS[found[2]]
    if timeout <= 0:
        raise errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_TOO_SHORT, "Grpc-Timeout leaves no time")
    return min(timeout, longest)


def _key(fields: Fields) -> str:
    sent = fields.get(_IDEMPOTENCY_KEY)
    if sent is None:
        return ""
    if not sent or not _printable(sent):
        raise errors.InvalidArgument.field("request_id", "must be printable ASCII in the Idempotency-Key header")
    return sent.decode("ascii")


def _custom(key: str, value: bytes) -> Metadata:
    """`Grpc-Metadata-X: v` as x=v; nothing if the key is not a client's to set or the value cannot travel."""
    if not _KEY_FORM.fullmatch(key) or key.startswith(_RESERVED) or key in _RESERVED_WHOLE:
        return ()
    if key.endswith("-bin"):
        try:
            return ((key, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)),)
        except binascii.Error:
            raise status.malformed(f"Grpc-Metadata-{key} must be base64") from None
    return ((key, value.decode("ascii")),) if _printable(value) else ()


def _printable(value: bytes) -> bool:
    return value.isascii() and value.decode("ascii").isprintable()
