"""Single values: what a text (path, query) or a JSON value means for a field that is not a message. ValueError if nothing."""

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from gateway import fields

Convert = Callable[[Any], Any]

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,5})?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_URL_SAFE = str.maketrans("-_", "+/")
_LONGEST_NUMBER = 400

_BOUNDS: dict[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


def from_text(field: FieldDescriptor) -> Convert:
    """How a path or query text becomes a value of the field."""
    kind = field.cpp_type
    if kind in _BOUNDS:
        return _integer_text(*_BOUNDS[kind])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_text(fields.enum_of(field))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _float_text(single=kind == FieldDescriptor.CPPTYPE_FLOAT)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return bool_text
    return base64_text if field.type == FieldDescriptor.TYPE_BYTES else plain_text


def from_json(field: FieldDescriptor) -> Convert:
    """How a parsed JSON value becomes a value of the field."""
    kind = field.cpp_type
    if kind in _BOUNDS:
        return _integer_json(*_BOUNDS[kind])
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_json(fields.enum_of(field))
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return _float_json(single=kind == FieldDescriptor.CPPTYPE_FLOAT)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return _bool_json
    return _only_text(base64_text if field.type == FieldDescriptor.TYPE_BYTES else plain_text)


def bool_text(text: str) -> bool:
    """The forms of Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("must be true or false")


def base64_text(text: str) -> bytes:
    """Standard or URL-safe base64, padded or not."""
    standard = text.translate(_URL_SAFE)
    if _BASE64.fullmatch(standard):
        bare = standard.rstrip("=")
        try:
            return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        except binascii.Error:
            pass
    raise ValueError("must be base64")


def plain_text(text: str) -> str:
    """The text itself; refuses lone surrogates, which JSON's escapes can spell and UTF-8 cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode") from None
    return text


def _integer_text(least: int, greatest: int) -> Convert:
    def convert(text: str) -> int:
        if _INTEGER.fullmatch(text):
            value = int(text)
            if least <= value <= greatest:
                return value
        raise ValueError(f"must be an integer from {least} to {greatest}")

    return convert


def _integer_json(least: int, greatest: int) -> Convert:
    read_text = _integer_text(least, greatest)

    def convert(value: Any) -> int:
        if type(value) is str:
            return read_text(value)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and least <= value <= greatest:
            return value
        raise ValueError(f"must be an integer from {least} to {greatest}")

    return convert


def _float_text(*, single: bool) -> Convert:
    limit = _in_single if single else _in_double

    def convert(text: str) -> float:
        if text in _NOT_FINITE:
            return _NOT_FINITE[text]
        if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text):
            return limit(float(text))
        raise ValueError("must be a number")

    return convert


def _float_json(*, single: bool) -> Convert:
    read_text, limit = _float_text(single=single), _in_single if single else _in_double

    def convert(value: Any) -> float:
        if type(value) is str:
            return read_text(value)
        if type(value) is int or type(value) is float:
            try:
                return limit(float(value))
            except OverflowError:
                raise ValueError("is out of range") from None
        raise ValueError("must be a number")

    return convert


def _in_double(value: float) -> float:
    if math.isinf(value):
        raise ValueError("is out of range")
    return value


def _in_single(value: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", _in_double(value)))[0]
    except OverflowError:
        raise ValueError("is out of range") from None


def _enum_text(enum: EnumDescriptor) -> Convert:
    """By name or by the number of a declared value."""
    numbers = {value.name: value.number for value in enum.values}
    by_text = {str(number): number for number in numbers.values()} | numbers

    def convert(text: str) -> int:
        number = by_text.get(text)
        if number is None:
            raise ValueError(f"must be one of {', '.join(numbers)}")
        return number

    return convert


def _enum_json(enum: EnumDescriptor) -> Convert:
    """By name or number; a number that an open enum does not declare is kept, as protobuf does."""
    numbers = {value.name: value.number for value in enum.values}
    known = frozenset(numbers.values())
    if enum.full_name == fields.NULL_VALUE:
        return _null_json
    read_number = _integer_json(*_BOUNDS[FieldDescriptor.CPPTYPE_INT32])

    def convert(value: Any) -> int:
        number = numbers.get(value) if type(value) is str else read_number(value)
        if number is None or (enum.is_closed and number not in known):
            raise ValueError(f"must be one of {', '.join(numbers)}")
        return number

    return convert


def _null_json(value: Any) -> int:
    if value is None or value == "NULL_VALUE" or (type(value) is int and value == 0):
        return 0
    raise ValueError("must be null")


def _bool_json(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("must be true or false")


double_json = _float_json(single=False)
"""A JSON number, or its text, as a double."""


def _only_text(read: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not str:
            raise ValueError("must be a string")
        return read(value)

    return convert
