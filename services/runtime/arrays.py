"""Parameters for `unnest`: array columns packed by hand into Postgres' binary array format.

    await database.query("with k as (select * from unnest(%s::bigint[], %s::text[]) as k (id, body)) insert …",
                         (Int8Array(ids), TextArray(bodies)))

psycopg's own list dumper looks at every element; these cost 40-110 ns an element, which is what makes one committed
statement of 64 rows several times faster than 64 single ones. `TextArray` and `ByteaArray` take None for null; the
numeric ones do not (write `nullif(k.x, 0)`). Pools opened by `services.runtime.postgres` know these classes; other
connections get them from `adapters()`.
"""

from collections.abc import Sequence
from struct import Struct, pack, unpack
from typing import ClassVar

import psycopg
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiIii")
_EMPTY_HEADER = Struct(">iiI")
_LENGTH = Struct(">i").pack
_NULL = _LENGTH(-1)
_BOOLEANS = (b"\x00\x00\x00\x01\x00", b"\x00\x00\x00\x01\x01")


class PackedArray:
    """One array parameter, ready for the wire. `elements`: each with its length prefix; `nulls`: whether any is null."""

    __slots__ = ("packed",)

    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, elements: bytes, count: int, nulls: bool = False) -> None:
        if count:
            self.packed = _HEADER.pack(1, nulls, self.element_oid, count, 1) + elements
        else:
            self.packed = _EMPTY_HEADER.pack(0, 0, self.element_oid)


class Int8Array(PackedArray):
    """`bigint[]`. An element outside 64 bits raises struct.error."""

    element_oid, array_oid = 20, 1016

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(_fixed(8, "iq", values), len(values))


class Int4Array(PackedArray):
    """`integer[]`. An element outside 32 bits raises struct.error."""

    element_oid, array_oid = 23, 1007

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(_fixed(4, "ii", values), len(values))


class Int2Array(PackedArray):
    """`smallint[]`. An element outside 16 bits raises struct.error."""

    element_oid, array_oid = 21, 1005

    def __init__(self, values: Sequence[int]) -> None:
        super().__init__(_fixed(2, "ih", values), len(values))


class BoolArray(PackedArray):
    """`boolean[]`."""

    element_oid, array_oid = 16, 1000

    def __init__(self, values: Sequence[bool]) -> None:
        super().__init__(b"".join([_BOOLEANS[value] for value in values]), len(values))


class ByteaArray(PackedArray):
    """`bytea[]`; None is null."""

    element_oid, array_oid = 17, 1001

    def __init__(self, values: Sequence[bytes | None]) -> None:
        super().__init__(*_variable(values))


class TextArray(PackedArray):
    """`text[]`; None is null. Postgres refuses the character U+0000 (psycopg.DataError for the whole statement)."""

    element_oid, array_oid = 25, 1009

    def __init__(self, values: Sequence[str | None]) -> None:
        super().__init__(*_variable([None if value is None else value.encode() for value in values]))


def _fixed(width: int, code: str, values: Sequence[int]) -> bytes:
    arguments = [width] * (2 * len(values))
    arguments[1::2] = values
    return pack(">" + code * len(values), *arguments)


def _variable(values: Sequence[bytes | None]) -> tuple[bytes, int, bool]:
    parts: list[bytes] = []
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_LENGTH(len(value)))
            parts.append(value)
    return b"".join(parts), len(values), None in values


def unpack_int8(packed: bytes | None) -> tuple[int, ...]:
    """The numbers of `string_agg(int8send(id), '' order by …)`, in its order; () for null, the aggregate of no rows."""
    return unpack(f">{len(packed) // 8}q", packed) if packed else ()


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes:
        return obj.packed


def adapters() -> AdaptersMap:
    """psycopg's adapters plus the classes above. A connection copies its adapters when it is made: pass them as its context."""
    known = AdaptersMap(psycopg.adapters)
    for kind in (Int8Array, Int4Array, Int2Array, BoolArray, ByteaArray, TextArray):
        known.register_dumper(kind, type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": kind.array_oid}))
    return known
