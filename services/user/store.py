"""Accounts in Postgres. Reads that wait together are one SELECT; a write, its event and its request_id are one commit."""

from collections.abc import Mapping, Sequence

from psycopg.rows import args_row

from chirp.user import v1 as userpb
from services.runtime import outbox
from services.runtime.arrays import Int8Array, TextArray
from services.runtime.coalesce import Coalescer
from services.runtime.idempotency import Ledger
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database, Transaction
from services.user.events import UserEvents
from services.user.model import Account, username_key


class UserStore:
    """The tables of the schema `user`."""

    def __init__(self, database: Database, events: UserEvents, metrics: Metrics) -> None:
        self._database, self._events = database, events
        self._ledger, self._outbox = Ledger("user"), outbox.Outbox("user")
        self._reads = Coalescer[Sequence[int], Mapping[int, Account]](self._read, "user.accounts", metrics)

    async def accounts(self, user_ids: Sequence[int]) -> Mapping[int, Account]:
        """Accounts by id, as they are after this was asked; ids of nobody are absent, others may be present."""
        return await self._reads.submit(user_ids)

    async def by_username(self, username: str) -> Account | None:
        """The account of that name, whatever the case of its letters."""
        rows = await self._database.query(_BY_KEY, (username_key(username),), row=args_row(Account))
        return rows[0] if rows else None

    async def ids_by_username(self, usernames: Sequence[str]) -> dict[str, int]:
        """Ids by casefolded username."""
        keys = TextArray([username_key(each) for each in usernames])
        return dict(await self._database.query(_IDS_BY_KEY, (keys,)))

    async def create(self, account: Account, actor_id: int, request: userpb.CreateUserRequest) -> bytes | None:
        """Makes the account; the encoded reply, or that of the same request before. None if the username is taken."""

        async def unit(transaction: Transaction) -> bytes:
            async with self._ledger.once(transaction, actor_id, request.request_id, "CreateUser", request) as claim:
                if not claim.replay:
                    if not await self._insert(transaction, [account]):
                        raise _Taken
                    claim.reply = userpb.CreateUserResponse(user=account.to_proto()).SerializeToString()
            return claim.reply or b""

        try:
            return await self._database.run(unit)
        except _Taken:
            return None

    async def create_many(self, accounts: Sequence[Account]) -> set[int]:
        """Makes those whose username is free and returns their ids; of two with one username, the first."""
        return await self._insert(self._database, accounts)

    async def update(self, user_id: int, values: Mapping[str, str], request: userpb.UpdateProfileRequest) -> bytes | None:
        """Changes fields of a profile; the encoded reply, or that of the same request before. None: no such account."""

        async def unit(transaction: Transaction) -> bytes:
            async with self._ledger.once(transaction, user_id, request.request_id, "UpdateProfile", request) as claim:
                if not claim.replay:
                    account = await self._change(transaction, user_id, values)
                    claim.reply = userpb.UpdateProfileResponse(user=account.to_proto()).SerializeToString()
            return claim.reply or b""

        try:
            return await self._database.run(unit)
        except _Missing:
            return None

    async def healthy(self) -> bool:
        """Whether the database answers."""
        return await self._database.healthy()

    async def _read(self, asked: list[Sequence[int]]) -> list[Mapping[int, Account] | Exception]:
        wanted = Int8Array(sorted(set[int]().union(*asked)))
        rows = await self._database.query(_BY_ID, (wanted,), row=args_row(Account))
        found = {account.user_id: account for account in rows}
        return [found] * len(asked)

    async def _insert(self, session: Database | Transaction, accounts: Sequence[Account]) -> set[int]:
        columns = (
            Int8Array([each.user_id for each in accounts]),
            TextArray([each.username for each in accounts]),
            TextArray([each.username_key for each in accounts]),
            TextArray([each.display_name for each in accounts]),
            TextArray([each.bio for each in accounts]),
            TextArray([each.picture_url for each in accounts]),
            [each.create_time for each in accounts],
        )
        rows = await session.query(_INSERT, (*columns, *outbox.columns(self._events.created(accounts))))
        return {row[0] for row in rows}

    async def _change(self, transaction: Transaction, user_id: int, values: Mapping[str, str]) -> Account:
        given = tuple(values.get(name) for name in ("display_name", "bio", "picture_url"))
        rows = await transaction.query(_UPDATE, (*given, user_id), row=args_row(Account))
        if not rows:
            raise _Missing
        await self._outbox.append(transaction, [self._events.updated(rows[0])])
        return rows[0]


class _Taken(Exception):
    """Rolls a registration back."""


class _Missing(Exception):
    """Rolls a change back."""


_BY_ID = """
select user_id, username, display_name, bio, picture_url, create_time from "user".users where user_id = any(%s::bigint[])
"""

_BY_KEY = """
select user_id, username, display_name, bio, picture_url, create_time from "user".users where username_key = %s
"""

_IDS_BY_KEY = """
select username_key, user_id from "user".users where username_key = any(%s::text[])
"""

# Sorted by what is unique: two loaders with the same names wait for each other in one order.
_INSERT = """
with asked as (
    select * from unnest(
        %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[],
        %s::smallint[], %s::text[], %s::bytea[]
    ) with ordinality as asked (
        user_id, username, username_key, display_name, bio, picture_url, create_time, partition, subject, payload, place
    )
), made as (
    insert into "user".users (user_id, username, username_key, display_name, bio, picture_url, create_time)
    select user_id, username, username_key, display_name, bio, picture_url, create_time
    from asked order by username_key, place
    on conflict (username_key) do nothing
    returning user_id
), told as (
    insert into "user".outbox (partition, subject, payload)
    select partition, subject, payload from asked where user_id in (select user_id from made) order by place
)
select user_id from made
"""

_UPDATE = """
update "user".users
set display_name = coalesce(%s, display_name), bio = coalesce(%s, bio), picture_url = coalesce(%s, picture_url)
where user_id = %s
returning user_id, username, display_name, bio, picture_url, create_time
"""
