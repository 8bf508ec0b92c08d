"""Proto JSON out and in: equal to google.protobuf.json_format where that is right, stricter where that looks away."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from typing import Any

import orjson
import pytest
from google.protobuf import any_pb2, descriptor_pb2, json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from gateway import decode, fields
from gateway.decode import Decoder, MalformedJson, WrongValue
from gateway.encode import Encoder
from tests.gateway import contracts

ZOO = contracts.zoo()
ANIMAL = ZOO.message("Animal")
LEAF = ZOO.message("Leaf")
ENCODER, DECODER = Encoder(ZOO.pool), Decoder(ZOO.pool)
TO_BYTES = ENCODER.to_bytes(ANIMAL.DESCRIPTOR)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
# The library refuses to read the greatest single as it writes it itself.
SINGLE = st.floats(width=32).filter(lambda value: not 3.4e38 < abs(value) < math.inf)
SCALARS: dict[int, Any] = {
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: SINGLE,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([-1, 0, 1, 2, 3, 99, -(2**31)]),
}
BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SNAKE = st.from_regex(r"[a-z]{1,4}(_[a-z]{1,3}){0,2}(\.[a-z]{1,4}){0,2}", fullmatch=True)


def scalar(field: FieldDescriptor) -> Any:
    if field.cpp_type in BOUNDS:
        return st.integers(*BOUNDS[field.cpp_type])
    return st.just(0) if field.enum_type and field.enum_type.full_name == fields.NULL_VALUE else SCALARS[field.type]


@st.composite
def filled(draw: Any, make: Any, depth: int = 2) -> Any:
    """A message of the class with a random choice of its fields set."""
    message = make()
    chosen = (
        draw(st.sets(st.sampled_from([field.name for field in message.DESCRIPTOR.fields]), max_size=8))
        if message.DESCRIPTOR.fields
        else ()
    )
    for name in sorted(chosen):
        put(draw, message, message.DESCRIPTOR.fields_by_name[name], depth)
    return message


def put(draw: Any, message: Any, field: FieldDescriptor, depth: int) -> None:
    target = getattr(message, field.name)
    if fields.is_map(field):
        key, value = (field.message_type.fields_by_name[each] for each in ("key", "value"))
        for each in draw(st.sets(scalar(key), max_size=3)):
            if value.message_type:
                fill(draw, target[each], depth - 1)
            else:
                target[each] = draw(scalar(value))
    elif field.message_type and field.is_repeated:
        for _ in range(draw(st.integers(0, 2))):
            fill(draw, target.add(), depth - 1)
    elif field.message_type:
        if depth > 0:
            target.SetInParent()
            fill(draw, target, depth - 1)
    elif field.is_repeated:
        target.extend(draw(st.lists(scalar(field), max_size=3)))
    else:
        setattr(message, field.name, draw(scalar(field)))


def fill(draw: Any, message: Any, depth: int) -> None:
    """A well-known type gets what its JSON can say."""
    kind = message.DESCRIPTOR.full_name
    if kind == fields.TIMESTAMP:
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.sampled_from([0, 1, 500_000_000, 123_000_000, 123_000, 999_999_999]))
    elif kind == fields.DURATION:
        sign = draw(st.sampled_from([1, -1]))
        message.seconds = sign * draw(st.integers(0, 315_576_000_000))
        message.nanos = sign * draw(st.sampled_from([0, 1, 500_000_000, 7_000_000, 120_000]))
    elif kind == fields.FIELD_MASK:
        message.paths.extend(draw(st.lists(SNAKE, max_size=3)))
    elif kind in (fields.STRUCT, fields.VALUE, fields.LIST_VALUE):
        shape = {fields.STRUCT: st.dictionaries(TEXT, JSON_VALUE, max_size=2), fields.LIST_VALUE: st.lists(JSON_VALUE, max_size=2)}
        json_format.ParseDict(draw(shape.get(kind, JSON_VALUE)), message)
    elif kind == fields.ANY:
        held = draw(filled(LEAF, 0)) if draw(st.booleans()) else draw(st.just(struct_pb2.Value(string_value="x")))
        message.type_url, message.value = f"type.googleapis.com/{held.DESCRIPTOR.full_name}", held.SerializeToString()
    else:
        for field in message.DESCRIPTOR.fields:
            if draw(st.booleans()):
                put(draw, message, field, depth)


def library(message: Any, pool: Any = ZOO.pool) -> Any:
    text = json_format.MessageToJson(message, always_print_fields_with_no_presence=True, descriptor_pool=pool)
    return json.loads(text)


def same(left: Any, right: Any) -> bool:
    """Equal JSON; numbers of either kind compare as numbers."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True) or left == right


