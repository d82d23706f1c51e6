"""What a sync carries into its private files is what the source has stored."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.core.errors import TooManyDeletes
from pipeline.declared.rules import TableRules
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

LATER = "2026-01-01 00:00:00"
THINGS = sa.Table(
    "things",
    sa.MetaData(naming_convention={"pk": "%(table_name)s_pkey"}),
    sa.Column("id", sa.Integer(), primary_key=True),
    sa.Column("v", sa.Text()),
    sa.Column("updated_at", sa.DateTime(timezone=True)),
    info=TableRules("things", changed_by="updated_at").info,
)


def made(path: Path, ddl: str, *, encoding: str = "UTF-8") -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute(ddl)
        connection.execute("INSERT INTO things VALUES (1, 'one', '2025-01-01 00:00:00')")
    return path


@pytest.mark.parametrize(
    "declared",
    [
        *('"INTEGER PRIMARY KEY"', '"AS (1)"', '"CHECK (0)"', '"UNIQUE"', '"INT UNIQUE"'),
        *('"select"', '"TEXT COLLATE NOCASE"', "TEXT", '""'),
    ],
)
def test_a_declared_type_is_a_type_and_no_ddl(
    tmp_path: Path, target_url: str, declared: str
) -> None:
    ddl = f"CREATE TABLE things (id INTEGER PRIMARY KEY, v {declared}, updated_at TEXT)"
    path = made(tmp_path / "things.db", ddl)
    move_all(path, target_url, tables=[THINGS])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO things VALUES (?, ?, ?)", [(2, "two", LATER), (3, "two", LATER)]
        )
    moved = sync_all(path, target_url, tables=[THINGS])["things"]
    assert (moved.quarantined_rows, moved.written_rows) == (0, 2)
    assert query(target_url, "SELECT v FROM things ORDER BY id") == [("one",), ("two",), ("two",)]


def test_a_text_in_a_strict_column_of_any_type_stays_a_text(
    tmp_path: Path, target_url: str
) -> None:
    ddl = "CREATE TABLE things (id INTEGER PRIMARY KEY, v ANY, updated_at TEXT) STRICT"
    path = made(tmp_path / "things.db", ddl)
    move_all(path, target_url, tables=[THINGS])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO things VALUES (2, '007', ?)", (LATER,))
    moved = sync_all(path, target_url, tables=[THINGS])["things"]
    assert (moved.quarantined_rows, moved.written_rows) == (0, 1)
    assert query(target_url, "SELECT v FROM things WHERE id = 2") == [("007",)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_source_in_utf_16_is_followed(tmp_path: Path, target_url: str, encoding: str) -> None:
    ddl = "CREATE TABLE things (id INTEGER PRIMARY KEY, v TEXT, updated_at TEXT)"
    path = made(tmp_path / "things.db", ddl, encoding=encoding)
    move_all(path, target_url, tables=[THINGS])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO things VALUES (2, 'กิน😀', ?)", (LATER,))
    assert sync_all(path, target_url, tables=[THINGS])["things"].written_rows == 1
    assert query(target_url, "SELECT v FROM things WHERE id = 2") == [("กิน😀",)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("key", ["id", "title", "id, title"])
def test_rows_of_somebody_else_are_not_deleted_along(
    source: SourceFile, target_url: str, action: str, key: str
) -> None:
    source.add_family(contents=4)
    move_all(source.path, target_url)
    query(
        target_url,
        "ALTER TABLE learning_content ADD UNIQUE (title), ADD UNIQUE (id, title);"
        "CREATE TABLE bookmarks AS SELECT id, title FROM learning_content WHERE id < 3;"
        f"ALTER TABLE bookmarks ADD FOREIGN KEY ({key}) REFERENCES learning_content({key})"
        f" ON DELETE {action}",
    )
    source.run(f"UPDATE learning_content SET tags = '{{bad', updated_at = '{LATER}' WHERE id = 1")
    with pytest.raises(TooManyDeletes, match=r"1 rows of public\.bookmarks, which is not managed"):
        sync_all(source.path, target_url)
    assert query(target_url, "SELECT id FROM bookmarks ORDER BY id") == [(1,), (2,)]


def test_a_text_key_with_a_nul_is_quarantined_once_and_for_all(
    tmp_path: Path, target_url: str
) -> None:
    table = sa.Table(
        "people",
        sa.MetaData(naming_convention={"pk": "%(table_name)s_pkey"}),
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("v", sa.Text()),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
        info=TableRules("people", changed_by="updated_at").info,
    )
    path = tmp_path / "people.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE people (id TEXT PRIMARY KEY, v TEXT, updated_at TEXT)")
        connection.execute("INSERT INTO people VALUES ('a', 'x', '2025-01-01')")
    move_all(path, target_url, tables=[table])
    with closing(sqlite3.connect(path)) as connection, connection:
        odd = "INSERT INTO people VALUES (cast(x'610062' AS TEXT), 'y', ?)"
        connection.execute(odd, (LATER,))
    for move in (sync_all, move_all, sync_all):
        moved = move(path, target_url, tables=[table])["people"]
        assert moved.quarantined_rows == 1
    assert query(target_url, "SELECT id FROM people") == [("a",)]
