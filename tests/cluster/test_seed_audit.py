"""`chirp seed` fills a cluster and can be repeated; `chirp audit` finds each kind of difference, and none where there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from loadtest.auditing import GRACE_MS
from services.cluster import redis_servers
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import pack
from services.timeline import window
from tests.cluster.clients import Clients, persistently
from tests.cluster.command import chirp, recorded, start
from tests.conftest import Cluster
from tests.waiting import eventually

GRAPH = """# a comment
% another
1 2
3\t2
2,3
1 3 extra words
1 2
4 4
5 1
"""
TEXTS = "first\t27\tid\nsecond 🎉\t1\tid\n\t\t\n"
SEED = ("--users", "60", "--celebrities", "2", "--tweets", "400", "--json")
CREATED = {"users": 60, "tweets": 400}

FROM_FILE = """
    select count(*) from tweet.tweet t join "user".users u on u.user_id = t.author_id
    where u.username like %s and t.text ~ %s
"""


@pytest.fixture(scope="module")
def state(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with recorded(cluster, tmp_path_factory.mktemp("recorded")) as state:
        yield state


@dataclass(frozen=True)
class Seeded:
    """A cluster after `chirp seed`."""

    report: dict[str, Any]
    when: float

    @property
    def most_followed(self) -> int:
        return int(self.report["most_followed"]["user_id"])


@pytest.fixture(scope="module")
async def seeded(state: Path) -> Seeded:
    done = await chirp(state, "seed", *SEED)
    assert done.status == 0, done.complaints
    return Seeded(done.json, time.time())


class Truth:
    """Counts in the database."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def one(self, query: str, *parameters: object) -> Any:
        """The first value of the first row."""
        cursor = await self._connection.execute(query, parameters)  # type: ignore[arg-type]
        row = await cursor.fetchone()
        assert row is not None
        return row[0]

    async def tweets(self) -> int:
        """All that were ever made."""
        return await self.one("select count(*) from tweet.tweet")


@pytest.fixture
async def truth(cluster: Cluster) -> AsyncIterator[Truth]:
    async with await psycopg.AsyncConnection.connect(cluster.postgres, autocommit=True) as connection:
        yield Truth(connection)


