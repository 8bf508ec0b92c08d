"""The connection, the streams, the publisher and the consumer loop, on a NATS server of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from nats.js.api import AckPolicy
from nats.js.errors import NotFoundError, ServerError

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.cluster.ports import FreePorts
from services.runtime import jetstream, postgres
from services.runtime.consumer import Consumer, Message, Outcome, PermanentFailure, Retry, Settings, Stuck
from services.runtime.deadletters import Condemned, DeadLetters
from services.runtime.jetstream import Nats
from services.runtime.metrics import Metrics
from services.runtime.publisher import NotStored, Outgoing, Publisher
from tests.freezing import frozen
from tests.running import BackendServers
from tests.waiting import eventually

QUICK = Settings(retry_first=0.01, retry_most=0.05, expires=1.0, failures=3, heartbeat=0.1, ack_wait=0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ports: FreePorts) -> Iterator[BackendServers]:
    """A NATS that only this module uses."""
    servers = BackendServers(tmp_path_factory.mktemp("nats"), ports)
    servers.nats()
    yield servers
    servers.close()


@pytest.fixture
async def nats(server: BackendServers) -> AsyncIterator[Nats]:
    """Connected, with empty streams."""
    async with jetstream.connect([server.nats()], "test", Metrics("test")) as opened:
        await opened.ready()
        for stream in jetstream.STREAMS:
            await forget(opened, stream.name)
        await eventually(lambda: restored(opened))
        yield opened


@pytest.fixture
async def letters(database: str, nats: Nats) -> AsyncIterator[DeadLetters]:
    async with postgres.connect(database, "test", Metrics("test")) as opened:
        await opened.execute("truncate runtime.dead_letter restart identity")
        yield DeadLetters(opened, nats)


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


def events(*numbers: int) -> list[Outgoing]:
    return [Outgoing(f"tweet.created.{n}", b"event %d" % n, f"tweet:{n}") for n in numbers]


class Worker:
    """A consumer with a handler that a test scripts: `outcomes[event_id]` says what becomes of it, delivery by delivery."""

    def __init__(self, nats: Nats, letters: DeadLetters, settings: Settings = QUICK, durable: str = "test") -> None:
        self.metrics = Metrics("test")
        self.consumer = Consumer(nats, "TWEET", durable, ["tweet.*.*"], letters, self.metrics, settings=settings)
        self.batches: list[list[str]] = []
        self.done: list[str] = []
        self.raising: dict[str, list[Exception]] = {}
        self.returning: dict[str, list[Exception]] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self._task: asyncio.Task[None] | None = None

    async def handle(self, messages: list[Message]) -> Sequence[Outcome]:
        self.batches.append([message.event_id for message in messages])
        await self.hold.wait()
        for message in messages:
            if script := self.raising.get(message.event_id):
                raise script.pop(0) if len(script) > 1 else script[0]
        outcomes: list[Outcome] = []
        for message in messages:
            script = self.returning.get(message.event_id)
            outcomes.append(script.pop(0) if script else None)
            if outcomes[-1] is None:
                self.done.append(message.event_id)
        return outcomes

    async def __aenter__(self) -> "Worker":
        self._task = asyncio.create_task(self.consumer.run(self.handle))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def count(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"chirp_consumer_{name}_total", {"consumer": "test"}) or 0


@pytest.fixture
async def worker(nats: Nats, letters: DeadLetters) -> AsyncIterator[Worker]:
    async with Worker(nats, letters) as running:
        yield running


async def publish(nats: Nats, messages: Sequence[Outgoing]) -> None:
    assert set(await Publisher(nats).publish(messages)) == {None}


async def shown(letters: DeadLetters, resolved: bool = False) -> list[tuple[str, str, int]]:
    return [(each.event_id, each.reason, each.deliveries) for each in await letters.list(2**63 - 1, 100, resolved)]


# --- connection and streams


async def test_client_settings_are_pinned(nats: Nats) -> None:
    options: dict[str, Any] = nats.client.options
    assert (options["max_reconnect_attempts"], options["ping_interval"], options["max_outstanding_pings"]) == (-1, 2, 2)
    assert (options["connect_timeout"], options["drain_timeout"], options["allow_reconnect"]) == (2, 5, True)
    assert 0.2 <= options["reconnect_time_wait"] <= 0.5
    assert nats.client._max_pending_size == 8 << 20


async def test_streams_have_their_settings_and_keep_them(nats: Nats) -> None:
    await jetstream.ensure_streams(nats.js)
    await jetstream.ensure_streams(nats.js, max_bytes=1 << 29)
    for stream in jetstream.STREAMS:
        config = (await nats.js.stream_info(stream.name)).config
        assert (config.max_age, config.duplicate_window, config.max_bytes) == (7 * 86_400, 600, 1 << 29)
        assert config.discard == "new"
        assert config.storage == "file"
        assert config.subjects == list(stream.subjects)


async def test_consumer_settings_are_pinned(nats: Nats, letters: DeadLetters) -> None:
    default = Consumer(nats, "TWEET", "pinned", ["tweet.*.*"], letters, Metrics("test"))
    await nats.js.add_consumer("TWEET", default.config())
    config = (await default.info()).config
    assert config.ack_policy == AckPolicy.EXPLICIT
    assert (config.ack_wait, config.max_deliver, config.max_ack_pending) == (30, -1, 4096)
    assert config.filter_subjects in (None, ["tweet.*.*"])


async def test_a_process_starts_and_stops_without_nats(free_port: Any) -> None:
    started = time.monotonic()
    async with jetstream.connect([f"nats://127.0.0.1:{free_port()}"], "early", Metrics("test")) as early:
        assert not early.connected
        with pytest.raises(errors.Unavailable):
            await early.ready(0.1)
        failures = await Publisher(early).publish(events(1, 2))
        assert all(isinstance(failure, NotStored) for failure in failures)
    assert time.monotonic() - started < 1


async def test_a_connection_comes_up_when_the_server_does(server: BackendServers) -> None:
    url = server.nats()
    await server.stop("nats")
    async with jetstream.connect([url], "early", Metrics("test")) as early:
        await asyncio.sleep(0.05)
        assert not early.connected
        await server.start("nats")
        await eventually(lambda: early.connected, timeout=5)


async def test_a_frozen_server_is_noticed(server: BackendServers, nats: Nats) -> None:
    started = time.monotonic()
    with frozen(server.pid("nats")):
        await eventually(lambda: not nats.connected, timeout=10)
    assert time.monotonic() - started < 8
    await eventually(lambda: nats.connected, timeout=10)


# --- publisher


async def test_a_window_is_stored_in_order_and_once(nats: Nats) -> None:
    publisher = Publisher(nats)
    assert await publisher.publish(events(*range(500))) == [None] * 500
    assert await publisher.publish(events(*range(500))) == [None] * 500, "repeated ids are acknowledged"
    state = (await nats.js.stream_info("TWEET")).state
    assert state.messages == 500
    subjects = [(await nats.js.get_msg("TWEET", seq)).subject for seq in (1, 250, 500)]
    assert subjects == ["tweet.created.0", "tweet.created.249", "tweet.created.499"]


async def test_each_message_has_its_own_outcome(nats: Nats) -> None:
    publisher = Publisher(nats)
    window = [
        *events(1), Outgoing("nowhere.at.all", b"x", "a:1"), Outgoing("has a space", b"x", "a:2"),
        Outgoing("tweet.created.2", b"x" * (2 << 20), "a:3"), *events(4),
    ]  # fmt: skip
    outcomes = await publisher.publish(window)
    assert [outcome is None for outcome in outcomes] == [True, False, False, False, True]
    assert await publisher.publish([]) == []


async def test_a_full_stream_refuses_and_says_so(nats: Nats) -> None:
    await jetstream.ensure_streams(nats.js, max_bytes=4096)
    outcomes = await Publisher(nats).publish(events(*range(200)))
    stored = [outcome is None for outcome in outcomes]
    assert stored.count(True) == (await nats.js.stream_info("TWEET")).state.messages
    assert 0 < stored.count(True) < 200
    assert "maximum bytes" in str(outcomes[-1])


async def test_silence_is_a_failure_in_time(server: BackendServers, nats: Nats) -> None:
    publisher = Publisher(nats)
    await publisher.publish(events(1))
    with frozen(server.pid("nats")):
        started = time.monotonic()
        outcomes = await publisher.publish(events(2, 3), timeout=0.3)
        assert time.monotonic() - started < 0.6
        assert all(isinstance(outcome, NotStored) for outcome in outcomes)
    await eventually(lambda: nats.connected)
    assert await publisher.publish(events(2, 3, 4)) == [None] * 3
    assert (await nats.js.stream_info("TWEET")).state.messages == 4


# --- consumer


async def test_everything_is_handled_and_acknowledged(nats: Nats, worker: Worker) -> None:
    await publish(nats, events(*range(1500)))
    await eventually(lambda: len(worker.done) >= 1500)
    await worker.consumer.drained()
    assert worker.done == [f"tweet:{n}" for n in range(1500)]
    assert max(map(len, worker.batches)) == QUICK.batch


async def test_the_first_message_is_handled_at_once(nats: Nats, worker: Worker) -> None:
    await publish(nats, events(1))
    await eventually(lambda: worker.done)
    started = time.monotonic()
    await publish(nats, events(2))
    await eventually(lambda: len(worker.done) == 2, interval=0.002)
    assert time.monotonic() - started < 0.15


async def test_a_transient_failure_is_retried_for_ever_and_condemns_nothing(
    nats: Nats, worker: Worker, letters: DeadLetters
) -> None:
    away = errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "redis is away")
    worker.raising["tweet:1"] = [away] * 20 + [ConnectionResetError()] * 5
    await publish(nats, events(1, 2))
    await eventually(lambda: sum(batch.count("tweet:1") for batch in worker.batches) >= 15)
    worker.raising.clear()
    await eventually(lambda: {"tweet:1", "tweet:2"} <= set(worker.done))
    await worker.consumer.drained()
    assert await shown(letters) == []


async def test_poison_becomes_a_dead_letter_alone(nats: Nats, worker: Worker, letters: DeadLetters) -> None:
    worker.raising["tweet:7"] = [KeyError("poison")]
    await publish(nats, events(*range(20)))
    await eventually(lambda: len(set(worker.done)) == 19)
    await worker.consumer.drained()
    ((event_id, reason, deliveries),) = await shown(letters)
    assert (event_id, reason) == ("tweet:7", "failed repeatedly")
    assert deliveries == QUICK.failures
    (letter,) = await letters.list(2**63 - 1, 10, False)
    assert (letter.consumer, letter.subject, letter.payload) == ("test", "tweet.created.7", b"event 7")
    assert "poison" in letter.error


async def test_permanent_and_undecodable_are_condemned_at_once(nats: Nats, worker: Worker, letters: DeadLetters) -> None:
    with pytest.raises(DecodeError) as undecodable:
        tweetpb.TweetCreated.FromString(b"\xff\xff")
    worker.returning["tweet:1"] = [PermanentFailure("no such kind")]
    worker.raising["tweet:2"] = [undecodable.value]
    await publish(nats, events(1, 2, 3))
    await eventually(lambda: worker.done == ["tweet:3"])
    await worker.consumer.drained()
    assert sorted(await shown(letters)) == [("tweet:1", "no such kind", 1), ("tweet:2", "undecodable", 1)]
    assert worker.count("dead_letters") == 2


async def test_retry_comes_back_after_its_delay(nats: Nats, worker: Worker) -> None:
    worker.returning["tweet:1"] = [Retry(0.3)]
    started = time.monotonic()
    await publish(nats, events(1, 2))
    await eventually(lambda: worker.done == ["tweet:2", "tweet:1"])
    assert 0.3 <= time.monotonic() - started < 1.5


async def test_a_dead_letter_that_cannot_be_kept_keeps_the_message(nats: Nats) -> None:
    """Postgres is away: the message stays where it is until there is a row."""
    async with (
        postgres.connect("host=127.0.0.1 port=1", "away", Metrics("test")) as away,
        Worker(nats, DeadLetters(away, nats)) as worker,
    ):
        worker.returning["tweet:1"] = [PermanentFailure("never")] * 3
        await publish(nats, events(1))
        await eventually(lambda: worker.count("retried") >= 2)
        await eventually(lambda: worker.done == ["tweet:1"])
        assert worker.count("dead_letters") == 0


async def test_a_long_batch_is_not_delivered_twice(nats: Nats, worker: Worker) -> None:
    worker.hold.clear()
    await publish(nats, events(*range(300)))
    await eventually(lambda: worker.batches)
    await asyncio.sleep(3 * QUICK.ack_wait)
    worker.hold.set()
    await eventually(lambda: len(worker.done) >= 300)
    await worker.consumer.drained()
    assert len(worker.done) == 300


async def test_what_a_stopped_worker_held_is_delivered_again_at_once(nats: Nats, letters: DeadLetters) -> None:
    slow = Settings(ack_wait=15.0, expires=1.0)
    async with Worker(nats, letters, slow) as first:
        first.hold.clear()
        await publish(nats, events(*range(600)))
        await eventually(lambda: first.batches)
    async with Worker(nats, letters, slow) as second:
        # What the server was sending at that very moment, a request's worth at most, comes back only after ack_wait.
        await eventually(lambda: len(set(second.done)) >= 600 - slow.batch, timeout=10)
        await eventually(lambda: len(set(second.done)) == 600, timeout=40)


async def test_what_a_killed_worker_held_is_delivered_again_after_ack_wait(nats: Nats, letters: DeadLetters) -> None:
    async with Worker(nats, letters) as first:
        first.hold.clear()
        await publish(nats, events(*range(10)))
        await eventually(lambda: first.batches)
        first.consumer._give_back = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    async with Worker(nats, letters) as second:
        await eventually(lambda: len(set(second.done)) == 10, timeout=5)


async def test_stop_ends_after_the_batch_in_hand(nats: Nats, letters: DeadLetters) -> None:
    worker = Worker(nats, letters)
    running = asyncio.create_task(worker.consumer.run(worker.handle))
    worker.hold.clear()
    await publish(nats, events(1))
    await eventually(lambda: worker.batches)
    worker.consumer.stop()
    worker.hold.set()
    await asyncio.wait_for(running, 5)
    assert worker.done == ["tweet:1"]
    await worker.consumer.drained()


async def test_a_restart_of_nats_loses_nothing(server: BackendServers, nats: Nats, worker: Worker) -> None:
    await publish(nats, events(*range(100)))
    await eventually(lambda: len(set(worker.done)) == 100)
    await server.restart("nats")
    await eventually(lambda: nats.connected, timeout=10)
    await publish(nats, events(*range(100, 200)))
    await eventually(lambda: len(set(worker.done)) == 200, timeout=15)
    await worker.consumer.drained()


async def test_after_a_reconnect_it_does_not_wait_for_an_old_request(
    server: BackendServers, nats: Nats, letters: DeadLetters
) -> None:
    async with Worker(nats, letters, Settings(expires=60.0)) as worker:
        await publish(nats, events(1))
        await eventually(lambda: worker.done)
        server.kill("nats")
        await server.healthy("nats")
        await eventually(lambda: nats.connection == 1 and nats.connected)
        await publish(nats, events(2))
        await eventually(lambda: worker.done == ["tweet:1", "tweet:2"], timeout=5)


async def test_a_request_that_the_server_forgot_is_noticed(nats: Nats, letters: DeadLetters) -> None:
    """By its missing heartbeats, long before it would expire."""
    publish_ = nats.client.publish
    lost = 1

    async def losing(subject: str, *rest: Any, **more: Any) -> None:
        nonlocal lost
        if "CONSUMER.MSG.NEXT" in subject and lost:
            lost -= 1
            return
        await publish_(subject, *rest, **more)

    nats.client.publish = losing  # type: ignore[method-assign]
    async with Worker(nats, letters, Settings(expires=5.0)) as worker:
        await eventually(lambda: lost == 0)
        await publish(nats, events(1))
        await eventually(lambda: worker.done == ["tweet:1"], timeout=4.5)


async def test_a_lost_stream_is_waited_for(nats: Nats, worker: Worker) -> None:
    await publish(nats, events(1))
    await eventually(lambda: worker.done)
    await nats.js.delete_stream("TWEET")
    await eventually(lambda: worker.count("interrupted") > 0, timeout=5)
    before = worker.count("interrupted")
    await asyncio.sleep(0.15)
    assert worker.count("interrupted") - before < 10, "it must not spin"
    await eventually(lambda: restored(nats))
    await publish(nats, events(2))
    await eventually(lambda: worker.done == ["tweet:1", "tweet:2"], timeout=10)


async def test_a_deleted_consumer_is_made_again(nats: Nats, worker: Worker) -> None:
    await publish(nats, events(1))
    await eventually(lambda: worker.done)
    await worker.consumer.drained()
    await nats.js.delete_consumer("TWEET", "test")
    await publish(nats, events(2))
    await eventually(lambda: "tweet:2" in worker.done, timeout=10)


async def test_replicas_share_the_messages(nats: Nats, letters: DeadLetters) -> None:
    small = Settings(batch=10, expires=1.0, retry_first=0.01)
    async with Worker(nats, letters, small) as one, Worker(nats, letters, small) as two:
        await eventually(lambda: one.consumer._pull and two.consumer._pull)
        await publish(nats, events(*range(400)))
        await eventually(lambda: len(one.done) + len(two.done) >= 400)
        await one.consumer.drained()
        assert sorted(one.done + two.done) == sorted(f"tweet:{n}" for n in range(400))
        assert one.done
        assert two.done


async def test_a_hanging_handler_ends_the_process(nats: Nats, letters: DeadLetters) -> None:
    worker = Worker(nats, letters, Settings(patience=0.2, expires=1.0))
    worker.hold.clear()
    await publish(nats, events(1))
    with pytest.raises(Stuck):
        await asyncio.wait_for(worker.consumer.run(worker.handle), 5)


async def test_silence_while_messages_wait_is_noticed(nats: Nats, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has messages and sends none (a bug seen in several releases): bind anew, in the end exit."""
    monkeypatch.setattr("services.runtime.pulls.Pull._pull_if_needed", lambda self: asyncio.sleep(0))
    worker = Worker(nats, letters, Settings(expires=0.2, rebind_after=0.2, stuck_after=0.6))
    await publish(nats, events(1))
    with pytest.raises(Stuck, match="1 messages wait"):
        await asyncio.wait_for(worker.consumer.run(worker.handle), 5)


