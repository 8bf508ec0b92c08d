"""Notices: a tweet whose deletion was acknowledged is shown by no later read, whatever comes between the steps of
writers and readers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from services.cluster.ports import FreePorts
from services.runtime.clock import ManualClock, SystemClock
from services.runtime.metrics import Metrics
from services.runtime.notices import CELLS, KEPT, Cell, Notices
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import CacheUnavailable, pack
from tests.stores.notice_readers import Replica, Showing, Tweets
from tests.stores.redis_faults import NAMES, UNHURRIED, PrivateCluster, connected, metric, owner_index
from tests.waiting import eventually


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[PrivateCluster]:
    private = PrivateCluster(tmp_path_factory.mktemp("redis"), ports)
    yield private
    private.close()


@pytest.fixture
async def redis(servers: PrivateCluster) -> AsyncIterator[RedisCluster]:
    await servers.flush()
    async with connected(servers.addresses, UNHURRIED) as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def entries(redis: RedisCluster, cell: Cell) -> list[bytes]:
    (found,) = await redis.run(cell.slot, pack("LRANGE", cell.key, 0, -1))
    assert isinstance(found, list)
    return [entry for entry in found if isinstance(entry, bytes)]


async def announce(notices: Notices, *, deleted: Iterable[int] = (), pulled: Iterable[int] = ()) -> None:
    """A write that commits at once."""
    async with notices.announced(deleted=deleted, pulled=pulled):
        pass


async def test_an_announcement_is_in_every_cell_before_it_returns(redis: RedisCluster) -> None:
    notices = Notices(redis)
    async with notices.announced(deleted=[11, 12], pulled=[7]):
        for cell in CELLS:
            assert [entry.partition(b":")[0] for entry in await entries(redis, cell)] == [b"p7", b"d12", b"d11"]
            (left,) = await redis.run(cell.slot, pack("PTTL", cell.key))
            assert isinstance(left, int)
            assert 86_000_000 < left <= 86_400_000


async def test_no_two_entries_are_alike(redis: RedisCluster) -> None:
    for notices in (Notices(redis), Notices(redis)):
        await announce(notices, deleted=[5, 5])
    found = await entries(redis, CELLS[3])
    assert len(found) == len(set(found)) == 4


async def test_a_cell_keeps_its_newest_thousand(redis: RedisCluster) -> None:
    await announce(Notices(redis), deleted=range(KEPT + 300))
    found = await entries(redis, CELLS[9])
    assert len(found) == KEPT
    assert found[0].startswith(b"d%d:" % (KEPT + 299))


async def test_the_first_read_of_a_process_is_void_and_the_second_is_quiet(redis: RedisCluster) -> None:
    replica = Replica(redis, SystemClock())
    for cell in CELLS:
        await replica.observe(cell)
    assert replica.told() == [("void", 0)]
    assert replica.notices.epoch == 1


async def test_a_process_hears_of_a_deletion_at_its_next_read_in_any_cell(redis: RedisCluster) -> None:
    for cell in CELLS:
        replica = Replica(redis, SystemClock())
        await replica.observe(cell)
        replica.told()
        await announce(Notices(redis), deleted=[3])
        assert not replica.notices.suspect(3) or cell.index
        await replica.observe(cell)
        assert replica.told() == [("delete", 3)]
        assert replica.notices.suspect(3)
        await replica.observe(cell)
        assert replica.told() == []


async def test_a_suspect_is_one_for_thirty_seconds(redis: RedisCluster, clock: ManualClock) -> None:
    replica = Replica(redis, clock)
    await replica.observe()
    await announce(Notices(redis), deleted=[3])
    await replica.observe()
    clock.advance(29.9)
    assert replica.notices.suspect(3)
    clock.advance(0.2)
    assert not replica.notices.suspect(3)


async def test_a_process_that_starts_suspects_what_is_announced_already(redis: RedisCluster) -> None:
    await announce(Notices(redis), deleted=[3])
    replica = Replica(redis, SystemClock())
    await replica.observe(CELLS[5])
    assert replica.told() == [("void", 0), ("delete", 3)]


@pytest.mark.parametrize("missed", [1, 31, 32, 33, 500, KEPT - 1])
async def test_many_missed_notices_are_all_applied(redis: RedisCluster, missed: int) -> None:
    replica = Replica(redis, SystemClock())
    await replica.observe()
    replica.told()
    await announce(Notices(redis), deleted=range(missed))
    await replica.observe()
    assert sorted(replica.told()) == [("delete", number) for number in range(missed)]


async def test_a_log_trimmed_beyond_the_last_read_is_void(redis: RedisCluster) -> None:
    replica = Replica(redis, SystemClock())
    await replica.observe()
    replica.told()
    await announce(Notices(redis), deleted=range(KEPT))
    await replica.observe()
    assert replica.told()[0] == ("void", 0)
    assert replica.notices.epoch == 2


async def test_a_flush_is_one_void_for_all_cells(servers: PrivateCluster, redis: RedisCluster) -> None:
    replica = Replica(redis, SystemClock())
    await replica.observe()
    replica.told()
    await servers.flush()
    for cell in CELLS * 2:
        await replica.observe(cell)
    assert replica.told() == [("void", 0)]


async def test_a_flush_that_others_have_filled_again_is_void_all_the_same(servers: PrivateCluster, redis: RedisCluster) -> None:
    replica, other = Replica(redis, SystemClock()), Replica(redis, SystemClock())
    await replica.observe()
    replica.told()
    await servers.flush()
    await other.observe(CELLS[8])
    await announce(Notices(redis), pulled=[7])
    await replica.observe()
    assert replica.told() == [("void", 0), ("pull", 7)]


async def test_an_entry_sent_twice_hides_no_other(redis: RedisCluster) -> None:
    replica, notices = Replica(redis, SystemClock()), Notices(redis)
    await replica.observe()
    async with notices.announced(deleted=[1]):
        await replica.observe()
        replica.told()
        await announce(notices, deleted=[2])
        await announce(notices, deleted=[1])
    await replica.observe()
    assert set(replica.told()) == {("delete", 2), ("delete", 1)}


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[7], CELLS[15]])
async def test_a_connection_that_was_replaced_is_void(servers: PrivateCluster, redis: RedisCluster, cell: Cell) -> None:
    """Writers may have been unable to reach the server while this process's connection to it was down."""
    replica = Replica(redis, SystemClock())
    await replica.observe(cell)
    replica.told()
    name, before = NAMES[owner_index(cell.key)], redis.generation(cell.slot)
    servers.servers.pause(name)
    with pytest.raises(CacheUnavailable):
        await replica.observe(cell)
    servers.servers.resume(name)
    await eventually(lambda: redis.generation(cell.slot) != before)
    await replica.observe(cell)
    assert replica.told() == [("void", 0)]


