"""Digests of the values of one column in a key range, from both sides.

The digest is the MD5 of the binary form that PostgreSQL gives an array of the values, in the order
of the keys: the type, whether there are NULLs, the number of values, and for each value its length
(-1 for NULL) and its bytes. So ``"12", "3"`` and ``"1", "23"`` differ, as do NULL and the empty
text. The source of the format is ``array_send``; the server calls it once per column, not once per
value.
"""

import hashlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.declared.kinds import is_single
from pipeline.mapping.casts.types import ByteSize
from pipeline.mapping.table_mapping import TableMapping

_BOOLEAN, _BIGINT, _SMALLINT, _INTEGER, _TEXT, _REAL, _DOUBLE = 16, 20, 21, 23, 25, 700, 701
_DATE, _TIME, _TIMESTAMP, _TIMESTAMPTZ = 1082, 1083, 1114, 1184
"""Object identifiers of PostgreSQL's types, the same on every server."""
_EPOCH_DAYS, _EPOCH_MICROSECONDS = 10_957, 946_684_800_000_000
"""2000-01-01, counted from 1970; PostgreSQL counts from there."""


def element(kind: sa.types.TypeEngine[Any], value: str) -> str:
    """SQL for the hashed element of a value.

    Args:
        kind: the declared type.
        value: SQL for the value as it is read back.
    """
    match kind:
        case sa.Boolean() | sa.Integer() | sa.DateTime() | sa.Date() | sa.Time() | ByteSize():
            return value
        case sa.Float():
            # Minus zero equals zero.
            return f"{value} + 0::float{4 if is_single(kind) else 8}"
    return f"{value}::text"


def aggregate(element_: str) -> str:
    """SQL for the digest of the elements of all rows of a query, in their order."""
    # A function in ``public`` may match the type better than PostgreSQL's own.
    return f"pg_catalog.md5(pg_catalog.array_send(pg_catalog.array_agg({element_})))"


def query(mapping: TableMapping, rows: str) -> str:
    """SQL for the number of rows and the digest of every column.

    Args:
        mapping: the columns.
        rows: the rows as SQL, from FROM, in their order and with a limit. Other rows would do no
            harm: the digests would differ, and the rows would be read.
    """
    elements = [
        element(c.type, mapping.casts[c.name].target(quoted(c.name))) for c in mapping.columns
    ]
    columns = ", ".join(f"{each} AS c{n}" for n, each in enumerate(elements))
    digests = ", ".join(aggregate(f"c{n}") for n in range(len(elements)))
    return f"SELECT pg_catalog.count(*), ARRAY[{digests}] FROM (SELECT {columns} {rows}) AS r"


def digest(column: pa.Array) -> str:
    """The digest of a column in the compared form."""
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        element_type, data = _TEXT, _variable(column)
    else:
        element_type, values = _fixed(column)
        data = _with_lengths(values, column)
    head = struct.pack(">5i", 1, int(column.null_count > 0), element_type, len(column), 1)
    found = hashlib.md5(head, usedforsecurity=False)
    found.update(data)
    return found.hexdigest()


def _variable(column: pa.Array) -> memoryview:
    """Lengths and bytes of texts, in turn."""
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
    sizes = pa.Array.from_buffers(
        pa.binary(),
        len(column),
        [
            None,
            pa.py_buffer(np.arange(0, 4 * len(column) + 1, 4, dtype=np.int32)),
            pa.py_buffer(lengths.astype(">i4")),
        ],
    )
    values = pc.fill_null(column.cast(pa.binary()), b"")
    joined = pc.binary_join_element_wise(sizes, values, b"")
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(data or b"")[ends[0] : ends[-1]]


def _fixed(column: pa.Array) -> tuple[int, Any]:
    """The type of the elements, and their bytes as an array; NULLs have any value."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return _BOOLEAN, pc.fill_null(column.cast(pa.uint8()), 0).to_numpy()
    if pa.types.is_floating(kind):
        single, numbers = pa.types.is_float32(kind), pc.fill_null(column, 0.0).to_numpy() + 0.0
        return (_REAL, numbers.astype(">f4")) if single else (_DOUBLE, numbers.astype(">f8"))
    if pa.types.is_date32(kind):
        days = pc.fill_null(column.cast(pa.int32()), 0).to_numpy()
        return _DATE, (days - _EPOCH_DAYS).astype(">i4")
    if pa.types.is_int16(kind):
        return _SMALLINT, pc.fill_null(column, 0).to_numpy().astype(">i2")
    if pa.types.is_int32(kind):
        return _INTEGER, pc.fill_null(column, 0).to_numpy().astype(">i4")
    numbers = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    if pa.types.is_timestamp(kind):
        element_type = _TIMESTAMP if kind.tz is None else _TIMESTAMPTZ
        return element_type, (numbers - _EPOCH_MICROSECONDS).astype(">i8")
    return _TIME if pa.types.is_time64(kind) else _BIGINT, numbers.astype(">i8")


def _with_lengths(values: Any, column: pa.Array) -> Any:
    """Lengths and bytes of values of the same width, in turn."""
    width = values.dtype.itemsize
    rows = np.empty((len(values), 4 + width), np.uint8)
    rows[:, :4] = np.frombuffer(struct.pack(">i", width), np.uint8)
    rows[:, 4:] = values.view(np.uint8).reshape(len(values), width)
    if not column.null_count:
        return rows
    null = column.is_null().to_numpy(zero_copy_only=False)
    rows[null, :4] = 0xFF
    there = np.ones(rows.shape, dtype=bool)
    there[null, 4:] = False
    return rows[there]
