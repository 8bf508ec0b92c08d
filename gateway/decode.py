"""Proto JSON to messages, strictly: what json_format would let pass in silence is refused with the field's path.

Refused: unknown names, a name twice (in either spelling), two members of a oneof, values of the wrong type or out of range,
null in a list. Accepted: both spellings of a name, numbers as strings and strings as numbers, null for "not set".
"""

import json
import re
from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway import fields, scalars, wellknown

GREATEST_DEPTH = 32
_LONGEST_SHOWN = 80
# Possessive, and taking an unterminated string whole: linear time on any input.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class MalformedJson(ValueError):
    """A text that is not one JSON value, in UTF-8, without duplicate names, at most 32 deep."""


class WrongValue(ValueError):
    """A JSON value that does not fit its field: `path` in proto spelling (`user.tags[2]`, empty for the whole), and why."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}" if path else problem)
        self.path = path
        self.problem = problem


def parse(text: bytes) -> Any:
    """The JSON value that `text` spells."""
    if text.count(b"[") + text.count(b"{") > GREATEST_DEPTH and _depth(text) > GREATEST_DEPTH:
        raise MalformedJson(f"is nested deeper than {GREATEST_DEPTH}")
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise MalformedJson("is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"is not JSON: {error.msg} at character {error.pos}") from None
    except MalformedJson:
        raise
    except (ValueError, RecursionError):
        raise MalformedJson("is not JSON that can be read") from None


def _depth(text: bytes) -> int:
    depth = greatest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        greatest = max(greatest, depth)
    return greatest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise MalformedJson(f'has the name "{shown(twice)}" twice in one object')
    return made


def shown(name: str) -> str:
    """A name that a client made up, fit for an error message: short, and valid Unicode."""
    short = name if len(name) <= _LONGEST_SHOWN else name[:_LONGEST_SHOWN] + "…"
    return short.encode("utf-8", "backslashreplace").decode()


def _constant(name: str) -> Any:
    raise MalformedJson(f"is not JSON: {name} must be a string")


Fill = Callable[[Any, Any, str], None]
"""(message, JSON value, path): sets the field in the message."""


class _Slot:
    """How one field takes a JSON value."""

    __slots__ = ("fill", "name", "nullable", "oneof")

    def __init__(self, field: FieldDescriptor, fill: Fill) -> None:
        self.name = field.name
        self.oneof = fields.real_oneof(field)
        self.nullable = not field.is_repeated and _means_something_by_null(field)
        self.fill = fill


class Decoder:
    """Compiles the slots of a message type at first use and keeps them. `pool` is where Any looks for its types."""

    def __init__(self, pool: descriptor_pool.DescriptorPool | None = None) -> None:
        self._pool = pool or descriptor_pool.Default()
        self._slots: dict[Descriptor, dict[str, _Slot]] = {}

    def message(self, message: Any, value: Any, path: str = "") -> None:
        """Sets a message from a JSON value; `path` is where the message is, for errors. Raises WrongValue."""
        if type(value) is not dict:
            raise WrongValue(path, "must be an object")
        slots = self._slots.get(message.DESCRIPTOR) or self._compile(message.DESCRIPTOR)
        taken: set[str] = set()
        for name, item in value.items():
            slot = slots.get(name)
            if slot is None:
                raise WrongValue(_join(path, shown(name)), f"is not a field of {message.DESCRIPTOR.full_name}")
            where = _join(path, slot.name)
            if slot.name in taken:
                raise WrongValue(where, "is given twice, in both spellings")
            taken.add(slot.name)
            if item is not None or slot.nullable:
                _claim_oneof(slot, taken, where)
                slot.fill(message, item, where)

    def field(self, field: FieldDescriptor) -> Fill:
        """The function that sets one field from a JSON value, as `body: "field"` needs it."""
        if fields.is_map(field):
            return self._map(field)
        if fields.is_message(field):
            return self._messages(field) if field.is_repeated else self._message(field)
        return _scalars(field) if field.is_repeated else _scalar(field)

    def _compile(self, message: Descriptor) -> dict[str, _Slot]:
        slots: dict[str, _Slot] = {}
        self._slots[message] = slots
        made = {field.name: _Slot(field, self.field(field)) for field in message.fields}
        slots.update({name: made[field.name] for name, field in fields.by_either_name(message).items()})
        return slots

    def _reader(self, message: Descriptor) -> Fill:
        """(message, value, path) for a message of this type, well-known or not."""
        if message.full_name == fields.ANY:
            return self._any
        return _well_known(message) if message.full_name in fields.AS_TEXT else self.message

    def _message(self, field: FieldDescriptor) -> Fill:
        read, name = self._reader(fields.message_of(field)), field.name

        def fill(message: Any, value: Any, path: str) -> None:
            target = getattr(message, name)
            target.SetInParent()
            read(target, value, path)

        return fill

    def _messages(self, field: FieldDescriptor) -> Fill:
        read, name, null_fits = self._reader(fields.message_of(field)), field.name, _means_something_by_null(field)

        def fill(message: Any, value: Any, path: str) -> None:
            add = getattr(message, name).add
            for index, item in enumerate(_array(value, path)):
                where = f"{path}[{index}]"
                if item is None and not null_fits:
                    raise WrongValue(where, "must not be null")
                read(add(), item, where)

        return fill

    def _map(self, field: FieldDescriptor) -> Fill:
        key_type, value_type = fields.map_types(field)
        read_key, put = scalars.from_text(key_type), self._map_value(value_type)
        if key_type.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            read_key = _bool_key

        def fill(message: Any, value: Any, path: str) -> None:
            if type(value) is not dict:
                raise WrongValue(path, "must be an object")
            target, keys = getattr(message, field.name), set[Any]()
            for name, item in value.items():
                where = f'{path}["{shown(name)}"]'
                key = _convert(read_key, name, where)
                if key in keys:
                    raise WrongValue(where, "is given twice")
                keys.add(key)
                put(target, key, item, where)

        return fill

    def _map_value(self, field: FieldDescriptor) -> Callable[[Any, Any, Any, str], None]:
        null_fits = _means_something_by_null(field)
        if fields.is_message(field):
            read = self._reader(fields.message_of(field))

            def put_message(target: Any, key: Any, value: Any, path: str) -> None:
                if value is None and not null_fits:
                    raise WrongValue(path, "must not be null")
                read(target[key], value, path)

            return put_message
        convert = scalars.from_json(field)

        def put(target: Any, key: Any, value: Any, path: str) -> None:
            target[key] = _convert(convert, value, path)

        return put

    def _any(self, target: Any, value: Any, path: str) -> None:
        if type(value) is not dict:
            raise WrongValue(path, "must be an object")
        if not value:
            return
        url = value.get("@type")
        if type(url) is not str or "/" not in url or not url.isascii():
            raise WrongValue(_join(path, "@type"), "must be a type URL")
        try:
            held = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(url.rpartition("/")[2]))()
        except (KeyError, ValueError):
            raise WrongValue(_join(path, "@type"), "names no type that is known here") from None
        self._held(held, {name: item for name, item in value.items() if name != "@type"}, path)
        target.type_url, target.value = url, held.SerializeToString(deterministic=True)

    def _held(self, held: Any, rest: dict[str, Any], path: str) -> None:
        """What an Any holds: its fields beside "@type", or a well-known type's JSON under "value"."""
        if held.DESCRIPTOR.full_name not in fields.SPECIAL:
            self.message(held, rest, path)
        elif rest.keys() == {"value"}:
            self._reader(held.DESCRIPTOR)(held, rest["value"], _join(path, "value"))
        else:
            raise WrongValue(path, 'must hold "@type" and "value"')


