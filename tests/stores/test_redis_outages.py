"""Servers that die, hang, restart or are not there yet: their keys are unavailable, soon and then at once; the others'
are not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Self

import pytest

from services.cluster.ports import FreePorts
from services.cluster.redis_servers import command
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import CHUNK, RedisCluster
from services.runtime.redisnode import Patience
from services.runtime.resp import CacheUnavailable, around_key, pack
from tests.stores.redis_faults import NAMES, PrivateCluster, connected, keys_on, metric, owner_index, unavailable
from tests.waiting import eventually

ONE_CALL = 0.32
"""The reply timeout (0.25 s) and a little; how late the loop itself was comes on top."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[PrivateCluster]:
    private = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    yield private
    private.close()


@pytest.fixture
async def redis(servers: PrivateCluster) -> AsyncIterator[RedisCluster]:
    for name in NAMES:
        await servers.servers.healthy(name)
    await servers.servers.healthy("redis")
    async with connected(servers.addresses) as client:
        yield client


class Lateness:
    """Measures by how much the machine keeps this process from running on time."""

    def __init__(self) -> None:
        self.worst = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()

    def allows(self, seconds: float, bound: float = ONE_CALL) -> bool:
        """Whether it took no longer than the bound on a machine that is never late."""
        return seconds < bound + 2 * self.worst

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, time.monotonic() - before - 0.01)


def refused_at_once(redis: RedisCluster, key: bytes) -> bool:
    """Whether a read is refused without waiting for anything at all."""
    call = redis.run(key, pack("GET", key))
    try:
        call.send(None)
    except CacheUnavailable:
        return True
    finally:
        call.close()
    return False


async def read(redis: RedisCluster, key: bytes) -> tuple[object, float]:
    """The value or CacheUnavailable, and the seconds it took."""
    start = time.monotonic()
    try:
        value: object = (await redis.run(key, pack("GET", key)))[0]
    except CacheUnavailable as away:
        value = away
    return value, time.monotonic() - start


async def served(redis: RedisCluster, key: bytes) -> bool:
    return not isinstance((await read(redis, key))[0], CacheUnavailable)


async def test_a_server_killed_in_the_middle_of_a_push_costs_its_own_keys(servers: PrivateCluster, redis: RedisCluster) -> None:
    keys = [b"killed:{%d}" % number for number in range(120 * CHUNK)]
    push = asyncio.create_task(redis.push(redis.group(keys), *around_key("LPUSHX", "x")))
    await asyncio.sleep(0.02)
    servers.servers.kill("redis-2")
    replies = await push
    missing = unavailable(replies)
    assert any(missing), "the push was over before the server was killed"
    assert {owner_index(key) for key, gone in zip(keys, missing, strict=True) if gone} == {1}
    assert all(reply == 0 for reply, gone in zip(replies, missing, strict=True) if not gone)
    await eventually(lambda: served(redis, keys_on(1, 1)[0]))
    assert await redis.push(keys_on(1, 100), *around_key("LPUSHX", "x")) == [0] * 100


async def test_a_hanging_server_costs_a_reply_timeout_once_and_nothing_after(servers: PrivateCluster, redis: RedisCluster) -> None:
    key, other = keys_on(1, 1)[0], keys_on(0, 1)[0]
    servers.servers.pause("redis-2")
    try:
        async with Lateness() as lateness:
            first = await asyncio.gather(*(read(redis, key) for _ in range(50)))
        assert all(isinstance(value, CacheUnavailable) and lateness.allows(seconds) for value, seconds in first)
        assert all(refused_at_once(redis, key) for _ in range(200))
        assert await redis.run(other, pack("SET", other, 1)) == [b"OK"]
        assert metric(redis, "chirp_redis_unavailable_total", cause="timeout") == 1
        # Probes go on meanwhile, and no call ever pays for one.
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert refused_at_once(redis, key)
            await asyncio.sleep(0.01)
    finally:
        servers.servers.resume("redis-2")
    await eventually(lambda: served(redis, key), timeout=5)


async def test_a_push_to_a_hanging_server_takes_one_reply_timeout_however_long_it_is(
    servers: PrivateCluster, redis: RedisCluster
) -> None:
    keys = [b"hang:{%d}" % number for number in range(30 * CHUNK)]
    grouped = redis.group(keys)
    servers.servers.pause("redis-3")
    try:
        start = time.monotonic()
        async with Lateness() as lateness:
            replies = await redis.push(grouped, *around_key("LPUSHX", "x"))
        assert lateness.allows(time.monotonic() - start, 2 * ONE_CALL)
    finally:
        servers.servers.resume("redis-3")
    assert [owner_index(key) == 2 for key in keys] == unavailable(replies)
    await eventually(lambda: served(redis, keys_on(2, 1)[0]), timeout=5)


async def test_a_push_may_take_longer_than_a_reply(redis: RedisCluster) -> None:
    """The timeout tells a server that hangs from one that has much to do."""
    key = b"long:{1}"
    await redis.run(key, pack("SET", key, b"a" * 3_000))
    start = time.monotonic()
    replies = await redis.push([key] * 500_000, *around_key("BITCOUNT"))
    assert set(replies) == {9_000}
    assert time.monotonic() - start > Patience().reply, "too little work to prove anything"