SLOW = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SLOW
@given(filled(ANIMAL))
def test_what_is_written_equals_the_library(animal: Any) -> None:
    assert same(json.loads(TO_BYTES(animal)), library(animal))


@SLOW
@given(filled(ANIMAL))
def test_what_the_library_writes_is_read_back(animal: Any) -> None:
    read = ANIMAL()
    DECODER.message(read, decode.parse(json_format.MessageToJson(animal, descriptor_pool=ZOO.pool).encode()))
    assert read.SerializeToString(deterministic=True) == without_nan_payload(animal)


@SLOW
@given(filled(ANIMAL))
def test_what_is_written_is_read_back_under_either_spelling(animal: Any) -> None:
    read = ANIMAL()
    snake = json_format.MessageToJson(animal, preserving_proto_field_name=True, descriptor_pool=ZOO.pool)
    DECODER.message(read, decode.parse(snake.encode()))
    assert read.SerializeToString(deterministic=True) == without_nan_payload(animal)


def without_nan_payload(animal: Any) -> bytes:
    """The library reads its own text back: canonical NaN, masks and Any as JSON can say them."""
    again = json_format.Parse(json_format.MessageToJson(animal, descriptor_pool=ZOO.pool), ANIMAL(), descriptor_pool=ZOO.pool)
    return again.SerializeToString(deterministic=True)


@pytest.mark.parametrize("make", [timelinepb.GetHomeTimelineResponse, tweetpb.GetTweetResponse, tweetpb.BatchGetTweetsResponse])
def test_our_own_replies_equal_the_library(make: Any) -> None:
    write = Encoder().to_bytes(make.DESCRIPTOR)

    @settings(max_examples=60, deadline=None)
    @given(filled(make, 4))
    def check(message: Any) -> None:
        assert same(json.loads(write(message)), library(message, None))

    check()


def test_a_zero_message_writes_its_zeros_and_empty_lists() -> None:
    written = json.loads(TO_BYTES(ANIMAL()))
    assert written["anInt64"] == "0"
    assert written["numbers"] == []
    assert written["labels"] == {}
    assert written["colour"] == "COLOUR_UNSPECIFIED"
    assert written["aString"] == ""
    assert written["someBytes"] == ""
    assert not written.keys() & {"leaf", "maybeInt", "chosenString", "wrappedInt64", "bornTime", "any"}
    assert written["veryOdd"] == written["class"] == ""


def test_a_single_field_can_be_written_alone() -> None:
    animal = ANIMAL(numbers=[1, 2], leaf=LEAF(name="x"), labels={"a": "b"}, an_int64=7)
    field = ANIMAL.DESCRIPTOR.fields_by_name

    def alone(name: str) -> Any:
        return json.loads(ENCODER.to_bytes(ANIMAL.DESCRIPTOR, field[name])(animal))

    assert alone("numbers") == ["1", "2"]
    assert alone("leaf") == {"name": "x", "weight": "0"}
    assert alone("labels") == {"a": "b"}
    assert alone("an_int64") == "7"
    assert alone("leaves") == []


