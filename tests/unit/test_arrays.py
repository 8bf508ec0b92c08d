"""Hand-packed arrays say the same to Postgres as psycopg's own (tests/stores/test_postgres.py sends them there)."""

import struct

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer

from services.runtime import arrays
from services.runtime.arrays import BoolArray, ByteaArray, Int2Array, Int4Array, Int8Array, TextArray, unpack_int8

INT8 = st.integers(-(2**63), 2**63 - 1)


def loaded(array: arrays.PackedArray) -> list[object]:
    """What Postgres' binary format means, read by psycopg."""
    return Transformer().get_loader(array.array_oid, psycopg.pq.Format.BINARY).load(array.packed)


@given(st.lists(INT8))
def test_int8_round_trip(values: list[int]) -> None:
    assert loaded(Int8Array(values)) == values


@given(st.lists(st.integers(-(2**31), 2**31 - 1)), st.lists(st.integers(-(2**15), 2**15 - 1)), st.lists(st.booleans()))
def test_small_round_trip(ints: list[int], shorts: list[int], flags: list[bool]) -> None:
    assert loaded(Int4Array(ints)) == ints
    assert loaded(Int2Array(shorts)) == shorts
    assert loaded(BoolArray(flags)) == flags


@given(st.lists(st.none() | st.binary()), st.lists(st.none() | st.text(st.characters(codec="utf-8"))))
def test_nullable_round_trip(blobs: list[bytes | None], texts: list[str | None]) -> None:
    assert loaded(ByteaArray(blobs)) == blobs
    assert loaded(TextArray(texts)) == texts


def test_out_of_range_is_refused_before_it_is_sent() -> None:
    with pytest.raises(struct.error):
        Int8Array([2**63])
    with pytest.raises(struct.error):
        Int2Array([40_000])


@given(st.lists(INT8))
def test_unpack_int8(values: list[int]) -> None:
    assert unpack_int8(b"".join(struct.pack(">q", value) for value in values)) == tuple(values)


def test_unpack_of_no_rows() -> None:
    assert unpack_int8(None) == ()


def test_psycopgs_own_adapters_stay_as_they_are() -> None:
    arrays.adapters()
    with pytest.raises(psycopg.ProgrammingError):
        psycopg.adapters.get_dumper(Int8Array, PyFormat.AUTO)
