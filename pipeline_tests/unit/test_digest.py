"""Digests of columns are equal exactly when the columns are."""

import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.move.compare.digest import ColumnDigest

TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), st.text(max_size=8)),
    "bytes": (pa.binary(), st.binary(max_size=8)),
    "bool": (pa.bool_(), st.booleans()),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float64": (pa.float64(), st.floats(allow_nan=False)),
    "moment": (
        pa.timestamp("us", "UTC"),
        st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)),
    ),
    "decimal": (pa.decimal128(3, 2), st.decimals("-9.99", "9.99", places=2)),
    "date": (pa.date32(), st.dates()),
}
OF_EVERY_TYPE = pytest.mark.parametrize("kind", TYPES)
SAMPLES: dict[str, tuple[Any, Any]] = {
    "text": ("", "กิน"),
    "bytes": (b"", b"\0"),
    "bool": (False, True),
    "int32": (0, 2**31 - 1),
    "int64": (0, -(2**63)),
    "float64": (0.0, 5e-324),
    "moment": (datetime(1970, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 23, 59, 59, 999999, UTC)),
    "decimal": (Decimal("0.00"), Decimal("-9.99")),
    "date": (date(1970, 1, 1), date(9999, 12, 31)),
}
"""Of every type the value whose bytes are all zero (or none), and another one."""


def digest(*batches: pa.Array) -> str:
    whole = ColumnDigest()
    for batch in batches:
        whole.update(batch)
    return whole.hexdigest()


def bits(values: list[Any]) -> list[Any]:
    """The values, told apart bit by bit (0.0 is not -0.0)."""
    return [struct.pack(">d", v) if isinstance(v, float) else v for v in values]


@OF_EVERY_TYPE
@settings(max_examples=20)
@given(data=st.data())
def test_the_digest_does_not_depend_on_how_rows_are_cut(kind: str, data: st.DataObject) -> None:
    arrow, values = TYPES[kind]
    column = pa.array(data.draw(st.lists(st.none() | values, max_size=20)), arrow)
    cuts = data.draw(st.lists(st.integers(0, len(column)), max_size=4).map(sorted))
    parts = [column.slice(a, b - a) for a, b in pairwise([0, *cuts, len(column)])]
    copied = [pa.array(part.to_pylist(), arrow) for part in parts]
    assert digest(*parts) == digest(*copied) == digest(column)


@OF_EVERY_TYPE
@settings(max_examples=20)
@given(data=st.data())
def test_rows_around_a_slice_do_not_count(kind: str, data: st.DataObject) -> None:
    arrow, values = TYPES[kind]
    rows = st.lists(st.none() | values, max_size=10)
    before, inside, after = data.draw(rows), data.draw(rows), data.draw(rows)
    around = pa.array([*before, *inside, *after], arrow).slice(len(before), len(inside))
    assert digest(around) == digest(pa.array(inside, arrow))


@OF_EVERY_TYPE
@settings(max_examples=20)
@given(data=st.data())
def test_digests_are_equal_exactly_when_the_columns_are(kind: str, data: st.DataObject) -> None:
    arrow, values = TYPES[kind]
    pool = st.sampled_from([None, *SAMPLES[kind]]) | values
    one, other = (data.draw(st.lists(pool, max_size=3)) for _ in range(2))
    same = digest(pa.array(one, arrow)) == digest(pa.array(other, arrow))
    assert same == (bits(one) == bits(other))


@OF_EVERY_TYPE
def test_a_null_is_not_a_value(kind: str) -> None:
    arrow, (zero, other) = TYPES[kind][0], SAMPLES[kind]
    columns = [[None, other], [zero, other], [other, None], [other], [None, None], [None]]
    found = {digest(pa.array(column, arrow)) for column in columns}
    assert len(found) == len(columns)


@OF_EVERY_TYPE
def test_what_lies_under_a_null_does_not_count(kind: str) -> None:
    arrow, (_, other) = TYPES[kind][0], SAMPLES[kind]
    clean = pa.array([None, other], arrow)
    dirty = pa.array([other, other], arrow)
    mask = pa.array([False, True]).buffers()[1]
    hidden = pa.Array.from_buffers(arrow, 2, [mask, *dirty.buffers()[1:]])
    assert hidden.to_pylist() == clean.to_pylist()
    assert digest(hidden) == digest(clean)


@OF_EVERY_TYPE
def test_swapped_rows_differ(kind: str) -> None:
    arrow, (one, other) = TYPES[kind][0], SAMPLES[kind]
    there, back = pa.array([one, other], arrow), pa.array([other, one], arrow)
    assert digest(there) != digest(back)
    assert digest(there) == digest(pa.array([one, other], arrow))


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()], ids=str)
def test_the_same_letters_cut_elsewhere_differ(kind: pa.DataType) -> None:
    cuts = [["12", "3"], ["1", "23"], ["", "123"], ["123", ""], ["123"], ["1", "2", "3"]]
    found = {digest(pa.array(cut, pa.string()).cast(kind)) for cut in cuts}
    assert len(found) == len(cuts)


def test_values_of_different_types_differ_though_their_bytes_are_the_same() -> None:
    zero = pa.array([0, 0], pa.int64())
    columns = [
        zero,
        zero.view(pa.float64()),
        zero.view(pa.timestamp("us", "UTC")),
        zero.view(pa.timestamp("us")),
        zero.cast(pa.int32()),
        pa.array(["a", "b"], pa.string()),
        pa.array([b"a", b"b"], pa.binary()),
        pa.array([Decimal(0)] * 2, pa.decimal128(3, 2)),
        pa.array([Decimal(0)] * 2, pa.decimal128(4, 2)),
    ]
    assert len({digest(column) for column in columns}) == len(columns)


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=64), st.data())
def test_one_bit_makes_another_digest(value: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = bytearray(value)
    flipped[at // 8] ^= 1 << at % 8
    assert digest(pa.array([value], pa.binary())) != digest(pa.array([bytes(flipped)], pa.binary()))
    assert digest(pa.array([value], pa.binary())) == digest(pa.array([bytes(value)], pa.binary()))


def test_a_copy_goes_on_by_itself() -> None:
    first = ColumnDigest()
    first.update(pa.array([1]))
    second = first.copy()
    second.update(pa.array([2]))
    first.update(pa.array([3]))
    assert first.hexdigest() == digest(pa.array([1, 3]))
    assert second.hexdigest() == digest(pa.array([1, 2]))


def test_a_column_without_rows_has_a_digest_of_its_type() -> None:
    empty = {digest(pa.array([], arrow)) for arrow, _ in TYPES.values()}
    assert len(empty) == len(TYPES)
    assert digest(pa.array([], pa.int32())) != digest(pa.array([None], pa.int32()))
