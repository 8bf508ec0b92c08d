"""Query strings: every kind of field from text, and every reason to refuse one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from gateway.decode import MalformedJson, WrongValue
from gateway.query import QueryReader
from tests.gateway import contracts

ZOO = contracts.zoo()
ANIMAL = ZOO.message("Animal")
READER = QueryReader(ANIMAL.DESCRIPTOR)


def read(query: str | bytes, reader: QueryReader = READER) -> Any:
    message = ANIMAL()
    reader.read(message, query.encode() if isinstance(query, str) else query)
    return message


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("&&", {}),
    ("a_string=x", {"a_string": "x"}),
    ("aString=x", {"a_string": "x"}),
    ("a_string=", {}),
    ("a_string=a+b%20c%2B", {"a_string": "a b c+"}),
    ("a_string=%E2%82%AC", {"a_string": "€"}),
    ("a_string=€", {"a_string": "€"}),
    ("a_string=a=b", {"a_string": "a=b"}),
    ("a%5Fstring=x", {"a_string": "x"}),
    ("veryOdd=x", {"odd_name": "x"}),
    ("odd_name=x", {"odd_name": "x"}),
    ("class=x", {"class": "x"}),
    ("an_int32=-5", {"an_int32": -5}),
    ("an_int32=2147483647", {"an_int32": 2**31 - 1}),
    ("anInt64=-9223372036854775808", {"an_int64": -(2**63)}),
    ("an_int64=007", {"an_int64": 7}),
    ("a_uint32=4294967295", {"a_uint32": 2**32 - 1}),
    ("a_uint64=18446744073709551615", {"a_uint64": 2**64 - 1}),
    ("a_sint32=-1&a_sint64=-2", {"a_sint32": -1, "a_sint64": -2}),
    ("a_fixed32=1&a_fixed64=2", {"a_fixed32": 1, "a_fixed64": 2}),
    ("an_sfixed32=-1&an_sfixed64=-2", {"an_sfixed32": -1, "an_sfixed64": -2}),
    ("a_double=1.5", {"a_double": 1.5}),
    ("a_double=-1e300", {"a_double": -1e300}),
    ("a_double=Infinity", {"a_double": "Infinity"}),
    ("a_double=-Infinity", {"a_double": "-Infinity"}),
    ("a_float=3.5", {"a_float": 3.5}),
    ("a_float=-Infinity", {"a_float": "-Infinity"}),
    *[(f"a_bool={text}", {"a_bool": True}) for text in ("1", "t", "T", "true", "TRUE", "True")],
    *[(f"maybe_int=1&a_bool={text}", {"maybe_int": 1}) for text in ("0", "f", "F", "false", "FALSE", "False")],
    ("colour=COLOUR_RED", {"colour": 1}),
    ("colour=2", {"colour": 2}),
    ("colour=-1", {"colour": -1}),
    ("some_bytes=YWJj", {"some_bytes": b"abc"}),
    ("some_bytes=-_8%3D", {"some_bytes": b"\xfb\xff"}),
    ("some_bytes=-_8", {"some_bytes": b"\xfb\xff"}),
    ("some_bytes=%2B%2F8=", {"some_bytes": b"\xfb\xff"}),
    ("maybe_int=0", {"maybe_int": 0}),
    ("maybeString=", {"maybe_string": ""}),
    ("numbers=1&numbers=2", {"numbers": [1, 2]}),
    ("tags=a&tags=&tags=a", {"tags": ["a", "", "a"]}),
    ("tags=a,b", {"tags": ["a,b"]}),
    ("colours=1&colours=COLOUR_GREEN", {"colours": [1, 2]}),
    ("flags=true&flags=0", {"flags": [True, False]}),
    ("leaf.name=x&leaf.weight=5", {"leaf": {"name": "x", "weight": 5}}),
    ("leaf.name=", {"leaf": {}}),
    ("leaf.ripe=false", {"leaf": {"ripe": False}}),
    ("child.child.aString=x", {"child": {"child": {"a_string": "x"}}}),
    ("child.numbers=1&child.numbers=2&numbers=3", {"child": {"numbers": [1, 2]}, "numbers": [3]}),
    ("born_time=2024-01-31T12:00:00Z", {"born_time": "2024-01-31T12:00:00Z"}),
    ("bornTime=2024-01-31T12:00:00.5%2B02:00", {"born_time": "2024-01-31T10:00:00.500Z"}),
    ("times=2024-01-01T00:00:00Z&times=2024-01-02T00:00:00Z", {"times": ["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]}),
    ("age=3.000000001s", {"age": "3.000000001s"}),
    ("age=-1.5s", {"age": "-1.500s"}),
    ("mask=foo,barBaz.qux", {"mask": "foo,barBaz.qux"}),
    ("mask=bar_baz", {"mask": "barBaz"}),
    ("mask=", {"mask": ""}),
    ("wrapped_int64=5", {"wrapped_int64": "5"}),
    ("wrapped_int64=0", {"wrapped_int64": "0"}),
    ("wrapped_string=", {"wrapped_string": ""}),
    ("wrapped_bool=t", {"wrapped_bool": True}),
    ("wrapped_double=1.5&wrapped_float=2.5", {"wrapped_double": 1.5, "wrapped_float": 2.5}),
    ("wrapped_int32=-1&wrapped_uint32=1&wrapped_uint64=2", {"wrapped_int32": -1, "wrapped_uint32": 1, "wrapped_uint64": "2"}),
    ("wrapped_bytes=YQ", {"wrapped_bytes": "YQ=="}),
    ("struct=%7B%22a%22:1%7D", {"struct": {"a": 1}}),
    ("value=null", {"value": None}),
    ("value=%22x%22", {"value": "x"}),
    ("listValue=[1,true]", {"list_value": [1, True]}),
    ("labels[k]=v&labels[k2]=", {"labels": {"k": "v", "k2": ""}}),
    ("labels%5Bk%5D=v", {"labels": {"k": "v"}}),
    ("labels[]=v", {"labels": {"": "v"}}),
    ("labels[a.b]=v", {"labels": {"a.b": "v"}}),
    ("counts[true]=1", {"counts": {"true": 1}}),
    ("colour_by_id[7]=COLOUR_RED", {"colour_by_id": {7: "COLOUR_RED"}}),
    ("ages[x]=1s", {"ages": {"x": "1s"}}),
    ("chosen_string=x", {"chosen_string": "x"}),
    ("chosenInt64=0", {"chosen_int64": "0"}),
    ("chosen_leaf.name=x&chosen_leaf.weight=1", {"chosen_leaf": {"name": "x", "weight": "1"}}),
    ("child.chosen_string=a&chosen_int64=1", {"child": {"chosen_string": "a"}, "chosen_int64": "1"}),
]


@pytest.mark.parametrize(("query", "expected"), TAKEN, ids=[row[0] for row in TAKEN])
def test_a_query_sets_fields(query: str, expected: dict[str, Any]) -> None:
    bytes_field = expected.get("some_bytes")
    wanted = json_format.ParseDict(
        {name: value for name, value in expected.items() if name != "some_bytes"}, ANIMAL(), descriptor_pool=ZOO.pool
    )
    wanted.some_bytes = bytes_field or b""
    assert read(query) == wanted


REFUSED = [
    "nope=1", "a_string.x=1", "leaf=1", "leaf.nope=1", "leaves=1", "leaves.name=x", "child=1", "any=x", "empty=x", "A_STRING=x",
    "labels=x", "labels.k=v", "a_string[x]=1", "leaf_by_id[1]=x", "leaf_by_id[1].name=x", "counts[yes]=1", "counts[true]=x",
    "colour_by_id[-1]=1", "labels[a]=1&labels[a]=2", "an_int32=", "an_int32=1.0", "an_int32=+1", "an_int32=0x1", "an_int32= 1",
    "an_int32=1_0", "an_int32=٣", "an_int32=2147483648", "an_int64=9223372036854775808", "an_int64=" + "9" * 5000,
    "a_uint32=-1", "a_uint64=18446744073709551616", "a_double=", "a_double=abc", "a_double=nan", "a_double=inf", "a_double=1e999",
    "a_double=1_0", "a_float=3.5e38", "a_double=" + "9" * 5000, "a_bool=", "a_bool=yes", "a_bool=tRUE", "colour=", "colour=RED",
    "colour=colour_red", "colour=3", "colour=null", "some_bytes=!", "some_bytes=YQ===", "some_bytes=A", "a_string=1&a_string=2",
    "a_string=1&aString=2", "leaf.name=1&leaf.name=2", "born_time=yesterday", "born_time=2024-01-31",
    "born_time=2024-13-01T00:00:00Z",
    "born_time=0000-01-01T00:00:00Z", "born_time=2024-01-31T12:00:00", "born_time=9999-12-31T23:59:59-01:00", "born_time=",
    "age=1", "age=1m", "age=", "age=999999999999s", "mask=a..b", "mask=,", "mask=a b", "wrapped_int64=x", "wrapped_bool=2",
    "wrapped_int64=",
    "struct=1", "struct=%7B", "value=", "value=NaN", "list_value=%7B%7D", "chosen_string=a&chosen_int64=1",
    "chosen_string=a&chosen_leaf.name=b",
    "chosen_string=a&chosen_string=b", "a_string=%zz", "a_string=%ff", "%=1", "%ff=1", "a_string=%", "born_time=1&born_time=2",
    "child." * 40 + "a_string=x", "wrapped_int64.value=1", "born_time.seconds=1", "[x]=1", "=1", "labels[x]y=1",
]  # fmt: skip


@pytest.mark.parametrize("query", REFUSED, ids=[each[:60] for each in REFUSED])
def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    with pytest.raises((WrongValue, MalformedJson)):
        read(query)


@pytest.mark.parametrize("query", ["leaf=x", "leaf.name=x", "a_string=x", "aString=x", "child.leaf.name=x", "child.leaf.weight=1"])
def test_what_path_or_body_set_a_query_cannot_set(query: str) -> None:
    reader = QueryReader(ANIMAL.DESCRIPTOR, ["leaf", "a_string", "child.leaf"])
    with pytest.raises(WrongValue, match="path or the body"):
        read(query, reader)
    assert read("child.a_string=x&an_int32=1", reader) == read("child.a_string=x&an_int32=1")


def test_beside_a_whole_body_there_is_no_query() -> None:
    reader = QueryReader(ANIMAL.DESCRIPTOR, closed=True)
    assert read("", reader) == ANIMAL()
    with pytest.raises(WrongValue, match="not a query parameter"):
        read("a_string=x", reader)


def test_the_field_is_named_in_proto_spelling() -> None:
    with pytest.raises(WrongValue) as caught:
        read("child.anInt32=x")
    assert caught.value.path == "child.an_int32"


def test_what_is_remembered_of_names_is_bounded() -> None:
    reader = QueryReader(ANIMAL.DESCRIPTOR)
    for number in range(2_000):
        read(f"labels[{number}]=x", reader)
    assert len(reader._targets) <= 256  # pyright: ignore[reportPrivateUsage]


NAMES = [field.name for field in ANIMAL.DESCRIPTOR.fields] + ["leaf.name", "labels[x]", "child.labels[y]", "child.a_string"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=8)), max_size=4))
def test_any_values_are_taken_or_refused(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={text}" for name, text in pairs)
    with contextlib.suppress(WrongValue, MalformedJson):
        read(query.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(query: bytes) -> None:
    try:
        read(query)
    except (WrongValue, MalformedJson) as error:
        str(error).encode()
