"""services.runtime over real gRPC: admission, retries, and stopping without losing a call."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.channel import connect
from services.runtime.grpcsettings import service_config
from services.runtime.metrics import Metrics
from tests import probe
from tests.services.probing import World, ask, drained, stubs, world
from tests.waiting import eventually


@pytest.fixture
async def running() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def stub(running: World) -> Any:
    return stubs.ProbeServiceStub(await running.channel())


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
        await eventually(lambda: stopping.probe.waiting == 20)

        leaving = asyncio.create_task(stopping.server.__aexit__(None, None, None))
        late = await refusal(stub)
        stopping.probe.gate.set()
        await leaving

        assert [reply.text for reply in await asyncio.gather(*calls)] == ["wait"] * 20
        assert type(late) is errors.Unavailable


async def refusal(stub: Any) -> errors.ServiceError:
    """Calls until one is refused; a call that meets the very moment of stopping may run out of time instead."""
    while True:
        try:
            await stub.Echo(ask("late"), timeout=1)
        except errors.DeadlineExceeded:
            continue
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
        await to_the_end(health)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def to_the_end(replies: Any) -> None:
    while await replies.read() is not grpc.aio.EOF:
        pass