class TestSeed:
    async def test_a_made_up_graph(self, seeded: Seeded, truth: Truth, clients: Clients) -> None:
        report = seeded.report
        assert report["created"] == CREATED | {"follows": report["follows"]}
        assert report["refused"] == {}
        assert set(report["seconds"]) == {"users", "follows", "tweets", "fan-out"}
        assert await truth.one('select count(*) from "user".users where username ~ %s', "^u[0-9]+$") == 60
        followers = await truth.one("select follower_count from graph.account where user_id = %s", seeded.most_followed)
        assert followers > 40
        assert len(await clients.home(seeded.most_followed)) > 20

    async def test_again_makes_nothing_new_and_meets_no_refusal(self, seeded: Seeded, state: Path, truth: Truth) -> None:
        before = await truth.tweets()
        again = await chirp(state, "seed", *SEED)
        assert again.status == 0, again.complaints
        assert again.json["created"] == {"users": 0, "follows": 0, "tweets": 0}
        assert (again.json["refused"], again.json["tweets"]) == ({}, 400)
        assert again.json["most_followed"] == seeded.report["most_followed"]
        assert await truth.tweets() == before

    async def test_a_graph_and_texts_from_files(self, state: Path, tmp_path: Path, truth: Truth) -> None:
        (tmp_path / "follows.txt").write_text(GRAPH)
        (tmp_path / "texts.tsv").write_text(TEXTS)
        files = ("--graph", str(tmp_path / "follows.txt"), "--texts", str(tmp_path / "texts.tsv"))
        done = await chirp(state, "seed", *files, "--tweets", "30")
        assert done.status == 0, done.complaints
        assert done.out.startswith("4 users in "), done.out
        assert "5 follows in " in done.out
        assert "the most followed account: n" in done.out
        # Nodes 2 and 3 have two followers each; the smaller number is named.
        name = done.out.split("the most followed account: ")[1].split(",")[0]
        assert name.endswith("2")
        prefix = name[:-1] + "%"
        assert await truth.one(FROM_FILE, prefix, "first|second 🎉") == 30

    async def test_a_load_that_was_broken_off_is_resumed(self, state: Path, truth: Truth) -> None:
        load = ("--users", "40", "--tweets", "3000", "--seed", "7", "--json", "--no-wait")
        keys = "select count(*) from tweet.idempotency where request_id like 'u-7-%%'"
        process = await start(state, "seed", *load)

        async def under_way() -> bool:
            return await truth.one(keys) > 0

        try:
            await eventually(under_way, timeout=30)
        finally:
            process.kill()
            await process.communicate()
        before = await truth.one(keys)
        assert before < 3000
        done = await chirp(state, "seed", *load)
        assert done.status == 0, done.complaints
        assert done.json["created"]["tweets"] <= 3000 - before
        assert await truth.one(keys) == 3000
        tweets = "select count(distinct tweet_id) from tweet.idempotency where request_id like 'u-7-%%'"
        assert await truth.one(tweets) == 3000

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"1 2\nthree four\n", ":2: expected two node numbers"),
            (b"1\n", ":1: expected two node numbers"),
            (b"1 -2\n", ":1: expected two node numbers"),
            (b"1 1234567890123\n", ":1: expected two node numbers of at most 12 digits"),
            (b"\x00\xff\xfe binary", ":1: expected two node numbers"),
            (b"# nothing\n", "holds no edge"),
            (b"", "holds no edge"),
            (None, "is not a file"),
        ],
    )
    async def test_a_graph_that_cannot_be_read_is_one_clear_line(
        self, state: Path, tmp_path: Path, truth: Truth, content: bytes | None, complaint: str
    ) -> None:
        path = tmp_path / "graph.txt"
        if content is not None:
            path.write_bytes(content)
        before = await truth.tweets()
        done = await chirp(state, "seed", "--graph", str(path))
        assert (done.status, done.out) == (1, "")
        assert complaint in _only_line(done.complaints)
        assert await truth.tweets() == before

    async def test_texts_that_hold_nothing_are_one_clear_line(self, state: Path, tmp_path: Path) -> None:
        (tmp_path / "texts.tsv").write_text("\n\t\n")
        done = await chirp(state, "seed", "--texts", str(tmp_path / "texts.tsv"))
        assert done.status == 1
        assert "holds no text" in _only_line(done.complaints)

    @pytest.mark.parametrize("command", ["seed", "audit"])
    async def test_without_a_cluster_there_is_one_clear_line(self, tmp_path: Path, command: str) -> None:
        done = await chirp(tmp_path, command)
        assert done.status == 1
        assert "no cluster runs on" in _only_line(done.complaints)

    @pytest.mark.parametrize("command", ["seed", "audit"])
    async def test_a_cluster_that_died_is_one_clear_line(self, state: Path, tmp_path: Path, command: str) -> None:
        (tmp_path / "run.json").write_text((state / "run.json").read_text())
        done = await chirp(tmp_path, command)
        assert done.status == 1
        assert "no cluster runs on" in _only_line(done.complaints)


def _only_line(complaints: str) -> str:
    lines = complaints.strip().splitlines()
    assert len(lines) == 1, complaints
    assert lines[0].startswith("chirp: ")
    return lines[0]


@pytest.fixture(scope="module")
async def redis(cluster: Cluster) -> AsyncIterator[RedisCluster]:
    async with RedisCluster.open(cluster.redis, Metrics("test")) as redis:
        yield redis


@dataclass(frozen=True)
class Homes:
    """The only windows there are: those of three readers, of whom the first reads the others' tweets."""

    reader: int
    others: list[int]
    stranger: int
    tweets: list[int]
    """Of whom the reader follows, newest first, old enough to be held to be delivered."""
    strange: int
    """A tweet of the stranger."""


