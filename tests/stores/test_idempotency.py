"""The same write under the same request_id happens once, whoever sends it when; failures burn nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.graph import v1 as graphpb
from services.runtime import postgres
from services.runtime.idempotency import Ledger, payload_hash
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database

LEDGER = Ledger("once")
ALICE = 1
DDL = """
drop schema if exists once cascade;
create schema once;
create table once.idempotency (
    actor_id bigint not null, request_id text not null, method text not null, payload_hash bytea not null,
    reply bytea not null, create_time timestamptz not null default clock_timestamp(),
    primary key (actor_id, request_id));
create index idempotency_age on once.idempotency using brin (create_time);
create table once.effect (id bigint generated always as identity, followee bigint not null)
"""


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with postgres.connect(database, "test", Metrics("test")) as opened:
        await opened.execute(DDL)
        yield opened


def request(followee: int, request_id: str = "key-1") -> graphpb.FollowRequest:
    return graphpb.FollowRequest(user_id=followee, request_id=request_id)


class Writer:
    """A write with a visible effect, that can be held or made to fail."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.calls = 0
        self.inside = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failing: set[int] = set()
        """Numbers of the calls that fail after their effect."""

    async def follow(self, asked: graphpb.FollowRequest, actor: int = ALICE, method: str = "Follow") -> bytes:
        async with (
            self._database.transaction() as tx,
            LEDGER.once(tx, actor, asked.request_id, method, asked) as claim,
        ):
            if claim.replay:
                assert claim.reply is not None
                return claim.reply
            self.calls = number = self.calls + 1
            await tx.execute("insert into once.effect (followee) values (%s)", (asked.user_id,))
            self.inside.set()
            await self.go.wait()
            if number in self.failing:
                raise ValueError
            claim.reply = b"reply-%d" % number
            return claim.reply

    async def effects(self) -> int:
        return (await self._database.query("select count(*) from once.effect"))[0][0]


@pytest.fixture
def writer(opened: Database) -> Writer:
    return Writer(opened)


async def test_a_repetition_answers_the_same_and_does_nothing(writer: Writer) -> None:
    assert await writer.follow(request(2)) == b"reply-1"
    assert await writer.follow(request(2)) == b"reply-1"
    assert (writer.calls, await writer.effects()) == (1, 1)


async def test_another_payload_under_the_same_key_is_refused(writer: Writer) -> None:
    await writer.follow(request(2))
    with pytest.raises(errors.AlreadyExists) as caught:
        await writer.follow(request(3))
    assert caught.value.status().details[0].value.find(b"IDEMPOTENCY_KEY_REUSED") > 0
    with pytest.raises(errors.AlreadyExists):
        await writer.follow(request(2), method="Unfollow")
    assert await writer.effects() == 1


async def test_keys_belong_to_their_actor(writer: Writer) -> None:
    await writer.follow(request(2), actor=1)
    assert await writer.follow(request(3), actor=2) == b"reply-2"


async def test_without_a_key_nothing_is_remembered(writer: Writer) -> None:
    await writer.follow(request(2, ""))
    await writer.follow(request(2, ""))
    assert await writer.effects() == 2


async def test_concurrent_twins_write_once(writer: Writer) -> None:
    answers = await asyncio.gather(*(writer.follow(request(2)) for _ in range(6)))
    assert set(answers) == {b"reply-1"}
    assert (writer.calls, await writer.effects()) == (1, 1)


async def test_a_twin_takes_over_when_the_first_fails(writer: Writer) -> None:
    writer.go.clear()
    writer.failing = {1}
    first = asyncio.create_task(writer.follow(request(2)))
    await writer.inside.wait()
    second = asyncio.create_task(writer.follow(request(2)))
    await asyncio.sleep(0.05)
    assert not second.done(), "the second must wait for the first"
    writer.go.set()
    with pytest.raises(ValueError):
        await first
    assert await second == b"reply-2"
    assert await writer.effects() == 1


async def test_a_failure_burns_nothing(writer: Writer) -> None:
    writer.failing = {1}
    with pytest.raises(ValueError):
        await writer.follow(request(2))
    assert await writer.follow(request(3)) == b"reply-2", "the key is free, even for another payload"
    assert await writer.effects() == 1


async def test_a_twin_of_a_slow_write_is_told_to_come_back(writer: Writer) -> None:
    writer.go.clear()
    first = asyncio.create_task(writer.follow(request(2)))
    await writer.inside.wait()
    with pytest.raises(errors.Unavailable):
        await writer.follow(request(2))
    writer.go.set()
    assert await first == b"reply-1"
    assert await writer.follow(request(2)) == b"reply-1"


async def test_a_replay_is_a_writing_commit_of_its_own(writer: Writer, opened: Database) -> None:
    """So that with a synchronous standby the replay is acknowledged only once the first commit is safe too."""
    await writer.follow(request(2))
    (before,) = await opened.query("select pg_current_wal_insert_lsn() - '0/0'")
    await writer.follow(request(2))
    (after,) = await opened.query("select pg_current_wal_insert_lsn() - '0/0'")
    assert after > before


async def test_a_write_without_a_reply_is_a_fault_and_rolls_back(writer: Writer, opened: Database) -> None:
    async def forgetful() -> None:
        async with opened.transaction() as tx, LEDGER.once(tx, ALICE, "key-1", "Follow", request(2)):
            await tx.execute("insert into once.effect (followee) values (2)")

    with pytest.raises(RuntimeError):
        await forgetful()
    assert await writer.effects() == 0


def test_the_hash_ignores_the_key_and_nothing_else() -> None:
    assert payload_hash("Follow", request(2, "a")) == payload_hash("Follow", request(2, "b"))
    assert payload_hash("Follow", request(2)) != payload_hash("Follow", request(3))
    assert payload_hash("Follow", request(2)) != payload_hash("Unfollow", request(2))
    assert len(payload_hash("Follow", request(2))) == 16
