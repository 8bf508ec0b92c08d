"""The well-known messages whose JSON is a plain value: Timestamp, Duration, FieldMask, Struct and the wrappers.

Each has a reader (JSON value into message) and a writer (message to JSON value); ValueError where a value means nothing.
"""

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.descriptor import Descriptor

from gateway import fields, scalars

Read = Callable[[Any, Any], None]
"""(message, JSON value): sets the message."""
Write = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_MASK_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_UPPER = re.compile(r"[A-Z]")
_LOWER_AFTER_UNDERSCORE = re.compile(r"_([a-z])")
_LONGEST_DURATION = 315_576_000_000


def reader(message: Descriptor) -> Read:
    """How a JSON value sets a message of this well-known type."""
    if message.full_name in fields.WRAPPERS:
        return _wrapper_reader(message)
    return _READERS[message.full_name]


def writer(message: Descriptor) -> Write:
    """How a message of this well-known type becomes a JSON value."""
    return _WRITERS[message.full_name]


def _wrapper_reader(message: Descriptor) -> Read:
    convert = scalars.from_json(message.fields_by_name["value"])

    def read(target: Any, value: Any) -> None:
        target.value = convert(value)

    return read


def read_timestamp(target: Any, value: Any) -> None:
    """RFC 3339 with a zone and at most nine digits of a second."""
    found = _TIMESTAMP.fullmatch(value) if type(value) is str else None
    if found is None:
        raise ValueError("must be a time like 2024-01-31T12:00:00.5Z")
    local, fraction, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        instant = datetime.fromisoformat(local.upper()) - (-offset if sign == "-" else offset)
    except (ValueError, OverflowError):
        raise ValueError("is not a time from year 1 to 9999") from None
    target.seconds = (instant - _EPOCH) // timedelta(seconds=1)
    target.nanos = int((fraction or "").ljust(9, "0"))


def write_timestamp(message: Any) -> str:
    """RFC 3339 in UTC with 0, 3, 6 or 9 digits of a second; ValueError outside the years 1 to 9999."""
    nanos = message.nanos
    try:
        whole = (_EPOCH + timedelta(seconds=message.seconds)).isoformat()
    except OverflowError:
        raise ValueError("a Timestamp is not in the years 1 to 9999") from None
    if not nanos:
        return whole + "Z"
    return f"{whole}{_fraction(nanos)}Z"


def read_duration(target: Any, value: Any) -> None:
    """Seconds with at most nine digits of a fraction, and an s."""
    found = _DURATION.fullmatch(value) if type(value) is str else None
    if found is None or int(found[2]) > _LONGEST_DURATION:
        raise ValueError("must be a duration like 1.5s")
    sign = -1 if found[1] else 1
    target.seconds = sign * int(found[2])
    target.nanos = sign * int((found[3] or "").ljust(9, "0"))


def write_duration(message: Any) -> str:
    """Seconds with 0, 3, 6 or 9 digits of a fraction."""
    seconds, nanos = message.seconds, message.nanos
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_fraction(abs(nanos)) if nanos else ''}s"


def _fraction(nanos: int) -> str:
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03d}"
    if nanos % 1_000 == 0:
        return f".{nanos // 1_000:06d}"
    return f".{nanos:09d}"


def read_mask(target: Any, value: Any) -> None:
    """Paths parted by commas, in either spelling; kept in proto spelling."""
    if type(value) is not str:
        raise ValueError("must be a string of field paths parted by commas")
    paths = value.split(",") if value else []
    if not all(_MASK_PATH.fullmatch(path) for path in paths):
        raise ValueError("must be field paths parted by commas")
    target.paths[:] = [_UPPER.sub(lambda found: "_" + found[0].lower(), path) for path in paths]


def write_mask(message: Any) -> str:
    """Paths in lowerCamelCase, parted by commas."""
    return ",".join(_LOWER_AFTER_UNDERSCORE.sub(lambda found: found[1].upper(), path) for path in message.paths)


def read_struct(target: Any, value: Any) -> None:
    """Any JSON object."""
    if type(value) is not dict:
        raise ValueError("must be an object")
    target.fields.clear()
    for name, item in value.items():
        read_value(target.fields[scalars.plain_text(name)], item)


def read_list(target: Any, value: Any) -> None:
    """Any JSON array."""
    if type(value) is not list:
        raise ValueError("must be an array")
    for item in value:
        read_value(target.values.add(), item)


def read_value(target: Any, value: Any) -> None:
    """Any JSON value."""
    if value is None:
        target.null_value = 0
    elif type(value) is bool:
        target.bool_value = value
    elif type(value) is str:
        target.string_value = scalars.plain_text(value)
    elif type(value) is dict:
        target.struct_value.SetInParent()
        read_struct(target.struct_value, value)
    elif type(value) is list:
        target.list_value.SetInParent()
        read_list(target.list_value, value)
    else:
        target.number_value = scalars.double_json(value)


def write_struct(message: Any) -> dict[str, Any]:
    """The object that a Struct holds."""
    return {name: write_value(value) for name, value in message.fields.items()}


def write_list(message: Any) -> list[Any]:
    """The array that a ListValue holds."""
    return [write_value(value) for value in message.values]


def write_value(message: Any) -> Any:
    """The JSON value that a Value holds; null if none is set. ValueError for a number JSON has no word for."""
    which = message.WhichOneof("kind")
    if which == "struct_value":
        return write_struct(message.struct_value)
    if which == "list_value":
        return write_list(message.list_value)
    if which == "number_value" and not math.isfinite(message.number_value):
        raise ValueError("a google.protobuf.Value cannot hold NaN or Infinity")
    return None if which is None or which == "null_value" else getattr(message, which)


_READERS: dict[str, Read] = {
    fields.TIMESTAMP: read_timestamp,
    fields.DURATION: read_duration,
    fields.FIELD_MASK: read_mask,
    fields.STRUCT: read_struct,
    fields.LIST_VALUE: read_list,
    fields.VALUE: read_value,
}
_WRITERS: dict[str, Write] = {
    fields.TIMESTAMP: write_timestamp,
    fields.DURATION: write_duration,
    fields.FIELD_MASK: write_mask,
    fields.STRUCT: write_struct,
    fields.LIST_VALUE: write_list,
    fields.VALUE: write_value,
}
