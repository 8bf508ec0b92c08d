"""One route's translation: an HTTP request into the RPC's request message, the reply into the HTTP body.

The body is read first, then the query, then the path, so that nothing outranks the path. Each fault of the client is an
InvalidArgument that names the field in proto spelling, or says why the body cannot be read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chirp import errors
from chirp.errors import v1 as errorspb
from gateway import decode, fields
from gateway.decode import Decoder, MalformedJson, WrongValue
from gateway.encode import Encoder
from gateway.query import QueryReader, put_text
from gateway.routes import Route

_EMPTY_BODIES = (b"", b"{}")


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request or reply that is passed on as it is."""

    content_type: str
    data: bytes


class Transcoder:
    """Both directions of one route, compiled once."""

    def __init__(self, route: Route, decoder: Decoder, encoder: Encoder) -> None:
        self.route = route
        self._decoder = decoder
        self._request = route.request
        asked, answered = fields.descriptor(route.request), fields.descriptor(route.response)
        self._put_path = tuple(_path_setter(each) for each in route.variables)
        self._query = QueryReader(asked, _taken(route), closed=route.whole_body)
        self._request_id = _text_field(asked, "request_id")
        self._mask = _mask_to_fill(route)
        self._fill = decoder.field(route.body) if route.body else None
        self._parse_reply = route.response.FromString
        self._to_json = encoder.to_bytes(answered, route.response_body)
        self.raw_request = _is_http_body(route.body, asked if route.whole_body else None)
        """Whether the HTTP body is passed on as it is, of whatever type."""
        self.raw_reply = _is_http_body(route.response_body, answered)
        """Whether the reply is an HTTP body as it is; see `raw`."""

    def request(self, captured: tuple[str, ...], query: bytes, body: Body, idempotency_key: str = "") -> bytes:
        """The encoded request message; raises InvalidArgument."""
        message = self._request()
        try:
            self._read_body(message, body)
            if query:
                self._query.read(message, query)
            for put, text in zip(self._put_path, captured, strict=True):
                put(message, text)
            if idempotency_key and self._request_id:
                _agree(message, idempotency_key)
        except WrongValue as error:
            raise wrong_value(error) from None
        except MalformedJson as error:
            raise errors.InvalidArgument(errorspb.ERROR_REASON_REQUEST_MALFORMED, f"the body {error}") from None
        return message.SerializeToString()

    def reply(self, encoded: bytes) -> bytes:
        """The reply's JSON."""
        return self._to_json(self._parse_reply(encoded))

    def raw(self, encoded: bytes) -> Body:
        """The reply's google.api.HttpBody, for routes whose `raw_reply` is set."""
        message: Any = self._parse_reply(encoded)
        if self.route.response_body:
            message = getattr(message, self.route.response_body.name)
        kind = message.content_type
        usable = kind and kind.isascii() and kind.isprintable()
        return Body(kind if usable else "application/octet-stream", message.data)

    def _read_body(self, message: Any, body: Body) -> None:
        if self.raw_request:
            target = getattr(message, self.route.body.name) if self.route.body else message
            target.content_type, target.data = body.content_type, body.data
        elif not self.route.takes_body:
            if body.data.strip() not in _EMPTY_BODIES:
                raise WrongValue("", "this method takes no body")
        elif body.data:
            self._read_json(message, decode.parse(body.data))

    def _read_json(self, message: Any, value: Any) -> None:
        if self._fill is None or self.route.body is None:
            self._decoder.message(message, value)
            return
        self._fill(message, value, self.route.body.name)
        if self._mask and type(value) is dict:
            getattr(message, self._mask).paths[:] = decode.mask_paths(fields.message_of(self.route.body), value)


def wrong_value(error: WrongValue) -> errors.InvalidArgument:
    """What the client is told of a value that cannot be taken."""
    if error.path:
        return errors.InvalidArgument.field(error.path, error.problem)
    return errors.InvalidArgument(errorspb.ERROR_REASON_REQUEST_MALFORMED, error.problem)


def _path_setter(path: tuple[FieldDescriptor, ...]) -> Callable[[Any, str], None]:
    put, dotted = put_text(path[-1]), ".".join(each.name for each in path)
    parents = tuple(each.name for each in path[:-1])

    def set_variable(message: Any, text: str) -> None:
        for parent in parents:
            message = getattr(message, parent)
            message.SetInParent()
        try:
            put(message, text)
        except ValueError as error:
            raise WrongValue(dotted, str(error)) from None

    return set_variable


def _taken(route: Route) -> list[str]:
    """What a query cannot set."""
    return [".".join(each.name for each in path) for path in route.variables] + ([route.body.name] if route.body else [])


def _text_field(message: Descriptor, name: str) -> bool:
    field = message.fields_by_name.get(name)
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _mask_to_fill(route: Route) -> str | None:
    """The field mask that a PATCH without one gets from its body: the request's only one."""
    if route.http_method != "PATCH" or route.body is None or route.body.is_repeated or not fields.is_message(route.body):
        return None
    masks = [
        field.name
        for field in fields.descriptor(route.request).fields
        if fields.type_name(field) == fields.FIELD_MASK and not field.is_repeated
    ]
    return masks[0] if len(masks) == 1 else None


def _agree(message: Any, key: str) -> None:
    """The Idempotency-Key header and the field request_id are the same thing."""
    if message.request_id and message.request_id != key:
        raise WrongValue("request_id", "differs from the Idempotency-Key header")
    message.request_id = key


def _is_http_body(field: FieldDescriptor | None, whole: Descriptor | None) -> bool:
    """Whether the field, or else the whole message, is a google.api.HttpBody."""
    if field is not None:
        return not field.is_repeated and fields.type_name(field) == fields.HTTP_BODY
    return whole is not None and whole.full_name == fields.HTTP_BODY
