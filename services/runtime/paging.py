"""Pages of lists: how long one is, and the opaque token that says where the next begins."""

import base64
import binascii
import hmac
import struct
from collections.abc import Sequence
from hashlib import blake2b

from chirp import errors
from chirp.errors import v1 as errorspb

DEFAULT_SIZE = 20
GREATEST_SIZE = 200
_VERSION = 1
_SEAL = 8


def page_size(asked: int, default: int = DEFAULT_SIZE, greatest: int = GREATEST_SIZE) -> int:
    """Items on a page: 0 asks for the default, more than the greatest gets the greatest; raises InvalidArgument when negative."""
    if asked < 0:
        raise errors.InvalidArgument.field("page_size", "must not be negative")
    return min(asked, greatest) or default


class PageTokens:
    """Seals positions in lists. A token is good for ever, for one kind of list and one viewer only; it hides nothing secret."""

    def __init__(self, key: bytes) -> None:
        """`key` is the same in all processes (CHIRP_PAGE_KEY), so that any replica reads the token of another."""
        self._key = key

    def encode(self, kind: str, viewer_id: int, values: Sequence[int]) -> str:
        """The token of a position: the signed 64-bit numbers that the list needs to go on."""
        body = struct.pack(f">B{len(values)}q", _VERSION, *values)
        return _encoded(self._seal(kind, viewer_id, body) + body)

    def decode(self, token: str, kind: str, viewer_id: int, field: str = "page_token") -> tuple[int, ...]:
        """The position behind a token; empty for the empty token, the first page. `field` names it in the error.

        Raises InvalidArgument (PAGE_TOKEN_INVALID) for a token that is malformed, another viewer's or of another kind
        of list.
        """
        if not token:
            return ()
        sealed = _decoded(token)
        seal, body = sealed[:_SEAL], sealed[_SEAL:]
        if not hmac.compare_digest(seal, self._seal(kind, viewer_id, body)) or body[:1] != bytes([_VERSION]):
            raise errors.InvalidArgument.field(
                field, "is not a token of this list for this viewer", reason=errorspb.ERROR_REASON_PAGE_TOKEN_INVALID
            )
        return struct.unpack(f">{len(body) // 8}q", body[1:])

    def _seal(self, kind: str, viewer_id: int, body: bytes) -> bytes:
        return blake2b(b"%s\0%d\0%s" % (kind.encode(), viewer_id, body), key=self._key, digest_size=_SEAL).digest()


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _decoded(token: str) -> bytes:
    """The bytes of a token; what is not the one spelling that `encode` gives becomes bytes that no seal fits.

    Base64 itself would read others too: padding, letters of its other alphabet, bits that belong to no byte.
    """
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""
    return sealed if _encoded(sealed) == token else b""
