"""Questions about protobuf fields that routes, query strings and JSON all ask."""

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

TIMESTAMP = "google.protobuf.Timestamp"
DURATION = "google.protobuf.Duration"
FIELD_MASK = "google.protobuf.FieldMask"
ANY = "google.protobuf.Any"
STRUCT = "google.protobuf.Struct"
VALUE = "google.protobuf.Value"
LIST_VALUE = "google.protobuf.ListValue"
NULL_VALUE = "google.protobuf.NullValue"
HTTP_BODY = "google.api.HttpBody"
WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
AS_TEXT = WRAPPERS | {TIMESTAMP, DURATION, FIELD_MASK, STRUCT, VALUE, LIST_VALUE}
"""Messages that one text can set, so that a path or query can carry them."""
SPECIAL = AS_TEXT | {ANY}
"""Messages whose JSON is not an object of their fields."""


class UnknownField(ValueError):
    """A field path that leads nowhere; says which part."""


def descriptor(message: type[Message]) -> Descriptor:
    """The descriptor of a generated or made class."""
    found: Any = message.DESCRIPTOR
    return found


def message_of(field: FieldDescriptor) -> Descriptor:
    """The type of a field whose values are messages; TypeError for any other."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is not a message")
    return field.message_type


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """The type of a field whose values are enums; TypeError for any other."""
    if field.enum_type is None:
        raise TypeError(f"{field.full_name} is not an enum")
    return field.enum_type


def type_name(field: FieldDescriptor) -> str:
    """Full name of the message or enum that the field's values are; empty for scalars."""
    kind = field.message_type or field.enum_type
    return kind.full_name if kind else ""


def map_types(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """Key and value of a map field."""
    entry = message_of(field).fields_by_name
    return entry["key"], entry["value"]


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is declared as map<...>."""
    return field.is_repeated and is_message(field) and message_of(field).GetOptions().map_entry


def is_message(field: FieldDescriptor) -> bool:
    """Whether the field's values (or a list's elements) are messages."""
    return field.message_type is not None


def is_text(field: FieldDescriptor) -> bool:
    """Whether one text can set the field, or an element of it."""
    return not is_message(field) or type_name(field) in AS_TEXT


def by_either_name(message: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields of a message under both spellings: `user_id` and `userId`; a proto name wins over another's JSON name."""
    names = {field.json_name: field for field in message.fields}
    return names | {field.name: field for field in message.fields}


def real_oneof(field: FieldDescriptor) -> str | None:
    """Name of the oneof the field belongs to; None if it is in none, or `optional`."""
    oneof = field.containing_oneof
    if oneof is None or (len(oneof.fields) == 1 and oneof.name == f"_{field.name}"):
        return None
    return oneof.name


def resolve(message: Descriptor, path: tuple[str, ...]) -> tuple[FieldDescriptor, ...]:
    """The fields a dotted path of proto names goes through; UnknownField if one is missing or cannot be entered."""
    found: list[FieldDescriptor] = []
    for position, name in enumerate(path):
        field = message.fields_by_name.get(name)
        if field is None:
            raise UnknownField(f"{message.full_name} has no field {name!r}")
        found.append(field)
        if position < len(path) - 1:
            if field.is_repeated or not is_message(field):
                raise UnknownField(f"{field.full_name} is not a single message, so {'.'.join(path)!r} leads nowhere")
            message = message_of(field)
    return tuple(found)
