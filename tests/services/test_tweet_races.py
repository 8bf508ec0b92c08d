"""Writes of tweets that meet each other, and parts that fail under them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from chirp import errors
from chirp.tweet import v1 as tweetpb
from services.runtime.call import Call
from services.tweet.model import Draft
from tests.services.postgres_wire import Wire, wired
from tests.services.tweet_world import World, acting, author, open_world

KILL = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name = 'tweet_write' and datname = current_database() and pid <> pg_backend_pid()
"""


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture(scope="module")
async def replica(database: str, redis_nodes: str, nats_url: str, world: World) -> AsyncIterator[World]:
    """Another process of the service, on the same truth; ids come from the one id service."""
    async with open_world(database, redis_nodes, nats_url) as replica:
        replica.service._writer._peers = world.service._writer._peers  # type: ignore[attr-defined]
        yield replica


@pytest.fixture
def somebody() -> int:
    return author()


async def test_sixty_four_at_once_under_one_key_on_two_replicas(world: World, replica: World, somebody: int) -> None:
    answers = await asyncio.gather(*(each.post(somebody, "once", key="k") for _ in range(32) for each in (world, replica)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await world.events(somebody)) == 1
    request = tweetpb.ListRecentByAuthorsRequest(author_ids=[somebody])
    assert len((await world.service.list_recent_by_authors(request, acting(0))).items) == 1


async def test_two_payloads_at_once_under_one_key(world: World, replica: World, somebody: int) -> None:
    outcomes = await asyncio.gather(
        *(each.post(somebody, f"number {turn % 2}", key="k") for turn in range(16) for each in (world, replica)),
        return_exceptions=True,
    )
    made = {outcome.tweet_id for outcome in outcomes if isinstance(outcome, tweetpb.Tweet)}
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.AlreadyExists)]
    assert len(made) == 1
    assert len(refused) == 16
    assert len(await world.events(somebody)) == 1


async def test_a_reply_is_never_acknowledged_to_a_tweet_deleted_before(world: World, replica: World, somebody: int) -> None:
    replier, outcomes = author(), list[tuple[bool, bool]]()

    async def replies(on: World, parent_id: int, deleted: asyncio.Event) -> None:
        for _ in range(8):
            too_late = deleted.is_set()
            (outcome,) = await asyncio.gather(on.post(replier, "hm", parent_id), return_exceptions=True)
            outcomes.append((too_late, isinstance(outcome, tweetpb.Tweet)))
            assert isinstance(outcome, tweetpb.Tweet | errors.NotFound)

    async def delete(parent_id: int, deleted: asyncio.Event) -> None:
        await replica.delete(somebody, parent_id)
        deleted.set()

    for _ in range(12):
        parent_id, deleted = (await world.post(somebody)).tweet_id, asyncio.Event()
        await asyncio.gather(replies(world, parent_id, deleted), delete(parent_id, deleted), replies(replica, parent_id, deleted))
    assert (True, True) not in outcomes
    assert {(False, True), (True, False)} <= set(outcomes)


async def test_one_of_many_deletions_at_once_deletes(world: World, replica: World, somebody: int) -> None:
    tweet = await world.post(somebody)
    answers = await asyncio.gather(*(each.delete(somebody, tweet.tweet_id) for _ in range(32) for each in (world, replica)))
    assert sorted(answers) == [False] + [True] * 63
    assert [type(event).__name__ for event in await world.events(somebody)] == ["TweetCreated", "TweetDeleted"]


async def test_a_poisonous_tweet_fails_alone(world: World) -> None:
    authors = [author() for _ in range(64)]

    def draft(index: int) -> Draft:
        return Draft(authors[index], "nul \x00" if index in (13, 40) else "fine", b"", 0, f"p{index}", b"h")

    writer = world.service._writer  # type: ignore[attr-defined]
    outcomes = await asyncio.gather(*(writer.create(draft(index)) for index in range(64)), return_exceptions=True)
    failed = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert failed == [13, 40]
    assert all(isinstance(outcomes[index], psycopg.DataError) for index in failed)
    made = {outcome.tweet_id for outcome in outcomes if not isinstance(outcome, BaseException)}
    assert len(made) == 62
    assert (await world.post(authors[13], "not poisonous", key="p13")).text == "not poisonous"


async def test_an_id_that_is_in_use_is_replaced(world: World, somebody: int) -> None:
    first = await world.post(somebody)
    world.ids.next_ids.append(first.tweet_id)
    second = await world.post(somebody, "another")
    assert second.tweet_id != first.tweet_id
    assert await world.get(first.tweet_id) == first
    assert world.count("chirp_tweet_id_collisions_total") == 1


async def test_later_tweets_have_greater_ids(world: World, replica: World) -> None:
    async def diary(writer: int) -> list[int]:
        return [(await (world, replica)[turn % 2].post(writer, f"day {turn}")).tweet_id for turn in range(6)]

    for diaries in await asyncio.gather(*(diary(author()) for _ in range(32))):
        assert diaries == sorted(diaries)


