"""Rows in quarantine, and values that a person mended, follow the source like all others."""

from pathlib import Path

import pytest

from pipeline.migrations.content import metadata
from pipeline.move.ledger import overrides
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import (
    FIRST,
    LATER,
    NAMES,
    age,
    assert_sides_agree,
    begin,
    check,
    did,
    plain_key_source,
    reason_for_a_whole_move,
    sync,
)
from pipeline_tests.support.targets import query, reasons

# Quarantine


def test_a_row_in_quarantine_that_is_repaired_moves_with_those_that_waited_for_it(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    source.run("UPDATE learning_content SET tags = '{', title = NULL || title WHERE id = 9")
    source.run("UPDATE learning_content SET tags = '{' WHERE id = 2")
    begin(source, target_url, mode)
    assert reasons(target_url, "content_fragments") == {"3": {"held"}, "4": {"held"}}
    source.run("UPDATE learning_content SET tags = '[]' WHERE id = 2")
    moves = sync(source, target_url)
    assert {name: move.written_rows for name, move in moves.items()} == dict(
        zip(NAMES, (1, 2, 2, 4), strict=True)
    )
    assert query(target_url, "SELECT * FROM migration.quarantine") == []
    assert_sides_agree(source, target_url)


def test_a_row_in_quarantine_leaves_it_when_it_is_deleted_and_else_stays_as_it_was(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", *({"id": k, "tags": "{"} for k in (1, 2, 3)), {"id": 4})
    source.add("content_fragments", {"id": 1, "learning_content_id": 3})
    begin(source, target_url, mode)
    sql = (
        "SELECT row_id, since, run_id, xmin::text FROM migration.quarantine ORDER BY table_name, 1"
    )
    before = query(target_url, sql)
    source.run("DELETE FROM learning_content WHERE id = 2")
    sync(source, target_url)
    assert query(target_url, sql) == [row for row in before if row[0] != "2"]
    source.run("UPDATE learning_content SET title = 'x' WHERE id = 1")
    moves = sync(source, target_url)
    assert (moves["learning_content"].quarantined_rows, did(moves)) == (2, {})
    title = (
        "SELECT value FROM migration.quarantine_values WHERE row_id = '1' AND column_name = 'title'"
    )
    assert [bytes(value) for (value,) in query(target_url, title)] == [b"x"]
    assert_sides_agree(source, target_url)


def test_a_row_that_turns_bad_leaves_the_target_with_its_children(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET tags = '{', updated_at = ? WHERE id = 1", (LATER,))
    source.run("UPDATE rankings SET rank_score = 77, updated_at = ? WHERE id = 12", (LATER,))
    moves = sync(source, target_url)
    assert {name: move.quarantined_rows for name, move in moves.items()} == dict(
        zip(NAMES, (1, 2, 2, 5), strict=True)
    )
    assert [query(target_url, f"SELECT count(*) FROM {name}")[0][0] for name in NAMES] == [
        *(2, 4, 4, 7)
    ]
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize("settled", [False, True])
def test_rows_in_quarantine_are_told_of_when_nothing_was_written_as_well(
    source: SourceFile, target_url: str, mode: str, settled: bool
) -> None:
    source.add("learning_content", {"id": 1, "tags": "{"}, {"id": 2})
    if settled:
        age(source.path)
    begin(source, target_url, mode)
    if settled:
        age(source.path)
        move_all(source.path, target_url)
    move = sync(source, target_url)["learning_content"]
    assert (move.quarantined_rows, move.target_rows) == (1, 1)
    assert check(move, "quarantine").figures == {"rows": 1}


def test_a_sync_finds_the_same_reasons_as_a_whole_move(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE learning_content SET tags = '{' WHERE id = 1")
    source.run("DELETE FROM fragment_assets WHERE id = 4")
    source.add("rankings", {"id": 20, "fragment_id": 99, "rank_score": 7})
    begin(source, target_url, mode)
    sql = "SELECT *, xmin::text FROM migration.quarantine ORDER BY 1, 2"
    before = query(target_url, sql)
    source.add("learning_content", {"id": 30})
    sync(source, target_url)
    assert query(target_url, sql) == before
    move_all(source.path, target_url)
    assert query(target_url, sql) == before


# Mended values


def override(url: str, table: str, row_id: str, column: str, storage: str, value: str) -> None:
    with Target.connect(url, shown="the target") as target:
        records = [
            {**record, "storage": storage, "value": value}
            for record in overrides.export(target, [metadata.tables[table]])
            if (record["row_id"], record["column"]) == (row_id, column)
        ]
        with target.transaction():
            schema.make_ledger(target)
            assert overrides.import_overrides(target, records) == 1


@pytest.mark.parametrize("written", ["nothing", "another row"])
def test_a_value_that_is_mended_moves_with_the_next_sync(
    source: SourceFile, target_url: str, mode: str, written: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "food"}, {"id": 2})
    source.add("content_fragments", {"id": 1, "learning_content_id": 1})
    age(source.path)
    begin(source, target_url, mode)
    age(source.path)
    move_all(source.path, target_url)
    override(target_url, "learning_content", "1", "tags", "text", '["food"]')
    if written == "another row":
        source.add("learning_content", {"id": 3})
    sync(source, target_url)
    assert query(target_url, "SELECT tags FROM learning_content WHERE id = 1") == [(["food"],)]
    assert query(target_url, "SELECT id FROM content_fragments") == [(1,)]
    assert query(target_url, "SELECT * FROM migration.quarantine") == []
    source.add("learning_content", {"id": 4})
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert query(target_url, "SELECT tags FROM learning_content WHERE id = 1") == [(["food"],)]


def test_a_mended_row_stays_mended_when_another_of_its_values_changes(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "food"}, {"id": 2})
    begin(source, target_url, mode)
    override(target_url, "learning_content", "1", "tags", "text", '["food"]')
    move_all(source.path, target_url)
    source.run("UPDATE learning_content SET title = 'x', updated_at = ? WHERE id = 1", (LATER,))
    sync(source, target_url)
    sql = "SELECT title, tags FROM learning_content WHERE id = 1"
    assert query(target_url, sql) == [("x", ["food"])]
    source.run(
        "UPDATE learning_content SET tags = '[\"a\"]', updated_at = ? WHERE id = 1", (FIRST,)
    )
    move = sync(source, target_url)["learning_content"]
    assert query(target_url, sql) == [("x", ["a"])]
    assert check(move, "overrides").figures == {"values": 1, "outdated": 1}


@pytest.mark.parametrize("written", ["nothing", "another row"])
def test_a_mend_that_is_forgotten_sends_its_row_back_to_quarantine(
    source: SourceFile, target_url: str, mode: str, written: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "food"}, {"id": 2})
    age(source.path)
    begin(source, target_url, mode)
    override(target_url, "learning_content", "1", "tags", "text", '["food"]')
    age(source.path)
    move_all(source.path, target_url)
    with Target.connect(target_url, shown="the target") as target, target.transaction():
        assert overrides.forget(target, "learning_content") == 1
    if written == "another row":
        source.add("learning_content", {"id": 3})
    if reason_for_a_whole_move(source.path, target_url) is None:
        sync(source, target_url)
        assert reasons(target_url, "learning_content").keys() == {"1"}
        assert_sides_agree(source, target_url)


def test_a_key_that_was_mended_stays_with_its_row(
    tmp_path: Path, target_url: str, mode: str
) -> None:
    source = plain_key_source(tmp_path / "plain.db")
    source.add("learning_content", {"id": 1}, {"id": "seven"})
    begin(source, target_url, mode)
    override(target_url, "learning_content", "2", "id", "integer", "7")
    move_all(source.path, target_url)
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (7,)]
    source.add("learning_content", {"id": 3})
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (3,), (7,)]
