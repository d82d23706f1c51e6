"""The log of changes notes every write of the application, and disturbs none."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SourceError
from pipeline.migrations.content import metadata
from pipeline.sqlite import snapshot, tracking
from pipeline_tests.support.change_log import logged
from pipeline_tests.support.sources import CONTENT_DDL, DEFAULTS, SourceFile

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
UNIQUE_TITLE = "CREATE UNIQUE INDEX one_title ON learning_content (title)"


def keys(source: SourceFile, table: str = "learning_content") -> set[Any]:
    return {key for name, key in logged(source) if name == table}


def schema_of(source: SourceFile) -> list[tuple[Any, ...]]:
    return source.run("SELECT type, name, tbl_name, sql FROM sqlite_master")


def rows(source: SourceFile) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: row for row in source.run("SELECT * FROM learning_content")}


def insert(verb: str = "INSERT", **values: Any) -> tuple[str, list[Any]]:
    """A statement that writes one content."""
    whole = {**DEFAULTS["learning_content"], **values}
    marks = ", ".join("?" * len(whole))
    return f"{verb} INTO learning_content ({', '.join(whole)}) VALUES ({marks})", [*whole.values()]


@contextmanager
def tracked(path: Path, ddl: str = CONTENT_DDL) -> Iterator[SourceFile]:
    source = SourceFile.make(path, ddl)
    tracking.switch_on(path, TABLES)
    yield source


def test_switching_on_twice_writes_nothing_the_second_time(source: SourceFile) -> None:
    source.add_family(contents=1)
    tracking.switch_on(source.path, TABLES)
    before = source.path.read_bytes(), source.path.stat().st_mtime_ns
    tracking.switch_on(source.path, TABLES)
    assert (source.path.read_bytes(), source.path.stat().st_mtime_ns) == before


def test_tables_may_come_from_an_iterator(source: SourceFile) -> None:
    tracking.switch_on(source.path, iter(TABLES))
    assert tracking.status(source.path, iter(TABLES)).tracked == tuple(NAMES)


@pytest.mark.parametrize("extra", ["", UNIQUE_TITLE])
def test_switching_off_leaves_the_schema_as_it_was(source: SourceFile, extra: str) -> None:
    source.add_family(contents=1)
    if extra:
        source.run(extra)
    source.run("CREATE VIEW v AS SELECT 1")
    source.run("CREATE TRIGGER t AFTER INSERT ON rankings BEGIN SELECT 1; END")
    before, content = schema_of(source), rows(source)
    tracking.switch_on(source.path, TABLES)
    assert schema_of(source) != before
    source.run("UPDATE learning_content SET title = title")
    assert tracking.switch_off(source.path)
    assert (schema_of(source), rows(source)) == (before, content)
    assert not tracking.switch_off(source.path)


@pytest.mark.parametrize(
    "name", ["pipeline-changes of mine", "pipelineXchanges", "PIPELINE CHANGES"]
)
def test_triggers_of_the_application_with_a_similar_name_stay(
    source: SourceFile, name: str
) -> None:
    source.run(f'CREATE TRIGGER "{name}" AFTER INSERT ON learning_content BEGIN SELECT 1; END')
    before = schema_of(source)
    tracking.switch_on(source.path, TABLES)
    assert tracking.status(source.path, TABLES).untracked == ()
    tracking.switch_off(source.path)
    assert schema_of(source) == before


def test_a_table_of_the_application_that_has_the_name_of_the_log_is_not_dropped(
    source: SourceFile,
) -> None:
    source.run("CREATE TABLE pipeline_changes (precious TEXT)")
    source.run("INSERT INTO pipeline_changes VALUES ('kept')")
    with pytest.raises(SourceError):
        tracking.switch_on(source.path, TABLES)
    assert not tracking.switch_off(source.path)
    assert source.run("SELECT precious FROM pipeline_changes") == [("kept",)]
    assert tracking.status(source.path, TABLES).tracked == ()


def test_a_missing_table_leaves_everything_as_it_was(source: SourceFile) -> None:
    source.run("DROP TABLE rankings")
    before = schema_of(source)
    with pytest.raises(SourceError, match="rankings"):
        tracking.switch_on(source.path, TABLES)
    assert schema_of(source) == before


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX u ON learning_content (title) WHERE language = 'thai'",
        "CREATE UNIQUE INDEX u ON learning_content (lower(title))",
    ],
)
def test_a_unique_index_that_cannot_be_tracked_is_named(source: SourceFile, index: str) -> None:
    source.run(index)
    before = schema_of(source)
    with pytest.raises(SourceError, match="unique index u"):
        tracking.switch_on(source.path, TABLES)
    assert schema_of(source) == before


def test_a_file_that_cannot_be_written_is_named(source: SourceFile) -> None:
    with closing(sqlite3.connect(source.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.MonkeyPatch.context() as patch:
            # What looks at the file and what writes it wait by a name of their own.
            patch.setattr(tracking, "BUSY_SECONDS", 0.1)
            patch.setattr(snapshot, "BUSY_SECONDS", 0.1)
            with pytest.raises(SourceError, match="locked"):
                tracking.switch_on(source.path, TABLES)


def test_the_status_names_tables_whose_triggers_are_missing(contents: SourceFile) -> None:
    status = tracking.status(contents.path, TABLES)
    assert (status.tracked, status.untracked, status.entries) == (tuple(NAMES), (), 1)
    contents.run("DROP TRIGGER pipeline_changes_rankings_after_delete")
    assert tracking.status(contents.path, TABLES).untracked == ("rankings",)
    tracking.switch_on(contents.path, TABLES)
    assert tracking.status(contents.path, TABLES).untracked == ()
    tracking.switch_off(contents.path)
    status = tracking.status(contents.path, TABLES)
    assert (status.tracked, status.untracked, status.entries) == ((), tuple(NAMES), None)


def test_a_table_that_is_renamed_and_renamed_back_is_tracked_still(contents: SourceFile) -> None:
    contents.run("ALTER TABLE learning_content RENAME TO other")
    contents.run("UPDATE other SET title = 'x' WHERE id = 2")
    contents.run("ALTER TABLE other RENAME TO learning_content")
    contents.run("UPDATE learning_content SET title = 'y' WHERE id = 3")
    untracked = "learning_content" in tracking.status(contents.path, TABLES).untracked
    assert untracked or keys(contents) == {2, 3}


def test_inserts_updates_and_deletes_are_logged(contents: SourceFile) -> None:
    contents.run(*insert(id=9, title="new"))
    contents.run("UPDATE learning_content SET title = 'x' WHERE id = 2")
    contents.run("UPDATE learning_content SET id = 30 WHERE id = 3")
    contents.run("DELETE FROM learning_content WHERE id = 1")
    assert [key for _, key in logged(contents)] == [9, 2, 3, 30, 1]


def test_a_delete_of_everything_is_logged(contents: SourceFile) -> None:
    contents.run("DELETE FROM learning_content")
    assert keys(contents) == {1, 2, 3}


def test_what_is_rolled_back_is_not_logged(contents: SourceFile) -> None:
    with closing(sqlite3.connect(contents.path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM learning_content")
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        connection.execute("SAVEPOINT s")
        connection.execute("UPDATE learning_content SET title = 'x' WHERE id = 1")
        connection.execute("ROLLBACK TO s")
        connection.execute("UPDATE learning_content SET title = 'x' WHERE id = 2")
        connection.execute("COMMIT")
    assert keys(contents) == {2}


def test_a_write_that_fails_is_not_logged(contents: SourceFile) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        contents.run("UPDATE learning_content SET title = NULL")
    with pytest.raises(sqlite3.IntegrityError):
        contents.run(*insert(id=1))
    assert keys(contents) == set()


STATEMENTS: list[tuple[str, Any]] = [
    ("INSERT OR REPLACE of a key", insert("INSERT OR REPLACE", id=2, title="new")),
    ("REPLACE of a key", insert("REPLACE", id=2, title="new")),
    ("REPLACE that evicts by a title", insert("REPLACE", id=9, title="t1")),
    ("REPLACE that evicts by key and title", insert("REPLACE", id=2, title="t1")),
    ("REPLACE without a key that evicts", insert("REPLACE", title="t3")),
    ("OR IGNORE that is ignored", insert("INSERT OR IGNORE", id=9, title="t1")),
    ("OR IGNORE that inserts", insert("INSERT OR IGNORE", id=9, title="t9")),
    ("UPDATE OR REPLACE of a title", ("UPDATE OR REPLACE learning_content SET title = 't1'"
                                      " WHERE id = 2", ())),
    ("UPDATE OR REPLACE of all titles", ("UPDATE OR REPLACE learning_content SET title = 't'", ())),
    ("UPDATE OR REPLACE of a key", ("UPDATE OR REPLACE learning_content SET id = 1 WHERE id = 2",
                                    ())),
    ("UPDATE OR IGNORE of a key", ("UPDATE OR IGNORE learning_content SET id = 1 WHERE id = 2",
                                   ())),
    ("UPDATE of a rowid", ("UPDATE learning_content SET rowid = 50 WHERE id = 2", ())),
    ("UPDATE of all keys", ("UPDATE learning_content SET id = -id", ())),
    ("UPDATE FROM", ("UPDATE learning_content SET title = s.x FROM (SELECT 2 AS i, 'y' AS x) AS s"
                     " WHERE id = s.i", ())),
    ("INSERT of many", ("INSERT INTO learning_content SELECT id + 10, title || id, content_type,"
                        " language, native_text, translation, ipa, difficulty_level, tags,"
                        " content_metadata, created_at, updated_at, last_review_at"
                        " FROM learning_content", ())),
    ("UPSERT by key", (f"{insert(id=2, title='u')[0]} ON CONFLICT (id) DO UPDATE SET title = 'u'",
                       insert(id=2, title="u")[1])),
    ("UPSERT by title", (f"{insert(id=8, title='t2')[0]} ON CONFLICT (title) DO UPDATE SET"
                         " id = 40", insert(id=8, title="t2")[1])),
    ("UPSERT that does nothing", (f"{insert(id=2, title='u')[0]} ON CONFLICT DO NOTHING",
                                  insert(id=2, title="u")[1])),
    ("UPDATE LIMIT like", ("DELETE FROM learning_content WHERE id IN"
                           " (SELECT id FROM learning_content ORDER BY id LIMIT 2)", ())),
]  # fmt: skip


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("statement", [s for _, s in STATEMENTS], ids=[i for i, _ in STATEMENTS])
def test_every_statement_logs_at_least_what_it_changes(
    source: SourceFile, statement: tuple[str, Any], recursive: str
) -> None:
    source.run(UNIQUE_TITLE)
    source.add("learning_content", *({"id": k, "title": f"t{k}"} for k in (1, 2, 3)))
    tracking.switch_on(source.path, TABLES)
    before = rows(source)
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.execute(f"PRAGMA recursive_triggers = {recursive}")
        connection.execute(*statement)
    after = rows(source)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed <= keys(source) <= before.keys() | after.keys() | {8, 9}


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX u ON learning_content (title COLLATE NOCASE)",
        "CREATE UNIQUE INDEX u ON learning_content (title COLLATE RTRIM, language)",
    ],
)
def test_a_row_that_is_evicted_by_an_index_with_another_order_is_logged(
    source: SourceFile, index: str
) -> None:
    source.run(index)
    source.add("learning_content", {"id": 1, "title": "kin"}, {"id": 2, "title": "other"})
    tracking.switch_on(source.path, TABLES)
    title = "KIN" if "NOCASE" in index else "kin  "
    source.run(*insert("REPLACE", id=9, title=title))
    assert rows(source).keys() == {2, 9}
    assert keys(source) == {1, 9}


def test_a_row_that_is_evicted_by_a_unique_column_of_its_own_order_is_logged(
    tmp_path: Path,
) -> None:
    ddl = CONTENT_DDL.replace("title VARCHAR(200) NOT NULL", "title TEXT COLLATE NOCASE UNIQUE", 1)
    with tracked(tmp_path / "nocase.db", ddl) as source:
        source.add("learning_content", {"id": 1, "title": "kin"})
        source.run(*insert("REPLACE", id=9, title="KIN"))
        assert rows(source).keys() == {9}
        assert keys(source) == {1, 9}


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("id INT", "title VARCHAR(200) NOT NULL PRIMARY KEY"),
        ("row INTEGER PRIMARY KEY, id INT UNIQUE", "title VARCHAR(200) NOT NULL"),
    ],
    ids=["a text is the primary key", "another integer is it"],
)
def test_a_row_that_is_evicted_by_what_is_not_the_key_is_logged_or_tracking_is_refused(
    tmp_path: Path, key: str, title: str
) -> None:
    first, *others = CONTENT_DDL.split("CREATE TABLE content_fragments")
    first = first.replace("id INTEGER NOT NULL PRIMARY KEY", key)
    first = first.replace("title VARCHAR(200) NOT NULL", title)
    ddl = "CREATE TABLE content_fragments".join((first, *others))
    source = SourceFile.make(tmp_path / "other.db", ddl)
    source.add("learning_content", {"id": 1, "title": "kin"}, {"id": 2, "title": "other"})
    try:
        tracking.switch_on(source.path, TABLES)
    except SourceError:
        return
    rowid = {"row": 1} if key.startswith("row") else {}
    source.run(*insert("REPLACE", id=9, title="kin", **rowid))
    assert source.run("SELECT id FROM learning_content ORDER BY 1") == [(2,), (9,)]
    assert keys(source) == {1, 9}


def test_what_sqlite_cascades_is_logged(tmp_path: Path) -> None:
    ddl = CONTENT_DDL.replace("(id)", "(id) ON DELETE CASCADE ON UPDATE CASCADE")
    source = SourceFile.make(tmp_path / "cascading.db", ddl)
    source.run(UNIQUE_TITLE)
    source.add_family(contents=3)
    tracking.switch_on(source.path, TABLES)
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM learning_content WHERE id = 1")
        connection.execute("UPDATE content_fragments SET id = 40 WHERE id = 4")
        connection.execute(*insert("REPLACE", id=90, title="word 3"))
    assert keys(source) == {1, 3, 90}
    assert keys(source, "content_fragments") == {1, 2, 4, 40, 5, 6}
    assert keys(source, "fragment_assets") == {1, 2, 4, 5, 6}
    assert keys(source, "rankings") == {1, 2, 3, 4, 7, 8, 9, 10, 11, 12}


def test_what_the_application_counts_is_not_disturbed(contents: SourceFile) -> None:
    with closing(sqlite3.connect(contents.path)) as connection, connection:

        def both() -> tuple[int, int]:
            return connection.execute("SELECT last_insert_rowid(), changes()").fetchone()

        cursor = connection.execute(*insert(title="new"))
        assert (cursor.lastrowid, cursor.rowcount, both()) == (4, 1, (4, 1))
        cursor = connection.execute("UPDATE learning_content SET title = 'x' || id")
        assert (cursor.rowcount, both()) == (4, (4, 4))
        cursor = connection.execute("DELETE FROM learning_content WHERE id > 2")
        assert (cursor.rowcount, both()) == (2, (4, 2))
        (key,) = connection.execute(f"{insert(title='z')[0]} RETURNING id", insert(title="z")[1])
        assert key == (3,)


def test_triggers_of_the_application_go_on_and_are_logged(source: SourceFile) -> None:
    source.run(
        "CREATE TRIGGER stamp AFTER UPDATE OF title ON learning_content BEGIN"
        " UPDATE learning_content SET updated_at = '2030-01-01' WHERE id = NEW.id;"
        " UPDATE rankings SET rank_score = 1 WHERE id = last_insert_rowid() OR id = 7; END"
    )
    source.add_family(contents=2)
    tracking.switch_on(source.path, TABLES)
    source.run("UPDATE learning_content SET title = 'x' WHERE id = 2")
    assert source.run("SELECT updated_at FROM learning_content WHERE id = 2") == [("2030-01-01",)]
    assert (keys(source), keys(source, "rankings")) == ({2}, {7})


@pytest.mark.parametrize("key", ["'); --", "", b"\x00\xff", 2.5, None, 2**62], ids=repr)
def test_no_key_can_break_the_log(tmp_path: Path, key: Any) -> None:
    ddl = CONTENT_DDL.replace("id INTEGER NOT NULL PRIMARY KEY", "id INT")
    with tracked(tmp_path / "plain.db", ddl) as source:
        source.run(*insert(id=key))
        source.run("UPDATE learning_content SET id = 1")
        source.run("UPDATE learning_content SET id = ?", (key,))
        assert [k for _, k in logged(source)] == [key, key, 1, 1, key]


def test_the_log_keeps_its_newest_entries(short_log: None, contents: SourceFile) -> None:
    for _ in range(4):
        contents.run("UPDATE learning_content SET title = title || '!'")
    assert [k for _, k in logged(contents)] == [2, 3, 1, 2, 3]
    assert tracking.status(contents.path, TABLES).entries == 5
