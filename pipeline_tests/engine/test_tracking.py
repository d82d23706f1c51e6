"""The log of changes notes every write of the application, and disturbs none."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.migrations.content import metadata
from pipeline.move.reading.pinned_source import pinned
from pipeline.move.run.sync import reason_for_full_comparison
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.change_log import logged
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
CONTENT = metadata.tables["learning_content"]
UNIQUE_TITLE = "CREATE UNIQUE INDEX one_title ON learning_content (title)"


def reason(source: SourceFile, url: str) -> str | None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(source.path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        return reason_for_full_comparison(TABLES, live=live, target=target)


def assert_contents_agree(source: SourceFile, url: str) -> None:
    """Ids and titles are the same on both sides."""
    sql = "SELECT id, title FROM learning_content ORDER BY id"
    assert query(url, sql) == source.run(sql)


# On and off


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE learning_content", CONTENT_DDL.split(";")[0]],
        [
            "CREATE TABLE copy AS SELECT * FROM learning_content",
            "DROP TABLE learning_content",
            "ALTER TABLE copy RENAME TO learning_content",
        ],
        [
            "ALTER TABLE learning_content RENAME TO old",
            "CREATE TABLE learning_content AS SELECT * FROM old",
        ],
        [UNIQUE_TITLE],
    ],
    ids=["recreated", "replaced", "renamed away", "with another unique index"],
)
def test_a_table_that_is_not_the_tracked_one_any_more_is_reported(
    contents: SourceFile, target_url: str, statements: list[str]
) -> None:
    move_all(contents.path, target_url)
    for statement in statements:
        contents.run(statement)
    assert "learning_content" in tracking.status(contents.path, TABLES).untracked
    assert reason(contents, target_url) is not None
    tracking.switch_on(contents.path, TABLES)
    assert tracking.status(contents.path, TABLES).untracked == ()
    assert reason(contents, target_url) is not None


# What the application does


HOSTILE = [
    "'); DROP TABLE pipeline_changes; --", '"', "\0", "a\0b", "\ud800", "ไทย" * 10_000, "%s ? $1",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_no_value_of_a_row_can_break_the_log(
    contents: SourceFile, target_url: str, value: str
) -> None:
    move_all(contents.path, target_url)
    text = value.encode("utf-8", "surrogatepass")
    contents.run("UPDATE learning_content SET title = CAST(? AS TEXT) WHERE id = 2", (text,))
    assert logged(contents) == [("learning_content", 2)]
    sync_all(contents.path, target_url, delete_share=1)
    assert tracking.status(contents.path, TABLES).untracked == ()


# The log's length


@pytest.mark.parametrize(("writes", "known"), [(1, True), (4, True), (5, False), (20, False)])
def test_a_log_that_was_cut_too_short_asks_for_a_whole_move(
    short_log: None, contents: SourceFile, target_url: str, writes: int, known: bool
) -> None:
    move_all(contents.path, target_url)
    for number in range(writes):
        contents.run("UPDATE learning_content SET title = ? WHERE id = 1", (f"x{number}",))
    if known:
        assert reason(contents, target_url) is None
        sync_all(contents.path, target_url)
    else:
        assert "change log" in str(reason(contents, target_url))
        move_all(contents.path, target_url)
    assert_contents_agree(contents, target_url)


def test_one_statement_longer_than_the_log_asks_for_a_whole_move(
    short_log: None, source: SourceFile, target_url: str
) -> None:
    source.add("learning_content", *({"id": k} for k in range(1, 10)))
    tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET title = 'x'")
    assert "change log" in str(reason(source, target_url))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pipeline_changes",
        "DELETE FROM pipeline_changes WHERE change > 2",
        "DROP TABLE pipeline_changes",
    ],
)
def test_a_log_that_somebody_emptied_asks_for_a_whole_move(
    contents: SourceFile, target_url: str, statement: str
) -> None:
    contents.run("UPDATE learning_content SET title = 'x'")
    move_all(contents.path, target_url)
    contents.run(statement)
    assert reason(contents, target_url) is not None
    if "DROP" not in statement:
        for _ in range(3):
            contents.run("UPDATE learning_content SET title = 'y'")
        assert reason(contents, target_url) is not None


def test_copies_of_a_source_that_go_different_ways_are_told_apart(
    contents: SourceFile, target_url: str, tmp_path: Path
) -> None:
    move_all(contents.path, target_url)
    other = SourceFile(tmp_path / "other.db")
    shutil.copy(contents.path, other.path)
    contents.run("UPDATE learning_content SET title = 'a' WHERE id = 1")
    other.run("UPDATE learning_content SET title = 'b' WHERE id = 2")
    sync_all(contents.path, target_url)
    assert "change log" in str(reason(other, target_url))


@pytest.mark.parametrize("how", ["VACUUM", "VACUUM INTO", "dump"])
def test_a_log_survives_being_copied_and_compacted(
    contents: SourceFile, target_url: str, tmp_path: Path, how: str
) -> None:
    contents.run("UPDATE learning_content SET title = 'x'")
    move_all(contents.path, target_url)
    copy = SourceFile(tmp_path / "copy.db")
    with closing(sqlite3.connect(contents.path, isolation_level=None)) as connection:
        if how == "dump":
            with closing(sqlite3.connect(copy.path)) as other:
                other.executescript("\n".join(connection.iterdump()))
        elif how == "VACUUM INTO":
            connection.execute("VACUUM INTO ?", (str(copy.path),))
        else:
            connection.execute("VACUUM")
            copy = contents
    assert tracking.status(copy.path, TABLES).untracked == ()
    assert reason(copy, target_url) is None
    copy.run("UPDATE learning_content SET title = 'y' WHERE id = 3")
    assert sync_all(copy.path, target_url)["learning_content"].written_rows == 1
    assert_contents_agree(copy, target_url)


def test_only_one_table_needs_to_be_tracked(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=1)
    tracking.switch_on(source.path, [CONTENT])
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET title = 'x'")
    source.run("UPDATE rankings SET updated_at = '2030-01-01' WHERE id = 2")
    moves = sync_all(source.path, target_url)
    written = {name: move.written_rows for name, move in moves.items()}
    assert written == dict(zip(NAMES, (1, 0, 0, 1), strict=True))
