"""The statements of the tweet service on a real Postgres."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from chirp import errors
from services.runtime import ids, outbox
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database
from services.tweet import store as statements
from services.tweet.model import Removal, Stored
from services.tweet.store import IdInUse, Pools, TweetStore

IDS = itertools.count(ids.first_at(1_735_689_600_000))


@pytest.fixture(scope="module")
async def pools(database: str) -> AsyncIterator[Pools]:
    async with statements.connect(database, Metrics("tweet")) as pools:
        yield pools


@pytest.fixture(scope="module")
def pool(pools: Pools) -> Database:
    return pools.writes


@pytest.fixture(scope="module")
def store(pools: Pools) -> TweetStore:
    return TweetStore(pools)


def a_tweet(author_id: int = 1, parent: int = 0, text: str = "hello") -> Stored:
    tweet_id = next(IDS)
    return Stored(tweet_id, author_id, 2 if parent else 1, parent, 9 if parent else 0, parent or tweet_id, text, b"")


async def insert(store: TweetStore, *rows: Stored, keys: Sequence[tuple[str, bytes]] = ()) -> set[int]:
    events = [outbox.event(f"tweet.created.{row.author_id}", row.author_id, b"%d" % row.tweet_id) for row in rows]
    return await store.insert(rows, [False] * len(rows), keys or [("", b"")] * len(rows), events)


async def delete(store: TweetStore, *removals: Removal) -> list[bool | None]:
    events = [outbox.event(f"tweet.deleted.{each.actor_id}", each.actor_id, b"%d" % each.tweet_id) for each in removals]
    return await store.delete(removals, events)


async def told(pool: Database, *rows: Stored) -> list[str]:
    found = await pool.query(
        "select subject from tweet.outbox where payload = any(%s) order by event_id", ([b"%d" % row.tweet_id for row in rows],)
    )
    return [subject for (subject,) in found]


async def test_a_row_comes_back_as_it_was_written(store: TweetStore, pool: Database) -> None:
    root = a_tweet()
    reply = Stored(next(IDS), 2, 2, root.tweet_id, 1, root.tweet_id, "漢 é", b"\x2a\x00")
    assert await insert(store, root) == {root.tweet_id}
    assert await insert(store, reply) == {reply.tweet_id}
    assert await store.get([reply.tweet_id, root.tweet_id, 5]) == {root.tweet_id: root, reply.tweet_id: reply}
    ((create_time,),) = await pool.query("select create_time from tweet.tweet where tweet_id = %s", (reply.tweet_id,))
    assert round(create_time.timestamp() * 1_000) == ids.time_ms(reply.tweet_id)
    assert await told(pool, root, reply) == ["tweet.created.1", "tweet.created.2"]


async def test_only_winners_of_a_key_are_written(store: TweetStore, pool: Database) -> None:
    first, second, other = a_tweet(31), a_tweet(31), a_tweet(32)
    assert await insert(store, first, keys=[("k", b"1")]) == {first.tweet_id}
    made = await insert(store, second, other, keys=[("k", b"2"), ("k", b"1")])
    assert made == {other.tweet_id}
    assert second.tweet_id not in await store.get([second.tweet_id])
    assert await told(pool, second) == []


async def test_a_key_tells_what_it_was_used_for_and_commits_anew(store: TweetStore, pool: Database) -> None:
    tweet = a_tweet(33)
    await insert(store, tweet, keys=[("k", b"1")])
    claims = await store.replay([(33, "k"), (33, "other"), (34, "k"), (33, "k")])
    assert set(claims) == {(33, "k")}
    assert (claims[33, "k"].payload_hash, claims[33, "k"].tweet) == (b"1", tweet)
    assert await pool.query("select replays from tweet.idempotency where actor_id = 33") == [(1,)]


@pytest.mark.parametrize("deleted", [False, True])
async def test_without_its_parent_nothing_is_written_and_no_key_is_burnt(store: TweetStore, pool: Database, deleted: bool) -> None:
    parent = a_tweet(40)
    if deleted:
        await insert(store, parent)
        assert await delete(store, Removal(40, parent.tweet_id, "", b"")) == [False]
    reply, original = a_tweet(41, parent.tweet_id), a_tweet(41)
    assert await insert(store, reply, original, keys=[(f"r{deleted}", b"1"), (f"o{deleted}", b"1")]) == {original.tweet_id}
    assert await told(pool, reply) == []
    instead = a_tweet(41)
    assert await insert(store, instead, keys=[(f"r{deleted}", b"1")]) == {instead.tweet_id}


async def test_a_reply_waits_for_the_deletion_of_its_parent(store: TweetStore, pool: Database) -> None:
    parent = a_tweet()
    await insert(store, parent)
    reply = a_tweet(2, parent.tweet_id)
    async with pool.transaction() as deletion:
        await deletion.execute(
            "update tweet.tweet set delete_time = now(), text = null, entities = null where tweet_id = %s", (parent.tweet_id,)
        )
        replying = asyncio.create_task(insert(store, reply))
        assert not (await asyncio.wait((replying,), timeout=0.1))[0]
    assert await replying == set()


async def test_a_deletion_waits_for_a_reply_to_the_tweet(store: TweetStore, pool: Database) -> None:
    parent = a_tweet()
    await insert(store, parent)
    async with pool.transaction() as replying:
        await replying.query("select 1 from tweet.tweet where tweet_id = %s for share", (parent.tweet_id,))
        deleting = asyncio.create_task(delete(store, Removal(1, parent.tweet_id, "", b"")))
        assert not (await asyncio.wait((deleting,), timeout=0.1))[0]
    assert await deleting == [False]


async def test_a_deletion_waits_for_another_and_knows_that_it_came_second(store: TweetStore, pool: Database) -> None:
    tweet = a_tweet()
    await insert(store, tweet)
    async with pool.transaction() as first:
        await first.execute(
            "update tweet.tweet set delete_time = now(), text = null, entities = null where tweet_id = %s", (tweet.tweet_id,)
        )
        second = asyncio.create_task(delete(store, Removal(1, tweet.tweet_id, "", b"")))
        assert not (await asyncio.wait((second,), timeout=0.1))[0]
    assert await second == [True]
    assert await told(pool, tweet) == ["tweet.created.1"]


async def test_a_row_that_cannot_be_takes_nobody_with_it_into_the_table(store: TweetStore, pool: Database) -> None:
    good, bad = a_tweet(), a_tweet(text="nul \x00")
    with pytest.raises(psycopg.DataError):
        await insert(store, good, bad, keys=[("good", b""), ("bad", b"")])
    assert await store.get([good.tweet_id, bad.tweet_id]) == {}
    assert await told(pool, good, bad) == []
    assert await insert(store, good, keys=[("good", b"")]) == {good.tweet_id}


async def test_an_id_in_use_is_said_and_nothing_is_written(store: TweetStore, pool: Database) -> None:
    tweet, other = a_tweet(), a_tweet()
    await insert(store, tweet)
    with pytest.raises(IdInUse):
        await insert(store, other, tweet._replace(text="another"))
    assert await store.get([tweet.tweet_id, other.tweet_id]) == {tweet.tweet_id: tweet}


async def test_deleting_leaves_a_tombstone_and_one_event(store: TweetStore, pool: Database) -> None:
    tweet = a_tweet(50)
    await insert(store, tweet)
    assert await delete(store, Removal(50, tweet.tweet_id, "", b"")) == [False]
    assert await delete(store, Removal(50, tweet.tweet_id, "", b"")) == [True]
    assert await store.get([tweet.tweet_id]) == {tweet.tweet_id: tweet._replace(text=None, entities=None)}
    assert await told(pool, tweet) == ["tweet.created.50", "tweet.deleted.50"]


async def test_deletions_of_one_tweet_together(store: TweetStore, pool: Database) -> None:
    tweet = a_tweet(51)
    await insert(store, tweet)
    removals = [Removal(51, tweet.tweet_id, key, b"1") for key in ("", "a", "", "b")]
    assert sorted(await delete(store, *removals), key=str) == [False, True, True, True]
    assert await told(pool, tweet) == ["tweet.created.51", "tweet.deleted.51"]


async def test_somebody_elses_tweet_is_not_deleted(store: TweetStore) -> None:
    tweet = a_tweet(52)
    await insert(store, tweet)
    assert await delete(store, Removal(53, tweet.tweet_id, "k", b"1"), Removal(52, 5, "k", b"1")) == [None, None]
    assert await store.get([tweet.tweet_id]) == {tweet.tweet_id: tweet}
    assert await store.replay([(53, "k"), (52, "k")]) == {}


async def test_a_key_used_for_a_deletion(store: TweetStore) -> None:
    tweet, other = a_tweet(54), a_tweet(54)
    await insert(store, tweet, other)
    assert await delete(store, Removal(54, tweet.tweet_id, "k", b"1")) == [False]
    assert await delete(store, Removal(54, other.tweet_id, "k", b"2")) == [None]
    claim = (await store.replay([(54, "k")]))[54, "k"]
    assert (claim.payload_hash, claim.already_deleted, claim.tweet.tweet_id) == (b"1", False, tweet.tweet_id)
    assert not (await store.get([other.tweet_id]))[other.tweet_id].deleted


async def test_processes_that_write_the_same_keys_in_any_order_do_not_deadlock(store: TweetStore) -> None:
    parents = [a_tweet(60) for _ in range(4)]
    await insert(store, *parents)

    async def process(turn: int) -> set[int]:
        rows = [a_tweet(61, parents[(index + turn) % 4].tweet_id) for index in range(32)]
        keys = [(f"k{(index * (7 if turn % 2 else 5)) % 32}", b"1") for index in range(32)]
        return await insert(store, *rows, keys=keys)

    made = await asyncio.gather(*(process(turn) for turn in range(6)))
    assert len(set[int]().union(*made)) == sum(map(len, made)) == 32


async def test_a_database_that_is_away_is_unavailable() -> None:
    async with statements.connect("host=/nowhere dbname=x", Metrics("tweet")) as nothing:
        with pytest.raises(errors.Unavailable):
            await TweetStore(nothing).get([1])
