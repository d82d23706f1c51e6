"""A row that PostgreSQL rejects names the column, and says what is wrong with its value."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared.rules import TableRules
from pipeline.migrations.declaration import NAMES
from pipeline.move.run.transaction import MoveResult
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import check
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import opened, standing

REASONS = (
    "SELECT r->>'column', r->>'message' FROM migration.quarantine,"
    " jsonb_array_elements(reasons) r WHERE table_name = 'learning_content'"
)
LONG = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(3000))
ALTER = "ALTER TABLE learning_content ADD CONSTRAINT"
BY = "is rejected by PostgreSQL: "
RAISING = """
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id = 2 THEN RAISE 'no' USING COLUMN = 'ipa'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER no BEFORE INSERT ON learning_content FOR EACH ROW EXECUTE FUNCTION no()
"""


@pytest.mark.parametrize(
    ("row", "change", "column", "message"),
    [
        (
            {"tags": '["\\u0000"]'},
            "",
            "tags",
            r"has the escape \u0000, which jsonb cannot store",
        ),
        (
            {"content_metadata": '["\\ud800"]'},
            "",
            "content_metadata",
            f"{BY}invalid input syntax for type json; its form is not accepted, such as JSON with"
            " half of a surrogate pair (SQLSTATE 22P02)",
        ),
        (
            {"title": "x" * 150},
            f"{ALTER} short CHECK (length(title) < 100)",
            "title",
            f'{BY}new row for relation "learning_content" violates check constraint "short"'
            " (SQLSTATE 23514)",
        ),
        (
            {"ipa": LONG},
            "CREATE INDEX by_ipa ON learning_content (ipa)",
            "ipa",
            f"{BY}index row requires 9016 bytes, maximum size is 8191; the value is too long for"
            " an index (SQLSTATE 54000)",
        ),
        (
            {"ipa": LONG[:1500]},
            "CREATE INDEX by_ipa ON learning_content (ipa)",
            "ipa",
            f'{BY}index row size 4512 exceeds btree version 4 maximum 2704 for index "by_ipa"; the'
            " value is too long for an index (SQLSTATE 54000)",
        ),
        (
            {"title": "twice"},
            "CREATE UNIQUE INDEX once ON learning_content (title)",
            "title",
            f'{BY}duplicate key value violates unique constraint "once" (SQLSTATE 23505)',
        ),
        (
            {"title": "twice"},
            f"{ALTER} once UNIQUE (title, language)",
            None,
            "title and language are rejected by PostgreSQL: duplicate key value violates unique"
            ' constraint "once" (SQLSTATE 23505)',
        ),
        (
            {},
            RAISING,
            "ipa",
            "trigger no of learning_content (function no()) refuses it: no (SQLSTATE P0001)",
        ),
    ],
)
def test_a_rejection_by_the_server_names_the_column(
    source: SourceFile,
    target_url: str,
    row: dict[str, Any],
    change: str,
    column: str | None,
    message: str,
) -> None:
    source.add("learning_content", {"id": 1, "title": "twice"})
    if change:
        move_all(source.path, target_url)
        query(target_url, change)
    source.add("learning_content", {"id": 2, **row})
    move_all(source.path, target_url)
    assert query(target_url, REASONS) == [(column, message)]


def table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(naming_convention=NAMES),
        sa.Column("id", sa.Integer, primary_key=True),
        *columns,
        info=TableRules("A table of a test.").info,
    )


def twice(source: SourceFile, url: str, declared: sa.Table, change: str) -> MoveResult:
    """Move, change the source, move again, and sync; the second move."""
    move_all(source.path, url, tables=[declared])
    source.run(change)
    moved = move_all(source.path, url, tables=[declared])[declared.name]
    sync_all(source.path, url, tables=[declared])
    return moved


def test_a_table_of_only_a_key_is_merged(source: SourceFile, target_url: str) -> None:
    source.run("CREATE TABLE seen (id INTEGER PRIMARY KEY)")
    source.run("INSERT INTO seen VALUES (1)")
    moved = twice(source, target_url, table("seen"), "INSERT INTO seen VALUES (2), (3)")
    assert (moved.written_rows, moved.target_rows) == (2, 3)
    assert query(target_url, "SELECT id FROM seen ORDER BY 1") == [(1,), (2,), (3,)]


def test_a_table_that_refers_to_itself_is_moved(source: SourceFile, target_url: str) -> None:
    source.run("CREATE TABLE tree (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES tree(id))")
    source.run("INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 77), (5, 4)")
    declared = table("tree", sa.Column("parent", sa.Integer, sa.ForeignKey("tree.id")))
    twice(source, target_url, declared, "INSERT INTO tree VALUES (6, 7), (7, 1)")
    assert query(target_url, "SELECT id FROM tree ORDER BY 1") == [(1,), (2,), (3,), (6,), (7,)]
    held = "SELECT source_key FROM migration.quarantine ORDER BY 1"
    assert query(target_url, held) == [("4",), ("5",)]


def test_a_number_that_is_none_is_a_difference(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.run("CREATE TABLE sums (id INTEGER PRIMARY KEY, n REAL, j JSON)")
    source.run("INSERT INTO sums VALUES (1, 1.5, '[1]'), (2, 2.5, '[2]')")
    declared = table("sums", sa.Column("n", sa.Numeric(6, 2)), sa.Column("j", JSONB))
    move_all(source.path, target_url, tables=[declared])
    query(target_url, "UPDATE sums SET n = 'NaN' WHERE id = 2")
    found = standing(target_url, opened(source.path, tmp_path, [declared]), declared)
    assert not found["digests"].passed
    moved = move_all(source.path, target_url, tables=[declared], delete_share=1)["sums"]
    assert moved.written_rows == 1
    assert check(moved, "digests").passed
    assert query(target_url, "SELECT n FROM sums ORDER BY id")[1][0] == 2.5
