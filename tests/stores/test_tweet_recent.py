"""The newest tweets of many authors on a real Postgres: exact, and by the index whatever the planner knows."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.arrays import BoolArray, ByteaArray, Int2Array, Int8Array, PackedArray, TextArray
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database
from services.tweet import store as statements
from services.tweet.model import Reference
from services.tweet.recent import GREATEST_ID, Range, recent
from services.tweet.store import Pools, TweetStore

COUNT = 6_000
ROWS = """
insert into tweet.tweet (
    tweet_id, author_id, in_reply_to_user_id, conversation_id, create_time, kind, pull, text, entities, delete_time)
select n * 10, author, n % 7, n, now(), 1, n % 3 = 0, case when n % 11 > 0 then 'x' end, case when n % 11 > 0 then ''::bytea end,
    case when n % 11 = 0 then now() end
from generate_series(1, %s) as n, lateral (select (power(abs(hashint8(n) % 1000) / 1000.0, 4) * 400)::bigint + 1 as author) as a
"""


@pytest.fixture(scope="module")
async def pools(database: str) -> AsyncIterator[Pools]:
    async with statements.connect(database, Metrics("tweet")) as pools:
        yield pools


@pytest.fixture(scope="module")
def pool(pools: Pools) -> Database:
    return pools.writes


@pytest.fixture(scope="module")
async def tweets(pool: Database) -> list[Reference]:
    """A few authors with thousands of tweets, many with few; every eleventh tweet is deleted."""
    await pool.execute(ROWS.replace("%s", "%%s").replace("% ", "%% ").replace("%%s", "%s"), (COUNT,))
    rows = await pool.query("select tweet_id, author_id, in_reply_to_user_id, pull from tweet.tweet where delete_time is null")
    return sorted(Reference(*row) for row in rows)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1_000_000),
    count=st.sampled_from([1, 2, 5, 40, 300, 900]),
    before=st.one_of(st.just(0), st.integers(1, 10 * COUNT + 5)),
    after=st.one_of(st.just(0), st.integers(1, 10 * COUNT + 5)),
    limit=st.sampled_from([1, 2, 7, 30, 200, 800, 2_000]),
)
async def test_as_a_plain_merge(
    pools: Pools, tweets: list[Reference], seed: int, count: int, before: int, after: int, limit: int
) -> None:
    authors = [random.Random(seed).randrange(1, 410) for _ in range(count)]
    within, asked = Range.of(before, after), set(authors)
    expected = [each for each in tweets if each.author_id in asked and within.above < each.tweet_id < within.below]
    found = await recent(TweetStore(pools).recent, authors, within, limit)
    assert found == (expected if within.upwards else expected[::-1])[:limit]


@pytest.mark.parametrize("knowledge", ["nothing", "statistics", "of one author"])
@pytest.mark.parametrize("statement", [statements.NEWEST, statements.OLDEST])
async def test_a_list_is_read_from_its_index_alone(pools: Pools, tweets: list[Reference], knowledge: str, statement: str) -> None:
    start = GREATEST_ID if statement is statements.NEWEST else 0
    parameters = (Int8Array(list(range(1, 400))), Int8Array([start] * 399), GREATEST_ID - start, 2, 100)
    plan = await explained(pools.lists, knowledge, statement, parameters)
    assert scans(plan) == {("Function Scan", ""), ("Index Only Scan", "tweet_by_author")}


@pytest.mark.parametrize("knowledge", ["nothing", "statistics", "of one author"])
@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        (statements.GET, {"tweet_pkey"}),
        (statements.REPLAY, {"tweet_pkey", "idempotency_pkey"}),
        (statements.INSERT, {"tweet_pkey"}),
        (statements.DELETE, {"tweet_pkey"}),
    ],
)
async def test_no_statement_scans_a_table(
    pools: Pools, tweets: list[Reference], knowledge: str, statement: str, indexes: set[str]
) -> None:
    plan = await explained(pools.writes, knowledge, statement, empty(statement))
    assert not {name for name, _ in scans(plan)} & {"Seq Scan", "Bitmap Heap Scan"}
    assert {index for _, index in scans(plan) if index} == indexes


async def explained(pool: Database, knowledge: str, statement: str, parameters: tuple[object, ...]) -> dict[str, Any]:
    """The plan of a statement, with statistics that may mislead: at most one author, tables thought to be empty."""
    async with pool.transaction() as transaction:
        if knowledge == "of one author":
            await transaction.execute("alter table tweet.tweet alter author_id set (n_distinct = 1)")
        if knowledge != "nothing":
            await transaction.execute("analyze tweet.tweet")
        ((plan,),) = await transaction.query(f"explain (format json) {statement}", parameters)  # type: ignore[arg-type]
        await transaction.execute("alter table tweet.tweet alter author_id reset (n_distinct)")
    return plan[0]["Plan"]


def empty(statement: str) -> tuple[PackedArray, ...]:
    """An empty array for each parameter, of the type that its cast names."""
    kinds = {each.array_oid: each for each in (Int8Array, Int2Array, TextArray, ByteaArray, BoolArray)}
    oids = {"bigint": 1016, "smallint": 1005, "text": 1009, "bytea": 1001, "boolean": 1000}
    return tuple(kinds[oids[name]]([]) for name in re.findall(r"%s::(\w+)\[\]", statement))


def scans(plan: dict[str, Any]) -> set[tuple[str, str]]:
    """Kind and index of every scan of a plan but those of what a statement made itself."""
    own = {(plan["Node Type"], plan.get("Index Name", ""))} if "Scan" in plan["Node Type"] else set[tuple[str, str]]()
    own -= {("CTE Scan", ""), ("Subquery Scan", "")}
    return own.union(*(scans(child) for child in plan.get("Plans", ())))
