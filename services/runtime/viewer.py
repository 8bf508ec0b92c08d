"""Who is asking: the one place where what a caller sent becomes a user id."""

from collections.abc import Mapping
from typing import Protocol

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.call import VIEWER_KEY
from services.runtime.config import Config

GREATEST_ID = 2**63 - 1


class Authenticator(Protocol):
    """Finds the user in the metadata of a call."""

    def viewer(self, metadata: Mapping[str, str]) -> int:
        """The user's id, 0 for nobody; raises Unauthenticated when an identity was sent that cannot be believed."""
        ...


class NobodyAuthenticator:
    """Identifies nobody: what a process does that was given no way to tell."""

    def viewer(self, metadata: Mapping[str, str]) -> int:
        """Always 0."""
        return 0


class HeaderAuthenticator:
    """Believes the bare x-user-id header. For development: anybody can be anybody."""

    def viewer(self, metadata: Mapping[str, str]) -> int:
        """The id in x-user-id; 0 without the header."""
        sent = metadata.get(VIEWER_KEY)
        if sent is None:
            return 0
        if not (sent.isascii() and sent.isdecimal() and len(sent) <= 19 and 0 < int(sent) <= GREATEST_ID):
            raise errors.Unauthenticated(
                errorspb.ERROR_REASON_VIEWER_INVALID, f"{VIEWER_KEY} must be a user id: a decimal from 1 to 2^63-1"
            )
        return int(sent)


def authenticator(config: Config) -> Authenticator:
    """The way of telling who asks that the process was configured with."""
    return HeaderAuthenticator() if config.header_auth else NobodyAuthenticator()
