"""The bytes of RESP and the connection: order, batches, one write a tick, and what happens when replies do not come."""

import asyncio
import time
from binascii import crc_hqx

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.resp import (
    CacheUnavailable,
    Connection,
    Flawed,
    RedisError,
    around_key,
    joined,
    key_slot,
    pack,
)

ARGUMENTS = st.one_of(st.binary(max_size=40), st.text(max_size=40), st.integers())


class Wire(asyncio.Transport):
    """Records what a connection writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high


class Lost:
    """Records why connections were lost."""

    def __init__(self) -> None:
        self.causes: list[tuple[str, bool]] = []

    def __call__(self, connection: Connection, cause: str, slow: bool) -> None:
        self.causes.append((cause, slow))


def connected(timeout: float = 5.0) -> tuple[Connection, Wire, Lost]:
    wire, lost = Wire(), Lost()
    connection = Connection(timeout, lost)
    connection.connection_made(wire)
    return connection, wire, lost


def commands(data: bytes) -> list[list[bytes]]:
    """The commands that a server would read."""
    reader = hiredis.Reader()
    reader.feed(data)
    return list(iter(reader.gets, False))


@given(st.lists(ARGUMENTS, min_size=1, max_size=6))
def test_pack_gives_a_server_the_same_arguments(arguments: list[bytes | str | int]) -> None:
    expected = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    assert commands(pack(*arguments)) == [expected]


@given(st.integers(1, 30), st.data(), st.lists(ARGUMENTS, max_size=3))
def test_joined_commands_are_one_each_key(length: int, data: st.DataObject, rest: list[bytes | str | int]) -> None:
    keys = data.draw(st.lists(st.binary(min_size=length, max_size=length), min_size=1, max_size=8))
    head, tail = around_key("LPUSHX", *rest)
    assert joined(keys, head, tail) == b"".join(pack("LPUSHX", key, *rest) for key in keys)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"123456789", b"123456789"),
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", b"foo{bar"),
    ],
)
def test_slots_follow_the_hash_tag_rules_of_the_cluster_specification(key: bytes, hashed: bytes) -> None:
    assert key_slot(key) == crc_hqx(hashed, 0) % 16384


def test_the_slot_of_the_specification_s_example() -> None:
    assert key_slot(b"123456789") == 0x31C3


async def test_what_is_submitted_in_one_tick_is_written_at_once() -> None:
    connection, wire, _ = connected()
    for number in range(10):
        connection.submit(pack("GET", number), 1)
    assert wire.writes == []
    await asyncio.sleep(0)
    assert len(wire.writes) == 1
    assert [words[1] for words in commands(wire.writes[0])] == [b"%d" % number for number in range(10)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.lists(st.integers(1, 40), max_size=12))
def test_replies_go_to_their_batches_however_the_stream_is_cut(counts: list[int], cuts: list[int]) -> None:
    async def scenario() -> None:
        connection, _, _ = connected()
        futures = [connection.submit(pack("PING"), count) for count in counts]
        stream = b"".join(b":%d\r\n" % number for number in range(sum(counts)))
        position = 0
        for cut in [*cuts, len(stream)]:
            connection.data_received(stream[position : position + cut])
            position += cut
        found = [await future for future in futures]
        assert found == _split(list(range(sum(counts))), counts)

    asyncio.run(scenario())


def _split(values: list[int], counts: list[int]) -> list[list[int]]:
    rest = iter(values)
    return [[next(rest) for _ in range(count)] for count in counts]


async def test_zero_nil_and_empty_are_replies_like_any_other() -> None:
    connection, _, _ = connected()
    future = connection.submit(b"", 5)
    connection.data_received(b":0\r\n$-1\r\n*0\r\n$0\r\n\r\n*-1\r\n")
    assert await future == [0, None, [], b"", None]


async def test_errors_mark_their_own_batch_only() -> None:
    connection, _, _ = connected()
    before, flawed, after = (connection.submit(b"", 2) for _ in range(3))
    connection.data_received(b"+OK\r\n+OK\r\n+OK\r\n-WRONGTYPE no\r\n+OK\r\n+OK\r\n")
    assert type(await before) is list
    assert type(await after) is list
    replies = await flawed
    assert isinstance(replies, Flawed)
    assert isinstance(replies[1], RedisError)
    assert replies[1].code == "WRONGTYPE"


async def test_a_waiter_that_left_does_not_shift_replies() -> None:
    connection, _, _ = connected()
    first, second = connection.submit(b"", 1), connection.submit(b"", 1)
    first.cancel()
    connection.data_received(b":1\r\n:2\r\n")
    assert await second == [2]


async def test_a_timeout_gives_up_the_connection_and_everything_on_it() -> None:
    connection, wire, lost = connected(timeout=0.05)
    start = time.monotonic()
    first = connection.submit(b"", 1)
    await asyncio.sleep(0.03)
    second = connection.submit(b"", 1)
    assert isinstance(await first, CacheUnavailable)
    assert isinstance(await second, CacheUnavailable)
    assert 0.045 < time.monotonic() - start < 0.15
    assert wire.aborted
    assert [slow for _, slow in lost.causes] == [True]


async def test_after_a_timeout_no_late_reply_reaches_another_request() -> None:
    connection, _, _ = connected(timeout=0.05)
    assert isinstance(await connection.submit(b"", 1), CacheUnavailable)
    later = connection.submit(b"", 1)
    connection.data_received(b":1\r\n")
    assert isinstance(await later, CacheUnavailable)


async def test_half_a_batch_of_replies_is_no_answer() -> None:
    connection, _, _ = connected(timeout=0.05)
    future = connection.submit(b"", 2)
    connection.data_received(b":1\r\n")
    assert isinstance(await future, CacheUnavailable)


@pytest.mark.parametrize("held_up", [0.06, 0.08, 0.3])
async def test_a_loop_that_was_held_up_still_finds_its_replies(held_up: float) -> None:
    connection, _, lost = connected(timeout=0.05)
    future = connection.submit(b"", 1)
    # Due after the check, as replies are that the loop finds only once its timers have run.
    asyncio.get_running_loop().call_later(0.055, connection.data_received, b":1\r\n")
    await asyncio.sleep(0.01)
    time.sleep(held_up)  # noqa: ASYNC251  the loop itself is what is late here
    assert await future == [1]
    assert lost.causes == []


async def test_a_quiet_connection_is_not_given_up() -> None:
    connection, _, lost = connected(timeout=0.03)
    future = connection.submit(b"", 1)
    connection.data_received(b":1\r\n")
    await asyncio.sleep(0.1)
    assert await future == [1]
    assert lost.causes == []


@pytest.mark.parametrize("data", [b":1\r\n:2\r\n", b":1\r\n:", b"?what\r\n"])
async def test_replies_nobody_asked_for_end_the_connection(data: bytes) -> None:
    connection, wire, lost = connected()
    connection.submit(b"", 1)
    connection.data_received(data)
    assert wire.aborted
    assert len(lost.causes) == 1
    assert isinstance(await connection.submit(b"", 1), CacheUnavailable)


async def test_a_lost_connection_tells_everybody_once() -> None:
    connection, _, lost = connected()
    futures = [connection.submit(b"", 1) for _ in range(3)]
    connection.connection_lost(ConnectionResetError())
    connection.close("again")
    assert all(isinstance(each, CacheUnavailable) for each in await asyncio.gather(*futures))
    assert len(lost.causes) == 1


async def test_a_full_write_buffer_refuses_until_it_drains() -> None:
    connection, wire, _ = connected()
    assert wire.high is not None
    connection.pause_writing()
    assert isinstance(await connection.submit(b"", 1), CacheUnavailable)
    connection.resume_writing()
    future = connection.submit(b"", 1)
    connection.data_received(b":1\r\n")
    assert await future == [1]
