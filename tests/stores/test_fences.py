"""Fences: no reader uses a copy older than the last acknowledged write, whatever comes between the steps of both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from services.cluster.ports import FreePorts
from services.runtime.clock import ManualClock, SystemClock
from services.runtime.fences import MISSING, PENDING, Fences, fetch, verdict
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import CacheUnavailable, RedisError, pack
from tests.stores.fence_readers import Primary, Reading, Replica
from tests.stores.redis_faults import NAMES, UNHURRIED, PrivateCluster, connected, metric, owner_index
from tests.waiting import eventually

USERS = count(1)


def fresh_key() -> str:
    return f"tweet:fence:{{{next(USERS)}}}"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[PrivateCluster]:
    private = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    yield private
    private.close()


@pytest.fixture
async def redis(servers: PrivateCluster) -> AsyncIterator[RedisCluster]:
    async with connected(servers.addresses, UNHURRIED) as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def key() -> str:
    return fresh_key()


async def state(redis: RedisCluster, key: str) -> object:
    return verdict((await redis.run(key, fetch(key)))[0])


async def let_pass(redis: RedisCluster, clock: ManualClock, seconds: float, *keys: str) -> None:
    """Time passes for the clock and for the lives of the keys alike."""
    clock.advance(seconds)
    for key in keys:
        (left,) = await redis.run(key, pack("PTTL", key))
        if isinstance(left, int) and left > 0:
            rest = left - round(seconds * 1000)
            await redis.run(key, pack("PEXPIRE", key, rest) if rest > 0 else pack("DEL", key))


def test_verdicts() -> None:
    assert verdict(None) is MISSING
    assert verdict(b"p12") is PENDING
    assert verdict(b"v12") == b"v12"
    for strange in (b"", b"x", 7, RedisError("WRONGTYPE"), CacheUnavailable("away"), [b"v1"]):
        assert verdict(strange) is PENDING


async def test_a_raised_fence_is_pending_for_ten_seconds(redis: RedisCluster, key: str) -> None:
    await Fences(redis).raise_([key, key])
    assert await state(redis, key) is PENDING
    (left,) = await redis.run(key, pack("PTTL", key))
    assert isinstance(left, int)
    assert 9_000 < left <= 10_000


async def test_an_established_version_lives_a_minute_and_is_the_only_one(redis: RedisCluster, key: str) -> None:
    clock = SystemClock()
    one, other = Fences(redis), Fences(redis)
    version = await one.establish(key, clock.monotonic())
    assert version is not None
    assert await state(redis, key) == version
    assert await other.establish(key, clock.monotonic()) is None
    (left,) = await redis.run(key, pack("PTTL", key))
    assert isinstance(left, int)
    assert 59_000 < left <= 60_000


async def test_nobody_establishes_a_version_over_a_pending_mark(redis: RedisCluster, key: str) -> None:
    fences = Fences(redis)
    await fences.raise_([key])
    assert await fences.establish(key, SystemClock().monotonic()) is None
    assert await state(redis, key) is PENDING


async def test_raising_replaces_a_version_and_no_two_marks_are_alike(redis: RedisCluster, key: str) -> None:
    one, other = Fences(redis), Fences(redis)
    assert await one.establish(key, SystemClock().monotonic())
    seen: set[object] = set()
    for fences in (one, other, one):
        await fences.raise_([key])
        seen.add((await redis.run(key, pack("GET", key)))[0])
    assert len(seen) == 3


async def test_a_reader_that_took_long_gets_no_version(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    fences, started = Fences(redis, clock), clock.monotonic()
    clock.advance(1.0)
    assert await fences.establish(key, started) is None


async def test_a_reader_uses_its_copy_until_the_next_write(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    primary, replica = Primary(1, 1), Replica(redis, clock)
    await Reading(replica, key, primary).whole()
    primary.value = 2  # not through the fence: the copy goes on being used
    assert await Reading(replica, key, primary).whole() == 1
    async with replica.fences.raised([key]):
        primary.value = 3
    primary.acknowledged = 3
    assert await Reading(replica, key, primary).whole() == 3
    assert replica.copies[key][0] == 1, "nothing is kept while the fence is pending"
    await let_pass(redis, clock, 11, key)
    assert await Reading(replica, key, primary).whole() == 3
    primary.value = 4
    assert await Reading(replica, key, primary).whole() == 3


async def test_another_replica_adopts_the_version_it_sees(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    primary, one, other = Primary(1, 1), Replica(redis, clock), Replica(redis, clock)
    await Reading(one, key, primary).whole()
    await Reading(other, key, primary).whole()
    assert one.copies[key] == other.copies[key]


async def test_a_read_between_raise_and_commit_leaves_no_copy(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    async with replica.fences.raised([key]):
        await Reading(replica, key, primary).whole()
        primary.value = 1
    primary.acknowledged = 1
    for seconds in (0, 11, 61):
        await let_pass(redis, clock, seconds, key)
        assert await Reading(replica, key, primary).whole() == 1


async def test_a_version_is_not_established_by_a_read_older_than_the_raise(
    redis: RedisCluster, clock: ManualClock, key: str
) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    early = Reading(replica, key, primary)
    await early.see()
    early.read()
    async with replica.fences.raised([key]):
        primary.value = 1
    primary.acknowledged = 1
    await early.finish()
    assert await Reading(replica, key, primary).whole() == 1


async def test_a_read_that_outlasts_the_pending_mark_is_too_old(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    early = Reading(replica, key, primary)
    await early.see()
    early.read()
    async with replica.fences.raised([key]):
        primary.value = 1
    primary.acknowledged = 1
    await let_pass(redis, clock, 11, key)
    await early.finish()
    assert await Reading(replica, key, primary).whole() == 1


@pytest.mark.parametrize("seconds", [5.1, 11, 30])
async def test_a_slow_commit_raises_again_before_it_is_answered(
    redis: RedisCluster, clock: ManualClock, key: str, seconds: float
) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    async with replica.fences.raised([key]):
        await let_pass(redis, clock, seconds, key)
        await Reading(replica, key, primary).whole()
        primary.value = 1
    primary.acknowledged = 1
    assert await Reading(replica, key, primary).whole() == 1
    assert metric(redis, "chirp_fences_raised_again_total", why="slow") == 1


async def test_two_writers_of_one_fence(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    async with Fences(redis, clock).raised([key]):
        await let_pass(redis, clock, 4, key)
        async with Fences(redis, clock).raised([key]):
            primary.value = 1
        primary.acknowledged = 1
        await Reading(replica, key, primary).whole()
        await let_pass(redis, clock, 0.9, key)
        primary.value = 2
    primary.acknowledged = 2
    assert metric(redis, "chirp_fences_raised_again_total", why="slow") == 0
    for seconds in (0, 5.5, 5):
        await let_pass(redis, clock, seconds, key)
        assert await Reading(replica, key, primary).whole() == 2


async def test_redis_flushed_between_raise_and_commit(
    servers: PrivateCluster, redis: RedisCluster, clock: ManualClock, key: str
) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    async with replica.fences.raised([key]):
        await servers.flush()
        await Reading(replica, key, primary).whole()
        assert isinstance(await state(redis, key), bytes)
        primary.value = 1
    primary.acknowledged = 1
    assert await Reading(replica, key, primary).whole() == 1
    assert metric(redis, "chirp_fences_raised_again_total", why="gone") == 1


async def test_redis_flushed_after_the_answer_while_an_older_read_is_on_its_way(
    servers: PrivateCluster, redis: RedisCluster, clock: ManualClock, key: str
) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    early = Reading(replica, key, primary)
    await early.see()
    early.read()
    async with replica.fences.raised([key]):
        primary.value = 1
    primary.acknowledged = 1
    await servers.flush()
    await early.finish()
    for reader in (replica, Replica(redis, clock)):
        assert await Reading(reader, key, primary).whole() == 1


async def test_a_write_that_fails_leaves_nothing_wrong(redis: RedisCluster, clock: ManualClock, key: str) -> None:
    replica = Replica(redis, clock)
    with pytest.raises(ValueError):
        async with replica.fences.raised([key]):
            raise ValueError
    assert await Reading(replica, key, Primary()).whole() == 0
    assert key not in replica.copies


async def test_a_writer_without_redis_goes_on_and_the_fence_is_raised_later(
    servers: PrivateCluster, redis: RedisCluster, clock: ManualClock, key: str
) -> None:
    primary, replica = Primary(), Replica(redis, clock)
    await Reading(replica, key, primary).whole()
    name = NAMES[owner_index(key.encode())]
    servers.servers.pause(name)
    try:
        async with replica.fences.raised([key]):
            primary.value = 1
        assert metric(redis, "chirp_fences_not_raised_total") >= 1
    finally:
        servers.servers.resume(name)
    await eventually(lambda: metric(redis, "chirp_redis_arrears") == 0, timeout=4)
    primary.acknowledged = 1
    assert await Reading(replica, key, primary).whole() == 1


class Readers(RuleBasedStateMachine):
    """Three writers, two replicas with two reads at a time, a clock and an operator who empties Redis, in any order of
    steps.
    """

    loop: asyncio.AbstractEventLoop
    redis: RedisCluster
    servers: PrivateCluster

    def __init__(self) -> None:
        super().__init__()
        self.key, self.clock, self.primary = fresh_key(), ManualClock(), Primary()
        self.writers: list[tuple[AbstractAsyncContextManager[None], int] | None] = [None] * 3
        self.replicas = [Replica(self.redis, self.clock) for _ in range(2)]
        self.readings: list[Reading | None] = [None] * 4

    @rule(number=st.integers(0, 2))
    def write(self, number: int) -> None:
        """The next step of a writer: raise, COMMIT, answer."""
        writer = self.writers[number]
        if writer is None:
            raised = Fences(self.redis, self.clock).raised([self.key])
            self.loop.run_until_complete(raised.__aenter__())
            self.writers[number] = raised, 0
        elif writer[1] == 0:
            self.primary.value += 1
            self.writers[number] = writer[0], self.primary.value
        else:
            self.loop.run_until_complete(writer[0].__aexit__(None, None, None))
            self.primary.acknowledged = max(self.primary.acknowledged, writer[1])
            self.writers[number] = None

    @rule(number=st.integers(0, 3))
    def read(self, number: int) -> None:
        """The next step of a read: fences, primary, copy."""
        reading = self.readings[number]
        if reading is None:
            reading = self.readings[number] = Reading(self.replicas[number % 2], self.key, self.primary)
            self.loop.run_until_complete(reading.see())
            if reading.value is None:
                return
        elif reading.value is None:
            reading.read()
            return
        else:
            self.loop.run_until_complete(reading.finish())
        assert reading.value is not None
        assert reading.value >= reading.floor
        self.readings[number] = None

    @rule(number=st.integers(0, 1))
    def read_at_once(self, number: int) -> None:
        """A whole read."""
        self.loop.run_until_complete(Reading(self.replicas[number], self.key, self.primary).whole())

    @rule(seconds=st.sampled_from([0.3, 0.9, 4.0, 6.0, 9.5, 11.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        """The clock goes on."""
        self.loop.run_until_complete(let_pass(self.redis, self.clock, seconds, self.key))

    @rule()
    def flush(self) -> None:
        """Redis forgets everything."""
        self.loop.run_until_complete(self.servers.flush())


def test_no_order_of_steps_shows_an_acknowledged_write_to_be_missing(servers: PrivateCluster) -> None:
    loop = asyncio.new_event_loop()
    opened = RedisCluster.open(servers.addresses, Metrics("test"), UNHURRIED)
    Readers.loop, Readers.servers, Readers.redis = loop, servers, loop.run_until_complete(opened.__aenter__())
    try:
        run_state_machine_as_test(Readers, settings=settings(max_examples=80, stateful_step_count=50, deadline=None))
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()


async def test_writers_and_readers_all_at_once(servers: PrivateCluster, redis: RedisCluster) -> None:
    """Real time, real interleaving: what the steps above may have missed within one step."""
    chance, clock, stop = random.Random(7), SystemClock(), asyncio.Event()
    keys = [fresh_key() for _ in range(8)]
    truth = {key: Primary() for key in keys}
    replicas = [Replica(redis, clock) for _ in range(2)]
    reads = 0

    async def write(key: str) -> None:
        primary = truth[key]
        async with Fences(redis, clock).raised([key]):
            await asyncio.sleep(chance.random() * 0.004)
            primary.value += 1
            value = primary.value
        primary.acknowledged = max(primary.acknowledged, value)

    async def writer() -> None:
        while not stop.is_set():
            await write(chance.choice(keys))
            await asyncio.sleep(chance.random() * 0.01)

    async def reader() -> None:
        nonlocal reads
        while not stop.is_set():
            key = chance.choice(keys)
            await Reading(chance.choice(replicas), key, truth[key]).whole()
            reads += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(writer())
        for _ in range(12):
            tasks.create_task(reader())
        for _ in range(15):
            await asyncio.sleep(0.1)
            await servers.flush()
        stop.set()
    assert reads > 500
    assert sum(primary.value for primary in truth.values()) > 50