async def test_writes_that_wait_together_share_calls_and_a_statement(world: World) -> None:
    ids, plans = world.ids.calls, world.graph.calls
    await asyncio.gather(*(world.post(author()) for _ in range(64)))
    assert world.ids.calls - ids == world.graph.calls - plans <= 3


@pytest.mark.parametrize("peer", ["ids", "graph", "users"])
async def test_without_a_peer_nothing_is_written(world: World, somebody: int, peer: str) -> None:
    absent = getattr(world, peer)
    absent.away = True
    try:
        with pytest.raises(errors.Unavailable):
            await world.post(somebody, key="k")
    finally:
        absent.away = False
    assert await world.events(somebody) == []
    assert (await world.post(somebody, key="k")).author_id == somebody


@pytest.mark.parametrize("patience", [0, 0.0005, 0.001, 0.002, 0.003])
async def test_a_caller_who_gives_up_learns_by_the_key_what_happened(world: World, somebody: int, patience: float) -> None:
    posting = asyncio.create_task(world.post(somebody, "patience", key="k"))
    await asyncio.sleep(patience)
    posting.cancel()
    await asyncio.wait((posting,))
    tweet = await world.post(somebody, "patience", key="k")
    assert [event.tweet_id for event in await world.events(somebody)] == [tweet.tweet_id]


async def test_redis_away_costs_no_tweet(database: str, nats_url: str, free_port: type[int]) -> None:
    async with open_world(database, f"127.0.0.1:{free_port()}", nats_url) as world:
        somebody = author()
        tweet = await world.post(somebody)
        assert await world.delete(somebody, tweet.tweet_id) is False
        assert len(await world.events(somebody)) == 2
        assert world.count("chirp_fences_not_raised_total") >= 2
        assert world.count("chirp_notices_not_announced_total") >= 1


async def test_nats_away_costs_no_tweet(database: str, redis_nodes: str, free_port: type[int]) -> None:
    async with open_world(database, redis_nodes, f"nats://127.0.0.1:{free_port()}") as world:
        somebody = author()
        await world.post(somebody)
        assert len(await world.events(somebody)) == 1


@pytest.fixture(scope="module")
async def cut(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[tuple[World, Wire]]:
    """The service over a wire that can be cut."""
    with tempfile.TemporaryDirectory() as folder:
        async with wired(database, Path(folder)) as (dsn, wire), open_world(dsn, redis_nodes, nats_url) as world:
            yield world, wire


@pytest.mark.parametrize("killed", [False, True], ids=["connection lost", "backend killed"])
async def test_an_answer_lost_after_the_commit_is_unknown_and_the_key_resolves_it(
    cut: tuple[World, Wire], world: World, somebody: int, killed: bool
) -> None:
    through, wire = cut
    parent = await world.post(somebody)
    text = f"lost {somebody}"
    wire.cut_after(text.encode())
    before = wire.cuts
    with pytest.raises(errors.Unavailable):
        await through.post(somebody, text, parent.tweet_id, key="k")
    assert wire.cuts == before + 1
    (_, lost) = await world.events(somebody)
    if killed:
        await world.database.query(KILL)
    answers = [await each.post(somebody, text, parent.tweet_id, key="k") for each in (world, through)]
    assert [answer.tweet_id for answer in answers] == [lost.tweet_id] * 2
    assert answers[0].text == text
    assert len(await world.events(somebody)) == 2


async def test_a_lost_answer_to_a_deletion_is_resolved_by_its_key(cut: tuple[World, Wire], world: World, somebody: int) -> None:
    through, wire = cut
    tweet = await world.post(somebody)
    wire.cut_after(b"deletion-key")
    with pytest.raises(errors.Unavailable):
        await through.delete(somebody, tweet.tweet_id, key="deletion-key")
    assert await through.delete(somebody, tweet.tweet_id, key="deletion-key") is False
    assert len(await world.events(somebody)) == 2


async def test_reads_that_wait_together_are_one_query(world: World, somebody: int) -> None:
    posted = [await world.post(somebody, f"number {number}") for number in range(20)]

    async def read(index: int) -> tweetpb.Tweet:
        request = tweetpb.GetTweetRequest(tweet_id=posted[index % 20].tweet_id)
        return (await world.service.get_tweet(request, Call.background(timeout=5))).tweet

    before = world.metrics.registry.get_sample_value("chirp_coalesce_batch_size_count", {"name": "tweet_read"}) or 0
    assert await asyncio.gather(*(read(index) for index in range(40))) == posted * 2
    after = world.metrics.registry.get_sample_value("chirp_coalesce_batch_size_count", {"name": "tweet_read"}) or 0
    assert after - before <= 4
