"""Edges in Postgres: whatever races whatever, rows, counts, revisions and events agree."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from services.graph.changes import Pair, Wish
from services.graph.edges import Edges
from services.graph.events import GraphCounters
from services.graph.store import LAST, GraphStore
from services.runtime import postgres
from services.runtime.clock import SystemClock
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database

USERS = count(1_000)
LIMIT = 50


@dataclass(slots=True)
class World:
    """Two replicas of the writer on one database."""

    database: Database
    replicas: list[Edges]
    store: GraphStore

    @property
    def edges(self) -> Edges:
        return self.replicas[0]

    async def follow(self, follower_id: int, followee_id: int, request_id: str = "") -> graphpb.FollowResponse:
        wish = Wish(Pair(follower_id, followee_id), True, request_id, b"%d" % followee_id)
        return graphpb.FollowResponse.FromString(await self.edges.submit(wish))

    async def unfollow(self, follower_id: int, followee_id: int) -> graphpb.UnfollowResponse:
        return graphpb.UnfollowResponse.FromString(await self.edges.submit(Wish(Pair(follower_id, followee_id), False)))

    async def pairs(self, *users: int) -> set[Pair]:
        """The edges by these users, which both tables must agree on."""
        one = await self.database.query(
            "select follower_id, followee_id from graph.following where follower_id = any(%s)", (list(users),)
        )
        other = await self.database.query(
            "select follower_id, followee_id from graph.followers where follower_id = any(%s)", (list(users),)
        )
        assert set(one) == set(other)
        return {Pair(*row) for row in one}

    async def audit(self) -> None:
        """Counts against rows, positions and revisions, and the last event of each edge, of everything in the database."""
        drift = """
            select user_id from graph.account where
            follower_count <> (select count(*) from graph.followers where followee_id = user_id)
            or following_count <> (select count(*) from graph.following where follower_id = user_id)
            or follower_revision < (select coalesce(max(position), 0) from graph.followers where followee_id = user_id)
            or edge_revision < (select coalesce(max(revision), 0) from graph.following where follower_id = user_id)
        """
        assert await self.database.query(drift) == []
        doubled = """
            select followee_id, position from graph.followers group by 1, 2 having count(*) > 1
            union all select follower_id, revision from graph.following group by 1, 2 having count(*) > 1
        """
        assert await self.database.query(doubled) == []
        standing = {Pair(*row) for row in await self.database.query("select follower_id, followee_id from graph.following")}
        assert await self.told() == standing

    async def told(self) -> set[Pair]:
        """The edges that stand for somebody who hears the events in any order."""
        rows = await self.database.query("select subject, payload from graph.outbox order by random()")
        latest: dict[Pair, tuple[int, bool]] = {}
        for subject, payload in rows:
            follow = subject.startswith("graph.followed.")
            message = (graphpb.Followed if follow else graphpb.Unfollowed).FromString(payload)
            pair = Pair(message.follower_id, message.followee_id)
            assert message.revision != latest.get(pair, (0, False))[0]
            latest[pair] = max(latest.get(pair, (0, False)), (message.revision, follow))
        return {pair for pair, (_, follow) in latest.items() if follow}


class NoFences:
    """Redis is not what is tested here."""

    @asynccontextmanager
    async def raised(self, keys: object) -> AsyncIterator[None]:
        yield


@pytest.fixture(scope="module")
async def world(database: str) -> AsyncIterator[World]:
    metrics = Metrics("test")
    async with postgres.connect(database, "graph", metrics) as pool:
        fences, counters = NoFences(), GraphCounters(metrics)
        replicas = [
            Edges(pool, fences, SystemClock(), lambda: LIMIT, counters, Metrics(f"replica {n}"))  # type: ignore[arg-type]
            for n in range(2)
        ]
        yield World(pool, replicas, GraphStore(pool, metrics))


def users(number: int) -> list[int]:
    return [next(USERS) for _ in range(number)]


async def test_follow_and_unfollow(world: World) -> None:
    a, b = users(2)

    assert not (await world.follow(a, b)).already_following
    assert (await world.follow(a, b)).already_following
    assert await world.pairs(a, b) == {Pair(a, b)}
    assert (await world.unfollow(a, b)).was_following
    assert not (await world.unfollow(a, b)).was_following
    assert await world.pairs(a, b) == set()
    await world.audit()


async def test_unfollowing_nobody_leaves_no_trace(world: World) -> None:
    a, b = users(2)

    assert not (await world.unfollow(a, b)).was_following

    assert await world.database.query("select 1 from graph.account where user_id in (%s, %s)", (a, b)) == []


async def test_an_edge_to_oneself_is_refused_by_the_tables(world: World) -> None:
    for table, columns in (
        ("following", "follower_id, followee_id, revision"),
        ("followers", "followee_id, follower_id, position"),
    ):
        statement = f"insert into graph.{table} ({columns}, follow_time) values (1, 1, 1, now())"  # noqa: S608
        with pytest.raises(psycopg.errors.CheckViolation):
            await world.database.execute(statement.encode())


async def test_counts_cannot_be_negative(world: World) -> None:
    a, b = users(2)
    await world.follow(a, b)
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.database.execute("update graph.account set follower_count = -1 where user_id = %s", (b,))


async def test_what_is_asked_together_is_committed_together(world: World) -> None:
    star, *fans = users(41)
    before = await world.database.query("select count(distinct xmin::text::bigint) from graph.following")

    await asyncio.gather(*(world.follow(fan, star) for fan in fans))

    after = await world.database.query("select count(distinct xmin::text::bigint) from graph.following")
    assert after[0][0] - before[0][0] <= 3
    (standing,) = await world.store.standings([star])
    assert (standing.follower_count, standing.follower_revision) == (40, 40)
    await world.audit()


async def test_the_same_pair_many_times_in_one_batch(world: World) -> None:
    a, b, c = users(3)
    await world.follow(a, b)
    pairs = [Pair(a, b), Pair(a, c)]
    together = [world.edges.submit(Wish(pair, follow)) for pair in pairs for follow in (False, True, False, True)]

    await asyncio.gather(*together)

    assert await world.pairs(a, b, c) == set(pairs)
    assert [each.user_id for each in await world.store.following(a, LAST, 10)] == [c, b]
    await world.audit()


async def test_two_replicas_and_a_loader_race_over_the_same_users(world: World) -> None:
    rng, everybody = random.Random(7), users(8)

    async def wander(edges: Edges) -> None:
        for _ in range(40):
            a, b = rng.sample(everybody, 2)
            await edges.submit(Wish(Pair(a, b), rng.random() < 0.6))

    async def load() -> None:
        for _ in range(10):
            await world.replicas[1].make(Pair(*rng.sample(everybody, 2)) for _ in range(6))

    async with asyncio.TaskGroup() as tasks:
        for edges in world.replicas * 3:
            tasks.create_task(wander(edges))
        tasks.create_task(load())

    await world.audit()


async def test_of_two_who_are_new_each_gets_one_account(world: World) -> None:
    a, b = users(2)

    await asyncio.gather(*(edges.submit(Wish(Pair(*pair), True)) for edges in world.replicas for pair in ((a, b), (b, a))))

    assert await world.pairs(a, b) == {Pair(a, b), Pair(b, a)}
    await world.audit()


async def test_one_request_id_on_two_replicas_at_once_follows_once(world: World) -> None:
    a, b = users(2)
    wish = Wish(Pair(a, b), True, "once", b"payload")

    replies = await asyncio.gather(*(edges.submit(wish) for edges in world.replicas for _ in range(3)))

    assert len(set(replies)) == 1
    rows = await world.database.query("select method from graph.idempotency where actor_id = %s", (a,))
    assert rows == [("Follow",)]
    await world.audit()


async def test_a_request_id_outlives_the_edge(world: World) -> None:
    a, b, c = users(3)
    first = await world.follow(a, b, "key")
    await world.unfollow(a, b)

    assert await world.follow(a, b, "key") == first
    assert await world.pairs(a, b) == set()
    with pytest.raises(errors.AlreadyExists) as reused:
        await world.follow(a, c, "key")
    assert reused.value.reason == errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert not (await world.follow(b, c, "key")).already_following


async def test_the_limit_holds_against_many_at_once_and_burns_no_key(world: World) -> None:
    a, *others = users(LIMIT + 6)

    asked = [edges.submit(Wish(Pair(a, other), True)) for edges, other in zip(world.replicas * 30, others, strict=False)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    refusals = [each for each in outcomes if isinstance(each, errors.FailedPrecondition)]
    assert len(outcomes) - len(refusals) == LIMIT
    followed = {pair.followee_id for pair in await world.pairs(a)}
    left_out = next(other for other in others if other not in followed)
    with pytest.raises(errors.FailedPrecondition):
        await world.follow(a, left_out, "key")
    await world.unfollow(a, followed.pop())
    assert not (await world.follow(a, left_out, "key")).already_following
    await world.audit()


async def test_whoever_is_always_too_late_locks_the_accounts_and_succeeds(world: World, database: str) -> None:
    a, b, c = users(3)
    await world.follow(a, b)
    quicker: list[bool] = []

    def limit() -> int:
        """Asked between reading and writing: somebody else changes the account then, unless it is locked."""
        with psycopg.connect(database, autocommit=True, options="-c lock_timeout=50") as connection:
            try:
                connection.execute("update graph.account set edge_revision = edge_revision + 1 where user_id = %s", (a,))
                quicker.append(True)
            except psycopg.errors.LockNotAvailable:
                quicker.append(False)
        return LIMIT

    clock, metrics = SystemClock(), Metrics("late")
    late = Edges(world.database, NoFences(), clock, limit, GraphCounters(metrics), metrics)  # type: ignore[arg-type]
    await late.submit(Wish(Pair(a, c), True))

    assert quicker == [True, True, True, False]
    assert await world.pairs(a) == {Pair(a, b), Pair(a, c)}
    await world.audit()


async def test_a_poisonous_wish_fails_alone(world: World) -> None:
    a, b, c = users(3)
    asked = [Wish(Pair(a, b), True), Wish(Pair(a, c), True, "\0"), Wish(Pair(b, c), True)]

    outcomes = await asyncio.gather(*(world.edges.submit(wish) for wish in asked), return_exceptions=True)

    assert [isinstance(each, Exception) for each in outcomes] == [False, True, False]
    assert await world.pairs(a, b, c) == {Pair(a, b), Pair(b, c)}
    await world.audit()


async def test_loading_leaves_out_what_stands_and_oneself(world: World) -> None:
    a, b, c = users(3)
    await world.follow(a, b)

    made = await world.edges.make([Pair(a, b), Pair(a, c), Pair(a, c), Pair(b, b), Pair(c, a)])

    assert made == 2
    assert await world.pairs(a, b, c) == {Pair(a, b), Pair(a, c), Pair(c, a)}
    assert await world.edges.make([Pair(a, a)]) == 0
    await world.audit()


async def test_lists_are_latest_first_and_go_on_below_a_position(world: World) -> None:
    star, *fans = users(7)
    for fan in fans:
        await world.follow(fan, star)
    await world.unfollow(fans[1], star)
    await world.follow(fans[1], star)

    found = await world.store.followers(star, LAST, 10)

    assert [each.user_id for each in found] == [fans[1], *reversed(fans[2:]), fans[0]]
    assert await world.store.followers(star, found[2].position, 2) == found[3:5]


async def test_pages_of_followers_by_increasing_id(world: World) -> None:
    star, *fans = users(6)
    await world.edges.make(Pair(fan, star) for fan in fans)

    assert await world.store.follower_page(star, 0, 3) == tuple(fans[:3])
    assert await world.store.follower_page(star, fans[2], 3) == tuple(fans[3:])
    assert await world.store.follower_page(star, fans[-1], 3) == ()