async def test_a_deletion_without_redis_is_told_when_it_is_back(servers: PrivateCluster, redis: RedisCluster) -> None:
    cell = CELLS[2]
    async with connected(servers.addresses) as elsewhere:
        reader = Replica(elsewhere, SystemClock())
        await reader.observe(cell)
        reader.told()
        servers.servers.pause(NAMES[owner_index(cell.key)])
        try:
            with pytest.raises(CacheUnavailable):
                await redis.run(cell.slot, cell.head)
            # From here on nothing is sent that the server could find in its socket when it goes on.
            async with Notices(redis).announced(deleted=[3]):
                pass
            assert metric(redis, "chirp_notices_not_announced_total") >= 5
        finally:
            servers.servers.resume(NAMES[owner_index(cell.key)])
        await eventually(lambda: metric(redis, "chirp_redis_arrears") == 0, timeout=4)
        await reader.observe(cell)
        assert ("delete", 3) in reader.told()


async def test_redis_flushed_between_announcement_and_commit(servers: PrivateCluster, redis: RedisCluster) -> None:
    tweets, replica = Tweets(), Replica(redis, SystemClock())
    async with Notices(redis).announced(deleted=[1]):
        await servers.flush()
        assert await Showing(replica, tweets, 1, CELLS[4]).whole()
        tweets.deleted.add(1)
    tweets.acknowledged.add(1)
    assert not await Showing(replica, tweets, 1, CELLS[4]).whole()
    assert metric(redis, "chirp_notices_announced_again_total", why="gone") == 16


@pytest.mark.parametrize("seconds", [5.1, 31, 100])
async def test_a_slow_commit_is_announced_again(redis: RedisCluster, clock: ManualClock, seconds: float) -> None:
    tweets, replica = Tweets(), Replica(redis, clock)
    async with Notices(redis, clock).announced(deleted=[1]):
        assert await Showing(replica, tweets, 1, CELLS[4]).whole()
        clock.advance(seconds)
        assert await Showing(replica, tweets, 1, CELLS[4]).whole()
        tweets.deleted.add(1)
    tweets.acknowledged.add(1)
    assert not await Showing(replica, tweets, 1, CELLS[4]).whole()


async def test_many_reads_at_once_all_know_and_look_once(servers: PrivateCluster, redis: RedisCluster) -> None:
    replica, notices = Replica(redis, SystemClock()), Notices(redis)
    await replica.observe()
    before = await servers.calls("lrange")
    for number in range(20):
        await announce(notices, deleted=[number])
        await asyncio.gather(*(replica.observe(CELLS[index % 16]) for index in range(100)))
        assert replica.notices.suspect(number)
    assert replica.notices.epoch == 1
    assert await servers.calls("lrange") - before == 20 * 16


