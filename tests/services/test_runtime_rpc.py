"""services.runtime over real gRPC: a server and channels in one process, every kind of RPC, every way to end."""

import asyncio
import contextlib
import gc
import io
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.ops import v1 as opspb
from services.runtime import config, grpcsettings, logs
from services.runtime.call import Call
from services.runtime.channel import Channel, connect, target
from services.runtime.config import ConfigError, Environ, LogConfig
from services.runtime.grpcsettings import service_config
from services.runtime.metrics import Metrics
from services.runtime.ops import Backlog
from services.runtime.server import Server
from tests import probe
from tests.waiting import eventually

_messages, _stubs = probe.load()
pb: Any = _messages
stubs: Any = _stubs
SECRET = "postgres://chirp:hunter2@10.0.0.1/chirp"


class Probe:
    """Does what the request's text says."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
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


@pytest.fixture
async def running() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def stub(running: World) -> Any:
    return stubs.ProbeServiceStub(await running.channel())


def ask(text: str = "", number: int = 0) -> Any:
    return pb.EchoRequest(text=text, number=number)


async def asks(*texts: str) -> AsyncIterator[Any]:
    for text in texts:
        yield ask(text)


async def drained(replies: Any) -> list[Any]:
    return [reply async for reply in replies]


# All four kinds


async def test_unary(stub: Any) -> None:
    assert (await stub.Echo(ask("hello"), timeout=2)).text == "hello"


async def test_client_stream(stub: Any) -> None:
    reply = await stub.Collect(asks("a", "b", "c"), timeout=2)

    assert (reply.text, reply.number) == ("a+b+c", 3)


async def test_server_stream(stub: Any) -> None:
    assert [reply.number async for reply in stub.Count(ask(number=3), timeout=2)] == [0, 1, 2]


async def test_bidi_stream(stub: Any) -> None:
    assert [reply.text async for reply in stub.Chat(asks("a", "b"), timeout=math.inf)] == ["a", "b"]


async def test_a_reply_may_be_encoded_bytes(stub: Any) -> None:
    request = pb.Ruled(name="abc", owner_id=1, since_time={"seconds": 1})

    assert (await stub.Check(request, timeout=2)).text == "checked"


async def calls_of_all_kinds(stub: Any, text: str) -> dict[str, errors.ServiceError]:
    """Each kind of RPC with the same text, and how it failed."""
    attempts: dict[str, Callable[[], Any]] = {
        "unary": lambda: stub.Echo(ask(text), timeout=2),
        "client": lambda: stub.Collect(asks(text), timeout=2),
        "server": lambda: drained(stub.Count(ask(text), timeout=2)),
        "bidi": lambda: drained(stub.Chat(asks(text), timeout=2)),
    }
    failed: dict[str, errors.ServiceError] = {}
    for kind, attempt in attempts.items():
        try:
            await attempt()
        except errors.ServiceError as error:
            failed[kind] = error
    assert len(failed) == 4
    return failed


# Errors


async def test_an_error_arrives_with_all_its_parts(stub: Any) -> None:
    for error in (await calls_of_all_kinds(stub, "missing")).values():
        assert type(error) is errors.NotFound
        assert (error.message, error.reason) == ("no tweet 12", errorspb.ERROR_REASON_TWEET_NOT_FOUND)
        assert (error.metadata, error.retry_after) == ({"tweet_id": "12"}, 2.0)


@pytest.mark.parametrize("text", ["crash", "wrong type"])
async def test_the_text_of_an_unknown_exception_never_leaves(running: World, stub: Any, text: str) -> None:
    raw = stubs.ProbeServiceStub(await running.bare())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.Echo(ask(text), timeout=2, metadata=(("x-request-id", "req-1"),))

    assert SECRET not in str(caught.value) + str(caught.value.trailing_metadata())
    for error in (await calls_of_all_kinds(stub, text)).values():
        assert type(error) is errors.Internal
        assert SECRET not in str(error)
        assert error.metadata["correlation_id"] in str(error)
    line = running.lines("call failed")[0]
    assert (line["request_id"], line["level"], line["code"]) == ("req-1", "error", "INTERNAL")
    assert SECRET in line["exception"]


async def test_a_leaked_cancel_answers_at_once(stub: Any) -> None:
    started = asyncio.get_running_loop().time()

    failed = await calls_of_all_kinds(stub, "leak")

    assert asyncio.get_running_loop().time() - started < 1.5
    assert {type(error) for error in failed.values()} == {errors.Unavailable}


async def test_a_malformed_message_is_the_callers_fault(running: World) -> None:
    channel = await running.bare()

    for call in (
        channel.unary_unary(f"/{probe.SERVICE}/Echo")(b"\xff\xff\xff", timeout=2),
        channel.stream_unary(f"/{probe.SERVICE}/Collect")(iter([b"\xff\xff\xff"]), timeout=2),
        drained(channel.unary_stream(f"/{probe.SERVICE}/Count")(b"\xff\xff\xff", timeout=2)),
        drained(channel.stream_stream(f"/{probe.SERVICE}/Chat")(iter([b"\xff\xff\xff"]), timeout=2)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = errors.from_rpc_error(caught.value)
        assert type(error) is errors.InvalidArgument
        assert error.reason == errorspb.ERROR_REASON_REQUEST_MALFORMED


async def test_field_rules_hold_for_every_kind(stub: Any) -> None:
    for error in (await calls_of_all_kinds(stub, "x" * 21)).values():
        assert type(error) is errors.InvalidArgument
        assert error.violations == (("text", "is 21 long; at most 20 are allowed"),)


async def test_an_error_too_large_for_the_trailers_arrives_shortened(stub: Any) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await stub.Echo(ask("huge"), timeout=2)
    assert 0 < len(caught.value.message) <= 1024
    assert caught.value.reason == errorspb.ERROR_REASON_FIELD_INVALID


async def test_an_unknown_method_is_unimplemented(running: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await running.bare()).unary_unary(f"/{probe.SERVICE}/Nope")(b"", timeout=2)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_no_replica_is_unavailable_without_addresses(free_port: Callable[[], int]) -> None:
    async with connect([f"127.0.0.1:{free_port()}"], probe.SERVICE, Metrics("x")) as channel:
        with pytest.raises(errors.Unavailable) as caught:
            await stubs.ProbeServiceStub(channel).Echo(ask(), timeout=2)
    assert "127.0.0.1" not in str(caught.value)
    assert caught.value.reason == errorspb.ERROR_REASON_UNAVAILABLE


# Deadlines and cancellation


async def test_a_call_without_a_timeout_is_not_made(stub: Any) -> None:
    for call in (stub.Echo, stub.Collect, stub.Count, stub.Chat):
        with pytest.raises(TypeError):
            call(ask())
    with pytest.raises(ValueError, match="timeout"):
        await stub.Echo(ask(), timeout=math.inf)
    with pytest.raises(TypeError):
        await stub.Echo(ask(), timeout=None)


async def test_the_deadline_arrives_and_shrinks_onward(running: World, stub: Any) -> None:
    await stub.Echo(ask(), timeout=1.0)

    call = running.probe.calls[0]
    assert 0.5 < call.remaining() <= 1.0
    assert call.remaining() - call.onward()["timeout"] == pytest.approx(0.020, abs=0.005)


async def test_a_call_that_comes_too_late_is_not_begun(running: World) -> None:
    guarded = running.server.guarded[f"/{probe.SERVICE}/Echo"]
    clock = running.server._clock  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(errors.DeadlineExceeded) as caught:
        await guarded.unary(b"", Call(guarded.method, clock, clock.monotonic() + 0.009))

    assert caught.value.reason == errorspb.ERROR_REASON_DEADLINE_TOO_SHORT
    assert running.probe.calls == []


async def test_the_deadline_ends_the_handler(running: World, stub: Any) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await stub.Echo(ask("wait"), timeout=0.1)

    await eventually(lambda: running.probe.cancelled == 1)
    labels = {"grpc_type": "unary", "grpc_service": probe.SERVICE, "grpc_method": "Echo"}
    assert running.count(running.metrics, "grpc_server_handled_total", grpc_code="DeadlineExceeded", **labels) == 1


async def test_a_cancelled_caller_ends_the_handler_of_every_kind(running: World, stub: Any) -> None:
    waiting = [
        asyncio.create_task(stub.Echo(ask("wait"), timeout=5)),
        asyncio.create_task(stub.Collect(asks("wait"), timeout=5)),
        asyncio.create_task(drained(stub.Count(ask("wait"), timeout=5))),
        asyncio.create_task(drained(stub.Chat(asks("wait"), timeout=5))),
    ]
    started = 'grpc_server_started_total{grpc_method="%s"'
    for name in ("Echo", "Collect", "Count", "Chat"):
        await eventually(lambda name=name: (started % name).encode() in running.metrics.page())
    await eventually(lambda: b"chirp_runtime_calls_in_flight 1.0" in running.metrics.page())

    for task in waiting:
        task.cancel()

    assert all(isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiting, return_exceptions=True))
    await eventually(lambda: running.probe.cancelled == 4)
    await eventually(lambda: running.count(running.metrics, "chirp_runtime_calls_in_flight") == 0)
    assert running.count(running.metrics, "chirp_runtime_streams_open") == 0


async def test_leaving_a_stream_early_ends_it(running: World, stub: Any) -> None:
    replies = stub.Count(ask("wait", number=1), timeout=5)
    async for _ in replies:
        break
    await replies.aclose()

    await eventually(lambda: running.probe.cancelled == 1)


async def test_closing_the_channel_under_a_call_is_unavailable(running: World) -> None:
    channel = await running.channel()
    call = asyncio.create_task(stubs.ProbeServiceStub(channel).Echo(ask("wait"), timeout=5))
    await eventually(lambda: len(running.probe.calls) == 1)

    await channel.close()

    with pytest.raises(errors.Unavailable):
        await call


# Identity and metadata


async def test_the_viewer_comes_from_the_header(stub: Any) -> None:
    assert (await stub.Echo(ask(), timeout=2, metadata=(("x-user-id", "7"),))).number == 7
    assert (await stub.Echo(ask(), timeout=2)).number == 0


@pytest.mark.parametrize("sent", ["", "0", "-1", "+1", "1.0", "abc", "٣", str(2**63), "1" * 30])
async def test_a_malformed_viewer_is_refused(stub: Any, sent: str) -> None:
    sent_as = sent if sent.isascii() else "%D9%A3"
    with pytest.raises(errors.Unauthenticated) as caught:
        await stub.Echo(ask(), timeout=2, metadata=(("x-user-id", sent_as),))
    assert caught.value.reason == errorspb.ERROR_REASON_VIEWER_INVALID


async def test_a_call_that_needs_a_user_is_refused_without(stub: Any) -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        await stub.Write(ask(), timeout=2)
    assert caught.value.reason == errorspb.ERROR_REASON_VIEWER_REQUIRED
    assert (await stub.Write(ask(), timeout=2, metadata=(("x-user-id", "9"),))).number == 9


async def test_the_header_counts_only_where_it_is_switched_on() -> None:
    async with world(CHIRP_AUTH="") as closed:
        stub = stubs.ProbeServiceStub(await closed.channel())

        assert (await stub.Echo(ask(), timeout=2, metadata=(("x-user-id", "7"),))).number == 0
        with pytest.raises(errors.Unauthenticated):
            await stub.Write(ask(), timeout=2, metadata=(("x-user-id", "7"),))


async def test_identity_and_request_id_travel_on(running: World, stub: Any) -> None:
    await stub.Echo(ask(), timeout=0.9, metadata=(("x-user-id", "7"), ("x-request-id", "abc")))
    first = running.probe.calls[0]

    await stub.Echo(ask(), **first.onward())

    second = running.probe.calls[1]
    assert (second.viewer_id, second.request_id) == (7, "abc")
    assert second.deadline < first.deadline


async def test_response_metadata_comes_with_the_end(running: World) -> None:
    raw = stubs.ProbeServiceStub(await running.bare())

    fine = raw.Echo(ask("metadata"), timeout=2)
    await fine
    stream = raw.Count(ask("metadata"), timeout=2)
    await drained(stream)
    failed = raw.Echo(ask("wrong type"), timeout=2)
    with pytest.raises(grpc.aio.AioRpcError):
        await failed

    for call in (fine, stream, failed):
        assert ("x-seen", "yes") in tuple(await call.trailing_metadata())


# Admission


async def test_a_method_takes_no_more_than_its_limit(running: World, stub: Any) -> None:
    first = [asyncio.create_task(stub.Scarce(ask(), timeout=5)) for _ in range(2)]
    await eventually(lambda: running.count(running.metrics, "chirp_runtime_calls_in_flight") == 2)

    with pytest.raises(errors.ResourceExhausted) as caught:
        await stub.Scarce(ask(), timeout=5)

    assert caught.value.reason == errorspb.ERROR_REASON_OVERLOADED
    assert caught.value.retry_after
    assert caught.value.retry_after > 0
    assert (await stub.Echo(ask("others"), timeout=2)).text == "others"
    running.probe.gate.set()
    await asyncio.gather(*first)
    await stub.Scarce(ask(), timeout=5)


async def test_what_matters_least_is_shed_first() -> None:
    async with world(CHIRP_MAX_IN_FLIGHT="10") as busy:
        stub = stubs.ProbeServiceStub(await busy.channel())

        async def fill(count: int) -> None:
            waiting.extend(asyncio.create_task(stub.Write(ask("wait"), timeout=5, metadata=user)) for _ in range(count))
            await eventually(lambda: busy.count(busy.metrics, "chirp_runtime_calls_in_flight") == len(waiting))

        waiting: list[asyncio.Task[Any]] = []
        user = (("x-user-id", "1"),)
        await fill(7)
        with pytest.raises(errors.ResourceExhausted):
            await stub.Scarce(ask(), timeout=2)
        await stub.Echo(ask(), timeout=2)
        await fill(2)
        with pytest.raises(errors.ResourceExhausted):
            await stub.Echo(ask(), timeout=2)
        await fill(1)
        with pytest.raises(errors.ResourceExhausted):
            await stub.Write(ask(), timeout=2, metadata=user)
        busy.probe.gate.set()
        await asyncio.gather(*waiting)
        await stub.Echo(ask(), timeout=2)


# Retries


async def test_only_unavailable_idempotent_calls_are_repeated(running: World) -> None:
    stub = stubs.ProbeServiceStub(await running.channel(retry=True))

    with pytest.raises(errors.Unavailable):
        await stub.Echo(ask("away"), timeout=5)
    assert running.probe.tries == 3
    assert len(running.probe.calls) == 3

    with pytest.raises(errors.NotFound):
        await stub.Echo(ask("missing"), timeout=5)
    assert len(running.probe.calls) == 4

    running.probe.tries = 0
    with pytest.raises(errors.Unavailable):
        await stub.Write(ask("leak"), timeout=5, metadata=(("x-user-id", "1"),))
    assert running.probe.tries == 1


async def test_nothing_is_repeated_unless_this_is_the_place_for_it(running: World, stub: Any) -> None:
    with pytest.raises(errors.Unavailable):
        await stub.Echo(ask("away"), timeout=5)
    assert running.probe.tries == 1


async def test_retries_stop_when_their_budget_is_spent(running: World) -> None:
    stub = stubs.ProbeServiceStub(await running.channel(retry=True))

    tries: list[int] = []
    for _ in range(6):
        before = running.probe.tries
        with pytest.raises(errors.Unavailable):
            await stub.Echo(ask("away"), timeout=5)
        tries.append(running.probe.tries - before)

    assert tries[0] == 3
    assert tries[-3:] == [1, 1, 1]


def test_the_service_config_repeats_idempotent_methods_alone() -> None:
    from services.runtime import methods

    retrying = service_config(methods.of_service(probe.SERVICE).values())

    assert retrying["methodConfig"][0]["name"] == [{"service": probe.SERVICE, "method": "Echo"}]
    assert retrying["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert retrying["methodConfig"][0]["retryPolicy"]["maxAttempts"] == 3
    assert retrying["retryThrottling"] == {"maxTokens": 10, "tokenRatio": 0.1}
    assert "methodConfig" not in service_config(())


# Stopping


async def test_a_stop_loses_no_call_that_was_accepted() -> None:
    async with world() as stopping:
        stub = stubs.ProbeServiceStub(await stopping.channel())
        calls = [asyncio.create_task(stub.Echo(ask("wait"), timeout=5)) for _ in range(20)]
        await eventually(lambda: len(stopping.probe.calls) == 20)

        leaving = asyncio.create_task(stopping.server.__aexit__(None, None, None))
        late = await refusal(stub)
        stopping.probe.gate.set()
        await leaving

        assert [reply.text for reply in await asyncio.gather(*calls)] == ["wait"] * 20
        assert type(late) is errors.Unavailable


async def refusal(stub: Any) -> errors.ServiceError:
    """Calls until one is refused."""
    while True:
        try:
            await stub.Echo(ask("late"), timeout=1)
        except errors.ServiceError as error:
            return error
        await asyncio.sleep(0.01)


async def test_a_rolling_stop_loses_no_call(free_port: Callable[[], int]) -> None:
    ports = [free_port(), free_port()]
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(world(port=port, CHIRP_DRAIN_LINGER="0.1")) for port in ports]
        addresses = [replica.address for replica in replicas]
        channel = await stack.enter_async_context(connect(addresses, probe.SERVICE, Metrics("x")))
        stub = stubs.ProbeServiceStub(channel)
        await eventually(lambda: touched(stub, replicas))
        done, ending = [0], asyncio.Event()

        async def ask_on() -> None:
            while not ending.is_set():
                await stub.Echo(ask("on"), timeout=2)
                done[0] += 1

        asking = [asyncio.create_task(ask_on()) for _ in range(8)]
        await eventually(lambda: done[0] > 50)
        await replicas[0].server.__aexit__(None, None, None)
        after = done[0]
        await eventually(lambda: done[0] > after + 50)
        ending.set()
        await asyncio.gather(*asking)  # raises what was lost


async def touched(stub: Any, replicas: list[World]) -> bool:
    await stub.Echo(ask(), timeout=2)
    return all(replica.probe.calls for replica in replicas)


async def test_streams_do_not_keep_a_server_from_stopping(running: World, stub: Any) -> None:
    bare = await running.bare()
    health = health_pb2_grpc.HealthStub(bare).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    await health.read()
    watching = asyncio.create_task(drained(stub.Count(ask("wait", number=1), timeout=math.inf)))
    await eventually(lambda: running.count(running.metrics, "chirp_runtime_streams_open") == 1)
    started = asyncio.get_running_loop().time()

    await running.server.__aexit__(None, None, None)

    assert asyncio.get_running_loop().time() - started < 4
    with pytest.raises(errors.Unavailable, match="stopping"):
        await watching
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while (await health.read()) is not grpc.aio.EOF:
            pass
        raise AssertionError("the watch ended without a status")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# What every process serves


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)).status


async def test_health_follows_the_service(running: World) -> None:
    bare = await running.bare()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", probe.SERVICE, "chirp.ops.v1.OpsService", "chirp.replica"):
        assert await health_of(bare, name) == serving

    running.probe.up = False

    async def seen() -> bool:
        return await health_of(bare, probe.SERVICE) == not_serving

    await eventually(seen)
    assert await health_of(bare, "") == not_serving
    assert await health_of(bare, "chirp.ops.v1.OpsService") == serving
    assert await health_of(bare, "chirp.replica") == serving
    assert (await get(running, "/healthz"))[0] == 503


async def test_reflection_lists_what_is_served(running: World) -> None:
    reflect = reflection_pb2_grpc.ServerReflectionStub(await running.bare()).ServerReflectionInfo(timeout=2)
    await reflect.write(reflection_pb2.ServerReflectionRequest(list_services=""))

    listed = {service.name for service in (await reflect.read()).list_services_response.service}

    await reflect.done_writing()
    assert {probe.SERVICE, "chirp.ops.v1.OpsService", "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= listed


async def test_channelz_shows_the_server(running: World) -> None:
    stub = channelz_pb2_grpc.ChannelzStub(await running.bare())

    assert (await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=2)).server


async def test_reflection_and_channelz_can_be_left_out() -> None:
    async with world(CHIRP_REFLECTION="0") as closed:
        bare = await closed.bare()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channelz_pb2_grpc.ChannelzStub(bare).GetServers(channelz_pb2.GetServersRequest(), timeout=2)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_operators_see_what_waits(running: World) -> None:
    async def backlogs() -> list[Backlog]:
        return [Backlog("outbox.probe", 3, 1.5)]

    running.server.ops.backlogs.append(backlogs)
    channel = connect([running.address], "chirp.ops.v1.OpsService", Metrics("x"))
    async with channel:
        ops = opspb.OpsServiceStub(channel)
        listed = await ops.ListBacklogs(opspb.ListBacklogsRequest(), timeout=2)
        assert not (await ops.ListDeadLetters(opspb.ListDeadLettersRequest(), timeout=2)).items
        assert not (await ops.ListSettings(opspb.ListSettingsRequest(), timeout=2)).items
        with pytest.raises(errors.NotFound):
            await ops.ReplayDeadLetter(opspb.ReplayDeadLetterRequest(dead_letter_id=1), timeout=2)
    assert [(each.name, each.waiting_count, each.oldest_seconds) for each in listed.items] == [("outbox.probe", 3, 1.5)]


async def test_a_taken_port_is_named(running: World) -> None:
    with pytest.raises(OSError, match=rf"{running.server.port}.*CHIRP_GRPC_PORT"):
        async with world(port=running.server.port):
            pass


# Metrics and logs


async def get(made: World, path: str) -> tuple[int, str]:
    """HTTP status and body of a page of the metrics port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.server.metrics_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(" ")[1]), body


