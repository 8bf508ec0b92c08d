"""A server that does what it is told (tests.probe), what it logs and counts, and channels to it: for tests of the runtime."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import config, logs
from services.runtime.call import Call
from services.runtime.channel import Channel, connect
from services.runtime.config import Environ, LogConfig
from services.runtime.metrics import Metrics
from services.runtime.server import Server
from tests import probe

_messages, _stubs = probe.load()
pb: Any = _messages
stubs: Any = _stubs
SECRET = "postgres://chirp:hunter2@10.0.0.1/chirp"


class Probe:
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.waiting = 0
        self.cancelled = 0
        self.tries = 0
        self.up = True
        self.gate = asyncio.Event()

    async def echo(self, request: Any, call: Call) -> Any:
        self.calls.append(call)
        await self._act(request, call)
        return pb.EchoResponse(text=request.text, number=call.viewer_id)

    async def write(self, request: Any, call: Call) -> Any:
        self.tries += 1
        await self._act(request, call)
        return pb.EchoResponse(number=call.viewer())

    async def scarce(self, request: Any, call: Call) -> Any:
        await self.gate.wait()
        return pb.EchoResponse()

    async def check(self, request: Any, call: Call) -> Any:
        return pb.EchoResponse(text="checked").SerializeToString()

    async def collect(self, requests: AsyncIterator[Any], call: Call) -> Any:
        texts = [request.text async for request in requests]
        await self._act(pb.EchoRequest(text=texts[0]), call)
        return pb.EchoResponse(text="+".join(texts), number=len(texts))

    async def count(self, request: Any, call: Call) -> AsyncIterator[Any]:
        self.calls.append(call)
        for number in range(request.number):
            yield pb.EchoResponse(number=number)
        await self._act(request, call)

    async def chat(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            await self._act(request, call)
            yield pb.EchoResponse(text=request.text).SerializeToString()

    async def healthy(self) -> bool:
        return self.up

    async def _act(self, request: Any, call: Call) -> None:
        match request.text:
            case "missing":
                raise errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, "no tweet 12", tweet_id=12, retry_after=2)
            case "crash":
                raise RuntimeError(SECRET)
            case "wrong type":
                call.response_metadata.append(("x-seen", "yes"))
                raise TypeError(SECRET)
            case "leak":
                inner = asyncio.get_running_loop().create_future()
                inner.cancel()
                await inner
            case "away":
                self.tries += 1
                raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")
            case "huge":
                raise errors.InvalidArgument.field("text", "y" * 50_000, value="z" * 50_000)
            case "metadata":
                call.response_metadata.append(("x-seen", "yes"))
            case "wait":
                await self._wait()
            case _:
                pass

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class World:
    """A server, what it logs and counts, and a channel to it."""

    def __init__(self, server: Server, impl: Probe, metrics: Metrics, lines: io.StringIO, stack: AsyncExitStack) -> None:
        self.server, self.probe, self.metrics, self._lines, self._stack = server, impl, metrics, lines, stack
        self.client = Metrics("client")

    async def channel(self, **more: Any) -> Channel:
        return await self._stack.enter_async_context(connect([self.address], probe.SERVICE, self.client, **more))

    async def bare(self) -> grpc.aio.Channel:
        return await self._stack.enter_async_context(grpc.aio.insecure_channel(self.address))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self._lines.getvalue().splitlines()) if line["event"] == event]

    def count(self, metrics: Metrics, name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def world(impl: Probe | None = None, port: int = 0, level: str = "info", **variables: str) -> AsyncIterator[World]:
    environment = {"CHIRP_GRPC_PORT": str(port), "CHIRP_METRICS_PORT": "0", "CHIRP_AUTH": "header", "CHIRP_DRAIN_LINGER": "0"}
    loaded = config.read(Environ({**environment, **variables}), "probe")
    metrics, lines, impl = Metrics("probe"), io.StringIO(), impl or Probe()
    log = logs.logger(LogConfig("json", level, loaded.log.sample), "probe", lines)
    server = Server(loaded, metrics, log)
    server.add(impl, probe.SERVICE)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        made = World(server, impl, metrics, lines, stack)
        yield made
        impl.gate.set()


def ask(text: str = "", number: int = 0) -> Any:
    return pb.EchoRequest(text=text, number=number)


async def asks(*texts: str) -> AsyncIterator[Any]:
    for text in texts:
        yield ask(text)


async def drained(replies: Any) -> list[Any]:
    return [reply async for reply in replies]