async def test_idle_is_not_stuck(nats: Nats, letters: DeadLetters) -> None:
    async with Worker(nats, letters, Settings(expires=0.2, rebind_after=0.1, stuck_after=0.2)) as worker:
        await eventually(lambda: worker.consumer._pull)
        await asyncio.sleep(0.7)
        await publish(nats, events(1))
        await eventually(lambda: worker.done == ["tweet:1"])
        assert worker.count("interrupted") == 0


# --- dead letters


async def test_a_replay_is_delivered_within_the_duplicate_window(nats: Nats, worker: Worker, letters: DeadLetters) -> None:
    worker.returning["tweet:1"] = [PermanentFailure("bug"), PermanentFailure("bug")]
    await publish(nats, events(1))
    await eventually(lambda: letters.count())
    (letter,) = await letters.list(2**63 - 1, 10, False)
    await letters.replay(letter.dead_letter_id)
    await eventually(lambda: worker.count("dead_letters") == 2)
    await eventually(lambda: letters.count())
    assert len(await shown(letters, True)) == 2, "a replay that fails again is a letter of its own"
    newest = (await letters.list(2**63 - 1, 10, False))[0]
    await letters.replay(newest.dead_letter_id)
    await eventually(lambda: worker.done == ["tweet:1"])
    assert await letters.count() == 0
    assert {each.resolution for each in await letters.list(2**63 - 1, 10, True)} == {"replayed"}