async def test_metrics_on_both_sides(running: World, stub: Any) -> None:
    await stub.Echo(ask(), timeout=2)
    await drained(stub.Count(ask(number=3), timeout=2))
    await stub.Collect(asks("a", "b"), timeout=2)
    with contextlib.suppress(errors.NotFound):
        await stub.Echo(ask("missing"), timeout=2)

    status, page = await get(running, "/metrics")
    assert status == 200
    assert (await get(running, "/healthz"))[0] == 200
    assert (await get(running, "/else"))[0] == 404
    for side, text in (("server", page), ("client", running.client.page().decode())):
        unary = f'grpc_method="Echo",grpc_service="{probe.SERVICE}",grpc_type="unary"'
        stream = f'grpc_method="Count",grpc_service="{probe.SERVICE}",grpc_type="server_stream"'
        collect = f'grpc_method="Collect",grpc_service="{probe.SERVICE}",grpc_type="client_stream"'
        assert f"grpc_{side}_started_total{{{unary}}} 2.0" in text
        assert f'grpc_{side}_handled_total{{grpc_code="OK",{unary}}} 1.0' in text
        assert f'grpc_{side}_handled_total{{grpc_code="NotFound",{unary}}} 1.0' in text
        many, few = ("msg_sent_total", "msg_received_total") if side == "server" else ("msg_received_total", "msg_sent_total")
        assert f"grpc_{side}_{many}{{{stream}}} 3.0" in text
        assert f"grpc_{side}_{few}{{{stream}}} 1.0" in text
        assert f"grpc_{side}_{few}{{{collect}}} 2.0" in text
        assert f"grpc_{side}_{many}{{{collect}}} 1.0" in text
        assert f"grpc_{side}_handling_seconds_count{{{unary}}} 2.0" in text
        assert f'grpc_{side}_handling_seconds_bucket{{{unary},le="+Inf"}} 2.0' in text


