"""The digests of a range are equal on both sides exactly when its values are."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.mapping.casts.types import cast_for, type_name
from pipeline.move.compare import jsonb_texts, range_digests
from pipeline.postgres.target import Target
from pipeline_tests.support.targets import new_database

LETTERS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
KINDS: dict[str, tuple[sa.types.TypeEngine[Any], pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (sa.Text(), pa.string(), LETTERS),
    "varchar": (sa.String(12), pa.string(), LETTERS),
    "integer": (sa.Integer(), pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "bigint": (sa.BigInteger(), pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "boolean": (sa.Boolean(), pa.bool_(), st.booleans()),
    "double": (sa.Double(), pa.float64(), st.floats(allow_nan=False)),
    "numeric": (
        sa.Numeric(5, 2),
        pa.decimal128(5, 2),
        st.decimals("-999.99", "999.99", places=2),
    ),
    "moment": (
        sa.DateTime(timezone=True),
        pa.timestamp("us", "UTC"),
        st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
    ),
    "blob": (sa.LargeBinary(), pa.binary(), st.binary(max_size=40)),
    "smallint": (sa.SmallInteger(), pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "real": (sa.REAL(), pa.float32(), st.floats(allow_nan=False, width=32)),
    "date": (sa.Date(), pa.date32(), st.dates()),
    "time": (sa.Time(), pa.time64("us"), st.times()),
    "timestamp": (sa.DateTime(), pa.timestamp("us"), st.datetimes()),
    "uuid": (sa.Uuid(), pa.opaque(pa.string(), "uuid", "PostgreSQL"), st.uuids().map(str)),
    "unbounded numeric": (
        sa.Numeric(),
        pa.opaque(pa.string(), "numeric", "PostgreSQL"),
        st.decimals(allow_nan=False, allow_infinity=False).map(
            lambda number: format(number if number else abs(number), "f")
        ),
    ),
    "enum": (sa.Enum("a", "ก", native_enum=False), pa.string(), st.sampled_from("aก")),
}


@pytest.fixture(scope="module")
def session(server: URL) -> Iterator[Target]:
    """A session in an empty database."""
    with (
        new_database(server, "range_digests") as made,
        Target.connect(libpq(made), shown="the target") as target,
    ):
        for number, (kind, _, _) in enumerate(KINDS.values()):
            target.run(f"CREATE TEMPORARY TABLE t{number} (n integer, v {type_name(kind)})")
        yield target


def by_server(session: Target, name: str, values: pa.Array) -> str | None:
    """The digest of values that are stored in a column."""
    number, (kind, _, _) = list(KINDS).index(name), KINDS[name]
    session.run(f"TRUNCATE t{number}")
    batch = pa.record_batch({"n": pa.array(range(len(values)), pa.int32()), "v": values})
    session.copy(f"t{number}", batch, temporary=True)
    element = range_digests.element(kind, cast_for(sa.Column("v", kind)).target("v"))
    found = session.value(
        f"SELECT {range_digests.aggregate('e')}"
        f" FROM (SELECT {element} AS e FROM t{number} ORDER BY n LIMIT {len(values) + 1}) AS r"
    )
    return None if found is None else str(found)


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not isinstance(kind, pa.OpaqueType):
        return pa.array(values, kind)
    return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.string()))


@pytest.mark.parametrize("name", KINDS)
def test_a_type_is_named_as_the_server_names_it(name: str, session: Target) -> None:
    number = list(KINDS).index(name)
    found = session.value(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        f" WHERE attrelid = 'pg_temp.t{number}'::regclass AND attname = 'v'"
    )
    assert type_name(KINDS[name][0]) == found


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15)
@given(data=st.data())
def test_both_sides_hash_the_same_values_to_the_same_digest(
    name: str, data: st.DataObject, session: Target
) -> None:
    kind, arrow, strategy = KINDS[name]
    rows = st.lists(st.none() | strategy, min_size=1, max_size=6)
    before, values = data.draw(rows), column(data.draw(rows), arrow)
    sliced = pa.concat_arrays([column(before, arrow), values]).slice(len(before))
    form = cast_for(sa.Column("v", kind)).source_form
    assert range_digests.digest(form(sliced)) == range_digests.digest(form(values))
    assert range_digests.digest(form(values)) == by_server(session, name, values)


def test_minus_zero_equals_zero(session: Target) -> None:
    zeros = pa.array([0.0, -0.0])
    assert range_digests.digest(zeros) == by_server(session, "double", zeros)
    assert range_digests.digest(zeros) == range_digests.digest(pa.array([0.0, 0.0]))


@pytest.mark.parametrize(
    "columns",
    [
        [["12", "3"], ["1", "23"], ["", "123"], ["123"], ["123", None], [None, "123"], [None]],
        [[0, 1], [1, 0], [0], [None, 1], [0, None], [0, 0]],
        [[True, False], [False, True], [None, False], [True]],
        [[0.0, 1.0], [1.0, 0.0], [None, 1.0], [0.0]],
        [[Decimal("1.10"), None], [Decimal("1.10")], [None, Decimal("1.10")], [Decimal("1.01")]],
    ],
    ids=lambda columns: type(columns[0][0]).__name__,
)
def test_different_columns_have_different_digests(columns: list[list[Any]]) -> None:
    kind = pa.array(columns[0]).type
    arrays = [pa.array(column, kind) for column in columns]
    assert len({range_digests.digest(array) for array in arrays}) == len(columns)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | LETTERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LETTERS, inner, max_size=4),
    max_leaves=8,
)
SPELLINGS = (
    json.dumps,
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    lambda value: f" \n{json.dumps(value)}\t",
)
NUMBERS = (
    *("0", "-0", "0.0", "-0.0", "0e5", "0.00e1", "1e2", "1E+2", "1.0", "1.50", "1.50e1", "1.5e3"),
    *("0.1", "1e-7", "123456789012345678901234567890", "1e22", "0.30000000000000004", "-1.25E-3"),
)
TEXTS = (
    *(f'{{"n": [{number}, {{"bb": {number}, "a": "{number}"}}]}}' for number in NUMBERS),
    *NUMBERS,
    '{"b": 1, "aa": 2, "a": 3, "": 4, "ก": 5, "😀": 6, "\\u0e02": 7}',
    '{"a": 1, "b": 2, "a": {"a": 3, "a": 4}}',
    '"\\u007f\\u001f\\/\\b\\f\\n\\r\\t\\"\\\\"',
    '["\\u0e01", "\\ud83d\\ude00", null, true, false, [], {}]',
)


def as_stored(session: Target, texts: list[str]) -> list[str]:
    found = session.rows(
        "SELECT t::jsonb::text FROM unnest($1::text[]) WITH ORDINALITY AS u(t, n) ORDER BY n",
        (texts,),
    )
    return [text for (text,) in found]


def test_rare_spellings_of_json_are_written_as_jsonb_writes_them(session: Target) -> None:
    found = jsonb_texts.as_stored(pa.array(TEXTS))
    assert found is not None
    assert found.to_pylist() == as_stored(session, list(TEXTS))


@settings(max_examples=40)
@given(values=st.lists(JSON, min_size=1, max_size=6), spelling=st.sampled_from(SPELLINGS))
def test_any_json_is_written_as_jsonb_writes_it(
    values: list[Any], spelling: Any, session: Target
) -> None:
    texts = [spelling(value) for value in values]
    found = jsonb_texts.as_stored(pa.array([None, *texts, None]))
    assert found is not None
    assert found.to_pylist() == [None, *as_stored(session, texts), None]


def test_strings_with_json_inside_are_unwrapped() -> None:
    inside = '{"a":1,"bb":[1e2]}'
    once, twice = json.dumps(inside), json.dumps(json.dumps(inside))
    texts = pa.array([once, twice, '"5"', '"{"', inside])
    found = jsonb_texts.as_stored(texts, unwrap=True)
    assert found is not None
    written = '{"a": 1, "bb": [100]}'
    assert found.to_pylist() == [written, written, '"5"', '"{"', written]
    assert jsonb_texts.as_stored(pa.array([once])).to_pylist() == [once]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        '{"a": Infinity}',
        '"\\ud800"',
        '[2, "\\u0000", 1]',
        "1e200000",
        "[" * 100_000,
        "1" * 5_000,
    ],
    ids=lambda text: text[:10],
)
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    assert jsonb_texts.as_stored(pa.array(["1", text])) is None


def test_texts_that_are_json_only_together_are_no_json() -> None:
    for texts in (["[1", "2]"], ['1,"\\u0000",2', "[3", "4]"], ['{"a":[1', '2],"a":3}', "1"]):
        assert jsonb_texts.as_stored(pa.array(texts)) is None
