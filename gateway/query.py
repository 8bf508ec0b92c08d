"""Query strings and path variables into messages: one text per field, by dotted path in either spelling.

`a=1&a=2` fills a repeated field, `user.name=x` a nested one, `labels[k]=v` a map. Enums by name or number, the bool forms
of Go's ParseBool, bytes in either base64, Timestamp, Duration, FieldMask, wrappers, and Struct or Value as JSON text.
Refused: names that are not fields, that the path or the body sets already, a single field or a oneof given twice.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway import decode, fields, percent, scalars, wellknown
from gateway.decode import WrongValue, shown

Put = Callable[[Any, str], None]
"""(message that has the field, text): sets or appends; ValueError if the text means nothing."""

_MAP_ENTRY = re.compile(r"([^\[\]]+)\[(.*)\]", re.DOTALL)
_DEEPEST = decode.GREATEST_DEPTH
_MOST_REMEMBERED = 256


def put_text(field: FieldDescriptor) -> Put:
    """How one text sets a field, or is appended to it if it is repeated. The field must be `fields.is_text`."""
    name = field.name
    if fields.is_message(field):
        return _put_message(name, field.is_repeated, _read_text(fields.message_of(field)))
    convert = scalars.from_text(field)
    if field.is_repeated:
        return lambda message, text: getattr(message, name).append(convert(text))
    return lambda message, text: setattr(message, name, convert(text))


def _put_message(name: str, repeated: bool, read: Callable[[Any, str], None]) -> Put:
    def put(message: Any, text: str) -> None:
        target = getattr(message, name).add() if repeated else getattr(message, name)
        if not repeated:
            target.SetInParent()
        read(target, text)

    return put


def _read_text(message: Descriptor) -> Callable[[Any, str], None]:
    """How a text sets a well-known message."""
    if message.full_name in fields.WRAPPERS:
        return put_text(message.fields_by_name["value"])
    read = wellknown.reader(message)
    if message.full_name in (fields.TIMESTAMP, fields.DURATION, fields.FIELD_MASK):
        return read
    return lambda target, text: read(target, decode.parse(text.encode("utf-8", "surrogatepass")))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a query name leads: `parents` to go through, how the text is put, and which oneofs it takes part in."""

    path: str
    parents: tuple[str, ...]
    put: Put
    repeated: bool
    oneofs: tuple[tuple[str, str], ...]
    """Each oneof on the way by its dotted path, with the member chosen."""


class QueryReader:
    """Reads the query strings of one route. `taken` are proto paths that path and body set; `closed`: everything is taken."""

    def __init__(self, message: Descriptor, taken: Iterable[str] = (), *, closed: bool = False) -> None:
        self._message = message
        self._taken = frozenset(taken)
        self._closed = closed
        self._targets: dict[str, _Target] = {}

    def read(self, message: Any, query: bytes) -> None:
        """Sets what the query says; WrongValue names the parameter that cannot be taken."""
        given: set[str] = set()
        chosen: dict[str, str] = {}
        for name, text in pairs(query):
            target = self._targets.get(name) or self._find(name)
            if target.path in given and not target.repeated:
                raise WrongValue(target.path, "is given twice")
            given.add(target.path)
            for oneof, member in target.oneofs:
                if chosen.setdefault(oneof, member) != member:
                    raise WrongValue(target.path, f"cannot be set together with another field of the oneof {oneof}")
            _put(message, target, text)

    def _find(self, name: str) -> _Target:
        target = self._resolve(name)
        if len(self._targets) < _MOST_REMEMBERED:
            self._targets[name] = target
        return target

    def _resolve(self, name: str) -> _Target:
        entry = _MAP_ENTRY.fullmatch(name)
        dotted = (entry[1] if entry else name).split(".")
        if self._closed or len(dotted) > _DEEPEST:
            raise _unknown(name)
        found = _walk(self._message, dotted, name)
        path, field = ".".join(each.name for each in found), found[-1]
        if any(path == taken or path.startswith(taken + ".") for taken in self._taken):
            raise WrongValue(path, "is not a query parameter: the path or the body sets it")
        if fields.is_map(field):
            if entry is None:
                raise WrongValue(path, "is a map: give its entries as name[key]=value")
            put, path = _map_entry(field, entry[2], path), f"{path}[{shown(entry[2])}]"
        elif entry or not fields.is_text(field):
            raise _unknown(name)
        else:
            put = put_text(field)
        parents = tuple(each.name for each in found[:-1])
        return _Target(path, parents, put, field.is_repeated and entry is None, _oneofs(found))


def pairs(query: bytes) -> Iterable[tuple[str, str]]:
    """Decoded names and values of a query string, in order; WrongValue for one that cannot be decoded."""
    for piece in query.decode("latin-1").split("&"):
        if not piece:
            continue
        name, _, text = piece.replace("+", " ").partition("=") if "+" in piece else piece.partition("=")
        try:
            yield percent.decode(name), percent.decode(text)
        except ValueError as error:
            raise WrongValue(shown(name), str(error)) from None


def _put(message: Any, target: _Target, text: str) -> None:
    for parent in target.parents:
        message = getattr(message, parent)
        message.SetInParent()
    try:
        target.put(message, text)
    except ValueError as error:
        raise WrongValue(target.path, str(error)) from None


def _walk(message: Descriptor, names: list[str], whole: str) -> list[FieldDescriptor]:
    found: list[FieldDescriptor] = []
    for position, name in enumerate(names):
        field = fields.by_either_name(message).get(name)
        if field is None:
            raise _unknown(whole)
        found.append(field)
        if position < len(names) - 1:
            if not fields.is_message(field) or field.is_repeated or fields.type_name(field) in fields.SPECIAL:
                raise _unknown(whole)
            message = fields.message_of(field)
    return found


def _oneofs(found: list[FieldDescriptor]) -> tuple[tuple[str, str], ...]:
    taken: list[tuple[str, str]] = []
    prefix = ""
    for field in found:
        oneof = fields.real_oneof(field)
        if oneof is not None:
            taken.append((prefix + oneof, field.name))
        prefix += field.name + "."
    return tuple(taken)


def _map_entry(field: FieldDescriptor, key_text: str, path: str) -> Put:
    key_type, value = fields.map_types(field)
    if not fields.is_text(value):
        raise WrongValue(path, "is not a query parameter: its values are messages")
    try:
        key = scalars.from_text(key_type)(key_text)
    except ValueError as error:
        raise WrongValue(f"{path}[{shown(key_text)}]", f"has a key that {error}") from None
    if fields.is_message(value):
        read = _read_text(fields.message_of(value))
        return lambda message, text: read(getattr(message, field.name)[key], text)
    convert = scalars.from_text(value)

    def put(message: Any, text: str) -> None:
        getattr(message, field.name)[key] = convert(text)

    return put


def _unknown(name: str) -> WrongValue:
    return WrongValue(shown(name), "is not a query parameter of this method")
