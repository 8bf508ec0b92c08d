"""What every process serves beside its own service (health, reflection, operations, metrics, logs), and the settings of gRPC."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from chirp import errors
from chirp.ops import v1 as opspb
from services.runtime import grpcsettings
from services.runtime.channel import connect, target
from services.runtime.config import ConfigError
from services.runtime.grpcsettings import service_config
from services.runtime.metrics import Metrics
from services.runtime.ops import Backlog
from tests import probe
from tests.services.probing import World, ask, asks, drained, pb, stubs, world
from tests.waiting import eventually


@pytest.fixture
async def running() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def stub(running: World) -> Any:
    return stubs.ProbeServiceStub(await running.channel())


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
    with pytest.raises(OSError, match=str(running.server.metrics_port)):
        async with world(CHIRP_METRICS_PORT=str(running.server.metrics_port)):
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
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,
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