def test_messages_with_extensions_are_left_to_the_library() -> None:
    options = descriptor_pb2.MethodOptions(deprecated=True)
    assert json.loads(Encoder().to_bytes(options.DESCRIPTOR)(options)) == {"deprecated": True, "uninterpretedOption": []}


def test_an_any_of_an_unknown_type_keeps_its_bytes() -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/no.Such", value=b"abc")
    assert json.loads(Encoder().to_bytes(unknown.DESCRIPTOR)(unknown)) == {"@type": unknown.type_url, "value": "YWJj"}
    broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    assert json.loads(Encoder().to_bytes(broken.DESCRIPTOR)(broken)) == {"@type": broken.type_url, "value": "/w=="}


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 253402300800])
def test_a_time_that_json_cannot_say_is_an_error(seconds: int) -> None:
    animal = ANIMAL()
    animal.born_time.seconds = seconds
    with pytest.raises(ValueError, match="years 1 to 9999"):
        TO_BYTES(animal)


def read(text: str | bytes) -> Any:
    message = ANIMAL()
    DECODER.message(message, decode.parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text))
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"anInt64": "7"}', {"an_int64": 7}),
        ('{"an_int64": 7}', {"an_int64": 7}),
        ('{"anInt64": 7.0}', {"an_int64": 7}),
        ('{"anInt64": 7e0}', {"an_int64": 7}),
        ('{"aUint64": "18446744073709551615"}', {"a_uint64": 2**64 - 1}),
        ('{"aDouble": 7, "aFloat": "1.5"}', {"a_double": 7.0, "a_float": 1.5}),
        ('{"aDouble": "-Infinity"}', {"a_double": -math.inf}),
        ('{"colour": "COLOUR_RED"}', {"colour": 1}),
        ('{"colour": 2}', {"colour": 2}),
        ('{"colour": 99}', {"colour": 99}),
        ('{"someBytes": "-_8"}', {"some_bytes": b"\xfb\xff"}),
        ('{"aString": null, "numbers": null, "leaf": null, "labels": null, "chosenString": null}', {}),
        ('{"chosenString": null, "chosenInt64": 5}', {"chosen_int64": 5}),
        ('{"leaves": [{"name": "a"}, {}]}', {"leaves": [{"name": "a"}, {}]}),
        ('{"labels": {"a": "b"}, "counts": {"true": 1, "false": "2"}}', {"labels": {"a": "b"}, "counts": {True: 1, False: 2}}),
        ('{"veryOdd": "x", "class": "y"}', {"odd_name": "x", "class": "y"}),
        (" \n{ }\t", {}),
    ],
)
def test_json_sets_fields(text: str, expected: dict[str, Any]) -> None:
    assert read(text) == ANIMAL(**expected)


def test_null_means_something_in_value_fields() -> None:
    animal = read('{"value": null, "values": [null, 1], "nullValue": null, "chosenNull": null}')
    assert animal.value.WhichOneof("kind") == animal.values[0].WhichOneof("kind") == "null_value"
    assert animal.WhichOneof("choice") == "chosen_null"