@pytest.fixture(scope="module")
async def homes(cluster: Cluster, clients: Clients, seeded: Seeded) -> Homes:
    await clients.drained()
    author, stranger = await clients.people(2)
    others = [await clients.user(author) for _ in range(2)]
    reader = await clients.user(author)
    strange = await clients.post(stranger, "not for them")
    tweets = [await clients.post(author, f"old {number}") for number in range(8)]
    made = time.time()
    await eventually(lambda: time.time() > made + GRACE_MS / 1000 + 0.5, timeout=15)
    tweets.append(await clients.post(author, "new"))
    await clients.drained()
    for node in cluster.machine.redis_servers.nodes:
        await redis_servers.command(node, "FLUSHALL")
    for each in (reader, *others):
        assert await clients.home(each) == tweets[::-1]
    return Homes(reader, others, stranger, tweets[::-1], strange)


async def _findings(state: Path, *options: str) -> tuple[int, set[tuple[str, str, str]], dict[str, Any]]:
    done = await chirp(state, "audit", "--users", "1000", "--json", *options)
    assert not done.complaints, done.complaints
    facts = done.json
    found = {(each["place"], each["kind"], each["tweet_id"]) for each in facts["differences"]}
    return done.status, found, facts


class TestAudit:
    async def test_a_clean_world_has_no_difference(self, state: Path, homes: Homes) -> None:
        status, found, facts = await _findings(state)
        assert (status, found) == (0, set())
        assert (facts["users"], facts["windows"], facts["repaired"]) == (3, 3, 0)
        assert facts["entries"] == 3 * 2 * 9, "of three windows, and of three answers"
        done = await chirp(state, "audit")
        assert (done.status, done.out.splitlines()[-1]) == (0, "no difference")

    @pytest.mark.parametrize("kind", ["missing", "extra", "nonsense", "repeated", "order"])
    async def test_what_is_planted_is_found_and_mended(
        self, state: Path, homes: Homes, redis: RedisCluster, clients: Clients, kind: str
    ) -> None:
        key, oldest = window.key(homes.reader), homes.tweets[-1]
        plants: dict[str, tuple[list[tuple[object, ...]], set[tuple[str, str, str]]]] = {
            "missing": (
                [("LREM", key, 0, homes.tweets[3])],
                {("window", "missing", str(homes.tweets[3])), ("answer", "missing", str(homes.tweets[3]))},
            ),
            # The reader filters it, but it lies there.
            "extra": ([("LINSERT", key, "AFTER", oldest, homes.strange)], {("window", "extra", str(homes.strange))}),
            "nonsense": ([("LPUSH", key, 17)], {("window", "extra", "17"), ("window", "order", "17")}),
            "repeated": ([("LINSERT", key, "AFTER", oldest, oldest)], {("window", "repeated", str(oldest))}),
            "order": ([("LREM", key, 0, oldest), ("LPUSH", key, oldest)], {("window", "order", str(oldest))}),
        }
        commands, expected = plants[kind]
        await redis.run(key, *(pack(*command) for command in commands))
        status, found, facts = await _findings(state, "--strict")
        assert (status, found) == (1, expected)
        assert {each["user_id"] for each in facts["differences"]} == {str(homes.reader)}
        assert facts["windows"] == 3
        assert facts["repeated_in_windows"] == (1 if kind == "repeated" else 0)
        status, found, facts = await _findings(state, "--strict", "--repair")
        assert (status, found, facts["repaired"]) == (0, set(), 1)
        assert (await _findings(state, "--strict"))[:2] == (0, set())
        assert await clients.home(homes.reader) == homes.tweets

    async def test_an_entry_that_lies_twice_in_a_window_is_a_fact_and_no_difference(
        self, state: Path, homes: Homes, redis: RedisCluster, clients: Clients
    ) -> None:
        key, oldest = window.key(homes.reader), homes.tweets[-1]
        await redis.run(key, pack("LINSERT", key, "AFTER", oldest, oldest))
        status, found, facts = await _findings(state)
        assert (status, found, facts["repeated_in_windows"]) == (0, set(), 1)
        assert await clients.home(homes.reader) == homes.tweets, "readers drop it"
        done = await chirp(state, "audit")
        assert (done.status, done.out.splitlines()[1:]) == (
            0,
            ["1 entries lie twice in windows; readers drop them", "no difference"],
        )
        assert (await chirp(state, "audit", "--strict")).status == 1
        assert (await chirp(state, "audit", "--strict", "--repair")).status == 0

    async def test_a_tweet_that_was_pulled_is_missed_as_well(self, state: Path, clients: Clients, truth: Truth) -> None:
        author, reader = await clients.people(2)
        await clients.follow(reader, author)
        await clients.set("graph.pull_threshold", "1")
        try:
            tweet = await clients.post(author, "pulled")
        finally:
            await clients.set("graph.pull_threshold", "10000")
        assert await truth.one("select pull from tweet.tweet where tweet_id = %s", tweet)
        await eventually(lambda: _shows(clients, reader, [tweet]))
        status, found, facts = await _findings(state)
        assert (status, found, facts["windows"]) == (0, set(), 4)

    async def test_it_says_what_differs_in_words(self, state: Path, homes: Homes, redis: RedisCluster) -> None:
        key = window.key(homes.reader)
        await redis.run(key, pack("LPUSH", key, homes.strange))
        done = await chirp(state, "audit")
        assert done.status == 1
        assert f"user {homes.reader}: tweet {homes.strange} extra in the window" in done.out
        assert (await chirp(state, "audit", "--repair")).status == 0

    async def test_it_builds_no_home_unless_asked_to(
        self, cluster: Cluster, state: Path, homes: Homes, redis: RedisCluster, clients: Clients
    ) -> None:
        cold, outdated = window.key(homes.others[0]), window.key(homes.others[1])
        await redis.run(cold, pack("UNLINK", cold))
        await clients.follow(homes.others[1], homes.stranger)
        (before,) = await redis.run(outdated, pack("LRANGE", outdated, 0, -1))
        windows = await _windows(cluster)
        status, found, facts = await _findings(state)
        assert (status, found) == (0, set())
        assert facts["windows"] == len(windows) - 1, "all but the one that is out of date"
        assert await _windows(cluster) == windows
        assert await redis.run(outdated, pack("LRANGE", outdated, 0, -1)) == [before]
        status, found, facts = await _findings(state, "--cold", "--users", "20", "--seed", "2")
        assert (status, found, facts["users"]) == (0, set(), 20)
        assert windows < await _windows(cluster)

    async def test_with_no_home_in_the_cache_it_does_not_say_that_all_is_well(
        self, cluster: Cluster, state: Path, homes: Homes, truth: Truth
    ) -> None:
        for node in cluster.machine.redis_servers.nodes:
            await redis_servers.command(node, "FLUSHALL")
        status, found, facts = await _findings(state)
        assert (status, found, facts["users"]) == (1, set(), 0)
        done = await chirp(state, "audit")
        everybody = await truth.one('select count(*) from "user".users')
        assert (done.status, done.out) == (
            1,
            f"nothing was compared: none of the {everybody} users looked at has a home in the cache; "
            "read homes first, or use --cold\n",
        )
        status, found, facts = await _findings(state, "--cold", "--users", "5")
        assert (status, found, facts["users"]) == (0, set(), 5)


async def _windows(cluster: Cluster) -> set[object]:
    """The keys of all homes that lie in Redis."""
    nodes = cluster.machine.redis_servers.nodes
    replies = [await redis_servers.command(node, "KEYS", "timeline:home:*") for node in nodes]
    return {key for reply in replies if isinstance(reply, list) for key in reply}


async def _shows(clients: Clients, reader: int, expected: list[int]) -> bool:
    return await clients.home(reader) == expected


async def test_a_service_that_is_away_is_one_clear_line(cluster: Cluster, state: Path, clients: Clients) -> None:
    await cluster.stop("user")
    try:
        done = await asyncio.wait_for(chirp(state, "seed", "--users", "10", "--tweets", "10"), 60)
    finally:
        await cluster.start("user")
        # Whoever calls it finds it again within two seconds.
        (author,) = await clients.people(1)
        await persistently(lambda: clients.user(author))
    assert done.status == 1
    assert done.complaints.strip().splitlines()[-1].startswith("chirp: broken off: ")
    assert "Traceback" not in done.complaints
