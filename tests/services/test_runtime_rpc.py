"""services.runtime over real gRPC: every kind of RPC, every way to end, who is asking."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.call import Call
from services.runtime.channel import connect
from services.runtime.metrics import Metrics
from tests import probe
from tests.services.probing import SECRET, World, ask, asks, drained, pb, stubs, world
from tests.waiting import eventually


@pytest.fixture
async def running() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def stub(running: World) -> Any:
    return stubs.ProbeServiceStub(await running.channel())


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
    await stub.Echo(ask(), timeout=0.5)

    call = running.probe.calls[0]
    assert 0.1 < call.remaining() <= 0.52  # grpc rounds up
    left = call.remaining()
    assert left - 0.1 < call.onward()["timeout"] <= left - 0.020


async def test_a_call_that_comes_too_late_is_not_begun(running: World) -> None:
    guarded = running.server.guarded[f"/{probe.SERVICE}/Echo"]
    clock = running.server._clock  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(errors.DeadlineExceeded) as caught:
        await guarded.unary(b"", Call(guarded.method, clock, clock.monotonic() + 0.009))

    assert caught.value.reason == errorspb.ERROR_REASON_DEADLINE_TOO_SHORT
    assert running.probe.calls == []


async def test_the_deadline_ends_the_handler(running: World, stub: Any) -> None:
    await stub.Echo(ask(), timeout=5)  # connected

    with pytest.raises(errors.DeadlineExceeded):
        await stub.Echo(ask("wait"), timeout=0.3)

    await eventually(lambda: running.probe.cancelled == 1)
    labels = {"grpc_type": "unary", "grpc_service": probe.SERVICE, "grpc_method": "Echo", "grpc_code": "DeadlineExceeded"}
    await eventually(lambda: running.count(running.metrics, "grpc_server_handled_total", **labels) == 1)


async def test_a_cancelled_caller_ends_the_handler_of_every_kind(running: World, stub: Any) -> None:
    waiting = [
        asyncio.create_task(stub.Echo(ask("wait"), timeout=5)),
        asyncio.create_task(stub.Collect(asks("wait"), timeout=5)),
        asyncio.create_task(drained(stub.Count(ask("wait"), timeout=5))),
        asyncio.create_task(drained(stub.Chat(asks("wait"), timeout=5))),
    ]
    await eventually(lambda: running.probe.waiting == 4)

    for task in waiting:
        task.cancel()

    assert all(isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiting, return_exceptions=True))
    await eventually(lambda: running.probe.cancelled == 4)
    await eventually(lambda: running.count(running.metrics, "chirp_runtime_calls_in_flight") == 0)
    assert running.count(running.metrics, "chirp_runtime_streams_open") == 0


async def test_leaving_a_stream_early_ends_it(running: World, stub: Any) -> None:
    replies = stub.Count(ask("wait", number=1), timeout=5)
    await anext(replies)
    await eventually(lambda: running.probe.waiting == 1)
    await replies.aclose()

    await eventually(lambda: running.probe.cancelled == 1)


async def test_a_server_that_cancels_is_unavailable() -> None:
    """What grpc answers, without a status of ours, to calls that it had not taken in when it was stopped."""

    async def cancelled(request: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.CANCELLED)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(cancelled)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(probe.SERVICE, {"Echo": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connect([f"127.0.0.1:{port}"], probe.SERVICE, Metrics("x")) as channel:
        with pytest.raises(errors.Unavailable):
            await stubs.ProbeServiceStub(channel).Echo(ask(), timeout=5)
    await server.stop(None)


async def test_closing_the_channel_under_a_call_is_unavailable(running: World) -> None:
    channel = await running.channel()
    call = asyncio.create_task(stubs.ProbeServiceStub(channel).Echo(ask("wait"), timeout=5))
    await eventually(lambda: running.probe.waiting == 1)

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
    await stub.Echo(ask(), timeout=0.3, metadata=(("x-user-id", "7"), ("x-request-id", "abc")))
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
