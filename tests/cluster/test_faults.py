"""kill -9 of any process in a stream of posts: no acknowledged tweet is lost, none comes twice, all is as the ledger says.

Each run prints the seed of its dice: CHAOS_SEED=<n> repeats what the writers do and when the blow falls (not how the
processes are scheduled).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chirp.ops import v1 as opspb
from loadtest import auditing
from services.cluster import redis_servers
from services.timeline.recents import PULL_LIFE
from tests.cluster.clients import CALL_SECONDS, Clients, open_clients, persistently, target_of
from tests.cluster.ledger import Act, check
from tests.cluster.stream import THRESHOLD, Stream, observe, resolve, set_out, use_keys_again
from tests.conftest import Cluster
from tests.waiting import eventually

VICTIMS = ("id", "user", "graph", "tweet", "timeline", "fanout", "relay", "gateway", "nats", "redis-2", "postgres")
ENOUGH = 25
"""Posts that must have been acknowledged for a time to count as one of work."""


@pytest.fixture(scope="module")
async def clients(cluster: Cluster) -> AsyncIterator[Clients]:
    async with open_clients(cluster) as clients:
        await clients.set("graph.pull_threshold", str(THRESHOLD))
        yield clients
        await clients.set("graph.pull_threshold", "10000")


@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_process_killed_in_a_stream_of_posts(cluster: Cluster, clients: Clients, victim: str) -> None:
    async with streaming(cluster, clients) as stream:
        await asyncio.sleep(stream.dice.uniform(0.0, 0.1))
        cluster.kill(victim)
        await cluster.healthy(victim)
        await work_goes_on(stream)


@pytest.mark.parametrize("victim", ["relay", "fanout"])
async def test_a_worker_killed_in_the_middle_of_the_last_posts(cluster: Cluster, clients: Clients, victim: str) -> None:
    """No later delivery mends what this one leaves undone."""
    async with streaming(cluster, clients) as stream:
        cluster.pause(victim)
        await work_goes_on(stream)
        await stream.stop()
        # Now it finds them all at once.
        cluster.resume(victim)
        await asyncio.sleep(stream.dice.uniform(0.0, 0.05))
        cluster.kill(victim)


async def test_redis_flushed_under_load_costs_no_read(cluster: Cluster, clients: Clients) -> None:
    async with streaming(cluster, clients) as stream:
        for _ in range(3):
            for node in cluster.machine.redis_servers.nodes:
                assert await redis_servers.command(node, "FLUSHALL") == "OK"
            await work_goes_on(stream)
    assert stream.failed_reads == 0


async def test_with_all_of_redis_frozen_homes_come_from_postgres(cluster: Cluster, clients: Clients) -> None:
    async with streaming(cluster, clients) as stream:
        cluster.pause("redis")
        try:
            frozen = time.monotonic()
            await eventually(lambda: stream.degraded >= 1, timeout=5)
            await work_goes_on(stream)
            await eventually(lambda: time.monotonic() - frozen > 2)
            assert (await clients.page(stream.people.readers[0])).degraded
        finally:
            cluster.resume("redis")
        await cluster.healthy("redis")
        await work_goes_on(stream)
        await eventually(lambda: _whole_again(clients, stream), timeout=10)
    assert stream.failed_reads == 0


async def _whole_again(clients: Clients, stream: Stream) -> bool:
    return not any([(await clients.page(reader)).degraded for reader in stream.people.readers])


@pytest.mark.parametrize("node", ["redis-1", "redis-3"])
async def test_a_redis_node_lost_between_push_and_acknowledgement(cluster: Cluster, clients: Clients, node: str) -> None:
    async with streaming(cluster, clients) as stream:
        # Frozen it takes pushes in and confirms none; then they are gone, and all else that it knew.
        cluster.pause(node)
        await eventually(lambda: time.time() - stream.last_post < 0.05)
        await asyncio.sleep(stream.dice.uniform(0.0, 0.15))
        cluster.kill(node)
        await cluster.healthy(node)
        await work_goes_on(stream)


async def test_a_wiped_nats_store_is_replayed_from_the_outboxes(cluster: Cluster, clients: Clients) -> None:
    async with streaming(cluster, clients) as stream:
        # What is posted now is published and not delivered: only the stream has it. No later delivery mends what is lost.
        await cluster.stop("fanout")
        await work_goes_on(stream)
        await stream.stop()
        await clients.published()
        await cluster.stop("nats")
        await asyncio.to_thread(shutil.rmtree, cluster.logs.parent / "nats" / "store")
        await cluster.start("nats")
        await cluster.start("fanout")
        assert await _replay(clients, "tweet", stream.began) >= ENOUGH


async def _replay(clients: Clients, schema: str, since: float) -> int:
    request = opspb.ReplayOutboxRequest(schema=schema, since_time=Timestamp(seconds=int(since)))
    reply = await persistently(lambda: clients.ops["relay"].ReplayOutbox(request, timeout=CALL_SECONDS))
    return reply.event_count


async def work_goes_on(stream: Stream) -> None:
    """Waits until writers and readers have done enough from now on."""
    posts, readings = stream.posts, len(stream.ledger.readings)
    await eventually(lambda: stream.posts - posts >= ENOUGH and len(stream.ledger.readings) - readings >= ENOUGH, timeout=30)


@asynccontextmanager
async def streaming(cluster: Cluster, clients: Clients) -> AsyncIterator[Stream]:
    """Writers and readers at work during the block; afterwards, when all is delivered, everything is checked."""
    seed = int(os.environ.get("CHAOS_SEED") or time.time_ns() % 1_000_000)
    print(f"CHAOS_SEED={seed}")
    stream = await set_out(clients, random.Random(seed))
    working = asyncio.create_task(stream.run())
    try:
        await work_goes_on(stream)
        yield stream
    finally:
        await stream.stop()
        await working
    stopped = time.time()
    unknown = await resolve(stream)
    await use_keys_again(stream)
    await clients.drained()
    await eventually(lambda: time.time() > stopped + PULL_LIFE + 0.2)
    checking = time.time()
    await _audit(cluster, stream)
    breaches = check(stream.ledger, await observe(stream, cluster.postgres))
    print(
        f"{stream.posts} posts ({unknown} of unknown outcome at first), {len(stream.ledger.done(Act.DELETE))} deletions, "
        f"{len(stream.ledger.readings)} readings ({stream.degraded} degraded, {stream.failed_reads} failed); "
        f"{stopped - stream.began:.1f} s of work, {checking - stopped:.1f} s to drain, {time.time() - checking:.1f} s to check"
    )
    assert not breaches, "\n".join(map(str, breaches[:20]))


async def _audit(cluster: Cluster, stream: Stream) -> None:
    async with auditing.open_auditor(target_of(cluster), depth=0, grace_ms=0) as auditor:
        users = stream.people.everybody
        findings = await auditing.run(auditor, users, len(users), cold=False, repair=False)
    assert not findings.differences, "\n".join(map(str, findings.differences[:20]))
