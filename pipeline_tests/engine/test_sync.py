"""What changed in the source arrives in the target, in both modes, and nothing else is touched."""

import os
import sqlite3
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from pipeline.core.errors import PipelineError, TooManyDeletes
from pipeline.sqlite import snapshot
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CHANGED_BY, PARENTS, SourceFile
from pipeline_tests.support.syncs import (
    FIRST,
    LATER,
    LATEST,
    NAMES,
    OLDER,
    TABLES,
    age,
    assert_sides_agree,
    begin,
    check,
    did,
    everything,
    sync,
    syncing,
    touched,
    versions,
    whole,
)
from pipeline_tests.support.targets import query, reasons

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
    assert (moves[table].strategy, did(moves)[table]) == ("synced", (2, 1, 0))
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
    before = query(target_url, "SELECT * FROM migration.quarantine ORDER BY row_id")
    assert [row[1] for row in before] == ["1", "2", "3", "4"]
    source.add("learning_content", {"id": 9})
    assert did(sync(source, target_url)) == {"learning_content": (1, 0, 0)}
    assert query(target_url, "SELECT * FROM migration.quarantine ORDER BY row_id") == before


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
    assert snapshot.fingerprint_of(source.path) is None


def test_a_table_can_be_moved_again_within_one_run(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    source.run("UPDATE learning_content SET updated_at = ?", (LATER,))
    with syncing(source, target_url) as syncer:
        assert syncer.move(TABLES[0]).written_rows == 2
        assert syncer.move(TABLES[0]).written_rows == 0


def test_the_live_file_is_let_go_after_the_last_table_although_the_run_goes_on(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    begin(source, target_url, "dates")
    write = "UPDATE learning_content SET title = 'b'"
    with (
        syncing(source, target_url) as engine,
        closing(sqlite3.connect(source.path, timeout=0, isolation_level=None)) as application,
    ):
        for table in TABLES:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                application.execute(write)
            engine.move(table)
        application.execute(write)
    assert source.run("SELECT title FROM learning_content") == [("b",)]


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


@pytest.mark.parametrize("seed", range(2))
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
