"""Pure: an account, and what may be written into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from chirp import errors
from chirp.user import v1 as userpb

PROFILE_FIELDS = ("display_name", "bio", "picture_url")
"""What users change of themselves, in the contract's spelling and the table's."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user as stored."""

    user_id: int
    username: str
    display_name: str
    """Empty: the username is shown."""
    bio: str
    picture_url: str
    create_time: datetime

    @classmethod
    def new(cls, user_id: int, request: userpb.CreateUserRequest, now_ms: int) -> Self:
        """The account that a registration asks for; `now_ms` is unix time."""
        created = datetime.fromtimestamp(now_ms / 1_000, UTC)
        return cls(user_id, request.username, request.display_name, request.bio, request.picture_url, created)

    @property
    def username_key(self) -> str:
        """What no two accounts share."""
        return username_key(self.username)

    def to_proto(self) -> userpb.User:
        """The account as others see it."""
        user = userpb.User(
            user_id=self.user_id,
            username=self.username,
            display_name=self.display_name or self.username,
            bio=self.bio,
            picture_url=self.picture_url,
        )
        user.create_time.FromDatetime(self.create_time)
        return user


def username_key(username: str) -> str:
    """Equal for usernames that differ in the case of their letters only."""
    return username.casefold()


def changes(request: userpb.UpdateProfileRequest) -> dict[str, str]:
    """The new values by field; raises InvalidArgument naming update_mask for a path that is not a profile's."""
    paths: Sequence[str] = request.update_mask.paths or PROFILE_FIELDS
    for path in request.update_mask.paths:
        if path not in PROFILE_FIELDS:
            known = ", ".join(PROFILE_FIELDS)
            raise errors.InvalidArgument.field("update_mask", f"names {path!r}; a profile has {known}")
    return {path: getattr(request.profile, path) for path in paths}
