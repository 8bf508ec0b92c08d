"""Who is known to exist. Accounts are asked for once and remembered for a while; those that do not exist never are."""

from collections.abc import Collection, Iterable

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.user import v1 as userpb
from services.runtime.call import Call
from services.runtime.clock import Clock, SystemClock
from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics

REMEMBERED = 60.0
"""Seconds for which an account that was found is taken to be there still."""
CAPACITY = 200_000
"""Accounts remembered, about 25 MB; the one asked for longest ago goes first."""
PATIENCE = 1.0
"""Seconds the user service gets to answer."""
BATCH = 1_000


class Authors:
    """Positive answers of the user service, kept in process."""

    def __init__(self, users: "userpb.UserServiceAsyncStub", metrics: Metrics, clock: Clock | None = None) -> None:
        self._users, self._clock = users, clock or SystemClock()
        self._until: dict[int, float] = {}
        self._asking = Coalescer[int, bool](self._ask, "authors", metrics, max_batch=BATCH)

    async def require(self, user_id: int) -> None:
        """Raises NotFound (USER_NOT_FOUND) if there is no such user, Unavailable if it cannot be known."""
        if not self._knows(user_id) and not await self._asking.submit(user_id):
            raise unknown(user_id)

    async def existing(self, user_ids: Collection[int]) -> set[int]:
        """Those of at most 1000 users who exist."""
        missing = [user_id for user_id in user_ids if not self._knows(user_id)]
        answers = await self._ask(missing) if missing else []
        absent = {user_id for user_id, exists in zip(missing, answers, strict=True) if not exists}
        return set(user_ids) - absent

    def _knows(self, user_id: int) -> bool:
        return self._until.get(user_id, 0.0) > self._clock.monotonic()

    async def _ask(self, user_ids: list[int]) -> list[bool]:
        request = userpb.BatchGetUsersRequest(user_ids=user_ids)
        reply = await self._users.BatchGetUsers(request, **Call.background(self._clock, PATIENCE).onward())
        exist = [record.HasField("user") for record in reply.items]
        self._remember(user_id for user_id, there in zip(user_ids, exist, strict=True) if there)
        return exist

    def _remember(self, user_ids: Iterable[int]) -> None:
        until = self._clock.monotonic() + REMEMBERED
        for user_id in user_ids:
            self._until.pop(user_id, None)
            self._until[user_id] = until
        while len(self._until) > CAPACITY:
            del self._until[next(iter(self._until))]


def unknown(user_id: int) -> errors.NotFound:
    """The error for an author who does not exist."""
    return errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, f"user {user_id} does not exist", user_id=user_id)