async def test_replies_of_before_the_hang_are_never_taken_for_later_ones(servers: PrivateCluster, redis: RedisCluster) -> None:
    keys = keys_on(1, 40, "late")
    await redis.scatter([(key, pack("SET", key, key)) for key in keys])
    servers.servers.pause("redis-2")
    lost = await redis.scatter([(key, pack("GET", key)) for key in keys[:20]])
    servers.servers.resume("redis-2")
    assert unavailable(lost) == [True] * 20
    await eventually(lambda: served(redis, keys[0]), timeout=5)
    for _ in range(20):
        assert await redis.scatter([(key, pack("GET", key)) for key in keys]) == keys


async def test_a_restarted_server_is_found_again_and_told_apart(servers: PrivateCluster, redis: RedisCluster) -> None:
    key, other = keys_on(0, 1)[0], keys_on(1, 1)[0]
    before, unchanged = redis.generation(key), redis.generation(other)
    await redis.run(key, pack("SET", key, 1))
    await servers.servers.restart("redis-1")
    await eventually(lambda: served(redis, key))
    assert await redis.run(key, pack("GET", key)) == [None]
    assert redis.generation(key) > before
    assert redis.generation(other) == unchanged


async def test_a_dropped_connection_is_replaced_before_anybody_notices(servers: PrivateCluster, redis: RedisCluster) -> None:
    key = keys_on(2, 1)[0]
    for _ in range(5):
        await command(servers.nodes[2], "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.01)
        assert (await read(redis, key))[0] is None


async def test_a_process_starts_while_a_server_is_away(servers: PrivateCluster, redis: RedisCluster) -> None:
    here, there = keys_on(0, 1)[0], keys_on(2, 1)[0]
    await servers.servers.stop("redis-3")
    try:
        async with RedisCluster.open(servers.addresses, Metrics("test")) as late:
            await eventually(lambda: served(late, here), timeout=5)
            assert await late.run(here, pack("SET", here, "x")) == [b"OK"]
            assert refused_at_once(late, there)
            await servers.servers.start("redis-3")
            await eventually(lambda: served(late, there))
    finally:
        await servers.servers.start("redis-3")


async def test_a_process_starts_while_all_servers_are_away(servers: PrivateCluster, redis: RedisCluster) -> None:
    await servers.servers.stop("redis")
    try:
        start = time.monotonic()
        async with RedisCluster.open(servers.addresses, Metrics("test")) as early:
            assert time.monotonic() - start < 2
            keys = [keys_on(third, 1)[0] for third in range(3)]
            assert all(refused_at_once(early, key) for key in keys)
            assert unavailable(await early.push(keys, *around_key("LPUSHX", "x"))) == [True] * 3
            with pytest.raises(CacheUnavailable):
                await early.script("return 1", keys[0])
            await servers.servers.start("redis")
            for key in keys:
                await eventually(lambda key=key: served(early, key))
            assert await early.push(keys, *around_key("LPUSHX", "x")) == [0] * 3
    finally:
        await servers.servers.start("redis")


async def test_a_process_ends_while_a_server_hangs(servers: PrivateCluster, redis: RedisCluster) -> None:
    async with RedisCluster.open(servers.addresses, Metrics("test")) as client:
        servers.servers.pause("redis-1")
        try:
            waiting = asyncio.create_task(read(client, keys_on(0, 1)[0]))
            await asyncio.sleep(0.01)
            start = time.monotonic()
            await client._routes.close()
            assert isinstance((await waiting)[0], CacheUnavailable)
            assert time.monotonic() - start < 0.24
        finally:
            servers.servers.resume("redis-1")


async def test_what_could_not_be_sent_is_sent_when_the_server_is_back(servers: PrivateCluster, redis: RedisCluster) -> None:
    key = keys_on(1, 1, "owed")[0]
    servers.servers.pause("redis-2")
    try:
        assert isinstance((await read(redis, key))[0], CacheUnavailable)
        redis.insist(key, lambda: pack("SET", key, "owed"))
        assert metric(redis, "chirp_redis_arrears") == 1
    finally:
        servers.servers.resume("redis-2")
    await eventually(lambda: metric(redis, "chirp_redis_arrears") == 0, timeout=4)
    assert await redis.run(key, pack("GET", key)) == [b"owed"]


async def test_other_servers_take_over_the_slots_of_a_dead_one(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> None:
    private = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    try:
        async with connected(private.addresses) as redis:
            keys = keys_on(2, 50, "taken")
            await private.servers.stop("redis-3")
            assert unavailable(await redis.scatter([(key, pack("GET", key)) for key in keys])) == [True] * 50
            await private.take_over(2, 0)
            await eventually(lambda: served(redis, keys[0]), timeout=2.5)
            replies = await redis.scatter([(key, pack("SET", key, 1)) for key in keys])
            assert replies == [b"OK"] * 50
            assert metric(redis, "chirp_redis_redirects_total", kind="moved") == 0
    finally:
        private.close()