async def test_discard_settles(nats: Nats, worker: Worker, letters: DeadLetters) -> None:
    worker.returning["tweet:1"] = [PermanentFailure("bug")]
    await publish(nats, events(1))
    await eventually(lambda: letters.count())
    (letter,) = await letters.list(2**63 - 1, 10, False)
    await letters.discard(letter.dead_letter_id)
    await letters.discard(letter.dead_letter_id)
    assert await letters.count() == 0
    for refused in (letters.replay, letters.discard):
        with pytest.raises(errors.NotFound):
            await refused(4711)
    with pytest.raises(errors.NotFound):
        await letters.replay(letter.dead_letter_id)


async def test_a_replay_that_jetstream_refuses_stays_open(
    server: BackendServers, nats: Nats, worker: Worker, letters: DeadLetters
) -> None:
    worker.returning["tweet:1"] = [PermanentFailure("bug")]
    await publish(nats, events(1))
    await eventually(lambda: letters.count())
    await nats.js.delete_stream("TWEET")
    (letter,) = await letters.list(2**63 - 1, 10, False)
    with pytest.raises(errors.Unavailable):
        await letters.replay(letter.dead_letter_id)
    assert await letters.count() == 1


async def test_the_same_message_is_one_letter(letters: DeadLetters, database: str) -> None:
    letter = Condemned("c", "TWEET", "tweet.created.1", "tweet:1", "tweet:1", b"x", {"a": "b"}, "bug", "nul \0 in it", 1)
    await letters.put(letter)
    await letters.put(letter)
    assert await letters.count() == 1
    (kept,) = await letters.list(2**63 - 1, 10, False)
    assert kept.error == "nul � in it"
