"""The port to Redis Cluster: answers are right and in order, however keys are spread, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count

import aioredis_cluster
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.cluster.ports import FreePorts
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import CHUNK, RedisCluster
from services.runtime.redisnode import Patience
from services.runtime.resp import CacheUnavailable, RedisError, around_key, key_slot, pack
from tests.stores.redis_faults import UNHURRIED, PrivateCluster, connected, keys_on, metric

UNIQUE = count()
REPEATABLE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Names of different lengths, some sharing a hash tag, some with braces that are no tag.
NAMES = st.lists(
    st.one_of(
        st.integers(0, 10**18).map(lambda number: b"{%d}" % number),
        st.binary(min_size=1, max_size=12),
        st.sampled_from([b"{}x", b"{a}1", b"{a}2", b"{", b"}{"]),
    ),
    max_size=60,
    unique=True,
)


@pytest.fixture(scope="module")
async def redis(redis_nodes: str) -> AsyncIterator[RedisCluster]:
    async with connected(redis_nodes, UNHURRIED) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    return f"test:{next(UNIQUE)}:"


def fresh(names: list[bytes]) -> list[bytes]:
    """Keys that no other example used, with the given ends."""
    start = b"r%d:" % next(UNIQUE)
    return [start + name for name in names]


async def test_run_answers_in_the_order_of_the_commands(redis: RedisCluster, prefix: str) -> None:
    key = f"{prefix}{{1}}"
    replies = await redis.run(key, pack("SET", key, "x"), pack("GET", key), pack("GET", key + "none"), pack("STRLEN", key))
    assert replies == [b"OK", b"x", None, 1]


async def test_run_gives_error_replies_as_values(redis: RedisCluster, prefix: str) -> None:
    key = f"{prefix}{{1}}"
    set_, refused, got = await redis.run(key, pack("SET", key, "x"), pack("LPUSH", key, "y"), pack("GET", key))
    assert (set_, got) == (b"OK", b"x")
    assert isinstance(refused, RedisError)
    assert refused.code == "WRONGTYPE"


async def test_a_slot_serves_instead_of_its_key(redis: RedisCluster, prefix: str) -> None:
    key = keys_on(2, 1, prefix)[0]
    assert await redis.run(key_slot(key), pack("SET", key, "x"), pack("GET", key)) == [b"OK", b"x"]


@REPEATABLE
@given(names=NAMES)
async def test_scatter_answers_each_command_in_its_place(redis: RedisCluster, names: list[bytes]) -> None:
    keys = fresh(names)
    assert await redis.scatter([(key, pack("SET", key, index)) for index, key in enumerate(keys)]) == [b"OK"] * len(keys)
    assert await redis.scatter([(key, pack("GET", key)) for key in keys]) == [b"%d" % index for index in range(len(keys))]


@REPEATABLE
@given(names=NAMES, absent=st.sets(st.integers(0, 59)))
async def test_push_answers_each_key_in_its_place(redis: RedisCluster, names: list[bytes], absent: set[int]) -> None:
    keys = fresh(names)
    await redis.scatter([(key, pack("RPUSH", key, *range(index % 5 + 1))) for index, key in enumerate(keys) if index not in absent])
    expected = [0 if index in absent else index % 5 + 2 for index in range(len(keys))]
    head, tail = around_key("LPUSHX", "entry")
    assert await redis.push(keys, head, tail) == expected
    again = [length and length + 1 for length in expected]
    assert await redis.push(redis.group(keys), head, tail) == again
    heads = await redis.scatter([(key, pack("LINDEX", key, 0)) for key in keys])
    assert heads == [None if index in absent else b"entry" for index in range(len(keys))]


@REPEATABLE
@given(names=NAMES)
async def test_script_runs_where_its_key_is(redis: RedisCluster, names: list[bytes]) -> None:
    keys = fresh(names)
    source = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"
    assert [await redis.script(source, key, index) for index, key in enumerate(keys)] == [
        b"%d" % index for index in range(len(keys))
    ]


async def test_a_failing_script_raises_what_the_server_said(redis: RedisCluster, prefix: str) -> None:
    with pytest.raises(RedisError, match="no luck"):
        await redis.script("return redis.error_reply('ERR no luck')", prefix)


async def test_push_tells_which_keys_were_refused(redis: RedisCluster, prefix: str) -> None:
    lists, strings = keys_on(0, 5, prefix), keys_on(0, 5, prefix + "s")
    await redis.scatter([(key, pack("RPUSH", key, "x")) for key in lists])
    await redis.scatter([(key, pack("SET", key, "x")) for key in strings])
    mixed = [key for pair in zip(lists, strings, strict=True) for key in pair]
    replies = await redis.push(mixed, *around_key("LPUSHX", "y"))
    assert replies[::2] == [2] * 5
    assert all(isinstance(reply, RedisError) for reply in replies[1::2])


async def test_nothing_to_do_is_done(redis: RedisCluster) -> None:
    assert await redis.push([], *around_key("LPUSHX", "y")) == []
    assert await redis.scatter([]) == []


async def test_big_pipelines(redis: RedisCluster, prefix: str) -> None:
    keys = [b"%b{%d}" % (prefix.encode(), number) for number in range(12 * CHUNK)]
    present = set(keys[::7])
    await redis.scatter([(key, pack("RPUSH", key, "x")) for key in present])
    replies = await redis.push(keys, *around_key("LPUSHX", "y" * 100))
    assert replies == [2 if key in present else 0 for key in keys]
    wide = await redis.scatter([(key, pack("LRANGE", key, 0, -1)) for key in keys])
    assert wide == [[b"y" * 100, b"x"] if key in present else [] for key in keys]


async def test_large_values_and_many_tasks_at_once(redis: RedisCluster, prefix: str) -> None:
    async def one(number: int) -> bool:
        key, value = f"{prefix}{number}", str(number).encode() * 20_000
        return await redis.run(key, pack("SET", key, value), pack("GET", key)) == [b"OK", value]

    assert all(await asyncio.gather(*(one(number) for number in range(100))))


async def test_tasks_that_are_cancelled_disturb_no_other(redis: RedisCluster, prefix: str) -> None:
    await redis.scatter([(f"{prefix}{number}", pack("SET", f"{prefix}{number}", number)) for number in range(300)])

    async def get(number: int) -> object:
        return (await redis.run(f"{prefix}{number}", pack("GET", f"{prefix}{number}")))[0]

    for round_ in range(5):
        tasks = [asyncio.create_task(get(number)) for number in range(300)]
        await asyncio.sleep(0)
        for task in tasks[round_::3]:
            task.cancel()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        for number, reply in enumerate(replies):
            assert reply == b"%d" % number or isinstance(reply, asyncio.CancelledError)


async def test_rare_commands_go_through_the_library(redis: RedisCluster, prefix: str) -> None:
    assert await redis.execute("SET", prefix, "x") in (b"OK", "OK")
    assert await redis.execute("GET", prefix) == b"x"
    with pytest.raises(RedisError):
        await redis.execute("LPUSH", prefix, "y")


async def test_flushed_servers_answer_with_nothing(servers: PrivateCluster) -> None:
    async with connected(servers.addresses, UNHURRIED) as redis:
        keys = [b"flush:{%d}" % number for number in range(100)]
        head, tail = around_key("LPUSHX", "x")
        await redis.scatter([(key, pack("RPUSH", key, "x")) for key in keys])
        grouped = redis.group(keys)
        assert await redis.push(grouped, head, tail) == [2] * 100
        await servers.flush()
        assert await redis.push(grouped, head, tail) == [0] * 100
        assert metric(redis, "chirp_redis_connects_total", outcome="ok") == 3


async def test_a_moved_slot_costs_one_more_round_trip_once(servers: PrivateCluster) -> None:
    async with connected(servers.addresses, UNHURRIED) as redis:
        keys = keys_on(0, 6, "moved")
        await redis.scatter([(key, pack("RPUSH", key, "x")) for key in keys])
        grouped = redis.group(keys)
        async with servers.moved(keys[0]):
            assert await redis.push(grouped, *around_key("LPUSHX", "y")) == [2] * 6
            assert metric(redis, "chirp_redis_redirects_total", kind="moved") == 1
            assert grouped.epoch != redis.epoch
            assert await redis.push(grouped, *around_key("LPUSHX", "y")) == [3] * 6
            assert await redis.run(keys[0], pack("LLEN", keys[0])) == [3]
            assert metric(redis, "chirp_redis_redirects_total", kind="moved") == 1
        assert await redis.scatter([(key, pack("LLEN", key)) for key in keys]) == [3] * 6
        assert await redis.run(keys[0], pack("LLEN", keys[0]), pack("LINDEX", keys[0], 0)) == [3, b"y"]


async def test_a_slot_on_the_move_is_asked_for_at_both_ends(servers: PrivateCluster) -> None:
    async with connected(servers.addresses, UNHURRIED) as redis:
        stays, goes, new = (b"%b:{ask}" % name for name in (b"stays", b"goes", b"new"))
        await redis.run(stays, pack("SET", stays, 1), pack("SET", goes, 2))
        async with servers.moving(b"{ask}", [goes]):
            assert await redis.run(stays, pack("GET", stays), pack("GET", goes), pack("GET", new)) == [b"1", b"2", None]
            assert await redis.scatter([(goes, pack("GET", goes)), (stays, pack("GET", stays))]) == [b"2", b"1"]
            assert await redis.run(new, pack("SET", new, 3)) == [b"OK"]
            assert await redis.script("return redis.call('GET', KEYS[1])", goes) == b"2"
            assert await redis.push([goes, new], *around_key("STRLEN")) == [1, 1]
            assert metric(redis, "chirp_redis_redirects_total", kind="ask") == 7
            assert metric(redis, "chirp_redis_redirects_total", kind="moved") == 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[PrivateCluster]:
    private = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    yield private
    private.close()


async def test_the_library_has_no_setting_left_to_chance(redis_nodes: str) -> None:
    client = RedisCluster(redis_nodes.split(","), Metrics("test"), Patience())
    library = client._discovery._cluster
    try:
        assert aioredis_cluster.__version__ == "2.7.0"
        assert library._attempt_timeout == 0.25
        assert library._connect_timeout == 0.25
        assert library._max_attempts == 3
        assert library._retry_max_delay == 0.1
        assert library._manager._reload_interval == 5.0
        assert library._manager._follow_cluster is True
        assert (library._pool_minsize, library._pool_maxsize) == (1, 2)
        assert library._idle_connection_timeout == 600.0
    finally:
        await client._discovery.close()


async def test_hot_path_settings() -> None:
    assert Patience() == Patience(reply=0.25, connect=0.25, rest=0.5)


async def test_an_unknown_cluster_is_unavailable_not_an_error(free_port: Callable[[], int]) -> None:
    async with RedisCluster.open(f"127.0.0.1:{free_port()}", Metrics("test")) as redis:
        with pytest.raises(CacheUnavailable):
            await redis.run("k", pack("GET", "k"))
        with pytest.raises(CacheUnavailable):
            await redis.execute("GET", "k")
