"""Service objects as handler tables: which method of which object serves which RPC, checked when the process starts.

A service is a plain object with one method per RPC, named in snake_case:

    async def create_tweet(self, request, call) -> reply                # unary
    async def upload_media(self, requests, call) -> reply               # client stream; `requests` is an async iterator
    async def stream_followers(self, request, call): yield reply        # server stream, an async generator
    async def exchange(self, requests, call): yield reply               # both

A reply is a message or its encoded bytes.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from services.runtime import methods
from services.runtime.methods import Kind, Method

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_RPCS = frozenset({"healthy"})


class HandlerMismatch(TypeError):
    """An object does not serve exactly the RPCs of its contract."""


@dataclass(frozen=True, slots=True)
class Handler:
    """Serves one RPC: `invoke(request or requests, call)`, a coroutine or an async generator as its kind wants."""

    method: Method
    invoke: Callable[..., Any]


def table(implementation: object, *services: ServiceDescriptor | str) -> dict[str, Handler]:
    """Handlers of one object by path on the wire, for one service or for all that it serves together.

    Raises HandlerMismatch for a missing RPC, for a public async method that no contract knows, and for a wrong shape.
    """
    rows = {path: method for service in services for path, method in methods.of_service(service).items()}
    expected = {snake_case(method.name) for method in rows.values()}
    surplus = _public_coroutines(implementation) - expected - _NOT_RPCS
    if surplus:
        raise HandlerMismatch(f"{type(implementation).__name__} has methods that no contract knows: {', '.join(sorted(surplus))}")
    return {path: Handler(method, _invoke(implementation, method)) for path, method in rows.items()}


def snake_case(name: str) -> str:
    """BatchGetTweets → batch_get_tweets."""
    return _WORD_START.sub("_", name).lower()


def _invoke(implementation: object, method: Method) -> Callable[..., Any]:
    name = f"{type(implementation).__name__}.{snake_case(method.name)}"
    invoke = getattr(implementation, snake_case(method.name), None)
    if invoke is None:
        raise HandlerMismatch(f"{name} is missing: {method.full_name} has no handler")
    fits = inspect.isasyncgenfunction(invoke) if method.kind.replies_stream else inspect.iscoroutinefunction(invoke)
    if not fits:
        raise HandlerMismatch(f"{name} must be {_shape(method.kind)}")
    if len(inspect.signature(invoke).parameters) != 2:
        raise HandlerMismatch(f"{name} must take (request, call)")
    return invoke


def _shape(kind: Kind) -> str:
    return "an async generator" if kind.replies_stream else "a coroutine function"


def _public_coroutines(implementation: object) -> set[str]:
    members = inspect.getmembers(type(implementation))
    return {
        name
        for name, member in members
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }
