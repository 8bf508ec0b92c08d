"""From an outbox to JetStream: nothing lost, order kept in a partition, whoever dies or goes away in between."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from nats.js.errors import NotFoundError, ServerError

from chirp import errors
from services.cluster.ports import FreePorts
from services.runtime import jetstream, logs, outbox, postgres
from services.runtime.deadletters import DeadLetters
from services.runtime.jetstream import Nats
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell, Outbox, event
from services.runtime.outboxworker import Settings, Worker
from services.runtime.postgres import Database
from services.runtime.relay import Relay
from services.runtime.retention import Retention
from tests.freezing import frozen
from tests.running import BackendServers
from tests.waiting import eventually

SCHEMA = "shop"
OUTBOX = Outbox(SCHEMA)
QUICK = Settings(publish_timeout=0.5, claim=0.1, give_up=2.0)
DDL = """
drop schema if exists shop cascade;
create schema shop;
create table shop.outbox (
    event_id bigint generated always as identity primary key, partition smallint not null, subject text not null,
    payload bytea not null, create_time timestamptz not null default clock_timestamp(), published_time timestamptz);
create index outbox_waiting on shop.outbox (partition, event_id) where published_time is null
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[BackendServers]:
    """A NATS that only this module uses."""
    servers = BackendServers(tmp_path_factory.mktemp("nats"), ports)
    servers.nats()
    yield servers
    servers.close()


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with postgres.connect(database, "test", Metrics("test")) as opened:
        await opened.execute(DDL)
        await opened.execute("truncate runtime.dead_letter, runtime.outbox_replay")
        yield opened


@pytest.fixture
async def nats(server: BackendServers) -> AsyncIterator[Nats]:
    async with jetstream.connect([server.nats()], "test", Metrics("test")) as opened:
        await opened.ready()
        for stream in jetstream.STREAMS:
            await forget(opened, stream.name)
        await eventually(lambda: restored(opened))
        yield opened


async def restored(nats: Nats) -> bool:
    """The server clears a deleted stream's folder behind our back, and refuses to make it anew meanwhile."""
    try:
        await jetstream.ensure_streams(nats.js)
    except ServerError:
        return False
    return True


async def forget(nats: Nats, stream: str) -> None:
    try:
        await nats.js.delete_stream(stream)
    except NotFoundError:
        return


@asynccontextmanager
async def relaying(dsn: str, nats: Nats, settings: Settings = QUICK) -> AsyncIterator[Metrics]:
    """A relay of this schema for the block."""
    metrics = Metrics("relay")
    task = asyncio.create_task(Worker(dsn, SCHEMA, nats, metrics, logs.silent(), settings).run())
    try:
        yield metrics
    finally:
        failed = task.done()
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert not failed, repr(outcome)


async def commit(database: Database, *numbers: int, authors: int = 40) -> None:
    """Events numbered as given, each by author number % authors."""
    made = [event(f"tweet.created.{n % authors}", n % authors, b"%d" % n) for n in numbers]
    await database.run(lambda tx: OUTBOX.append(tx, made))


async def waiting(database: Database) -> int:
    return (await database.query("select count(*) from shop.outbox where published_time is null"))[0][0]


async def drained(database: Database) -> bool:
    return await waiting(database) == 0


async def stored(nats: Nats) -> list[tuple[int, str]]:
    """Number and message id of everything in the stream, in its order."""
    last = (await nats.js.stream_info("TWEET")).state.last_seq
    subscription = await nats.js.subscribe("tweet.>", ordered_consumer=True)
    found: list[tuple[int, str]] = []
    sequence = 0
    while sequence < last:
        message = await subscription.next_msg(timeout=2)
        sequence = message.metadata.sequence.stream
        found.append((int(message.data), (message.headers or {})["Nats-Msg-Id"]))
    await subscription.unsubscribe()
    return found


def assert_ordered(numbers: list[int], authors: int = 40) -> None:
    """Of each author, the last copies of the events stand in the order of their commit."""
    last = {number: position for position, number in enumerate(numbers)}
    for author in range(authors):
        positions = [last[number] for number in sorted(last) if number % authors == author]
        assert positions == sorted(positions), f"events of author {author} are out of order"


async def test_everything_arrives_once_and_in_order(opened: Database, nats: Nats, database: str) -> None:
    async with relaying(database, nats) as metrics:
        for start in range(0, 3000, 500):
            await commit(opened, *range(start, start + 500))
        await eventually(lambda: drained(opened))
    numbers = [number for number, _ in await stored(nats)]
    assert sorted(numbers) == list(range(3000))
    assert_ordered(numbers)
    assert metrics.registry.get_sample_value("chirp_outbox_published_total", {"schema": SCHEMA}) == 3000
    assert (metrics.registry.get_sample_value("chirp_outbox_lag_seconds_count", {"schema": SCHEMA}) or 0) > 0


async def test_message_ids_name_their_row(opened: Database, nats: Nats, database: str) -> None:
    await commit(opened, 7)
    ((event_id,),) = await opened.query("select event_id from shop.outbox")
    async with relaying(database, nats):
        await eventually(lambda: drained(opened))
    assert await stored(nats) == [(7, f"shop:{event_id}")]


async def test_a_row_committed_late_is_not_skipped(opened: Database, nats: Nats, database: str) -> None:
    """Numbers are given before COMMIT: the smaller one may appear after the larger one was published."""
    async with relaying(database, nats):
        async with opened.transaction() as slow:
            await OUTBOX.append(slow, [event("tweet.created.1", 1, b"1")])
            await commit(opened, 2)
            await eventually(lambda: _published(opened, 1))
        await eventually(lambda: _published(opened, 2))
    assert [number for number, _ in await stored(nats)] == [2, 1]


async def test_the_bell_wakes_it(opened: Database, nats: Nats, database: str) -> None:
    bell = Bell(nats, SCHEMA)
    async with relaying(database, nats, Settings(poll=5.0)):
        await commit(opened, 1)
        await eventually(lambda: _rung(bell, opened))
        started = time.monotonic()
        for number in range(2, 12):
            await commit(opened, number)
            bell.ring()
        await eventually(lambda: drained(opened), interval=0.005)
        assert time.monotonic() - started < 1.0


async def test_a_bell_without_nats_is_silent(free_port: object) -> None:
    async with jetstream.connect(["nats://127.0.0.1:1"], "test", Metrics("test")) as away:
        Bell(away, SCHEMA).ring()
        await asyncio.sleep(0)


async def test_two_relays_share_without_doubling(opened: Database, nats: Nats, database: str, server: BackendServers) -> None:
    async with jetstream.connect([server.nats()], "other", Metrics("other")) as other:
        await other.ready()
        async with relaying(database, nats) as first, relaying(database, other) as second:
            for start in range(0, 2000, 200):
                await commit(opened, *range(start, start + 200))
            await eventually(lambda: drained(opened))
            published = [
                each.registry.get_sample_value("chirp_outbox_published_total", {"schema": SCHEMA}) or 0 for each in (first, second)
            ]
    assert sum(published) == 2000, "each row was published by exactly one of them"
    assert_ordered([number for number, _ in await stored(nats)])


async def test_a_relay_takes_over_from_one_that_lost_its_connection(opened: Database, nats: Nats, database: str) -> None:
    async with relaying(database, nats):
        await commit(opened, *range(100))
        await eventually(lambda: drained(opened))
        async with relaying(database, nats):
            kill = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'relay-shop'"
            for start in range(100, 1100, 100):
                await commit(opened, *range(start, start + 100))
                await opened.query(kill)
            await eventually(lambda: drained(opened), timeout=15)
    numbers = [number for number, _ in await stored(nats)]
    assert sorted(numbers) == list(range(1100))
    assert_ordered(numbers)


async def test_a_relay_killed_between_puback_and_mark_doubles_nothing(opened: Database, nats: Nats, database: str) -> None:
    """The process dies with everything stored and nothing marked; the next one publishes the same ids again."""
    await commit(opened, *range(300))
    program = (
        "import asyncio, os, signal, sys\n"
        "from services.runtime import jetstream, logs, outboxworker\n"
        "from services.runtime.metrics import Metrics\n"
        "def die(self, rows, failures):\n"
        "    assert not any(failures)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "outboxworker.Worker._done = die\n"
        "async def main():\n"
        "    async with jetstream.connect([sys.argv[2]], 'dying', Metrics('d')) as nats:\n"
        "        await nats.ready()\n"
        "        await outboxworker.Worker(sys.argv[1], 'shop', nats, Metrics('d'), logs.silent()).run()\n"
        "asyncio.run(main())\n"
    )
    url = nats.client.connected_url
    assert url is not None
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, database, url.geturl(), cwd=os.getcwd())
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    assert await waiting(opened) == 300
    assert (await nats.js.stream_info("TWEET")).state.messages == 300
    async with relaying(database, nats):
        await eventually(lambda: drained(opened))
    assert sorted(number for number, _ in await stored(nats)) == list(range(300))


async def test_nats_away_and_back(opened: Database, nats: Nats, database: str, server: BackendServers) -> None:
    async with relaying(database, nats):
        await commit(opened, *range(100))
        await eventually(lambda: drained(opened))
        await server.stop("nats")
        await commit(opened, *range(100, 400))
        await asyncio.sleep(0.15)
        assert await waiting(opened) == 300
        await server.start("nats")
        await eventually(lambda: drained(opened), timeout=15)
    numbers = [number for number, _ in await stored(nats)]
    assert sorted(numbers) == list(range(400))
    assert_ordered(numbers)


async def test_nats_killed_again_and_again_under_load(opened: Database, nats: Nats, database: str, server: BackendServers) -> None:
    """What was acknowledged before a kill -9 is in the page cache and stays; windows are cut in the middle."""
    total = 0
    async with relaying(database, nats):
        for _ in range(3):
            for _ in range(5):
                await commit(opened, *range(total, total + 400))
                total += 400
                await asyncio.sleep(random.uniform(0, 0.02))
            server.kill("nats")
            await server.healthy("nats")
        await eventually(lambda: drained(opened), timeout=30)
        await eventually(lambda: nats.connected)
    numbers = [number for number, _ in await stored(nats)]
    assert set(numbers) == set(range(total))
    assert_ordered(numbers)


async def test_a_frozen_nats_loses_and_disorders_nothing(
    opened: Database, nats: Nats, database: str, server: BackendServers
) -> None:
    async with relaying(database, nats):
        await commit(opened, *range(200))
        with frozen(server.pid("nats")):
            await commit(opened, *range(200, 600))
            await asyncio.sleep(0.15)
            await asyncio.sleep(0.15)
        await commit(opened, *range(600, 800))
        await eventually(lambda: drained(opened), timeout=20)
    numbers = [number for number, _ in await stored(nats)]
    assert sorted(numbers) == list(range(800))
    assert_ordered(numbers)


async def test_a_full_stream_keeps_the_rest_in_the_outbox_in_order(opened: Database, nats: Nats, database: str) -> None:
    await jetstream.ensure_streams(nats.js, max_bytes=20_000)
    async with relaying(database, nats) as metrics:
        await commit(opened, *range(1000))
        # The relay itself brings the stream back to its configured size.
        await eventually(lambda: drained(opened), timeout=15)
    assert (metrics.registry.get_sample_value("chirp_outbox_failed_total", {"schema": SCHEMA}) or 0) > 0, "it was never full"
    numbers = [number for number, _ in await stored(nats)]
    assert set(numbers) == set(range(1000))
    assert_ordered(numbers)


async def test_what_overtook_a_failure_is_published_again_behind_it(opened: Database, nats: Nats, database: str) -> None:
    """JetStream may refuse a message and take the next one: the partition waits, and its last copies are in order."""
    await commit(opened, *range(0, 400, 40))
    refused = {80, 81}
    publish = nats.client.publish

    async def choosy(subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        if payload.isdigit() and int(payload) in refused:
            refused.discard(int(payload))
            return
        await publish(subject, payload, reply, headers)

    nats.client.publish = choosy  # type: ignore[method-assign]
    async with relaying(database, nats):
        await eventually(lambda: drained(opened))
    found = await stored(nats)
    numbers = [number for number, _ in found]
    assert set(numbers) == set(range(0, 400, 40))
    assert numbers.index(120) < numbers.index(80), "the test must have made one overtake"
    assert_ordered(numbers)


async def test_a_lost_stream_is_published_again(opened: Database, nats: Nats, database: str) -> None:
    metrics = Metrics("relay")
    relay = Relay(database, opened, nats, metrics, logs.silent(), QUICK)
    running = asyncio.create_task(relay.run())
    try:
        await commit(opened, *range(50))
        await relay.drained()
        ((middle,),) = await opened.query("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
        await asyncio.sleep(0.01)
        await commit(opened, *range(50, 100))
        await relay.drained()
        assert len(await stored(nats)) == 100
        await nats.js.delete_stream("TWEET")
        assert await relay.replay(SCHEMA, middle) == 50
        await relay.drained()
        assert sorted(number for number, _ in await stored(nats)) == list(range(50, 100))
        assert await relay.replay(SCHEMA, 0) == 100
        await relay.drained()
        ids = [message_id for _, message_id in await stored(nats)]
        assert len(ids) == 150, "the stream's memory of ids must not swallow a replay"
        assert sum(message_id.endswith(":r2") for message_id in ids) == 100
        with pytest.raises(errors.NotFound):
            await relay.replay("nowhere", 0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_can_never_be_published_becomes_a_dead_letter(opened: Database, nats: Nats, database: str) -> None:
    large = outbox.Event(outbox.partition(1), "tweet.created.1", b"x" * (1 << 20))
    lost = outbox.Event(outbox.partition(1), "tweet.sung.1", b"no stream takes it")
    await opened.run(lambda tx: OUTBOX.append(tx, [large, lost]))
    await commit(opened, 1)
    async with relaying(database, nats):
        await eventually(lambda: drained(opened))
    assert [number for number, _ in await stored(nats)] == [1], "the partition goes on"
    letters = list(await DeadLetters(opened, nats).list(2**63 - 1, 10, False))
    assert {letter.reason for letter in letters} == {"larger than NATS takes", "no stream takes its subject"}
    assert {len(letter.payload) for letter in letters} == {1 << 20, len(lost.payload)}
    assert {letter.consumer for letter in letters} == {"relay"}


async def test_the_process_serves_its_metrics_and_backlogs(opened: Database, nats: Nats, database: str) -> None:
    metrics = Metrics("relay")
    relay = Relay(database, opened, nats, metrics, logs.silent(), QUICK)
    await commit(opened, *range(10))
    backlogs = {each.name: each for each in await relay.backlogs()}
    assert backlogs["outbox.shop"].waiting == 10
    assert 0 < backlogs["outbox.shop"].oldest_seconds < 10
    running = asyncio.create_task(relay.run())
    await relay.drained()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert b"chirp_outbox_waiting" in metrics.page()


async def test_old_rows_are_deleted_and_young_ones_stay(opened: Database, nats: Nats, database: str) -> None:
    await commit(opened, *range(2500))
    await opened.execute("update shop.outbox set published_time = now() - interval '8 days' where event_id <= 2100")
    await opened.execute("update shop.outbox set published_time = now() - interval '6 days' where event_id between 2101 and 2400")
    assert await Retention(opened, Metrics("test"), logs.silent()).sweep() == 2100
    assert await opened.query("select min(event_id), count(*) from shop.outbox") == [(2101, 400)]


async def test_postgres_lost_for_a_while(opened: Database, nats: Nats, database: str) -> None:
    """Every connection of the relay is cut at random moments; the locks go with it and come back."""
    async with relaying(database, nats):
        for start in range(0, 1000, 100):
            await commit(opened, *range(start, start + 100))
            async with await psycopg.AsyncConnection.connect(database, autocommit=True) as operator:
                await operator.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'relay-shop'"
                )
        await eventually(lambda: drained(opened), timeout=15)
    numbers = [number for number, _ in await stored(nats)]
    assert sorted(numbers) == list(range(1000))
    assert_ordered(numbers)


async def _rung(bell: Bell, database: Database) -> bool:
    bell.ring()
    return await drained(database)


async def _published(database: Database, count: int) -> bool:
    return (await database.query("select count(*) from shop.outbox where published_time is not null"))[0][0] == count