async def test_a_good_call_is_logged_at_debug_or_when_sampled() -> None:
    user = (("x-user-id", "7"), ("x-request-id", "abc"))
    for level, sample, expected in (("info", "0", 0), ("info", "2", 2), ("debug", "0", 4)):
        async with world(level=level, CHIRP_LOG_SAMPLE=sample) as made:
            stub = stubs.ProbeServiceStub(await made.channel())
            for _ in range(4):
                await stub.Echo(ask(), timeout=2, metadata=user)
            lines = made.lines("call")
        assert len(lines) == expected
        for line in lines:
            assert (line["service"], line["viewer_id"], line["request_id"]) == ("probe", 7, "abc")
            assert (line["method"], line["code"]) == (f"/{probe.SERVICE}/Echo", "OK")
            assert line["ms"] >= 0


async def test_a_flood_of_failures_is_not_a_flood_of_lines(running: World, stub: Any) -> None:
    await asyncio.gather(*(stub.Echo(ask("missing"), timeout=5) for _ in range(300)), return_exceptions=True)

    assert 0 < len(running.lines("call failed")) <= 200


# Settings


def test_every_setting_of_grpc_is_pinned() -> None:
    assert dict(grpcsettings.SERVER_ARGUMENTS) == {
        "grpc.max_receive_message_length": 4_194_304,
        "grpc.max_send_message_length": 4_194_304,
        "grpc.max_metadata_size": 8_192,
        "grpc.absolute_max_metadata_size": 16_384,
        "grpc.max_concurrent_streams": 10_000,
        "grpc.keepalive_time_ms": 20_000,
        "grpc.keepalive_timeout_ms": 5_000,
        "grpc.keepalive_permit_without_calls": 0,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 5_000,
        "grpc.http2.max_ping_strikes": 2,
        "grpc.max_connection_age_ms": 600_000,
        "grpc.max_connection_age_grace_ms": 30_000,
        "grpc.so_reuseport": 0,
        "grpc.enable_channelz": 1,
        "grpc.default_compression_algorithm": 0,
    }
    assert dict(grpcsettings.CHANNEL_ARGUMENTS) == {
        "grpc.max_receive_message_length": 4_194_304,
        "grpc.max_send_message_length": 4_194_304,
        "grpc.max_metadata_size": 8_192,
        "grpc.absolute_max_metadata_size": 16_384,
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_timeout_ms": 3_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 1_000,
        "grpc.max_reconnect_backoff_ms": 2_000,
        "grpc.enable_retries": 1,
        "grpc.service_config_disable_resolution": 1,
        "grpc.enable_http_proxy": 0,
        "grpc.inhibit_health_checking": 0,
        "grpc.use_local_subchannel_pool": 1,
        "grpc.default_compression_algorithm": 0,
    }
    assert service_config(()) == {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "chirp.replica"},
    }


async def test_a_message_over_the_limit_is_refused(stub: Any) -> None:
    with pytest.raises(errors.ResourceExhausted):
        await stub.Echo(pb.EchoRequest(text="x" * 4_200_000), timeout=5)


def test_targets() -> None:
    assert target(["10.0.0.1:1", "10.0.0.2:2"]) == "ipv4:10.0.0.1:1,10.0.0.2:2"
    assert target(["[::1]:1"]) == "ipv6:[::1]:1"
    assert target(["tweet:50054"]) == "dns:///tweet:50054"
    for wrong in ([], ["a:1", "b:2"], ["a:1", "10.0.0.1:2"]):
        with pytest.raises(ConfigError):
            target(wrong)


async def test_ending_leaves_nothing_behind() -> None:
    before = len(asyncio.all_tasks())
    async with world() as made:
        stub = stubs.ProbeServiceStub(await made.channel())
        await stub.Echo(ask(), timeout=2)
        with contextlib.suppress(errors.ServiceError):
            await stub.Echo(ask("crash"), timeout=2)
    gc.collect()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)