class Readers(RuleBasedStateMachine):
    """Two writers, two replicas with two reads at a time, a clock, a flood of other notices and an operator who
    empties Redis.
    """

    loop: asyncio.AbstractEventLoop
    redis: RedisCluster
    servers: PrivateCluster

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.tweets = ManualClock(), Tweets()
        self.notices = Notices(self.redis, self.clock)
        self.replicas = [Replica(self.redis, self.clock) for _ in range(2)]
        self.writers: list[tuple[AbstractAsyncContextManager[None], int] | None] = [None] * 2
        self.showings: list[Showing | None] = [None] * 4

    @rule(number=st.integers(0, 1), tweet_id=st.integers(1, 2))
    def delete(self, number: int, tweet_id: int) -> None:
        """The next step of a writer: announce, COMMIT, answer."""
        writer = self.writers[number]
        if writer is None:
            announced = self.notices.announced(deleted=[tweet_id])
            self.loop.run_until_complete(announced.__aenter__())
            self.writers[number] = announced, tweet_id
        elif writer[1] not in self.tweets.deleted:
            self.tweets.deleted.add(writer[1])
        else:
            self.loop.run_until_complete(writer[0].__aexit__(None, None, None))
            self.tweets.acknowledged.add(writer[1])
            self.writers[number] = None

    @rule(number=st.integers(0, 3), tweet_id=st.integers(1, 2), cell=st.sampled_from([CELLS[0], CELLS[1], CELLS[15]]))
    def show(self, number: int, tweet_id: int, cell: Cell) -> None:
        """The next step of a read."""
        showing = self.showings[number]
        if showing is None:
            showing = Showing(self.replicas[number % 2], self.tweets, tweet_id, cell)
            self.loop.run_until_complete(showing.see())
            self.showings[number] = None if showing.shown else showing
        elif showing.shown is None:
            showing.read()
        else:
            showing.finish()
            self.showings[number] = None
        showing.check()

    @rule(number=st.integers(0, 1), tweet_id=st.integers(1, 2), cell=st.sampled_from([CELLS[0], CELLS[15]]))
    def show_at_once(self, number: int, tweet_id: int, cell: Cell) -> None:
        """A whole read."""
        self.loop.run_until_complete(Showing(self.replicas[number], self.tweets, tweet_id, cell).whole())

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 29.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """The clock goes on. Reads are cancelled by their deadlines long before a suspect is cleared."""
        self.clock.advance(seconds)
        if seconds > 10:
            self.showings = [None] * 4

    @rule(many=st.sampled_from([1, 40, KEPT]))
    def flood(self, many: int) -> None:
        """Other tweets are deleted."""
        self.loop.run_until_complete(announce(self.notices, deleted=range(1000, 1000 + many)))

    @rule()
    def flush(self) -> None:
        """Redis forgets everything."""
        self.loop.run_until_complete(self.servers.flush())


def test_no_order_of_steps_shows_a_deleted_tweet(servers: PrivateCluster) -> None:
    loop = asyncio.new_event_loop()
    opened = RedisCluster.open(servers.addresses, Metrics("test"), UNHURRIED)
    Readers.loop, Readers.servers, Readers.redis = loop, servers, loop.run_until_complete(opened.__aenter__())
    try:
        run_state_machine_as_test(Readers, settings=settings(max_examples=50, stateful_step_count=40, deadline=None))
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()


async def test_writers_and_readers_all_at_once(servers: PrivateCluster, redis: RedisCluster) -> None:
    """Real time, real interleaving: what the steps above may have missed within one step."""
    chance, clock, stop = random.Random(7), SystemClock(), asyncio.Event()
    tweets, notices = Tweets(), Notices(redis)
    replicas = [Replica(redis, clock) for _ in range(2)]
    newest, shown = 0, 0

    async def writer() -> None:
        nonlocal newest
        while not stop.is_set():
            newest += 1
            tweet_id = newest
            await asyncio.sleep(chance.random() * 0.02)
            async with notices.announced(deleted=[tweet_id]):
                await asyncio.sleep(chance.random() * 0.004)
                tweets.deleted.add(tweet_id)
            tweets.acknowledged.add(tweet_id)

    async def reader() -> None:
        nonlocal shown
        while not stop.is_set():
            tweet_id = max(1, newest - chance.randrange(8))
            shown += await Showing(chance.choice(replicas), tweets, tweet_id, chance.choice(CELLS)).whole()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for work in [writer] * 3 + [reader] * 12:
            tasks.create_task(work())
        for _ in range(10):
            await asyncio.sleep(0.15)
            await servers.flush()
        stop.set()
    assert len(tweets.acknowledged) > 50
    assert shown > 50
