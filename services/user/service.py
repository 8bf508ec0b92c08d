"""The RPCs of the user service."""

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.id import v1 as idpb
from chirp.user import v1 as userpb
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.fences import Fences
from services.runtime.outbox import Bell
from services.user import model
from services.user.events import UserEvents
from services.user.model import Account
from services.user.store import UserStore


class UserService:
    """Registers users and shows who they are."""

    def __init__(
        self,
        store: UserStore,
        ids: "idpb.IdServiceAsyncStub",
        fences: Fences,
        bell: Bell,
        events: UserEvents,
        clock: Clock,
    ) -> None:
        self._store, self._ids, self._fences, self._bell = store, ids, fences, bell
        self._events, self._clock = events, clock

    async def create_user(self, request: userpb.CreateUserRequest, call: Call) -> bytes:
        """Registers an account; idempotent by request_id in the scope of the caller, who may be nobody."""
        (user_id,) = await self._new_ids(1, call)
        account = Account.new(user_id, request, self._clock.now_ms())
        reply = await self._store.create(account, call.viewer_id, request)
        self._events.count_created(reply is not None, reply is None)
        if reply is None:
            raise _username_taken(request.username)
        self._bell.ring()
        return reply

    async def batch_create_users(self, request: userpb.BatchCreateUsersRequest, call: Call) -> userpb.BatchCreateUsersResponse:
        """Registers many. Usernames make a repetition harmless, so the items' request_ids are not looked at."""
        ids, now_ms = await self._new_ids(len(request.users), call), self._clock.now_ms()
        accounts = [Account.new(*pair, now_ms) for pair in zip(ids, request.users, strict=True)]
        made = await self._store.create_many(accounts)
        self._events.count_created(len(made), len(accounts) - len(made))
        self._bell.ring()
        taken = [each.username for each in accounts if each.user_id not in made]
        holders = await self._store.ids_by_username(taken) if taken else {}
        return userpb.BatchCreateUsersResponse(items=[_created(each, made, holders) for each in accounts])

    async def get_user(self, request: userpb.GetUserRequest, call: Call) -> userpb.GetUserResponse:
        """One account; the caller's own for 0."""
        user_id = request.user_id or call.viewer()
        account = (await self._store.accounts([user_id])).get(user_id)
        if account is None:
            raise _no_user(user_id)
        return userpb.GetUserResponse(user=account.to_proto())

    async def batch_get_users(self, request: userpb.BatchGetUsersRequest, call: Call) -> userpb.BatchGetUsersResponse:
        """Accounts in the order of the ids asked for."""
        accounts = await self._store.accounts(request.user_ids)
        reply = userpb.BatchGetUsersResponse()
        for user_id in request.user_ids:
            account = accounts.get(user_id)
            reply.items.add(user_id=user_id, user=account.to_proto() if account else None)
        return reply

    async def lookup_user(self, request: userpb.LookupUserRequest, call: Call) -> userpb.LookupUserResponse:
        """The account of a username."""
        account = await self._store.by_username(request.username)
        if account is None:
            raise errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, "nobody has that username")
        return userpb.LookupUserResponse(user=account.to_proto())

    async def update_profile(self, request: userpb.UpdateProfileRequest, call: Call) -> bytes:
        """Changes the caller's profile; whoever keeps a copy of it sees the fence before the change is committed."""
        user_id = call.viewer()
        values = model.changes(request)
        async with self._fences.raised([f"user:fence:{{{user_id}}}"]):
            reply = await self._store.update(user_id, values, request)
        if reply is None:
            raise _no_user(user_id)
        self._events.count_updated()
        self._bell.ring()
        return reply

    async def healthy(self) -> bool:
        """Without its database it serves nothing."""
        return await self._store.healthy()

    async def _new_ids(self, count: int, call: Call) -> list[int]:
        reply = await self._ids.GenerateIds(idpb.GenerateIdsRequest(count=count), **call.onward())
        return list(reply.ids)


def _created(account: Account, made: set[int], holders: dict[str, int]) -> userpb.CreatedUser:
    if account.user_id in made:
        return userpb.CreatedUser(user_id=account.user_id)
    return userpb.CreatedUser(user_id=holders[account.username_key], already_exists=True)


def _no_user(user_id: int) -> errors.NotFound:
    return errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, f"user {user_id} does not exist", user_id=user_id)


def _username_taken(username: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(errorspb.ERROR_REASON_USERNAME_TAKEN, f"the username {username} is taken", username=username)
