"""Percent-decoding of paths and query strings: strict, because a request that cannot be read must not be guessed at."""

import re
from urllib.parse import unquote_to_bytes

_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASH = re.compile(r"(%2[Ff])")


def decode(text: str) -> str:
    """All escapes decoded. `text` has one character per byte (latin-1); ValueError on a broken escape or bad UTF-8."""
    if "%" not in text:
        return text if text.isascii() else _utf8(text.encode("latin-1"))
    if _BROKEN.search(text):
        raise ValueError("has a broken percent escape")
    return _utf8(unquote_to_bytes(text.encode("latin-1")))


def decode_but_slash(text: str) -> str:
    """All escapes decoded except `%2F` and `%2f`, which stay as they are, so that segments can still be told apart."""
    if "%" not in text:
        return decode(text)
    return "".join(part if _SLASH.fullmatch(part) else decode(part) for part in _SLASH.split(text))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is not valid UTF-8") from None