def mask_paths(message: Descriptor, value: dict[str, Any], prefix: str = "") -> list[str]:
    """Field mask of a JSON object that has been read as `message`: the paths of its leaves, sorted.

    Lists, maps and well-known types are leaves, and so is an empty object: a mask cannot look into the first, and the last
    says that the message itself is meant.
    """
    names, paths = fields.by_either_name(message), list[str]()
    for name, item in value.items():
        field = names[name]
        inside = type(item) is dict and item and not field.is_repeated and fields.type_name(field) not in fields.SPECIAL
        path = prefix + field.name
        paths += mask_paths(fields.message_of(field), item, path + ".") if inside else [path]
    return sorted(paths)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _claim_oneof(slot: _Slot, taken: set[str], path: str) -> None:
    if slot.oneof is None:
        return
    mark = f"oneof {slot.oneof}"
    if mark in taken:
        raise WrongValue(path, f"cannot be set together with another field of the oneof {slot.oneof}")
    taken.add(mark)


def _means_something_by_null(field: FieldDescriptor) -> bool:
    return fields.type_name(field) in (fields.VALUE, fields.NULL_VALUE)


def _convert(convert: scalars.Convert, value: Any, path: str) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise WrongValue(path, str(error)) from None


def _bool_key(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    raise ValueError("must be true or false")


def _array(value: Any, path: str) -> list[Any]:
    if type(value) is not list:
        raise WrongValue(path, "must be an array")
    return value


def _scalar(field: FieldDescriptor) -> Fill:
    convert, name = scalars.from_json(field), field.name

    def fill(message: Any, value: Any, path: str) -> None:
        setattr(message, name, _convert(convert, value, path))

    return fill


def _scalars(field: FieldDescriptor) -> Fill:
    convert, name = scalars.from_json(field), field.name

    def fill(message: Any, value: Any, path: str) -> None:
        items = [_convert(convert, item, f"{path}[{index}]") for index, item in enumerate(_array(value, path))]
        getattr(message, name).extend(items)

    return fill


def _well_known(message: Descriptor) -> Fill:
    read = wellknown.reader(message)

    def fill(target: Any, value: Any, path: str) -> None:
        try:
            read(target, value)
        except ValueError as error:
            raise WrongValue(path, str(error)) from None

    return fill
