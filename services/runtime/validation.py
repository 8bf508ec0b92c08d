"""The field rules of the contracts (chirp.options.v1), compiled once per message type into plain checks."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chirp import errors
from chirp.errors import FieldViolation
from chirp.errors import v1 as errorspb
from chirp.options import v1 as optionspb

MOST_VIOLATIONS = 20
"""Reported at once: the answer has to fit into 8 KB of trailers."""
LONGEST_KEY = 40
"""Characters of a map's key that are repeated in a path."""

Validate: TypeAlias = Callable[[Any], None]
Walk: TypeAlias = Callable[[Any, str, list[FieldViolation]], None]
Problem: TypeAlias = Callable[[Any], str | None]

_NUMBERS = frozenset({
    FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_ENUM,
})  # fmt: skip


def compiled(message_class: type[Message]) -> Validate | None:
    """A function that raises InvalidArgument listing each wrong field; None when the message has no rules at any depth.

    A string with rules, whichever they are, must not contain U+0000 either. A rule that does not fit its field (a
    pattern on a number, any rule on a map) is a ValueError here, when the process starts.
    """
    descriptor: Any = message_class.DESCRIPTOR
    walk = _Compiler().message(descriptor)
    if walk is None:
        return None

    def validate(message: Any) -> None:
        violations: list[FieldViolation] = []
        walk(message, "", violations)
        if violations:
            raise _invalid(violations)

    return validate


class _Compiler:
    """Compiles message types that may contain each other; a type is compiled once, its recursion goes through the same entry."""

    def __init__(self) -> None:
        self._walks: dict[str, list[Walk]] = {}

    def message(self, descriptor: Descriptor) -> Walk | None:
        """The checks of all fields, nested ones included."""
        if not _is_ruled(descriptor, set()):
            return None
        known = self._walks.get(descriptor.full_name)
        if known is not None:
            return _all_of(known)
        walks = self._walks[descriptor.full_name] = []
        walks.extend(walk for field in descriptor.fields for walk in self._field(field))
        return _all_of(walks)

    def _field(self, field: FieldDescriptor) -> list[Walk]:
        if not _has_rules(field):
            return self._nested(field)
        if _is_map(field):
            raise ValueError(f"{field.full_name}: rules on a map are not supported")
        options: Any = field.GetOptions()
        return [_own_rules(field, options.Extensions[optionspb.rules]), *self._nested(field)]

    def _nested(self, field: FieldDescriptor) -> list[Walk]:
        if field.message_type is None:
            return []
        if _is_map(field):
            return self._map_values(field)
        walk = self.message(field.message_type)
        if walk is None:
            return []
        return [_each_message(field.name, walk) if field.is_repeated else _one_message(field.name, walk)]

    def _map_values(self, field: FieldDescriptor) -> list[Walk]:
        entry: Any = field.message_type
        value = entry.fields_by_name["value"]
        walk = self.message(value.message_type) if value.message_type is not None else None
        return [_each_value(field.name, walk)] if walk else []


def _each_value(name: str, inner: Walk) -> Walk:
    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        for key, value in getattr(message, name).items():
            inner(value, f"{prefix}{name}[{str(key)[:LONGEST_KEY]}].", found)

    return walk


def _is_ruled(descriptor: Descriptor, seen: set[str]) -> bool:
    """Whether a field of the message, or of a message inside of it, has rules."""
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(
        _has_rules(field) or (field.message_type is not None and _is_ruled(field.message_type, seen)) for field in descriptor.fields
    )


def _has_rules(field: FieldDescriptor) -> bool:
    options: Any = field.GetOptions()
    return options.HasExtension(optionspb.rules)


