"""A table that is written in any way is read as what it is."""

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from pipeline.mapping.matching import folded
from pipeline.sqlite import opening
from pipeline.sqlite.structure.model import (
    Check,
    Column,
    ForeignKey,
    Index,
    IndexPart,
    Table,
    Unique,
)
from pipeline.sqlite.structure.reading import read
from pipeline_tests.support.sqlite_ddl import statements

NAMES = st.one_of(
    st.text(st.sampled_from("aBzé日😀\xa0\ufeff ſ_$9\"'`[].,;()-/*%{}\n\\:"), max_size=8),
    st.sampled_from(["check", "Default", "key", "PRIMARY", "constraint", "as", "rowid", "a--b"]),
).filter(lambda name: not name.startswith("sqlite_"))
CONDITIONS = st.sampled_from(
    ["1", "'a)' <> '(''' OR 1", "length('/*') > 1", '(1) = (1) AND "" <> 1']
)
TYPES = ("", "INTEGER", "INT", "text", "VARCHAR(255)", "DECIMAL(10, 2)", "BLOB SUB_TYPE TEXT")
STRICT_TYPES = ("INTEGER", "INT", "TEXT", "ANY", "BLOB", "REAL")
DEFAULTS = st.sampled_from([None, "1", "-1", "'it''s'", "'--'", "CURRENT_DATE", "1 + (2)", "x'ab'"])
COLLATIONS = st.sampled_from(["BINARY", "NOCASE", "RTRIM"])
CALLS = st.sampled_from(["length('a,)')", "(1 + 2)", "upper('x COLLATE y')", "abs(-1)"])
ACTIONS = st.sampled_from(["NO ACTION", "CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT"])
OPTIONAL = st.one_of(st.none(), NAMES)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table that SQLite accepts, with constraints and indexes none of which repeats another."""
    named = draw(st.lists(NAMES, min_size=2, max_size=7, unique_by=folded))
    name, columns = named[0], named[1:]
    strict, key = draw(st.booleans()), draw(st.sampled_from(["none", "rowid", "columns", "rows"]))
    primary: tuple[str, ...] = ()
    if key != "none":
        most = 1 if key == "rowid" else len(columns)
        primary = tuple(
            draw(st.lists(st.sampled_from(columns), min_size=1, max_size=most, unique=True))
        )
    collations = [draw(COLLATIONS) if key != "rowid" else "BINARY" for _ in primary]
    plain = [columns[0], *primary]
    made = tuple(
        draw(definitions(each, key, strict, each in primary, each in plain)) for each in columns
    )
    uniques = draw(st.lists(listed(columns), max_size=3, unique=True))
    return Table(
        name=name,
        columns=made,
        primary_key=primary,
        key_collations=tuple(collations),
        is_row_id=key == "rowid",
        autoincrement=key == "rowid" and draw(st.booleans()),
        without_rowid=key == "rows",
        strict=strict,
        uniques=tuple(
            Unique(*zip(*pairs, strict=True), draw(OPTIONAL))
            for pairs in uniques
            if key == "rowid" or pairs != tuple(zip(primary, collations, strict=True))
        ),
        checks=tuple(draw(st.lists(st.builds(Check, CONDITIONS, OPTIONAL), max_size=3))),
        foreign_keys=tuple(draw(st.lists(references(name, columns), max_size=3))),
        indexes=tuple(
            draw(indexes(f"{name} {number}", columns)) for number in range(draw(st.integers(0, 2)))
        ),
    )


@st.composite
def definitions(
    draw: st.DrawFn,
    name: str,
    key: str,
    strict: bool,
    is_key: bool,
    is_plain: bool,
) -> Column:
    """A column; one that is not plain may be generated."""
    declared = draw(st.sampled_from(STRICT_TYPES if strict else TYPES))
    if is_key and key == "rowid":
        return Column(name, "INTEGER", draw(st.booleans()))
    if is_key and declared == "INTEGER":
        # Of a single INTEGER column, the key is the row id, or ignores its collation.
        declared = "INT"
    declared = declared.upper() if declared == "text" else declared
    not_null = draw(st.booleans()) or (is_key and (strict or key == "rows"))
    generated = None if is_plain else draw(st.sampled_from([None, "virtual", "stored"]))
    if generated is not None:
        return Column(name, declared, not_null, None, draw(COLLATIONS), generated, draw(CALLS))
    return Column(name, declared, not_null, draw(DEFAULTS), draw(COLLATIONS))


def listed(columns: list[str]) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    """Some of the columns, each with a collation."""
    chosen = st.lists(
        st.tuples(st.sampled_from(columns), COLLATIONS),
        min_size=1,
        max_size=3,
        unique_by=lambda p: p[0],
    )
    return chosen.map(tuple)


@st.composite
def references(draw: st.DrawFn, table: str, columns: list[str]) -> ForeignKey:
    """A reference to the table itself, or to one that does not exist."""
    some = st.lists(st.sampled_from(columns), min_size=1, max_size=3)
    own = tuple(draw(some))
    to_itself = draw(st.booleans())
    others = (
        tuple(draw(st.sampled_from(columns)) for _ in own)
        if to_itself or draw(st.booleans())
        else ()
    )
    return ForeignKey(
        own,
        table if to_itself else "gone",
        others,
        draw(ACTIONS),
        draw(ACTIONS),
        draw(st.booleans()),
        draw(OPTIONAL),
    )


@st.composite
def indexes(draw: st.DrawFn, name: str, columns: list[str]) -> Index:
    """An index of columns and expressions."""
    column = st.builds(IndexPart, st.sampled_from(columns), st.none(), COLLATIONS, st.booleans())
    call = st.builds(IndexPart, st.none(), CALLS, COLLATIONS, st.booleans())
    parts = draw(st.lists(st.one_of(column, call), min_size=1, max_size=4))
    return Index(name, tuple(parts), draw(st.booleans()), draw(st.one_of(st.none(), CONDITIONS)))


@given(table=tables(), seed=st.integers(0, 2**32))
def test_a_table_is_read_as_it_was_written(table: Table, seed: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        opening.guard(connection)
        for statement in statements(table, seed=seed):
            connection.execute(statement)
        schema = read(connection)
    assert (schema.tables, schema.unreadable) == ((table,), {})