REFUSED: list[tuple[str, str]] = [
    ('{"nope": 1}', "nope"), ('{"leaf": {"nope": 1}}', "leaf.nope"), ('{"leaves": [{}, {"nope": 1}]}', "leaves[1].nope"),
    ('{"anInt64": 1, "an_int64": 1}', "an_int64"), ('{"chosenString": "a", "chosenInt64": 1}', "chosen_int64"),
    ('{"anInt32": true}', "an_int32"), ('{"anInt32": 1.5}', "an_int32"), ('{"anInt32": "1.0"}', "an_int32"), ('{"anInt32": ""}',
    "an_int32"),
    ('{"anInt32": " 1"}', "an_int32"), ('{"anInt32": 2147483648}', "an_int32"), ('{"anInt64": 9223372036854775808}', "an_int64"),
    ('{"anInt64": [1]}', "an_int64"), ('{"anInt64": {}}', "an_int64"), ('{"aUint32": -1}', "a_uint32"), ('{"aDouble": true}',
    "a_double"),
    ('{"aDouble": "x"}', "a_double"), ('{"aDouble": 1e999}', "a_double"), ('{"aFloat": 1e39}', "a_float"), ('{"aBool": 1}',
    "a_bool"),
    ('{"aBool": "true"}', "a_bool"), ('{"aString": 1}', "a_string"), ('{"aString": "\\ud800"}', "a_string"),
    ('{"someBytes": "!"}', "some_bytes"),
    ('{"someBytes": [1]}', "some_bytes"), ('{"colour": "RED"}', "colour"), ('{"colour": true}', "colour"), ('{"colour": 1.5}',
    "colour"),
    ('{"leaf": ""}', "leaf"), ('{"leaf": []}', "leaf"), ('{"leaf": 0}', "leaf"), ('{"leaf": false}', "leaf"), ('{"leaves": {}}',
    "leaves"),
    ('{"leaves": [null]}', "leaves[0]"), ('{"leaves": ""}', "leaves"), ('{"numbers": 1}', "numbers"), ('{"numbers": "12"}',
    "numbers"),
    ('{"numbers": [1, null]}', "numbers[1]"), ('{"numbers": [[1]]}', "numbers[0]"), ('{"labels": []}', "labels"),
    ('{"labels": {"a": null}}', 'labels["a"]'), ('{"labels": {"a": 1}}', 'labels["a"]'), ('{"counts": {"1": 1}}', 'counts["1"]'),
    ('{"leafById": {"1": {}, "01": {}}}', 'leaf_by_id["01"]'), ('{"leafById": {"1": null}}', 'leaf_by_id["1"]'),
    ('{"leafById": {"x": {}}}', 'leaf_by_id["x"]'),
    ('{"bornTime": 1}', "born_time"), ('{"bornTime": "2024-02-30T00:00:00Z"}', "born_time"), ('{"age": 1.5}', "age"),
    ('{"mask": ["a"]}', "mask"),
    ('{"struct": []}', "struct"), ('{"listValue": {}}', "list_value"), ('{"wrappedInt64": {"value": 1}}', "wrapped_int64"),
    ('{"wrappedInt64": ""}', "wrapped_int64"),
    ('{"any": {"@type": 1}}', "any.@type"), ('{"any": {"@type": "no.Such"}}', "any.@type"), ('{"any": {"@type": "x/no.Such"}}',
    "any.@type"),
    ('{"any": {"a": 1}}', "any.@type"), ('{"any": {"@type": "x/zoo.v1.Leaf", "nope": 1}}', "any.nope"), ('{"empty": {"a": 1}}',
    "empty.a"),
    ('{"any": {"@type": "x/google.protobuf.Duration", "a": 1}}', "any"), ('{"any": []}', "any"), ('{"nullValue": 1}', "null_value"),
    ('{"value": "\\udfff"}', "value"), ('{"struct": {"\\ud800": 1}}', "struct"), ("[]", ""), ('""', ""), ("1", ""), ("null", ""),
    ("true", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path"), REFUSED, ids=[row[0] for row in REFUSED])
def test_json_that_does_not_fit_is_refused_with_its_place(text: str, path: str) -> None:
    with pytest.raises(WrongValue) as caught:
        read(text)
    assert caught.value.path == path


DEEP = decode.GREATEST_DEPTH


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"}", b"{]", b"nul", b"{'a': 1}", b'{"a": 1,}', b'{"a": 01}', b'{"a": NaN}', b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1} x', b'{"a": "\xff"}', b"\xff\xfe", '{"a": 1}'.encode("utf-16"), b'\xef\xbb\xbf{"a": 1}', b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "c": 2, "b": 3}}', b'{"a": "\n"}', b'{"a": ' + b"9" * 5_000 + b"}", b"[" * 60_000, b'{"a":' * 12_000,
        b"[" * (DEEP + 1) + b"]" * (DEEP + 1), b'"' + b'\\"' * 30_000, b'"' * 60_001, b"[" * 40 + b'"' + b'\\"' * 30_000, b"\x00",
    ],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_what_is_not_one_json_value_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        decode.parse(text)
    str(caught.value).encode()


