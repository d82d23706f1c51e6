"""Only the key of ``INTEGER PRIMARY KEY`` is the row id; what looks like it is not."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.sqlite.catalog import collations, plain_tables, row_ids

TABLE = sa.Table("t", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True))


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


def rows(database: sqlite3.Connection) -> list[Any]:
    return database.execute("SELECT rowid, * FROM t ORDER BY rowid").fetchall()


@pytest.mark.parametrize(
    ("definition", "column"),
    [
        ("(id INTEGER PRIMARY KEY)", '"id"'),
        ("(id INTEGER PRIMARY KEY DESC)", "rowid"),
        ("(id INT PRIMARY KEY)", "rowid"),
        ("(id INTEGER, PRIMARY KEY (id DESC))", '"id"'),
        ("(id INTEGER PRIMARY KEY) WITHOUT ROWID", """(typeof("id") || ':' || hex("id"))"""),
    ],
)
def test_the_row_id_of_a_table(definition: str, column: str, database: sqlite3.Connection) -> None:
    database.execute(f"CREATE TABLE t {definition}")
    assert row_ids.column(database, TABLE) == column


def test_a_plain_table_keeps_keys_that_are_no_row_ids(database: sqlite3.Connection) -> None:
    database.executescript(
        "CREATE TABLE t (id INTEGER PRIMARY KEY DESC, note DEFAULT 'AUTOINCREMENT');"
        "INSERT INTO t (rowid, id) VALUES (5, 1), (7, NULL), (9, 'x'), (11, NULL)"
    )
    before = rows(database)
    plain_tables.rebuild(database, "t")
    assert rows(database) == before


def test_a_table_whose_text_only_names_a_counter(database: sqlite3.Connection) -> None:
    database.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY /* AUTOINCREMENT */, note DEFAULT 'AUTOINCREMENT')"
    )
    plain_tables.rebuild(database, "t")
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_collations_of_names_beyond_ascii(database: sqlite3.Connection) -> None:
    database.execute(
        'CREATE TABLE t (id, a😀 COLLATE NOCASE, "x,(" COLLATE RTRIM, b\xa0c COLLATE nocase)'
    )
    assert collations.of_columns(database, "t") == {
        "a😀": "NOCASE",
        "x,(": "RTRIM",
        "b\xa0c": "NOCASE",
    }
