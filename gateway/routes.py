"""The route table: what the google.api.http annotations of a set of services say, checked as a whole at start.

Any descriptor will do. A rule that cannot be served is a RouteError that names the RPC, never a surprise at the first request.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from chirp.options import v1 as optionspb
from gateway import fields, template
from gateway.matcher import ANY_METHOD, DuplicateRoute, Matcher
from gateway.template import Template

T = TypeVar("T")
WHOLE_BODY = "*"
_OUTSIDERS = (optionspb.CALLER_UNSPECIFIED, optionspb.CALLER_ANYONE, optionspb.CALLER_USER)
_BODILESS = frozenset({"GET", "HEAD", "DELETE"})


class RouteError(ValueError):
    """An annotation that cannot be served; the message names the RPC and the fault."""


@dataclass(frozen=True, slots=True)
class Route:
    """One binding of one RPC to a method and a path."""

    rpc: str
    """Path on the wire: "/chirp.tweet.v1.TweetService/CreateTweet"."""
    service: str
    http_method: str
    """As declared; "*" for every method that has no route of its own."""
    template: Template
    variables: tuple[tuple[FieldDescriptor, ...], ...]
    """For each variable of the template, the fields that lead to the one it sets."""
    request: type[Message]
    response: type[Message]
    whole_body: bool
    body: FieldDescriptor | None
    """The field that the HTTP body is; None if there is no body or it is the whole request."""
    response_body: FieldDescriptor | None
    """The field that is the answer; None if it is the whole reply."""
    success: int
    streams: bool
    """Whether the reply is a stream."""

    @property
    def takes_body(self) -> bool:
        """Whether an HTTP body has a meaning."""
        return self.whole_body or self.body is not None


def table(services: Iterable[ServiceDescriptor], make: Callable[[Route], T]) -> Matcher[T]:
    """What `make` makes of every route of the services, ready to be searched by method and path.

    Raises RouteError for the first annotation that cannot be served.
    """
    matcher: Matcher[T] = Matcher()
    for service in services:
        for route in of_service(service):
            try:
                matcher.add(route.http_method, route.template, make(route))
            except DuplicateRoute as error:
                raise RouteError(f"{route.rpc}: {error}") from None
    return matcher


def of_service(service: ServiceDescriptor) -> Iterator[Route]:
    """The routes of one service, in the order of their declaration; RPCs without an annotation have none."""
    for method in service.methods:
        options: Any = method.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            continue
        rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
        try:
            _check_method(method, options.Extensions[optionspb.policy])
            success = options.Extensions[optionspb.policy].success_status or 200
            yield _route(method, rule, success)
            for binding in rule.additional_bindings:
                if binding.additional_bindings:
                    raise RouteError("additional_bindings cannot hold additional_bindings")
                yield _route(method, binding, success)
        except (RouteError, template.TemplateError, fields.UnknownField) as error:
            raise RouteError(f"{method.full_name}: {error}") from None


def _check_method(method: MethodDescriptor, policy: optionspb.MethodPolicy) -> None:
    if method.client_streaming:
        raise RouteError("an RPC whose requests stream cannot have an HTTP rule")
    if policy.caller not in _OUTSIDERS:
        raise RouteError("an RPC for the inside of the cluster cannot have an HTTP rule")
    if policy.success_status and not 200 <= policy.success_status <= 299:
        raise RouteError(f"success_status {policy.success_status} is not a status of success")


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule, success: int) -> Route:
    http_method, path = _pattern(rule)
    parsed = template.parse(path)
    body = None if rule.body in ("", WHOLE_BODY) else _top_level(method.input_type, rule.body, "body")
    if rule.body and http_method in _BODILESS:
        raise RouteError(f"{http_method} {path} cannot have a body")
    return Route(
        rpc=f"/{method.containing_service.full_name}/{method.name}",
        service=method.containing_service.full_name,
        http_method=http_method,
        template=parsed,
        variables=tuple(_variable(method.input_type, each.path, body) for each in parsed.variables),
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        whole_body=rule.body == WHOLE_BODY,
        body=body,
        response_body=_top_level(method.output_type, rule.response_body, "response_body") if rule.response_body else None,
        success=success,
        streams=method.server_streaming,
    )


def _pattern(rule: http_pb2.HttpRule) -> tuple[str, str]:
    """The rule's method and template."""
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise RouteError("the HTTP rule has no pattern")
    if kind != "custom":
        return kind.upper(), getattr(rule, kind)
    http_method = rule.custom.kind
    if http_method != ANY_METHOD and not (http_method.isascii() and http_method.isalpha() and http_method.isupper()):
        raise RouteError(f"custom kind {http_method!r} is not an HTTP method")
    return http_method, rule.custom.path


def _top_level(message: Descriptor, name: str, what: str) -> FieldDescriptor:
    field = message.fields_by_name.get(name)
    if field is None:
        raise RouteError(f"{what} {name!r} is not a field of {message.full_name}")
    return field


def _variable(message: Descriptor, path: tuple[str, ...], body: FieldDescriptor | None) -> tuple[FieldDescriptor, ...]:
    found = fields.resolve(message, path)
    last, dotted = found[-1], ".".join(path)
    if last.is_repeated:
        raise RouteError(f"path variable {dotted} is a {'map' if fields.is_map(last) else 'repeated'} field")
    if not fields.is_text(last):
        raise RouteError(f"path variable {dotted} is a message")
    if body is not None and path == (body.name,):
        raise RouteError(f"{dotted} is both the body and a path variable")
    return found
