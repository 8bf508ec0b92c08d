"""Pure parts of the event path: partitions, the stream table, what a delivery says of itself, which failures pass."""

import asyncio

import grpc
import psycopg
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import jetstream, outbox
from services.runtime.consumer import Message
from services.runtime.transient import transient


def test_partitions_are_stable_and_spread_quiet_snowflakes() -> None:
    quiet = [(millisecond * 997) << 22 for millisecond in range(1600)]
    counts = [0] * outbox.PARTITIONS
    for each in quiet:
        counts[outbox.partition(each)] += 1
    assert min(counts) > 50, "ids whose low bits are all zero must not share a partition"
    assert [outbox.partition(each) for each in (0, 1, 2, 3, 2**63 - 1)] == [0, 9, 3, 13, 14]


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        ("tweet.created.12", "TWEET"),
        ("tweet.deleted.12", "TWEET"),
        ("tweet.edited.12", None),
        ("tweet.created", None),
        ("tweet.created.1.2", None),
        ("tweet.created.", None),
        ("graph.followed.12", "GRAPH"),
        ("user.updated.12", "USER"),
        ("timeline.page.3", "FANOUT"),
        ("", None),
    ],
)
def test_stream_of(subject: str, stream: str | None) -> None:
    assert jetstream.stream_of(subject) == stream


def test_stream_settings_are_pinned() -> None:
    configs = {each.name: jetstream.stream_config(each, 3, 1 << 20) for each in jetstream.STREAMS}
    assert set(configs) == {"TWEET", "GRAPH", "USER", "FANOUT"}
    for config in configs.values():
        assert config.storage == StorageType.FILE
        assert config.discard == DiscardPolicy.NEW
        assert (config.max_age, config.duplicate_window) == (7 * 86_400, 600)
        assert (config.num_replicas, config.max_bytes) == (3, 1 << 20)
    assert configs["FANOUT"].retention == RetentionPolicy.WORK_QUEUE
    assert configs["TWEET"].retention == RetentionPolicy.LIMITS


@pytest.mark.parametrize("prefix", ["$JS.ACK", "$JS.ACK.domain.account"])
def test_a_delivery_tells_its_event(prefix: str) -> None:
    tail = ".token" if "domain" in prefix else ""
    reply = f"{prefix}.TWEET.fanout.3.41.7.1700000000000000000.0{tail}"
    message = Message(Msg(Client(), "tweet.created.1", reply, b"x", {"Nats-Msg-Id": "tweet:99:r2"}))
    assert (message.stream, message.deliveries, message.sequence) == ("TWEET", 3, 41)
    assert (message.message_id, message.event_id) == ("tweet:99:r2", "tweet:99")
    bare = Message(Msg(Client(), "tweet.created.1", reply, b"x", None))
    assert bare.message_id == bare.event_id == "TWEET:41"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, ""), True),
        (errors.ResourceExhausted(errorspb.ERROR_REASON_OVERLOADED, ""), True),
        (errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_EXCEEDED, ""), True),
        (errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, ""), False),
        (errors.Internal(errorspb.ERROR_REASON_INTERNAL, ""), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (asyncio.CancelledError(), True),
        (NoRespondersError(), True),
        (psycopg.OperationalError(), True),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.DataError(), False),
        (KeyError(), False),
    ],
)
def test_transient(error: BaseException, passes: bool) -> None:
    assert transient(error) is passes


def test_every_code_was_considered() -> None:
    passing = {code for code in grpc.StatusCode if _passes(code)}
    assert {code.name for code in passing} == {
        "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED",
    }  # fmt: skip


def _passes(code: grpc.StatusCode) -> bool:
    kinds = {kind.code: kind for kind in errors.ServiceError.__subclasses__()}
    return code in kinds and transient(kinds[code](errorspb.ERROR_REASON_UNSPECIFIED, ""))


class SlowNats:
    """A connection whose publish takes its time."""

    connected = True

    def __init__(self) -> None:
        self.client = self
        self.published: list[str] = []
        self.go = asyncio.Event()

    async def publish(self, subject: str) -> None:
        self.published.append(subject)
        await self.go.wait()


async def test_a_ring_during_a_ring_is_not_lost() -> None:
    nats = SlowNats()
    bell = outbox.Bell(nats, "shop")  # type: ignore[arg-type]
    bell.ring()
    bell.ring()
    await asyncio.sleep(0)
    assert nats.published == ["outbox.bell.shop"], "one turn of the loop, one ring"
    bell.ring()
    bell.ring()
    nats.go.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert nats.published == ["outbox.bell.shop"] * 2
    bell.ring()
    await asyncio.sleep(0)
    assert len(nats.published) == 3
