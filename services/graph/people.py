"""Users as this service needs them: whether they exist, and how they are shown in a list."""

from collections.abc import Mapping, Sequence

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.user import v1 as userpb
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics

REMEMBERED = 200_000
"""Users that are known to exist, of whom the earliest are forgotten."""
ASKING = 1.0
"""Seconds for the user service to answer a question that many may wait for."""


class People:
    """Asks the user service. That a user exists is remembered, that one does not is not."""

    def __init__(self, users: "userpb.UserServiceAsyncStub", clock: Clock, metrics: Metrics) -> None:
        self._users, self._clock = users, clock
        self._known: dict[int, None] = {}
        self._questions = Coalescer[Sequence[int], Mapping[int, userpb.User]](self._ask, "graph.people", metrics)

    async def require(self, *user_ids: int) -> None:
        """Raises NotFound (USER_NOT_FOUND) naming the first of them who does not exist."""
        unknown = [user_id for user_id in user_ids if user_id not in self._known]
        if not unknown:
            return
        found = await self._questions.submit(unknown)
        for user_id in unknown:
            if user_id not in found:
                raise _no_user(user_id)
        self._remember(unknown)

    async def summaries(self, user_ids: Sequence[int], call: Call) -> dict[int, userpb.UserSummary]:
        """One summary per id, by id; of somebody who does not exist the id alone, so that a list agrees with its count."""
        if not user_ids:
            return {}
        reply = await self._users.BatchGetUsers(userpb.BatchGetUsersRequest(user_ids=user_ids), **call.onward())
        return {record.user_id: _summary(record) for record in reply.items}

    async def _ask(self, asked: list[Sequence[int]]) -> list[Mapping[int, userpb.User] | Exception]:
        request = userpb.BatchGetUsersRequest(user_ids=sorted(set[int]().union(*asked)))
        reply = await self._users.BatchGetUsers(request, **Call.background(self._clock, ASKING).onward())
        found = {record.user_id: record.user for record in reply.items if record.HasField("user")}
        return [found] * len(asked)

    def _remember(self, user_ids: Sequence[int]) -> None:
        self._known.update(dict.fromkeys(user_ids))
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]


def _summary(record: userpb.UserRecord) -> userpb.UserSummary:
    user = record.user
    return userpb.UserSummary(
        user_id=record.user_id,
        username=user.username,
        display_name=user.display_name,
        picture_url=user.picture_url,
    )


def _no_user(user_id: int) -> errors.NotFound:
    return errors.NotFound(errorspb.ERROR_REASON_USER_NOT_FOUND, f"user {user_id} does not exist", user_id=user_id)
