"""Tables of any columns with any values, as SQLite files."""

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.quoting import quoted
from pipeline.sqlite.structure.model import Column, Schema, Table

DECLARED = (
    *("INTEGER", "SMALLINT", "BIGINT", "TINYINT(1)", "BOOLEAN", "REAL", "DOUBLE PRECISION"),
    *("FLOATING POINT", "DECIMAL(10,2)", "NUMERIC(20,4)", "DECIMAL(38,0)", "NUMERIC(5)"),
    *("NUMERIC", "MONEY", "VARCHAR(8)", "character varying(40)", "TEXT", "CLOB", "BLOB", "BYTEA"),
    *("JSON", "JSONB", "UUID", "GUID", "DATE", "DATETIME", "TIMESTAMP WITH TIME ZONE", "TIME"),
    *("STRING", "ENUM", "DECIMALTEXT", "NUMERIC(40,2)", ""),
)
_NEAR = (0, 1, 2**15, 2**31, 2**53, 9_999_999_999, 1_700_000_000, 1_700_000_000_000, 2**62)
_INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 1),
    st.builds(
        lambda near, off, sign: sign * (near + off),
        st.sampled_from(_NEAR),
        st.integers(-2, 2),
        st.sampled_from((-1, 1)),
    ),
)
_REALS = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.integers(-(10**9), 10**9).map(lambda cents: cents / 100),
    st.sampled_from((0.1, 2.675, 1e-31, 1e22, 1e30, 2.0**53, 1234567.8901234567, 2460000.5)),
)
_DIGITS = st.integers(0, 99).map("{:02}".format)
_DATES = st.one_of(
    st.dates().map(str),
    st.sampled_from(("2023-02-29", "2024-02-29", "1900-02-29", "0000-01-01", "2024-04-31")),
)
_TIMES = st.one_of(
    st.times().map(str),
    st.sampled_from(("10:00", "24:00:00", "23:59:60", "10:00:00.1", "10:00:00.1234567", "7:00")),
)
_ZONES = st.sampled_from(("Z", "+00:00", "-08:00", "+14:00", "+15:00", " +07:00", "+0700", ""))
_MOMENTS = st.builds("{}{}{}".format, _DATES, st.sampled_from((" ", "T", "")), _TIMES)
_FAR = st.sampled_from(
    (
        "0001-01-01T00:00:00+01:00",
        "9999-12-31 23:59:59-01:00",
        "9999-12-31T23:59:59Z",
        "9999-12-31 23:59:59.999999",
        "0001-01-01 00:00:00",
    )
)
_JSON = st.sampled_from(
    (
        *(
            "{}",
            "[]",
            '{"a": 1, "b": [1.5e3, null]}',
            '"x"',
            "true",
            " [1] ",
            "{'a': 1}",
            "",
            "nan",
        ),
        *(
            '{"a": 1, "a": 2}',
            '{"a": 1, "\\u0061": 2}',
            "[1e999999]",
            "[NaN]",
            "[01]",
            '["\\u0000"]',
        ),
        *(
            '["\\ud83d\\ude00"]',
            '["\\ud83d"]',
            '["\\\\u0000"]',
            '["\\\\ud83d"]',
            '"3e1234"',
            '["\t"]',
        ),
        *("[" * 500 + "]" * 500, "[" * 2000 + "]" * 2000, "\ufeff{}", '{"":{"b":[]}}', "[1] x"),
    )
)
_UUIDS = st.one_of(st.uuids().map(str), st.uuids().map(lambda each: str(each).upper()))
_DECIMALS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.sampled_from(
        (
            "1",
            "007",
            "-0",
            "0.10",
            ".5",
            "5.",
            "+5",
            "1e5",
            " 7",
            "-0.00",
            "12345678901234567890.12",
            "Inf",
        )
    ),
)
_WORDS = st.sampled_from(("t", "f", "T", "true", "false", "True", "yes", "no", "Y", "n", "on"))
_ANY_TEXT = st.text(max_size=12)
_BLOBS = st.binary(max_size=20)
_POOLS: tuple[st.SearchStrategy[Any], ...] = (
    *(_INTEGERS, st.integers(0, 1), _REALS, st.one_of(_INTEGERS, _REALS), _BLOBS),
    *(_DATES, _TIMES, _MOMENTS, st.builds("{}{}".format, _MOMENTS, _ZONES), _FAR, _JSON, _UUIDS),
    *(st.dates().map(str), st.datetimes().map(str), st.uuids().map(str), st.times().map(str)),
    *(_DECIMALS, _WORDS, st.sampled_from(("t", "f")), _ANY_TEXT),
    *(st.one_of(_INTEGERS, _ANY_TEXT), st.one_of(_BLOBS, _ANY_TEXT)),
)


class BadText(bytes):
    """The bytes of a text, which may be invalid UTF-8."""


_BAD = st.sampled_from((BadText(b"\xff"), BadText(b"a\xed\xa0\x80"), BadText(b"\xc0\x80")))
_ODD = st.one_of(_INTEGERS, _REALS, _ANY_TEXT, _BLOBS, _BAD, st.just("a\0b"), st.just("x"))


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A declared type, and values that mostly have one form."""
    declared, pool = draw(st.sampled_from(DECLARED)), draw(st.sampled_from(_POOLS))
    values: list[Any] = draw(st.lists(st.one_of(pool, st.none()), max_size=8))
    if draw(st.integers(0, 3)) == 0:
        values += draw(st.lists(_ODD, min_size=1, max_size=2))
    return declared, values


def table(name: str, found: Sequence[tuple[str, Sequence[Any]]], **options: Any) -> Table:
    """A table with columns ``c0``, ``c1`` and so on."""
    return Table(
        name,
        tuple(Column(f"c{number}", declared) for number, (declared, _) in enumerate(found)),
        **options,
    )


def fill(connection: sqlite3.Connection, each: Table, values: Sequence[Sequence[Any]]) -> None:
    """Create a table, and insert the values of its columns; short ones end in NULLs."""
    parts = ", ".join(f"{quoted(column.name)} {column.declared}" for column in each.columns)
    connection.execute(f"CREATE TABLE {quoted(each.name)} ({parts})")
    for at in range(max(map(len, values), default=0)):
        row = [column[at] if at < len(column) else None for column in values]
        marks = ["CAST(? AS TEXT)" if isinstance(value, BadText) else "?" for value in row]
        sql = f"INSERT INTO {quoted(each.name)} VALUES ({', '.join(marks)})"
        connection.execute(sql, [bytes(v) if isinstance(v, BadText) else v for v in row])


@contextmanager
def prepared(*filled: tuple[Table, Sequence[Sequence[Any]]]) -> Iterator[PreparedSource]:
    """A file with these tables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            for each, values in filled:
                fill(connection, each, values)
            connection.commit()
        schema = Schema(tuple(each for each, _ in filled))
        with closing(PreparedSource(path, "any.db", schema)) as source:
            yield source