def _all_of(walks: list[Walk]) -> Walk:
    def walk_all(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        for walk in walks:
            walk(message, prefix, found)

    return walk_all


def _one_message(name: str, inner: Walk) -> Walk:
    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        if message.HasField(name):
            inner(getattr(message, name), f"{prefix}{name}.", found)

    return walk


def _each_message(name: str, inner: Walk) -> Walk:
    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        for index, element in enumerate(getattr(message, name)):
            inner(element, f"{prefix}{name}[{index}].", found)

    return walk


def _own_rules(field: FieldDescriptor, rules: optionspb.FieldRules) -> Walk:
    """The check of one field's own value; one violation at most, the first that applies."""
    problem = _value_problem(field, rules)
    if field.is_repeated:
        return _repeated(field.name, rules, problem)
    if field.message_type is not None:
        return _presence(field.name)
    return _scalar(field.name, rules, problem)


def _presence(name: str) -> Walk:
    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        if not message.HasField(name):
            found.append(FieldViolation(prefix + name, "is required"))

    return walk


def _scalar(name: str, rules: optionspb.FieldRules, problem: Problem) -> Walk:
    required = rules.required

    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        value = getattr(message, name)
        text = problem(value) if value else "is required" if required else None
        if text:
            found.append(FieldViolation(prefix + name, text))

    return walk


def _repeated(name: str, rules: optionspb.FieldRules, problem: Problem) -> Walk:
    required, least, most = rules.required, rules.min_items, rules.max_items

    def count_problem(count: int) -> str | None:
        if not count:
            return "is required" if required else None
        if count < least:
            return f"has {count} items; at least {least} are needed"
        return f"has {count} items; at most {most} are allowed" if most and count > most else None

    def walk(message: Any, prefix: str, found: list[FieldViolation]) -> None:
        values = getattr(message, name)
        text = count_problem(len(values))
        if text:
            found.append(FieldViolation(prefix + name, text))
            return
        for index, value in enumerate(values):
            text = problem(value)
            if text:
                found.append(FieldViolation(f"{prefix}{name}[{index}]", text))
                if len(found) >= MOST_VIOLATIONS:
                    return

    return walk


def _value_problem(field: FieldDescriptor, rules: optionspb.FieldRules) -> Problem:
    """What is wrong with one value of a field that is not absent; fails for rules that do not fit the field's type."""
    numeric, textual = field.cpp_type in _NUMBERS, field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    if (rules.HasField("min") or rules.HasField("max")) and not numeric:
        raise ValueError(f"{field.full_name}: min and max are for numbers")
    if (rules.min_len or rules.max_len or rules.pattern) and not textual:
        raise ValueError(f"{field.full_name}: min_len, max_len and pattern are for strings and bytes")
    if rules.pattern and field.type == FieldDescriptor.TYPE_BYTES:
        raise ValueError(f"{field.full_name}: a pattern is for strings")
    if (rules.min_items or rules.max_items) and not field.is_repeated:
        raise ValueError(f"{field.full_name}: min_items and max_items are for repeated fields")
    if not textual:
        return _number_problem(rules) if numeric else lambda value: None
    sized = _text_problem(rules)
    return sized if field.type == FieldDescriptor.TYPE_BYTES else _storable(sized)


def _number_problem(rules: optionspb.FieldRules) -> Problem:
    least = rules.min if rules.HasField("min") else None
    greatest = rules.max if rules.HasField("max") else None

    def problem(value: float) -> str | None:
        if least is not None and value < least:
            return f"must be at least {least}"
        return f"must be at most {greatest}" if greatest is not None and value > greatest else None

    return problem


def _text_problem(rules: optionspb.FieldRules) -> Problem:
    least, greatest = rules.min_len, rules.max_len
    matches = re.compile(rules.pattern).fullmatch if rules.pattern else None

    def problem(value: Any) -> str | None:
        length = len(value)
        if length < least:
            return f"is {length} long; at least {least} are needed"
        if greatest and length > greatest:
            return f"is {length} long; at most {greatest} are allowed"
        return f"must match {rules.pattern}" if matches and not matches(value) else None

    return problem


def _storable(inner: Problem) -> Problem:
    """What Postgres cannot hold in a text is refused here, by name, and not by each service that stores one."""

    def problem(value: str) -> str | None:
        return "must not contain the character U+0000" if "\0" in value else inner(value)

    return problem


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _invalid(violations: list[FieldViolation]) -> errors.InvalidArgument:
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return errors.InvalidArgument(
        errorspb.ERROR_REASON_FIELD_INVALID,
        f"{first.field} {first.description}{more}",
        violations=violations[:MOST_VIOLATIONS],
    )
