"""The door of the generated gRPC methods: guarded handlers as grpc.aio handlers, ServiceErrors as statuses."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import grpc

from chirp import errors
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.guarded import Guarded

LARGEST_STATUS = 4_096
"""Bytes of an encoded status; with the text beside it, it has to fit into 8 KB of trailers, or the caller sees neither."""
LONGEST_MESSAGE = 1_024


class OpenStreams:
    """The streams in progress that would keep a server from stopping; ended, their callers see UNAVAILABLE and come
    back elsewhere.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending = False

    def __len__(self) -> int:
        return len(self._tasks)

    def end(self) -> None:
        """Ends all of them, and any that begins from now on."""
        self._ending = True
        for task in self._tasks:
            task.cancel()

    async def ended(self, within: float) -> None:
        """Returns when all have ended by themselves, at the latest after `within` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within)

    @contextmanager
    def open(self) -> Generator[Callable[[], bool]]:
        """Registers the current task; the function tells whether a CancelledError is our own ending, and then takes the
        cancel back.
        """
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self._ending:
            task.cancel()

        def ended_here() -> bool:
            return self._ending and task.uncancel() == 0

        try:
            yield ended_here
        finally:
            self._tasks.discard(task)


class Door(grpc.GenericRpcHandler):
    """Finds the handler of a path by one dictionary look-up, for all services of the process."""

    def __init__(self, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]") -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """None makes grpc answer UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)


def method_handler(guarded: Guarded, clock: Clock, streams: OpenStreams) -> "grpc.RpcMethodHandler[Any, Any]":
    """The grpc.aio side of one RPC; requests and replies pass as bytes."""
    kind = guarded.method.kind
    serve = _stream(guarded, clock, streams) if kind.replies_stream else _unary(guarded, clock)
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Callable[..., Any] = makers[kind.requests_stream, kind.replies_stream]
    return make(serve)


def interruptible(handler: Any, streams: OpenStreams) -> Any:
    """A library's handler (health, reflection), its streams ended with the others when the server stops."""
    if not handler.response_streaming:
        return handler
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    make: Callable[..., Any] = (
        grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
    )

    async def serve(request: Any, context: Any) -> None:
        with streams.open() as ended_here:
            try:
                await _run(behaviour(request, context), context)
            except asyncio.CancelledError:
                if not ended_here():
                    raise
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    return make(serve, handler.request_deserializer, handler.response_serializer)


async def _run(served: Any, context: Any) -> None:
    """grpc.aio takes a stream either as an async generator or as a coroutine that writes."""
    if not isinstance(served, AsyncIterator):
        await served
        return
    async for reply in served:
        await context.write(reply)


def _call(guarded: Guarded, clock: Clock, context: Any) -> Call:
    now, left = clock.monotonic(), context.time_remaining()
    return Call(guarded.method, clock, math.inf if left is None else now + left, source=context, started=now)


def _unary(guarded: Guarded, clock: Clock) -> Callable[[Any, Any], Awaitable[bytes]]:
    run = guarded.unary

    async def serve(request: Any, context: Any) -> bytes:
        call = _call(guarded, clock, context)
        try:
            reply = await run(request, call)
        except errors.ServiceError as error:
            return await _refuse(context, call, error)
        finally:
            call.source = None  # the context must not be asked once grpc has freed the call
        if call.response_metadata:
            context.set_trailing_metadata(tuple(call.response_metadata))
        return reply

    return serve


def _stream(guarded: Guarded, clock: Clock, streams: OpenStreams) -> Callable[[Any, Any], Awaitable[None]]:
    async def serve(request: Any, context: Any) -> None:
        call = _call(guarded, clock, context)
        with streams.open() as ended_here:
            try:
                async with aclosing(guarded.stream(request, call)) as replies:
                    async for reply in replies:
                        await context.write(reply)
            except errors.ServiceError as error:
                await _refuse(context, call, error)
            except asyncio.CancelledError:
                if not ended_here():
                    raise
                await _refuse(context, call, _stopping())
            finally:
                call.source = None
        if call.response_metadata:
            context.set_trailing_metadata(tuple(call.response_metadata))

    return serve


def _stopping() -> errors.ServiceError:
    return errors.Unavailable(errors.errorspb.ERROR_REASON_UNAVAILABLE, "the server is stopping")


async def _refuse(context: Any, call: Call, error: errors.ServiceError) -> Any:
    """Ends the call with the error's status; always raises, as grpc.aio wants it."""
    status = error.status()
    encoded = status.SerializeToString()
    if len(encoded) > LARGEST_STATUS:
        status = type(error)(error.reason, error.message[:LONGEST_MESSAGE], retry_after=error.retry_after).status()
        encoded = status.SerializeToString()
    trailers = (*call.response_metadata, (errors.STATUS_METADATA_KEY, encoded))
    await context.abort(error.code, status.message[:LONGEST_MESSAGE], trailers)
