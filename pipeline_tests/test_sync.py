"""What changed in the source arrives in the target, in both modes, and nothing else is touched."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from pipeline.move import mending, schema, snapshot, tracking
from pipeline.move.errors import ConflictError, PipelineError, TooManyDeletes
from pipeline.move.extract import Source
from pipeline.move.findings import CheckResult, Conflict
from pipeline.move.live import pinned
from pipeline.move.mover import Mover
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.snapshot import take_snapshot
from pipeline.move.sync import Syncer, why_whole
from pipeline.move.target import Target
from pipeline.move.transaction import Move
from pipeline.tables.content import metadata
from pipeline_tests.support import CONTENT_DDL, SourceFile, move_all, query, reasons, sync_all

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
CHANGED_BY = {name: metadata.tables[name].info["changed_by"] for name in NAMES}
PARENTS = {
    "learning_content": {},
    "content_fragments": {"learning_content_id": "learning_content"},
    "fragment_assets": {"fragment_id": "content_fragments"},
    "rankings": {"fragment_id": "content_fragments", "asset_id": "fragment_assets"},
}
FIRST = "2025-08-06 03:07:13.716509"
"""The date of change of every sound row."""

OLDER, LATER, LATEST = "2019-01-01 00:00:00", "2025-09-01 00:00:00", "2026-01-01 00:00:00"
FREE = Policies()


@pytest.fixture(params=["dates", "tracked"])
def mode(request: pytest.FixtureRequest) -> str:
    """Whether the source keeps a log of its changes."""
    return str(request.param)


def begin(source: SourceFile, url: str, mode: str) -> dict[str, Move]:
    """Make the first move, which is always whole."""
    if mode == "tracked":
        tracking.switch_on(source.path, TABLES)
    return move_all(source.path, url)


def sync(source: SourceFile, url: str, **options: Any) -> dict[str, Move]:
    return sync_all(source.path, url, **{"delete_share": 1.0, **options})


def did(moves: dict[str, Move]) -> dict[str, tuple[int, int, int]]:
    """What was written, deleted and had gone along, of the tables where that is anything."""
    found = {
        name: (move.written_rows, move.deleted_rows, move.cascaded_rows)
        for name, move in moves.items()
    }
    return {name: counts for name, counts in found.items() if any(counts)}


def whole(path: Path, url: str, policies: Policies = DEFAULT) -> dict[str, Move]:
    """Move everything, under policies."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Source(take_snapshot(path, Path(folder) / "s.db", tables=TABLES, busy_seconds=2))
        with (
            Target.connect(url, shown="the target") as target,
            Mover.over(opened, target, run_id="w", delete_share=1, policies=policies) as mover,
        ):
            return {table.name: mover.move(table) for table in TABLES}


def reason_for_a_whole_move(path: Path, url: str, policies: Policies = DEFAULT) -> str | None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        return why_whole(TABLES, live=live, target=target, policies=policies)


