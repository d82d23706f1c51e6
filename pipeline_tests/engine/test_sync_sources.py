"""Sources whose keys, types or names are not those of the application."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.syncs import (
    LATER,
    assert_sides_agree,
    begin,
    did,
    plain_key_source,
    reason_for_a_whole_move,
    sync,
)
from pipeline_tests.support.targets import query, reasons


def test_a_key_that_is_no_rowid_is_followed(tmp_path: Path, target_url: str, mode: str) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add_family(contents=3)
    source.run("DELETE FROM rankings WHERE id = 1")
    begin(source, target_url, mode)
    source.run("DELETE FROM rankings WHERE id = 3")
    source.run("UPDATE rankings SET rank_score = 1, updated_at = ? WHERE id = 5", (LATER,))
    source.add("rankings", {"id": 1})
    assert did(sync(source, target_url)) == {"rankings": (2, 1, 0)}
    assert_sides_agree(source, target_url)


def test_keys_that_occur_twice_are_followed(tmp_path: Path, target_url: str, mode: str) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", *({"id": k} for k in (1, 2, 2, 3, 4)))
    begin(source, target_url, mode)
    assert reasons(target_url, "learning_content") == {"2": {"duplicate_key"}}
    source.add("learning_content", {"id": 3, "title": "again"})
    source.run("DELETE FROM learning_content WHERE rowid = 3")
    sync(source, target_url)
    assert reasons(target_url, "learning_content") == {"3": {"duplicate_key"}}
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (2,), (4,)]
    assert_sides_agree(source, target_url)
    source.run("DELETE FROM learning_content WHERE id = 3")
    sync(source, target_url)
    assert_sides_agree(source, target_url)


ODD_KEYS = ["seven", "", 2.5, b"\x00\xff", None, 2**40, -(2**63), "7x", float("inf")]


@pytest.mark.parametrize("key", ODD_KEYS, ids=repr)
def test_a_key_that_cannot_move_comes_into_quarantine_and_leaves_it(
    tmp_path: Path, target_url: str, mode: str, key: Any
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.add("learning_content", {"id": key})
    moves = sync(source, target_url)
    assert did(moves) == {}
    sql = "SELECT row_id FROM migration.quarantine"
    assert query(target_url, sql) == [("3",)]
    source.add("learning_content", {"id": 5})
    sync(source, target_url)
    assert query(target_url, sql) == [("3",)]
    source.run("DELETE FROM learning_content WHERE rowid = 3")
    sync(source, target_url)
    assert query(target_url, sql) == []
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize("key", ODD_KEYS, ids=repr)
def test_a_key_that_becomes_one_that_cannot_move_and_is_repaired_is_followed(
    tmp_path: Path, target_url: str, mode: str, key: Any
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET id = ? WHERE id = 2", (key,))
    sync(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content") == [(1,)]
    assert query(target_url, "SELECT row_id FROM migration.quarantine") == [("2",)]
    source.run("UPDATE learning_content SET id = 2 WHERE rowid = 2")
    sync(source, target_url)
    assert_sides_agree(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (2,)]


def test_a_key_that_is_no_utf8_comes_into_quarantine(
    tmp_path: Path, target_url: str, mode: str
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET id = CAST(x'ff41' AS TEXT) WHERE id = 2")
    sync(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content") == [(1,)]
    assert query(target_url, "SELECT row_id FROM migration.quarantine") == [("2",)]


def test_a_rejected_row_stays_in_quarantine_when_the_source_is_compacted(
    tmp_path: Path, target_url: str, mode: str
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", *({"id": k} for k in (1, 2, 3)), {"id": 4, "tags": "{"})
    source.run("DELETE FROM learning_content WHERE id < 3")
    begin(source, target_url, mode)
    assert reasons(target_url, "learning_content").keys() == {"4"}
    source.run("VACUUM")
    source.add("learning_content", {"id": 9})
    if reason_for_a_whole_move(source.path, target_url) is None:
        sync(source, target_url)
        assert reasons(target_url, "learning_content").keys() == {"4"}
        assert_sides_agree(source, target_url)


WITHOUT_ROWID = CONTENT_DDL.replace(");\n", ") WITHOUT ROWID;\n")


@pytest.mark.parametrize("kind", ["INT", "INTEGER", "BIGINT", ""])
def test_a_table_without_rowids_is_followed(
    tmp_path: Path, target_url: str, mode: str, kind: str
) -> None:
    ddl = WITHOUT_ROWID.replace(
        "id INTEGER NOT NULL PRIMARY KEY", f"id {kind} NOT NULL PRIMARY KEY"
    )
    source = SourceFile.make(tmp_path / "without.db", ddl)
    source.add_family(contents=3)
    source.run("UPDATE learning_content SET tags = '{' WHERE id = 3")
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET tags = '[]' WHERE id = 3")
    source.run("UPDATE learning_content SET tags = '{', updated_at = ? WHERE id = 2", (LATER,))
    source.run("DELETE FROM rankings WHERE id = 1")
    source.add("rankings", {"id": 99})
    sync(source, target_url)
    assert_sides_agree(source, target_url, rowid="(typeof(id) || ':' || hex(id))")
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (3,)]
    assert did(sync(source, target_url)) == {}


@pytest.mark.parametrize("kind", ["INT", "INTEGER"])
@pytest.mark.parametrize("key", ["seven", 2.5, b"\x00\xff"], ids=repr)
def test_an_odd_key_of_a_table_without_rowids_comes_into_quarantine_and_leaves_it(
    tmp_path: Path, target_url: str, mode: str, kind: str, key: Any
) -> None:
    ddl = WITHOUT_ROWID.replace(
        "id INTEGER NOT NULL PRIMARY KEY", f"id {kind} NOT NULL PRIMARY KEY"
    )
    source = SourceFile.make(tmp_path / "without.db", ddl)
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET id = ? WHERE id = 2", (key,))
    sync(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content") == [(1,)]
    assert query(target_url, "SELECT count(*) FROM migration.quarantine") == [(1,)]
    source.run("UPDATE learning_content SET id = 2 WHERE id = ?", (key,))
    sync(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (2,)]
    assert query(target_url, "SELECT count(*) FROM migration.quarantine") == [(0,)]


def test_computed_columns_and_odd_types_are_followed(
    tmp_path: Path, target_url: str, mode: str
) -> None:
    ddl = CONTENT_DDL.replace(
        "last_review_at DATETIME);",
        'last_review_at DATETIME, "loud one" TEXT GENERATED ALWAYS AS (upper(ipa)) VIRTUAL,'
        ' kept TEXT GENERATED ALWAYS AS (lower(ipa)) STORED, "odd""name" "we[i)rd (ไทย" );',
    )
    source = SourceFile.make(tmp_path / "odd.db", ddl)
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET ipa = 'Nan', updated_at = ? WHERE id = 2", (LATER,))
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    sql = 'SELECT "loud one", kept FROM learning_content ORDER BY id'
    assert query(target_url, sql) == [("KIN", "kin"), ("NAN", "nan")]


@pytest.mark.parametrize("name", ["a b.db", "a#b?c=d%20.db", "it's.db", 'a"b.db', "ไทย.db"])
def test_any_name_of_a_file_can_be_pinned(
    tmp_path: Path, target_url: str, mode: str, name: str
) -> None:
    source = SourceFile.make(tmp_path / name)
    source.add_family(contents=1)
    begin(source, target_url, mode)
    source.add("learning_content", {"id": 9})
    sync(source, target_url)
    assert_sides_agree(source, target_url)
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == [name]
