"""Messages to proto JSON, by code generated once per message type.

The output equals google.protobuf.json_format with fields without presence printed: lowerCamelCase names, zeros and empty
lists written, absent messages, optionals and oneof members left out, 64-bit integers as strings, enums by name, bytes as
base64. Generated source costs a quarter of what json_format does (a page of 20 tweets: 40 against 180 µs).
"""

import base64
import keyword
import math
import struct
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from gateway import fields, wellknown

ToJson = Callable[[Any], Any]

_AS_STRING = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_AS_IS = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_BOOL})
_UNWRAPPED = "value.value"


class Encoder:
    """Compiles a writer per message type and keeps it. Any looks for its types in `pool`, then among the imported ones."""

    def __init__(self, pool: descriptor_pool.DescriptorPool | None = None) -> None:
        self._pools = (pool, descriptor_pool.Default()) if pool else (descriptor_pool.Default(),)
        self._names: dict[Any, str] = {}
        self._scope: dict[str, Any] = {
            "double": _double,
            "single": _single,
            "b64": _base64,
            "boolean": {True: "true", False: "false"},
        }

    def to_json(self, message: Descriptor) -> ToJson:
        """The function that turns a message of this type into what a JSON serialiser takes; ValueError if it has no JSON."""
        return self._scope[self._writer(message)]

    def to_bytes(self, message: Descriptor, field: FieldDescriptor | None = None) -> Callable[[Any], bytes]:
        """The function that turns a message of this type, or only its `field`, into JSON text."""
        dumps = orjson.dumps
        write = self._compile(f"lambda m: {self._all(field, _attribute(field))}") if field else self.to_json(message)
        return lambda value: dumps(write(value))

    def _writer(self, message: Descriptor) -> str:
        """Name of the message's writer in the generated code, compiled at first use."""
        name = self._names.get(message)
        if name is None:
            name = self._names[message] = f"w{len(self._names)}"
            self._scope[name] = self._make(message)
        return name

    def _make(self, message: Descriptor) -> ToJson:
        if message.full_name == fields.ANY:
            return self._any
        if message.full_name in fields.WRAPPERS:
            return self._compile(f"lambda value: {self._one(message.fields_by_name['value'], _UNWRAPPED)}")
        if message.full_name in fields.AS_TEXT:
            return wellknown.writer(message)
        if message.is_extendable:
            return _by_library
        return self._generate(message)

    def _generate(self, message: Descriptor) -> ToJson:
        """Fields that are always written make one dictionary display; the others are added when present."""
        always = [field for field in message.fields if not field.has_presence]
        entries = [f"{field.json_name!r}: {self._all(field, _attribute(field))}" for field in always]
        lines = ["def write(m):", f"    out = {{{', '.join(entries)}}}"]
        for field in message.fields:
            if field.has_presence:
                value = self._one(field, _attribute(field))
                lines.append(f"    if m.HasField({field.name!r}): out[{field.json_name!r}] = {value}")
        source = "\n".join([*lines, "    return out"])
        made: dict[str, Any] = {}
        exec(source, self._scope, made)
        return made["write"]

    def _compile(self, expression: str) -> ToJson:
        return eval(expression, self._scope)

    def _all(self, field: FieldDescriptor, value: str) -> str:
        """Source of the JSON of a whole field."""
        if fields.is_map(field):
            key, item = fields.map_types(field)
            return f"{{{_key(key)}: {self._one(item, 'v')} for k, v in {value}.items()}}"
        if field.is_repeated:
            one = self._one(field, "v")
            return f"list({value})" if one == "v" else f"[{one} for v in {value}]"
        return self._one(field, value)

    def _one(self, field: FieldDescriptor, value: str) -> str:
        """Source of the JSON of one value of a field."""
        kind = field.cpp_type
        if fields.is_message(field):
            return f"{self._writer(fields.message_of(field))}({value})"
        if kind in _AS_STRING:
            return f"str({value})"
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return f"{self._enum(fields.enum_of(field))}[{value}]"
        if kind == FieldDescriptor.CPPTYPE_DOUBLE:
            return f"double({value})"
        if kind == FieldDescriptor.CPPTYPE_FLOAT:
            return f"single({value})"
        if field.type == FieldDescriptor.TYPE_BYTES:
            return f"b64({value})"
        return value

    def _enum(self, enum: EnumDescriptor) -> str:
        name = self._names.get(enum)
        if name is None:
            name = self._names[enum] = f"e{len(self._names)}"
            self._scope[name] = _EnumNames(enum)
        return name

    def _any(self, message: Any) -> dict[str, Any]:
        """An Any with the fields of what it holds; of a type unknown here, its bytes under "value"."""
        if not message.type_url:
            return {}
        known = self._unpacked(message)
        if known is None:
            return {"@type": message.type_url, "value": _base64(message.value)}
        body = self.to_json(known.DESCRIPTOR)(known)
        special = known.DESCRIPTOR.full_name in fields.SPECIAL
        return {"@type": message.type_url} | ({"value": body} if special else body)

    def _unpacked(self, message: Any) -> Any:
        name = message.type_url.rpartition("/")[2]
        for pool in self._pools:
            try:
                found = pool.FindMessageTypeByName(name)
                return message_factory.GetMessageClass(found).FromString(message.value)
            except (KeyError, DecodeError):
                continue
        return None


class _EnumNames(dict[int, str | int | None]):
    """Names by number; a number without a name stands for itself, the value of NullValue for null."""

    def __init__(self, enum: EnumDescriptor) -> None:
        null = enum.full_name == fields.NULL_VALUE
        super().__init__({number: None if null else value.name for number, value in enum.values_by_number.items()})

    def __missing__(self, number: int) -> int:
        return number


def _attribute(field: FieldDescriptor) -> str:
    return f"getattr(m, {field.name!r})" if keyword.iskeyword(field.name) else f"m.{field.name}"


def _key(field: FieldDescriptor) -> str:
    """Source of a map key as JSON: always a string."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "boolean[k]"
    return "k" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else "str(k)"


def _by_library(message: Any) -> Any:
    """Messages with extensions, which proto3 contracts do not have, are left to the library."""
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _double(value: float) -> float | str:
    return value if math.isfinite(value) else _not_finite(value)


def _single(value: float) -> float | str:
    """The shortest decimal that reads back as the same single-precision number."""
    if not math.isfinite(value):
        return _not_finite(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return float(f"{value:.9g}")


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
