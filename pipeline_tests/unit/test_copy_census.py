"""The census: what the columns of a source hold, whichever way a table is read."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.copy.census.facts import ColumnFacts, TableCensus
from pipeline.copy.census.formats import PATTERNS, fits_jsonb
from pipeline.copy.census.survey import survey, survey_all, survey_together
from pipeline.core.errors import SourceError
from pipeline.move.reading import surveys
from pipeline.sqlite.structure.model import Column, Table
from pipeline_tests.support.any_columns import BadText, columns, fill, prepared, table


def census(declared: str, values: Sequence[Any], name: str = "c0", **options: Any) -> ColumnFacts:
    """The facts of one column."""
    each = replace(table("t", [(declared, values)]), columns=(Column(name, declared),))
    with prepared((each, [values])) as source:
        return next(survey_all(source, [each], **options)).columns[0]


@given(st.lists(columns(), min_size=1, max_size=6))
@settings(max_examples=60)
def test_both_ways_of_reading_find_the_same(found: list[tuple[str, list[Any]]]) -> None:
    each = table("t", found)
    with prepared((each, [values for _, values in found])) as source:
        (few,) = survey_all(source, [each])
        (many,) = survey_all(source, [each], few=0)
        with source.sqlite() as connection:
            counted = [
                connection.execute(
                    f"SELECT count(*), sum(typeof({c.name}) = 'integer'),"
                    f" sum(typeof({c.name}) = 'real'), sum(typeof({c.name}) = 'text'),"
                    f" sum(typeof({c.name}) = 'blob'), max({c.name}) FILTER"
                    f" (WHERE typeof({c.name}) = 'integer') FROM t"
                ).fetchone()
                for c in each.columns
            ]
    assert few == many
    for facts, (rows, *classes, highest) in zip(few.columns, counted, strict=True):
        assert few.rows == rows
        assert [facts.integers, facts.reals, facts.texts, facts.blobs] == [n or 0 for n in classes]
        assert facts.nulls == rows - facts.values
        assert facts.highest == highest


def test_threads_find_the_same_in_the_order_of_the_tables() -> None:
    values = [[*range(at, at + 700)] for at in range(9)]
    tables = [table(f"t{at}", [("INTEGER", each)]) for at, each in enumerate(values)]
    with prepared(*((t, [each]) for t, each in zip(tables, values, strict=True))) as source:
        together = survey_together(source, tables)
        assert together == list(survey_all(source, tables))
    assert [each.table.name for each in together] == [each.name for each in tables]
    assert [each.columns[0].lowest for each in together] == [*range(9)]


def ranges(found: TableCensus) -> list[tuple[int, int, int]]:
    return [(each.first, each.last, each.rows) for each in found.ranges]


def test_ranges_hold_a_batch_of_bytes_and_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "BATCH_BYTES", 1000)
    each = table("t", [("TEXT", []), ("BLOB", [])])
    texts, blobs = ["x" * 90] * 30, [b"y" * 10] * 29 + [b"z" * 5000]
    with prepared((each, [texts, blobs])) as source:
        with closing(sqlite3.connect(source.path)) as connection:
            connection.execute("DELETE FROM t WHERE rowid IN (2, 3)")
            connection.commit()
        (found,) = survey_all(source, [each], few=0)
    # A row has 16 bytes for its two values, and 100 for their contents.
    assert ranges(found) == [(1, 10, 8), (11, 18, 8), (19, 26, 8), (27, 29, 3), (30, 30, 1)]
    assert found.rows == 28
    assert found.bytes == 27 * 116 + 16 + 90 + 5000


def test_a_range_has_a_limited_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "BATCH_ROWS", 4)
    each = table("t", [("INTEGER", [])])
    with prepared((each, [list(range(10))])) as source:
        found = next(survey_all(source, [each], few=0))
    assert ranges(found) == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]


def test_a_value_of_another_class_is_found_in_any_row() -> None:
    # The reader fixes its types by the first batch; the odd value is in a later one.
    rows = 70_000
    declared = ("INTEGER", "REAL", "TEXT", "", "NUMERIC")
    odd = ("x", "x", b"\1", b"\2", "x")
    each = table("t", [(name, []) for name in declared])
    with prepared((each, [[]] * 5)) as source:
        with closing(sqlite3.connect(source.path)) as connection:
            connection.execute(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
                " INSERT INTO t SELECT i, i, i, i, i FROM n"
            )
            connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", odd)
            connection.commit()
        found = survey(source, each)
    assert found.rows == rows + 1
    assert [(c.integers, c.reals, c.texts, c.blobs) for c in found.columns] == [
        (rows, 0, 1, 0),
        (0, rows, 1, 0),
        (0, 0, rows, 1),
        (rows, 0, 0, 1),
        (rows, 0, 1, 0),
    ]


def test_many_columns_of_unknown_classes_are_told_apart() -> None:
    values: list[list[Any]] = [[1], [1.5], ["x"], [b"x"], [None], [1, 1.5], [b"x", "x"]]
    found = [("", values[number % len(values)]) for number in range(40)]
    each = table("t", found)
    with prepared((each, [column for _, column in found])) as source:
        (few,) = survey_all(source, [each])
        (many,) = survey_all(source, [each], few=0)
    assert few == many
    for facts, (_, column) in zip(many.columns, found, strict=True):
        assert facts.values == len([value for value in column if value is not None])


def test_texts_that_postgresql_cannot_store_are_counted() -> None:
    values = ["a\0b", BadText(b"\xff"), BadText(b"\0\xff"), "ok", "ข้าว", None]
    for few in (0, 500):
        facts = census("TEXT", values, few=few)
        assert (facts.texts, facts.unstorable, facts.nul) == (5, 3, 2)
        assert facts.longest == 4
        assert facts.examples == ("ok", "ข้าว")


def test_a_large_blob_is_not_read() -> None:
    blob = b"x" * (3 * 2**20)
    each = table("t", [("BLOB", [blob] * 20), ("INTEGER", [])])
    with prepared((each, [[blob] * 20, list(range(20))])) as source:
        found = survey(source, each)
    assert found.bytes == 20 * (len(blob) + 16)
    assert found.columns[0].blobs == 20
    assert len(found.ranges) == 10


@pytest.mark.parametrize(
    ("declared", "values", "forms"),
    [
        ("DATE", ["2024-02-29", "2023-02-29", "2024-01-01 10:00"], {"date": 1, "naive": 1}),
        ("DATETIME", ["2024-01-01T10:00:00Z", "2024-01-01 10:00:00.5"], {"zoned": 1, "naive": 1}),
        ("DATETIME", [1_700_000_000_000, 1_600_000_000_000, 0], {"milliseconds": 2, "positive": 2}),
        ("UUID", ["0b0e8a2c-7c1f-4a3e-9d6a-0123456789ab", "X"], {"uuid": 1}),
        ("DECIMAL(5,2)", [1, 1.25, 1.255, 1000], {"exact": 2}),
        ("JSON", ['{"a": 1}', '{"a": 1, "a": 2}'], {"json": 1}),
        ("", ["1.50", "1e5", "x"], {"decimal": 1, "number": 1}),
    ],
)
def test_forms_that_the_type_asks_for_are_counted(
    declared: str, values: list[Any], forms: dict[str, int]
) -> None:
    for few in (0, 500):
        facts = census(declared, values, few=few)
        assert {form: count for form, count in facts.forms.items() if count} == forms


def test_a_text_without_any_form_is_an_example() -> None:
    assert census("DATE", ["2024-01-01", "N/A", "?"]).exception == "N/A"
    assert census("DATE", ["2024-01-01"]).exception is None


def test_a_table_without_rows_or_values() -> None:
    each = table("t", [("TEXT", []), ("", [])])
    with prepared((each, [[], []])) as source:
        for few in (0, 500):
            (found,) = survey_all(source, [each], few=few)
            assert (found.rows, found.bytes, found.ranges) == (0, 0, ())
            assert found.columns[0] == ColumnFacts("c0")


def test_values_that_a_given_type_does_not_take_are_counted() -> None:
    each = table("t", [("TEXT", [])])
    given_types = {"t": {"c0": sa.Integer()}}
    with prepared((each, [["1", "2"]])) as source:
        (found,) = survey_all(source, [each], given=given_types)
    assert found.columns[0].misfits == 2


def test_generated_columns_are_read_like_others() -> None:
    each = Table("t", (Column("a", "INTEGER"), Column("b", "TEXT", generated="virtual")))
    with prepared() as source:
        with closing(sqlite3.connect(source.path)) as connection:
            connection.execute("CREATE TABLE t (a INTEGER, b TEXT AS (a + 1) VIRTUAL)")
            connection.execute("INSERT INTO t VALUES (1), (2)")
            connection.commit()
        for few in (0, 500):
            (found,) = survey_all(source, [each], few=few)
            assert found.columns[1].texts == 2


def test_a_damaged_table_is_an_error_of_the_source() -> None:
    each = table("t", [("INTEGER", []), ("TEXT", [])])
    with prepared((each, [list(range(3000)), ["x" * 100] * 3000])) as source:
        content = bytearray(source.path.read_bytes())
        content[4096 * 20 : 4096 * 40] = b"\xff" * (4096 * 20)
        source.path.write_bytes(content)
        for few in (0, 5000):
            with pytest.raises(SourceError):
                list(survey_all(source, [each], few=few))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('["\\ud83d\\ude00"]', True),
        ('["\\ud83d"]', False),
        ('["\\\\ud83d", "\\\\u0000"]', True),
        ('["\\u0000"]', False),
        ('["9f3e1234"]', True),
        ("[1e999999]", False),
        ("[NaN]", False),
        ('{"a": {"b": 1, "\\u0062": 2}}', False),
        ("[" * 5000 + "]" * 5000, False),
    ],
)
def test_json_that_jsonb_takes(text: str, fits: bool) -> None:
    assert fits_jsonb(text) is fits


def test_patterns_of_forms_are_anchored() -> None:
    facts = census("DATE", ["2024-01-01\n", "x2024-01-01", "2024-01-01"])
    assert facts.count("date") == 1
    assert set(PATTERNS) >= {"date", "naive", "zoned", "time", "uuid", "decimal", "number"}


def test_names_with_quotes_are_read() -> None:
    each = Table('t"x', (Column('a"b', "TEXT"), Column("select", "")))
    with prepared() as source:
        with closing(sqlite3.connect(source.path)) as connection:
            fill(connection, each, [["x"], [1]])
            connection.commit()
        (few,) = survey_all(source, [each])
        assert few == next(survey_all(source, [each], few=0))
