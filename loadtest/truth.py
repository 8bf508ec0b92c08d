"""The truth that an audit compares with: homes computed by SQL over the owners' tables, by nothing that serves or rebuilds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

HOME = """
    with followed as materialized (select followee_id from graph.following where follower_id = %(reader)s)
    select t.tweet_id, t.author_id, t.pull
    from tweet.tweet t
    where t.delete_time is null
      and (t.author_id = %(reader)s or t.author_id in (select followee_id from followed))
      and (t.author_id = %(reader)s
           or t.in_reply_to_user_id in (0, t.author_id, %(reader)s)
           or t.in_reply_to_user_id in (select followee_id from followed))
    order by t.tweet_id desc
"""
"""Own tweets and those of whom the reader follows, by the reply rule: author and answered author both followed, or the reader
one of the two, or authors answering themselves."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A tweet that belongs in a home."""

    tweet_id: int
    author_id: int
    pull: bool


class Truth:
    """A connection to Postgres that only reads."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def user_ids(self) -> list[int]:
        """Everybody, by increasing id."""
        rows = await self._fetch('select user_id from "user".users order by user_id', {})
        return [user_id for (user_id,) in rows]

    async def home(self, reader_id: int) -> list[Expected]:
        """The whole home, newest first."""
        return [Expected(*row) for row in await self._fetch(HOME, {"reader": reader_id})]

    async def authors(self, tweet_ids: Sequence[int]) -> dict[int, int]:
        """Authors of tweets, deleted ones too, by tweet; ids that never were a tweet are left out."""
        query = "select tweet_id, author_id from tweet.tweet where tweet_id = any(%(ids)s)"
        rows = await self._fetch(query, {"ids": list(tweet_ids)})
        return dict(rows)

    async def followed(self, reader_id: int, user_ids: Sequence[int]) -> set[int]:
        """Those of the users whom the reader follows."""
        query = "select followee_id from graph.following where follower_id = %(reader)s and followee_id = any(%(ids)s)"
        rows = await self._fetch(query, {"reader": reader_id, "ids": list(user_ids)})
        return {user_id for (user_id,) in rows}

    async def follow_revision(self, reader_id: int) -> int:
        """Of the reader now: a window built at a lower one is built anew when read next."""
        rows = await self._fetch("select follow_revision from graph.account where user_id = %(reader)s", {"reader": reader_id})
        return rows[0][0] if rows else 0

    async def unfollowed_payloads(self, reader_id: int) -> list[bytes]:
        """Events of the reader's unfollows of the last days: entries from before them may still lie in the window."""
        query = "select payload from graph.outbox where subject = %(subject)s"
        return [bytes(payload) for (payload,) in await self._fetch(query, {"subject": f"graph.unfollowed.{reader_id}"})]

    async def _fetch(self, query: LiteralString, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query, parameters)
        return await cursor.fetchall()
