"""A handler with its interceptors around it: what every door calls, bytes in and bytes out."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.call import Call
from services.runtime.handlers import Handler
from services.runtime.interceptors import Hooks, Interceptor, was_withdrawn


class Guarded:
    """One RPC, ready to be called by a door: `unary` for one reply, `stream` for many.

    Both take the encoded request (or an async iterator of them, where the caller streams) and raise only ServiceError,
    or what ended the call from outside: CancelledError by the peer, GeneratorExit by a door that stops reading.
    """

    def __init__(self, handler: Handler, interceptors: Sequence[Interceptor]) -> None:
        """Binds every interceptor to the handler's method."""
        hooks = [interceptor.bind(handler.method) for interceptor in interceptors]
        self.method = handler.method
        self._invoke = handler.invoke
        self._requests_stream = handler.method.kind.requests_stream
        self._enter = tuple(each.enter for each in hooks if each.enter)
        self._received = tuple(each.received for each in hooks if each.received)
        self._sent = tuple(each.sent for each in hooks if each.sent)
        self._done = tuple(each.done for each in reversed(hooks) if each.done)
        self._failed = _failed_by_depth(hooks)
        self._decode = handler.method.request_class.FromString
        self._response_class = handler.method.response_class

    async def unary(self, sent: Any, call: Call) -> bytes:
        """Serves a call that has one reply."""
        entered = 0
        try:
            for enter in self._enter:
                enter(call)
                entered += 1
            if self._requests_stream:
                reply = await self._invoke(self._requests(sent, call), call)
            else:
                reply = await self._invoke(self._request(sent, call), call)
            encoded = reply if type(reply) is bytes else self._encoded(reply)
        except BaseException as error:
            failure = self._failure(call, error, entered)
            if failure is None:
                raise
            raise failure from error
        for each in self._sent:
            each(call)
        for done in self._done:
            done(call)
        return encoded

    async def stream(self, sent: Any, call: Call) -> AsyncGenerator[bytes, None]:
        """Serves a call that has many replies."""
        entered = 0
        try:
            for enter in self._enter:
                enter(call)
                entered += 1
            request = self._requests(sent, call) if self._requests_stream else self._request(sent, call)
            async with aclosing(self._invoke(request, call)) as replies:
                async for reply in replies:
                    yield reply if type(reply) is bytes else self._encoded(reply)
                    for each in self._sent:
                        each(call)
        except BaseException as error:
            failure = self._failure(call, error, entered)
            if failure is None:
                raise
            raise failure from error
        for done in self._done:
            done(call)

    def _request(self, sent: bytes, call: Call) -> Any:
        try:
            request = self._decode(sent)
        except DecodeError as error:
            raise self._malformed() from error
        for each in self._received:
            each(call, request)
        return request

    async def _requests(self, sent: AsyncIterator[bytes], call: Call) -> AsyncGenerator[Any, None]:
        async for each in sent:
            yield self._request(each, call)

    def _encoded(self, reply: Any) -> bytes:
        if not isinstance(reply, self._response_class):
            raise TypeError(f"{self.method.full_name} answered {type(reply).__name__}, not {self._response_class.__name__}")
        return reply.SerializeToString()

    def _malformed(self) -> errors.InvalidArgument:
        return errors.InvalidArgument(
            errorspb.ERROR_REASON_REQUEST_MALFORMED, f"the request is not a {self.method.request_class.__name__}"
        )

    def _failure(self, call: Call, error: BaseException, entered: int) -> BaseException | None:
        """Tells the interceptors that were entered; None when `error` itself is what goes on."""
        told = error
        for failed in self._failed[entered]:
            told = failed(call, told)
        return None if told is error or was_withdrawn(error) else told


def _failed_by_depth(hooks: Sequence[Hooks]) -> tuple[tuple[Any, ...], ...]:
    """For each number of `enter` hooks that did not raise: the `failed` hooks to run, innermost first."""
    stops = [place for place, each in enumerate(hooks) if each.enter] + [len(hooks)]
    return tuple(tuple(each.failed for each in reversed(hooks[:stop]) if each.failed) for stop in stops)
