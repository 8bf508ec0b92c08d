"""The whole cluster under its supervisor: health, the demo user, restarts."""

from __future__ import annotations

import pytest

from services.cluster import demo, machine, probes, topology
from tests.conftest import Cluster
from tests.waiting import eventually

NAMES = [instance.name for instance in topology.instances({"timeline": 2})]


@pytest.mark.parametrize("name", NAMES)
async def test_every_process_says_it_is_healthy_and_shows_metrics(cluster: Cluster, name: str) -> None:
    instance = cluster.machine.instance(name)
    assert await machine.is_healthy(instance)
    assert await probes.http_ok(instance.host, instance.metrics_port, "/metrics")


async def test_the_demo_user_is_made_once(cluster: Cluster) -> None:
    first = await demo.ensure(cluster.address("user"))
    assert first.username == "demo"
    assert await demo.ensure(cluster.address("user")) == first


async def test_a_killed_process_is_restarted_at_its_address(cluster: Cluster) -> None:
    before = cluster.pid("timeline-1")
    cluster.kill("timeline-1")
    await cluster.healthy("timeline-1")
    assert cluster.pid("timeline-1") != before
    await eventually(lambda: probes.grpc_serving(cluster.address("timeline-1")))


async def test_an_orderly_restart_ends_with_health(cluster: Cluster) -> None:
    await cluster.restart("id")
    assert await probes.grpc_serving(cluster.address("id"))