def test_no_text_takes_longer_than_its_length_explains() -> None:
    hostile = b"[" * 40 + b'"' + b'\\"' * 30_000
    began = time.thread_time()
    with pytest.raises(MalformedJson):
        decode.parse(hostile)
    assert time.thread_time() - began < 0.5


def test_depth_is_counted_in_nesting_not_in_brackets() -> None:
    assert decode.parse(b"[" * DEEP + b"]" * DEEP)
    assert decode.parse(b"[" + b"[]," * 500 + b"[]]")
    assert decode.parse(b'["' + b"[" * 500 + b'"]')


@given(
    st.binary(max_size=60)
    | st.text(alphabet='{}[]",:\\ 1.eE-+nulltrfas\ud800', max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        decode.parse(text)
    except MalformedJson as error:
        str(error).encode()


NAMES = st.sampled_from([field.json_name for field in ANIMAL.DESCRIPTOR.fields])


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, JSON_VALUE, max_size=2))
def test_whatever_is_taken_the_library_takes_alike(value: dict[str, Any]) -> None:
    """Strictness is one-sided: what this reads, the library reads to the same message."""
    ours = ANIMAL()
    try:
        DECODER.message(ours, value)
    except WrongValue as error:
        str(error).encode()
        return
    value.pop("values", None)  # null for this list makes the library crash
    ours.values.clear()
    theirs = json_format.ParseDict(value, ANIMAL(), descriptor_pool=ZOO.pool)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({}, []),
        ({"aString": "x", "an_int64": 1}, ["a_string", "an_int64"]),
        ({"leaf": {"name": "x", "ripe": None}}, ["leaf.name", "leaf.ripe"]),
        ({"leaf": {}}, ["leaf"]),
        ({"leaf": None, "aString": None}, ["a_string", "leaf"]),
        ({"child": {"child": {"tags": ["a"]}, "aBool": True}}, ["child.a_bool", "child.child.tags"]),
        ({"leaves": [{"name": "x"}], "labels": {"a": "b"}}, ["labels", "leaves"]),
        (
            {"bornTime": "2024-01-01T00:00:00Z", "struct": {"a": 1}, "wrappedInt64": 1, "value": {"a": 1}},
            ["born_time", "struct", "value", "wrapped_int64"],
        ),
        ({"any": {"@type": "x/zoo.v1.Leaf", "name": "y"}}, ["any"]),
    ],
)
def test_a_field_mask_is_made_from_json(value: dict[str, Any], paths: list[str]) -> None:
    DECODER.message(ANIMAL(), value)
    assert decode.mask_paths(ANIMAL.DESCRIPTOR, value) == paths


def test_singles_are_written_as_short_as_they_can_be() -> None:
    write = ENCODER.to_json(ANIMAL.DESCRIPTOR)
    assert write(ANIMAL(a_float=0.1))["aFloat"] == 0.1
    assert write(ANIMAL(a_float=1.25210265e-29))["aFloat"] == 1.25210265e-29
    assert write(ANIMAL(a_float=3.4028235e38))["aFloat"] == 3.4028235e38
    assert write(ANIMAL(a_float=math.nan))["aFloat"] == "NaN"
    tiny = struct.unpack("<f", b"\x01\x00\x00\x00")[0]
    assert struct.pack("<f", orjson.loads(TO_BYTES(ANIMAL(a_float=tiny)))["aFloat"]) == b"\x01\x00\x00\x00"


def test_bytes_are_standard_base64() -> None:
    assert json.loads(TO_BYTES(ANIMAL(some_bytes=b"\xfb\xff")))["someBytes"] == base64.b64encode(b"\xfb\xff").decode()