@contextmanager
def syncing(source: SourceFile, url: str, share: float = 1.0) -> Iterator[Syncer]:
    """A run that moves as many tables as a test wants, and is then broken off."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(source.path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        assert why_whole(TABLES, live=live, target=target) is None
        yield Syncer(live, target, run_id="broken off", delete_share=share)


def check(move: Move, name: str) -> CheckResult:
    (found,) = (check for check in move.checks if check.name == name)
    return found


def conflicts(url: str) -> list[tuple[Any, ...]]:
    return query(
        url,
        "SELECT table_name, source_key, column_name, source_value, target_value"
        " FROM migration.conflicts ORDER BY 1, 2, 3",
    )


def versions(url: str, table: str) -> dict[int, tuple[str, str]]:
    return {k: (x, c) for k, x, c in query(url, f"SELECT id, xmin::text, ctid::text FROM {table}")}


def touched(before: dict[int, Any], after: dict[int, Any]) -> set[int]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    ledger = ("quarantine", "quarantine_values", "conversions", "conflicts", "cascaded")
    names = [*NAMES, *(f"migration.{name}" for name in (*ledger, "watermarks"))]
    return {name: query(url, f"SELECT t::text FROM {name} t ORDER BY 1") for name in names}


def age(*paths: Path, seconds: float = 3600.0) -> None:
    """Let files look as if they had been written some time ago."""
    for path in paths:
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def plain_source(column: str, value: Any) -> Any:
    """A sound value of the source as the target must have it."""
    if value is None:
        return None
    if column.endswith("_at"):
        date = datetime.fromisoformat(value)
        return date.replace(tzinfo=date.tzinfo or UTC)
    if column in ("tags", "content_metadata", "fragment_metadata", "asset_metadata"):
        return json.loads(value)
    if column == "rank_score":
        return Decimal(str(value)).quantize(Decimal("0.01"))
    return value


def assert_sides_agree(
    source: SourceFile, url: str, *, rowid: str = "rowid", except_keys: Sequence[int] = ()
) -> None:
    """Every source row is in the target, value by value, or in quarantine, and nothing else is."""
    with closing(sqlite3.connect(source.path)) as ours, closing(psycopg2.connect(url)) as theirs:
        ours.row_factory = sqlite3.Row
        ours.text_factory = lambda raw: raw.decode(errors="replace")
        for table in NAMES:
            cursor = theirs.cursor()
            cursor.execute(
                "SELECT handle FROM migration.quarantine WHERE table_name = %s", (table,)
            )
            aside = {handle for (handle,) in cursor}
            rows = {
                str(row["handle"]): dict(row)
                for row in ours.execute(f"SELECT {rowid} AS handle, * FROM {table}")
            }
            assert aside <= rows.keys(), f"quarantine of {table} holds rows that are gone"
            expected = {
                row["id"]: {c: plain_source(c, v) for c, v in row.items() if c != "handle"}
                for handle, row in rows.items()
                if handle not in aside
            }
            cursor.execute(f"SELECT * FROM {table}")
            names = [column.name for column in cursor.description or ()]
            found = {
                values[names.index("id")]: {
                    name: bytes(value) if isinstance(value, memoryview) else value
                    for name, value in zip(names, values, strict=True)
                }
                for values in cursor
            }
            for key in except_keys:
                expected.pop(key, None)
                found.pop(key, None)
            assert found == expected, table
            cursor.execute(
                "SELECT source_key FROM migration.conversions WHERE table_name = %s", (table,)
            )
            there = {str(key) for key in found}
            assert {key for (key,) in cursor} <= there, f"conversions of {table} are outdated"
    assert query(url, "SELECT count(*) FROM migration.cascaded") == [(0,)]


# Inserts, updates, deletes


@pytest.mark.parametrize("table", NAMES)
def test_an_insert_an_update_and_a_delete_follow_and_then_nothing(
    source: SourceFile, target_url: str, mode: str, table: str
) -> None:
    source.add_family(contents=3)
    begin(source, target_url, mode)
    before = versions(target_url, table)
    moment = CHANGED_BY[table]
    source.add(table, {"id": 100, moment: LATER})
    source.run(f"UPDATE {table} SET {moment} = ? WHERE id = 1", (LATER,))
    for child, parents in PARENTS.items():
        for column, parent in parents.items():
            if parent == table:
                source.run(f"UPDATE {child} SET {column} = 1, {CHANGED_BY[child]} = ?", (LATER,))
    source.run(f"DELETE FROM {table} WHERE id = 3")
    moves = sync(source, target_url)
    assert (moves[table].way, did(moves)[table]) == ("synced", (2, 1, 0))
    assert touched(before, versions(target_url, table)) == {1, 3, 100}
    assert_sides_agree(source, target_url)
    state = {name: versions(target_url, name) for name in NAMES}
    assert did(sync(source, target_url)) == {}
    assert {name: versions(target_url, name) for name in NAMES} == state


def test_a_source_that_is_emptied_and_filled_again_follows(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    for name in reversed(NAMES):
        source.run(f"DELETE FROM {name}")
    sync(source, target_url)
    assert [query(target_url, f"SELECT count(*) FROM {name}") for name in NAMES] == [[(0,)]] * 4
    assert_sides_agree(source, target_url)
    source.add_family(contents=3)
    moves = sync(source, target_url)
    assert {name: move.written_rows for name, move in moves.items()} == dict(
        zip(NAMES, (3, 6, 6, 12), strict=True)
    )
    assert {name: move.target_rows for name, move in moves.items()} == dict(
        zip(NAMES, (3, 6, 6, 12), strict=True)
    )
    assert_sides_agree(source, target_url)


def test_a_first_move_of_empty_tables_can_be_followed(
    source: SourceFile, target_url: str, mode: str
) -> None:
    begin(source, target_url, mode)
    assert did(sync(source, target_url)) == {}
    source.add_family(contents=1)
    sync(source, target_url)
    assert_sides_agree(source, target_url)


def test_a_change_of_a_key_deletes_one_row_and_inserts_another(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2}, {"id": 3})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET id = 30 WHERE id = 3")
    source.run("UPDATE learning_content SET id = -2 WHERE id = 2")
    assert did(sync(source, target_url)) == {"learning_content": (2, 2, 0)}
    assert_sides_agree(source, target_url)


def test_two_rows_that_swap_their_keys_are_seen(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1, "title": "one"}, {"id": 2, "title": "two"})
    source.run("UPDATE learning_content SET updated_at = ? WHERE id = 2", (LATER,))
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET id = id + 10")
    source.run("UPDATE learning_content SET id = 13 - id")
    assert did(sync(source, target_url)) == {"learning_content": (2, 0, 0)}
    assert_sides_agree(source, target_url)


def test_new_ids_go_on_behind_the_synced_ones(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1})
    begin(source, target_url, mode)
    source.add("learning_content", {"id": 50})
    sync(source, target_url)
    sql = "SELECT nextval(pg_get_serial_sequence('learning_content', 'id'))"
    assert query(target_url, sql) == [(51,)]


# Dates that mislead


@pytest.mark.parametrize("date", [LATER, OLDER, "2025-08-06 03:07:13.716508", None])
def test_a_date_that_differs_in_any_direction_is_seen(
    source: SourceFile, target_url: str, mode: str, date: str | None
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2}, {"id": 3, "updated_at": LATEST})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET title = 'new', updated_at = ? WHERE id = 2", (date,))
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert_sides_agree(source, target_url)


def test_a_row_that_comes_with_the_newest_date_there_was_is_seen(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1, "updated_at": LATEST}, {"id": 2})
    begin(source, target_url, mode)
    source.add("learning_content", {"id": 3, "updated_at": LATEST})
    source.run("UPDATE learning_content SET title = 'x', updated_at = ? WHERE id = 2", (LATEST,))
    source.add("learning_content", {"id": 4, "updated_at": OLDER}, {"id": 5, "updated_at": None})
    assert did(sync(source, target_url)) == {"learning_content": (4, 0, 0)}
    assert_sides_agree(source, target_url)


def test_an_update_without_a_date_is_seen_by_tracking_and_repaired_by_a_whole_move(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET title = 'new' WHERE id = 2")
    seen = {"dates": {}, "tracked": {"learning_content": (1, 0, 0)}}[mode]
    assert did(sync(source, target_url)) == seen
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize(
    ("blob", "created_at"),
    [(b"riff", LATER), (b"RIFF and more", FIRST), (b"", FIRST), (b"\0\0\0\0", OLDER)],
)
def test_a_file_that_was_made_anew_is_seen_by_its_date_or_its_size(
    source: SourceFile, target_url: str, mode: str, blob: bytes, created_at: str
) -> None:
    source.add("learning_content")
    source.add("content_fragments")
    source.add("fragment_assets", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    source.run(
        "UPDATE fragment_assets SET asset_data = ?, created_at = ? WHERE id = 2", (blob, created_at)
    )
    assert did(sync(source, target_url)) == {"fragment_assets": (1, 0, 0)}
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize("date", ["soon", "2025-13-45", 20250806, 1.5, b"\xff\x00", ""])
def test_rubbish_in_the_date_of_change_sends_its_row_aside_and_a_repair_brings_it_back(
    source: SourceFile, target_url: str, mode: str, date: Any
) -> None:
    source.add("learning_content", *({"id": key} for key in range(1, 5)))
    source.add("content_fragments", {"id": 1, "learning_content_id": 2})
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET updated_at = ? WHERE id = 2", (date,))
    moves = sync(source, target_url)
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (3,), (4,)]
    assert reasons(target_url, "learning_content").keys() == {"2"}
    assert reasons(target_url, "content_fragments") == {"1": {"held"}}
    assert moves["content_fragments"].cascaded_rows == 1
    assert did(sync(source, target_url)) == {}
    source.run("UPDATE learning_content SET updated_at = ? WHERE id = 2", (FIRST,))
    sync(source, target_url)
    assert reasons(target_url, "learning_content") == {}
    assert_sides_agree(source, target_url)


def test_rubbish_dates_that_were_there_from_the_start_stay_aside(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add(
        "learning_content",
        *(
            {"id": k, "updated_at": d}
            for k, d in enumerate(["soon", 5, 1.5, b"\xff", None, FIRST], start=1)
        ),
    )
    begin(source, target_url, mode)
    before = query(target_url, "SELECT * FROM migration.quarantine ORDER BY handle")
    assert [row[1] for row in before] == ["1", "2", "3", "4"]
    source.add("learning_content", {"id": 9})
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert query(target_url, "SELECT * FROM migration.quarantine ORDER BY handle") == before


# Deletes and what goes along


def test_too_many_deletes_change_nothing(source: SourceFile, target_url: str, mode: str) -> None:
    source.add("learning_content", *({"id": key} for key in range(1, 9)))
    begin(source, target_url, mode)
    source.run("DELETE FROM learning_content WHERE id <= 3")
    source.run("UPDATE learning_content SET updated_at = ? WHERE id = 8", (LATER,))
    before = everything(target_url)
    with pytest.raises(TooManyDeletes):
        sync_all(source.path, target_url)
    assert everything(target_url) == before
    source.add("learning_content", {"id": 3})
    assert did(sync_all(source.path, target_url)) == {"learning_content": (1, 2, 0)}
    assert_sides_agree(source, target_url)


def test_too_many_children_that_would_go_along_change_nothing(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", *({"id": key} for key in range(1, 9)))
    source.add("content_fragments", *({"id": k, "learning_content_id": 1} for k in range(1, 4)))
    begin(source, target_url, mode)
    source.run("DELETE FROM learning_content WHERE id = 1")
    before = everything(target_url)
    with pytest.raises(TooManyDeletes):
        sync_all(source.path, target_url)
    assert everything(target_url) == before


def test_rows_that_go_along_with_their_parent_are_counted(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    begin(source, target_url, mode)
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.execute("DELETE FROM rankings WHERE id BETWEEN 5 AND 8")
        connection.execute("DELETE FROM fragment_assets WHERE id IN (3, 4)")
        connection.execute("DELETE FROM content_fragments WHERE id IN (3, 4)")
        connection.execute("DELETE FROM learning_content WHERE id = 2")
    moves = sync(source, target_url)
    assert did(moves) == {
        "learning_content": (0, 1, 0),
        "content_fragments": (0, 0, 2),
        "fragment_assets": (0, 0, 2),
        "rankings": (0, 0, 4),
    }
    assert {name: move.target_rows for name, move in moves.items()} == dict(
        zip(NAMES, (2, 4, 4, 8), strict=True)
    )
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize("moved_before", [0, 1, 2, 3])
def test_children_that_the_source_still_has_never_vanish(
    source: SourceFile, target_url: str, mode: str, moved_before: int
) -> None:
    source.add_family(contents=3)
    begin(source, target_url, mode)
    source.run("DELETE FROM learning_content WHERE id = 2")
    with syncing(source, target_url) as syncer:
        for table in TABLES[:moved_before]:
            syncer.move(table)
    sync(source, target_url)
    assert reasons(target_url, "content_fragments") == {"3": {"orphan"}, "4": {"orphan"}}
    assert reasons(target_url, "fragment_assets") == {"3": {"held"}, "4": {"held"}}
    assert reasons(target_url, "rankings").keys() == {"5", "6", "7", "8"}
    assert_sides_agree(source, target_url)
    before = query(target_url, "SELECT * FROM migration.quarantine ORDER BY 1, 2")
    assert did(sync(source, target_url)) == {}
    assert query(target_url, "SELECT * FROM migration.quarantine ORDER BY 1, 2") == before
    source.add("learning_content", {"id": 2, "title": "word 2"})
    sync(source, target_url)
    assert query(target_url, "SELECT * FROM migration.quarantine") == []
    assert_sides_agree(source, target_url)


def test_a_whole_move_bridges_a_sync_that_was_broken_off(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=4)
    begin(source, target_url, mode)
    source.run("DELETE FROM learning_content WHERE id = 2")
    with syncing(source, target_url) as syncer:
        syncer.move(TABLES[0])
    moves = move_all(source.path, target_url, delete_share=1)
    assert [move.cascaded_rows for move in moves.values()] == [0, 2, 2, 4]
    assert_sides_agree(source, target_url)


def test_a_whole_move_that_was_broken_off_is_bridged_by_a_sync(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=4)
    begin(source, target_url, mode)
    source.run("DELETE FROM learning_content WHERE id = 2")
    move_all(source.path, target_url, tables=TABLES[:1], delete_share=1)
    assert [move.cascaded_rows for move in sync(source, target_url).values()] == [0, 2, 2, 4]
    assert_sides_agree(source, target_url)


def test_children_that_moved_to_another_parent_survive_the_old_one(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    begin(source, target_url, mode)
    source.run(
        "UPDATE content_fragments SET learning_content_id = 1, updated_at = ?"
        " WHERE learning_content_id = 2",
        (LATER,),
    )
    source.run("DELETE FROM learning_content WHERE id = 2")
    sync(source, target_url)
    assert reasons(target_url, "content_fragments") == {}
    assert query(target_url, "SELECT count(*) FROM rankings") == [(12,)]
    assert_sides_agree(source, target_url)


def test_conversions_of_rows_that_went_along_are_forgotten(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=3)
    source.run("UPDATE rankings SET rank_score = 4.567 WHERE id IN (1, 5)")
    begin(source, target_url, mode)
    sql = "SELECT source_key, original FROM migration.conversions ORDER BY 1"
    assert query(target_url, sql) == [("1", "4.567"), ("5", "4.567")]
    for table, key in (("rankings", "id"), ("fragment_assets", "id"), ("content_fragments", "id")):
        source.run(f"DELETE FROM {table} WHERE {key} = 5")
    source.run("DELETE FROM rankings WHERE fragment_id = 3")
    source.run("DELETE FROM fragment_assets WHERE fragment_id = 3")
    source.run("DELETE FROM content_fragments WHERE id = 3")
    sync(source, target_url)
    assert query(target_url, sql) == [("1", "4.567")]


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
        "SELECT handle, since, run_id, xmin::text FROM migration.quarantine ORDER BY table_name, 1"
    )
    before = query(target_url, sql)
    source.run("DELETE FROM learning_content WHERE id = 2")
    sync(source, target_url)
    assert query(target_url, sql) == [row for row in before if row[0] != "2"]
    source.run("UPDATE learning_content SET title = 'x' WHERE id = 1")
    moves = sync(source, target_url)
    assert (moves["learning_content"].quarantined_rows, did(moves)) == (2, {})
    title = (
        "SELECT value FROM migration.quarantine_values WHERE handle = '1' AND column_name = 'title'"
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


def mend(url: str, table: str, handle: str, column: str, storage: str, value: str) -> None:
    with Target.connect(url, shown="the target") as target:
        records = [
            {**record, "storage": storage, "value": value}
            for record in mending.export(target, [table])
            if (record["handle"], record["column"]) == (handle, column)
        ]
        with target.transaction():
            schema.make_ledger(target)
            assert mending.take_in(target, records) == 1


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
    mend(target_url, "learning_content", "1", "tags", "text", '["food"]')
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
    mend(target_url, "learning_content", "1", "tags", "text", '["food"]')
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
    assert check(move, "mended").figures == {"values": 1, "outdated": 1}


@pytest.mark.parametrize("written", ["nothing", "another row"])
def test_a_mend_that_is_forgotten_sends_its_row_back_to_quarantine(
    source: SourceFile, target_url: str, mode: str, written: str
) -> None:
    source.add("learning_content", {"id": 1, "tags": "food"}, {"id": 2})
    age(source.path)
    begin(source, target_url, mode)
    mend(target_url, "learning_content", "1", "tags", "text", '["food"]')
    age(source.path)
    move_all(source.path, target_url)
    with Target.connect(target_url, shown="the target") as target, target.transaction():
        assert mending.forget(target, "learning_content") == 1
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
    mend(target_url, "learning_content", "2", "id", "integer", "7")
    move_all(source.path, target_url)
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (7,)]
    source.add("learning_content", {"id": 3})
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert query(target_url, "SELECT id FROM learning_content ORDER BY 1") == [(1,), (3,), (7,)]


# Values that lose something


def test_originals_of_converted_values_follow_every_change(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content")
    source.add("content_fragments")
    scores = {1: 4.567, 2: 1.234, 3: 2.5, 4: 3.333}
    source.add("rankings", *({"id": k, "rank_score": s} for k, s in scores.items()))
    begin(source, target_url, mode)
    sql = "SELECT source_key, original, kept_as, xmin::text FROM migration.conversions ORDER BY 1"
    before = query(target_url, sql)
    assert [row[:3] for row in before] == [
        *(("1", "4.567", "4.57"), ("2", "1.234", "1.23"), ("4", "3.333", "3.33")),
    ]
    source.run("UPDATE rankings SET rank_score = 4.5, updated_at = ? WHERE id = 1", (LATER,))
    source.run("DELETE FROM rankings WHERE id = 2")
    source.run("UPDATE rankings SET rank_score = 2.505, updated_at = ? WHERE id = 3", (LATER,))
    move = sync(source, target_url)["rankings"]
    after = query(target_url, sql)
    assert [row[:2] for row in after] == [("3", "2.505"), ("4", "3.333")]
    assert after[1] == before[2]
    assert check(move, "conversions").figures == {"values": 2}
    move_all(source.path, target_url)
    assert query(target_url, sql) == after


# Conflicts


def edited(source: SourceFile, url: str, mode: str, *, in_source: bool) -> None:
    """One row is edited in the target, and perhaps in the source, where another one changes."""
    source.add("learning_content", *({"id": k, "updated_at": OLDER} for k in range(1, 6)))
    begin(source, url, mode)
    query(
        url,
        "UPDATE learning_content SET title = 'ours', updated_at = %s WHERE id = 2",
        (f"{LATEST}+00",),
    )
    if in_source:
        source.run(
            "UPDATE learning_content SET title = 'theirs', updated_at = ? WHERE id = 2", (LATER,)
        )
    source.run("UPDATE learning_content SET title = 'other', updated_at = ? WHERE id = 3", (FIRST,))


TITLE = "SELECT title FROM learning_content WHERE id = 2"
CASES = [("dates", True), ("dates", False), ("tracked", True)]
"""A row that only the target changed is in no log of the source."""


@pytest.mark.parametrize(("mode", "in_source"), CASES)
def test_a_row_that_the_target_changed_later_stays_and_is_told_of_each_time(
    source: SourceFile, target_url: str, mode: str, in_source: bool
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    moves = sync(source, target_url)
    assert did(moves) == {"learning_content": (1, 0, 0)}
    found = check(moves["learning_content"], "conflicts")
    date = datetime.fromisoformat(LATEST).replace(tzinfo=UTC)
    assert (found.passed, found.blocking, found.figures) == (False, False, {"rows": 1, "kept": 1})
    theirs = "theirs" if in_source else "กิน"
    assert Conflict("learning_content", 2, "title", theirs, "ours", "target") in found.findings
    (of_date,) = (f for f in found.findings if f.column == "updated_at")
    assert of_date.target == date
    assert [row[:4] for row in conflicts(target_url)] == [
        ("learning_content", "2", "title", theirs),
        ("learning_content", "2", "updated_at", str(of_date.source)),
    ]
    ledger = "SELECT *, xmin::text FROM migration.conflicts ORDER BY 1, 2, 3"
    before = query(target_url, ledger)
    again = sync(source, target_url)
    assert check(again["learning_content"], "conflicts").figures == {"rows": 1, "kept": 1}
    assert did(again) == {}
    assert (query(target_url, ledger), query(target_url, TITLE)) == (before, [("ours",)])
    source.add("learning_content", {"id": 70})
    again = sync(source, target_url)
    assert check(again["learning_content"], "conflicts").figures == {"rows": 1, "kept": 1}
    assert query(target_url, ledger) == before
    assert_sides_agree(source, target_url, except_keys=[2])


@pytest.mark.parametrize(("mode", "in_source"), CASES)
def test_a_conflict_is_told_of_when_the_source_has_not_been_written_since(
    source: SourceFile, target_url: str, mode: str, in_source: bool
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    age(source.path)
    sync(source, target_url)
    found = check(sync(source, target_url)["learning_content"], "conflicts")
    assert (found.passed, found.figures) == (False, {"rows": 1, "kept": 1})


@pytest.mark.parametrize(("mode", "in_source"), CASES)
def test_a_newer_date_in_the_source_ends_a_conflict(
    source: SourceFile, target_url: str, mode: str, in_source: bool
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    sync(source, target_url)
    source.run("UPDATE learning_content SET title = 'last', updated_at = '2027-01-01' WHERE id = 2")
    move = sync(source, target_url)["learning_content"]
    assert (move.written_rows, check(move, "conflicts").passed) == (1, True)
    assert conflicts(target_url) == []
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize(("mode", "in_source"), CASES)
def test_the_source_overwrites_what_the_target_changed_where_a_person_said_so(
    source: SourceFile, target_url: str, mode: str, in_source: bool
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    move = sync(source, target_url, policies=Policies(conflicts="source"))["learning_content"]
    found = check(move, "conflicts")
    assert (found.passed, found.blocking, found.figures) == (False, False, {"rows": 1, "kept": 0})
    theirs = "theirs" if in_source else "กิน"
    assert Conflict("learning_content", 2, "title", theirs, "ours", "source") in found.findings
    assert conflicts(target_url) == []
    assert_sides_agree(source, target_url)
    assert did(sync(source, target_url, policies=Policies(conflicts="source"))) == {}


@pytest.mark.parametrize(("mode", "in_source"), CASES)
def test_a_conflict_stops_the_sync_where_a_person_said_so(
    source: SourceFile, target_url: str, mode: str, in_source: bool
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    before = everything(target_url)
    for _ in range(2):
        with pytest.raises(ConflictError, match="learning_content 2"):
            sync(source, target_url, policies=Policies(conflicts="fail"))
        assert everything(target_url) == before


@pytest.mark.parametrize(("mode", "in_source"), CASES)
@pytest.mark.parametrize("policy", ["source", "fail"])
def test_another_policy_settles_a_conflict_that_was_kept_before(
    source: SourceFile, target_url: str, mode: str, in_source: bool, policy: Any
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    age(source.path)
    sync(source, target_url)
    if policy == "fail":
        with pytest.raises(ConflictError):
            sync(source, target_url, policies=Policies(conflicts=policy))
    else:
        sync(source, target_url, policies=Policies(conflicts=policy))
        assert_sides_agree(source, target_url)
        assert conflicts(target_url) == []


def test_a_clock_that_jumped_back_in_the_source_is_no_conflict(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1, "updated_at": LATEST}, {"id": 2})
    begin(source, target_url, mode)
    for title, date in (("a", LATER), ("b", OLDER), ("c", FIRST), ("d", None), ("e", OLDER)):
        source.run(
            "UPDATE learning_content SET title = ?, updated_at = ? WHERE id = 1", (title, date)
        )
        move = sync(source, target_url, policies=Policies(conflicts="fail"))["learning_content"]
        assert check(move, "conflicts").passed
        assert_sides_agree(source, target_url)


@pytest.mark.parametrize("policy", ["target", "source", "fail"])
@pytest.mark.parametrize("in_source", [True, False])
def test_a_whole_move_settles_conflicts_as_a_sync_does(
    source: SourceFile, target_url: str, mode: str, in_source: bool, policy: Any
) -> None:
    edited(source, target_url, mode, in_source=in_source)
    before = everything(target_url)
    if policy == "fail":
        with pytest.raises(ConflictError):
            whole(source.path, target_url, Policies(conflicts=policy))
        assert everything(target_url) == before
        return
    moves = whole(source.path, target_url, Policies(conflicts=policy))
    found = check(moves["learning_content"], "conflicts")
    kept = {"target": 1, "source": 0}[policy]
    assert (found.passed, found.figures) == (False, {"rows": 1, "kept": kept})
    ours = [("ours",)] if policy == "target" else [("theirs" if in_source else "กิน",)]
    assert query(target_url, TITLE) == ours
    assert len(conflicts(target_url)) == 2 * kept
    assert_sides_agree(source, target_url, except_keys=[2] if kept else [])
    again = whole(source.path, target_url, Policies(conflicts=policy))
    assert did(again) == {}
    assert check(again["learning_content"], "conflicts").figures["rows"] == kept


@pytest.mark.parametrize("way", ["sync", "whole"])
def test_a_file_that_the_target_changed_later_is_a_conflict(
    source: SourceFile, target_url: str, mode: str, way: str
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, mode)
    query(
        target_url,
        "UPDATE fragment_assets SET asset_data = 'ours', created_at = '2026-01-01' WHERE id = 2",
    )
    source.run(
        "UPDATE fragment_assets SET asset_data = x'00', created_at = ? WHERE id = 2", (LATER,)
    )
    moves = sync(source, target_url) if way == "sync" else whole(source.path, target_url)
    assert check(moves["fragment_assets"], "conflicts").figures == {"rows": 1, "kept": 1}
    sql = "SELECT asset_data FROM fragment_assets WHERE id = 2"
    assert [bytes(data) for (data,) in query(target_url, sql)] == [b"ours"]


def test_a_kept_row_that_the_source_deletes_is_deleted_and_no_conflict_any_more(
    source: SourceFile, target_url: str, mode: str
) -> None:
    edited(source, target_url, mode, in_source=True)
    sync(source, target_url)
    source.run("DELETE FROM learning_content WHERE id = 2")
    sync(source, target_url)
    assert conflicts(target_url) == []
    assert_sides_agree(source, target_url)


def test_a_kept_row_that_is_deleted_in_the_target_is_brought_back(
    source: SourceFile, target_url: str, mode: str
) -> None:
    edited(source, target_url, mode, in_source=True)
    sync(source, target_url)
    query(target_url, "DELETE FROM learning_content WHERE id = 2")
    source.add("learning_content", {"id": 77})
    sync(source, target_url)
    assert conflicts(target_url) == []
    assert_sides_agree(source, target_url)


# Why a whole move is needed


def test_a_whole_move_is_needed_before_the_first_sync(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=1)
    if mode == "tracked":
        tracking.switch_on(source.path, TABLES)
    assert "has not been moved" in str(reason_for_a_whole_move(source.path, target_url))
    move_all(source.path, target_url)
    assert reason_for_a_whole_move(source.path, target_url) is None


def test_a_whole_move_is_needed_when_the_target_lost_a_table_or_a_column(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, mode)
    query(target_url, "ALTER TABLE rankings DROP COLUMN assessment_notes")
    assert "lacks a column" in str(reason_for_a_whole_move(source.path, target_url))
    query(target_url, "DROP TABLE rankings")
    assert "has not been moved" in str(reason_for_a_whole_move(source.path, target_url))


@pytest.mark.parametrize(
    "policies",
    [
        Policies(naive_zone="Asia/Bangkok"),
        Policies(forbidden_nulls={"content_fragments.native_text": ""}),
        Policies(extra_columns="ignore"),
        Policies(lossy_conversions="quarantine"),
    ],
)
def test_a_whole_move_is_needed_when_a_policy_has_changed(
    source: SourceFile, target_url: str, mode: str, policies: Policies
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, mode)
    assert "policies" in str(reason_for_a_whole_move(source.path, target_url, policies))


def test_a_whole_move_is_needed_when_the_source_has_a_new_column_or_lost_one(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, mode)
    source.run("ALTER TABLE rankings ADD COLUMN mood TEXT DEFAULT 'fine'")
    assert "columns" in str(reason_for_a_whole_move(source.path, target_url))
    move_all(source.path, target_url)
    assert reason_for_a_whole_move(source.path, target_url) is None
    assert_sides_agree(source, target_url)
    source.run("ALTER TABLE rankings DROP COLUMN mood")
    assert "columns" in str(reason_for_a_whole_move(source.path, target_url))


def test_a_whole_move_is_needed_when_tracking_was_switched(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    tracking.switch_on(source.path, TABLES)
    assert "switched on" in str(reason_for_a_whole_move(source.path, target_url))
    move_all(source.path, target_url)
    assert reason_for_a_whole_move(source.path, target_url) is None
    tracking.switch_off(source.path)
    assert "switched off" in str(reason_for_a_whole_move(source.path, target_url))


@pytest.mark.parametrize("writes", [0, 1, 5])
def test_a_whole_move_is_needed_when_the_log_is_not_the_one_that_was_read(
    source: SourceFile, target_url: str, writes: int
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, "tracked")
    tracking.switch_off(source.path)
    source.run("UPDATE rankings SET rank_score = 1")
    tracking.switch_on(source.path, TABLES)
    for _ in range(writes):
        source.run("UPDATE learning_content SET title = title")
    assert "log of changes" in str(reason_for_a_whole_move(source.path, target_url))
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)


@pytest.mark.parametrize("writes", [0, 1, 3, 4, 9])
def test_a_whole_move_is_needed_when_the_source_was_restored_from_a_backup(
    source: SourceFile, target_url: str, tmp_path: Path, writes: int
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, "tracked")
    source.run("UPDATE learning_content SET title = 'before the backup'")
    backup = tmp_path / "backup.db"
    shutil.copy(source.path, backup)
    for _ in range(3):
        source.run("UPDATE learning_content SET title = title || '!' WHERE id = 1")
    sync(source, target_url)
    shutil.copy(backup, source.path)
    for _ in range(writes):
        source.run("UPDATE learning_content SET title = title || '?' WHERE id = 2")
    assert "log of changes" in str(reason_for_a_whole_move(source.path, target_url))
    move_all(source.path, target_url)
    assert_sides_agree(source, target_url)


def test_a_backup_that_was_taken_before_the_last_sync_and_restored_without_tracking_is_seen(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2, "updated_at": LATER})
    begin(source, target_url, "dates")
    backup = tmp_path / "backup.db"
    shutil.copy2(source.path, backup)
    source.run("UPDATE learning_content SET title = 'x', updated_at = ?", (LATEST,))
    source.add("learning_content", {"id": 3, "updated_at": LATEST})
    sync(source, target_url)
    shutil.copy2(backup, source.path)
    move = sync(source, target_url)["learning_content"]
    assert (move.written_rows, move.deleted_rows) == (2, 1)
    assert check(move, "conflicts").passed
    assert_sides_agree(source, target_url)


# What a sync costs


def filled(source: SourceFile, rows: int) -> None:
    source.add("learning_content")
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.executemany(
            "INSERT INTO content_fragments (id, native_text, body_text, fragment_type,"
            " learning_content_id, updated_at) VALUES (?, ?, 'b', 't', 1, ?)",
            [(k, f"{k} " + "ข้าว" * 20, FIRST) for k in range(1, rows + 1)],
        )


def test_a_sync_writes_little_and_a_change_costs_what_it_changes(
    source: SourceFile, target_url: str, mode: str
) -> None:
    filled(source, 3000)
    begin(source, target_url, mode)
    sync(source, target_url)
    ((size,),) = query(target_url, "SELECT pg_total_relation_size('content_fragments')")
    query(target_url, "CHECKPOINT")

    def written_by_a_sync() -> int:
        ((start,),) = query(target_url, "SELECT pg_current_wal_insert_lsn()")
        sync(source, target_url)
        sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint"
        return int(query(target_url, sql, (start,))[0][0])

    written_by_a_sync()
    before = versions(target_url, "content_fragments")
    nothing = written_by_a_sync()
    source.run(
        "UPDATE content_fragments SET body_text = 'x', updated_at = ? WHERE id = 7", (LATER,)
    )
    one_row = written_by_a_sync()
    assert touched(before, versions(target_url, "content_fragments")) == {7}
    assert nothing < size / 4
    assert one_row < size / 4


def test_the_server_counts_no_more_writes_than_there_were_changes(
    source: SourceFile, target_url: str, mode: str
) -> None:
    filled(source, 500)
    begin(source, target_url, mode)

    def counted() -> tuple[int, ...]:
        with closing(psycopg2.connect(target_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute(
                "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
                " WHERE relname = 'content_fragments'"
            )
            return tuple(cursor.fetchall()[0])

    def by(change: Any) -> tuple[int, ...]:
        before = counted()
        change()
        sync(source, target_url)
        return tuple(b - a for a, b in zip(before, counted(), strict=True))

    assert by(lambda: None) == (0, 0, 0)
    update = "UPDATE content_fragments SET body_text = 'x', updated_at = ? WHERE id IN (7, 99)"
    assert by(lambda: source.run(update, (LATER,))) == (0, 2, 0)
    assert by(lambda: source.add("content_fragments", {"id": 900})) == (1, 0, 0)
    assert by(lambda: source.run("DELETE FROM content_fragments WHERE id > 498")) == (0, 0, 3)
    assert by(lambda: source.run("UPDATE content_fragments SET extra = extra")) == (0, 0, 0)


# Sources of other shapes


def plain_key_source(path: Path, key: str = "id INT") -> SourceFile:
    return SourceFile.make(path, CONTENT_DDL.replace("id INTEGER NOT NULL PRIMARY KEY", key))


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
    sql = "SELECT handle FROM migration.quarantine"
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
    assert query(target_url, "SELECT handle FROM migration.quarantine") == [("2",)]
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
    assert query(target_url, "SELECT handle FROM migration.quarantine") == [("2",)]


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


# The live file


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_the_live_file_is_neither_written_nor_locked(
    source: SourceFile, target_url: str, mode: str, journal: str
) -> None:
    source.add_family(contents=2)
    source.run(f"PRAGMA journal_mode = {journal}")
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET updated_at = ?", (LATER,))
    source.run("UPDATE rankings SET rank_score = 9, updated_at = ?", (LATER,))
    before = source.path.read_bytes(), source.path.stat().st_mtime_ns
    sync(source, target_url)
    assert (source.path.read_bytes(), source.path.stat().st_mtime_ns) == before
    with closing(sqlite3.connect(source.path, timeout=0)) as connection, connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("DELETE FROM rankings WHERE id = 1")
    sync(source, target_url)
    assert_sides_agree(source, target_url)


def test_a_writer_goes_on_while_its_file_is_pinned_and_is_followed_by_the_next_sync(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.run("PRAGMA journal_mode = wal")
    source.add_family(contents=2)
    with closing(sqlite3.connect(source.path, timeout=0)) as writer:
        begin(source, target_url, mode)
        with writer:
            writer.execute("UPDATE learning_content SET title = 'a', updated_at = ?", (LATER,))
        with syncing(source, target_url) as syncer:
            with writer:
                writer.execute("UPDATE learning_content SET title = 'b', updated_at = ?", (LATEST,))
                writer.execute("DELETE FROM rankings WHERE id = 1")
            for table in TABLES:
                syncer.move(table)
                with writer:
                    writer.execute("INSERT INTO rankings (assessed_by) VALUES ('somchai')")
        titles = "SELECT DISTINCT title FROM learning_content"
        assert query(target_url, titles) == [("a",)]
        assert query(target_url, "SELECT count(*) FROM rankings") == [(8,)]
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE learning_content SET title = 'c', updated_at = ?", (OLDER,))
        sync(source, target_url)
        assert query(target_url, titles) == [("b",)]
        assert query(target_url, "SELECT count(*) FROM rankings") == [(11,)]
        writer.commit()
        sync(source, target_url)
        assert query(target_url, titles) == [("c",)]
        assert_sides_agree(source, target_url)


def test_an_open_transaction_without_wal_is_not_seen(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    with closing(sqlite3.connect(source.path, timeout=0)) as writer:
        writer.execute("UPDATE learning_content SET title = 'a', updated_at = ?", (LATER,))
        assert did(sync(source, target_url)) == {}
        writer.commit()
    assert did(sync(source, target_url)) == {"learning_content": (2, 0, 0)}
    assert_sides_agree(source, target_url)


def test_a_file_that_has_not_been_written_since_is_not_read(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    age(source.path)
    begin(source, target_url, mode)
    if mode == "tracked":
        age(source.path)
        move_all(source.path, target_url)
    moves = sync(source, target_url)
    assert {name: move.source_rows for name, move in moves.items()} == dict.fromkeys(NAMES, 0)
    found = [check for move in moves.values() for check in move.checks]
    assert {check.name for check in found if not check.passed} == {"drift"}
    assert [move.target_rows for move in moves.values()] == [2, 4, 4, 8]


def test_two_writes_within_the_grain_of_the_clock_are_both_seen(
    source: SourceFile, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_SETTLED_SECONDS", 600.0)
    source.add("learning_content", {"id": 1})
    begin(source, target_url, "dates")
    moment = source.path.stat().st_mtime_ns
    for number in range(2, 6):
        source.run(
            "UPDATE learning_content SET title = ?, updated_at = ?",
            (str(number), f"2025-09-0{number}"),
        )
        os.utime(source.path, ns=(moment, moment))
        assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert snapshot.seen_of(source.path) is None


def test_a_table_can_be_moved_again_within_one_run(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET updated_at = ?", (LATER,))
    with syncing(source, target_url) as syncer:
        assert syncer.move(TABLES[0]).written_rows == 2
        assert syncer.move(TABLES[0]).written_rows == 0


def test_a_table_can_be_moved_within_one_run_after_it_failed(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET updated_at = ?", (LATER,))
    query(
        target_url, "ALTER TABLE learning_content ADD CHECK (updated_at < '2025-08-31') NOT VALID"
    )
    query(
        target_url,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
    )
    query(
        target_url, "ALTER TABLE learning_content DROP CONSTRAINT learning_content_updated_at_check"
    )
    query(
        target_url,
        "CREATE TRIGGER no BEFORE UPDATE ON learning_content FOR EACH ROW EXECUTE FUNCTION no()",
    )
    with syncing(source, target_url) as syncer:
        with pytest.raises(PipelineError):
            syncer.move(TABLES[0])
        query(target_url, "DROP TRIGGER no ON learning_content")
        assert syncer.move(TABLES[0]).written_rows == 2


# Many small histories


@pytest.mark.parametrize("seed", range(6))
def test_any_history_of_writes_is_followed(
    source: SourceFile, target_url: str, mode: str, seed: int
) -> None:
    import random

    chance = random.Random(seed)
    source.add_family(contents=3)
    begin(source, target_url, mode)
    clock = 0
    for _ in range(5):
        with closing(sqlite3.connect(source.path)) as connection, connection:
            for _ in range(chance.randrange(1, 7)):
                clock += 1
                table = chance.choice(NAMES)
                date = (
                    f"20{chance.choice('12')}{clock % 10}-01-01 00:00:{clock % 60:02d}.{clock:06d}"
                )
                moment, key = CHANGED_BY[table], chance.randrange(1, 14)
                match chance.randrange(5):
                    case 0:
                        connection.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
                    case 1 if PARENTS[table]:
                        column = chance.choice(list(PARENTS[table]))
                        connection.execute(
                            f"UPDATE {table} SET {column} = ?, {moment} = ? WHERE id = ?",
                            (chance.randrange(1, 9), date, key),
                        )
                    case 2:
                        broken = {"rankings": "rank_score"}.get(table, moment)
                        value = chance.choice(["rubbish", 99, None])
                        connection.execute(
                            f"UPDATE {table} SET {moment} = ?, {broken} = ? WHERE id = ?",
                            (date, value, key),
                        )
                    case _:
                        connection.execute(
                            f"INSERT OR IGNORE INTO {table} SELECT {key},"
                            f" {', '.join(columns_of(connection, table))} FROM {table} LIMIT 1"
                        )
                        connection.execute(
                            f"UPDATE {table} SET {moment} = ? WHERE id = ?", (date, key)
                        )
        sync(source, target_url)
        assert_sides_agree(source, target_url)
        assert did(sync(source, target_url)) == {}
    found = whole(source.path, target_url)
    assert did(found) == {}


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"]


def test_every_table_of_the_project_is_known_to_these_tests() -> None:
    assert list(PARENTS) == NAMES
    assert isinstance(TABLES[0], sa.Table)


def test_a_kept_row_stays_kept_while_the_source_goes_on_elsewhere(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2})
    begin(source, target_url, mode)
    theirs = "UPDATE learning_content SET title = 'theirs', updated_at = %s WHERE id = 1"
    query(target_url, theirs, (LATER,))
    update = "UPDATE learning_content SET title = ?, updated_at = ? WHERE id = ?"
    source.run(update, ("ours", "2025-08-20 00:00:00", 1))
    for title, date in (("a", LATEST), ("b", "2026-01-02 00:00:00")):
        source.run(update, (title, date, 2))
        moves = sync(source, target_url)
        assert check(moves["learning_content"], "conflicts").figures == {"rows": 1, "kept": 1}
        titles = query(target_url, "SELECT title FROM learning_content ORDER BY id")
        assert titles == [("theirs",), (title,)]
    source.run(update, ("ours again", "2026-01-03 00:00:00", 1))
    assert check(sync(source, target_url)["learning_content"], "conflicts").passed
    titles = query(target_url, "SELECT title FROM learning_content ORDER BY id")
    assert titles == [("ours again",), ("b",)]
    assert query(target_url, "SELECT * FROM migration.conflicts") == []


def test_a_kept_row_is_not_forgotten_when_only_rejected_rows_are_tried_again(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add("learning_content", {"id": 1})
    age(source.path)
    begin(source, target_url, mode)
    query(target_url, "UPDATE learning_content SET title = 'theirs', updated_at = %s", (LATER,))
    source.run("UPDATE learning_content SET title = 'ours', updated_at = '2025-08-20 00:00:00'")
    age(source.path)
    sync(source, target_url)
    noted = query(target_url, "SELECT source_key, column_name FROM migration.conflicts ORDER BY 2")
    assert noted == [("1", "title"), ("1", "updated_at")]
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(target_url, shown="the target") as target,
        pinned(source.path, Path(folder), tables=TABLES, busy_seconds=2) as live,
    ):
        syncer = Syncer(live, target, run_id="again", delete_share=1, retry_rejected=True)
        for at, table in enumerate(TABLES):
            syncer.move(table, upcoming=TABLES[at + 1 :])
    sql = "SELECT source_key, column_name FROM migration.conflicts ORDER BY 2"
    assert query(target_url, sql) == noted


def test_a_file_that_stays_the_same_is_not_written_again(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=1)
    source.run("UPDATE fragment_assets SET asset_data = randomblob(4000000) WHERE id = 1")
    begin(source, target_url, mode)
    before = query(target_url, "SELECT pg_current_wal_lsn()")
    source.run("UPDATE fragment_assets SET created_at = ? WHERE id = 1", (LATER,))
    assert did(sync(source, target_url)) == {"fragment_assets": (1, 0, 0)}
    ((written,),) = query(target_url, "SELECT pg_current_wal_lsn() - %s::pg_lsn", before[0])
    assert written < 1_000_000
    assert_sides_agree(source, target_url)
