"""Attacks on the cut-over and the way back: lost writes, half-done steps, a wrong yes."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.policies import Policies
from pipeline.cutover import freezing, replay, rollback, states, steps, write_back
from pipeline.mapping.matching import SourceColumn, match
from pipeline.move.ledger import overrides
from pipeline.move.run.mover import FullMover
from pipeline.postgres.driver import locks
from pipeline.postgres.target import Target
from pipeline.sqlite import snapshot
from pipeline_tests.support.cutover_world import TABLES, World, content, equal
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query


@pytest.fixture
def world(shadow: World) -> World:
    return shadow


# The source is not left frozen


def test_a_connection_that_is_cut_while_it_is_frozen_leaves_the_source_writable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(site: steps.CutoverContext) -> int:
        pid = site.target.value("SELECT pg_backend_pid()")
        query(world.url, "SELECT pg_terminate_backend(%s)", (pid,))
        return int(site.target.value("SELECT 1"))

    with monkeypatch.context() as patch:
        patch.setattr(steps, "_catch_up", cut)
        with pytest.raises(PipelineError, match="the connection to the server was lost"):
            world.live()
    world.source.run("UPDATE rankings SET rank_score = 1.5 WHERE id = 1")
    assert world.live().state == "live"
    assert query(world.url, "SELECT rank_score::text FROM rankings WHERE id = 1") == [("1.50",)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT OR IGNORE INTO rankings (id, assessed_by) VALUES (99, 'x')",
        "UPDATE OR IGNORE rankings SET rank_score = 1",
        "INSERT INTO rankings (id) VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO rankings (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET rank_score = 1",
    ],
)
def test_no_write_of_a_frozen_table_is_swallowed(live: World, sql: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="this table has moved"):
        live.source.run(sql)


# What was written unseen


@pytest.mark.parametrize(
    "off",
    [
        "DROP TRIGGER pipeline_notes_update ON rankings",
        "ALTER TABLE rankings DISABLE TRIGGER ALL",
        "ALTER TABLE rankings ENABLE REPLICA TRIGGER pipeline_notes_update",
    ],
)
def test_what_was_written_while_the_capture_was_off_comes_back_too(live: World, off: str) -> None:
    live.do(off)
    live.do("UPDATE rankings SET rank_score = 1.25 WHERE id = 2")
    live.rollback()
    assert live.source.run("SELECT rank_score FROM rankings WHERE id = 2") == [(1.25,)]
    equal(live)


def test_a_table_that_was_made_just_now_is_compared_again_once_it_is_watched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = FullMover.move

    def written(self: FullMover, *arguments: object, **more: object) -> object:
        moved = move(self, *arguments, **more)  # type: ignore[arg-type]
        if moved.table == "rankings" and moved.strategy == "filled":
            query(world.url, "UPDATE rankings SET rank_score = 1 WHERE id = 1")
        return moved

    monkeypatch.setattr(FullMover, "move", written)
    outcome = world.live()
    assert (
        outcome.open,
        query(world.url, "SELECT rank_score::text FROM rankings WHERE id = 1"),
    ) in (
        (True, [("4.50",)]),
        (False, [("1.00",)]),
    )


def test_what_was_written_to_a_source_that_is_not_frozen_is_not_overwritten(live: World) -> None:
    freezing.unfreeze(live.source.path)
    live.source.run("UPDATE rankings SET rank_score = 2.5 WHERE id = 1")
    live.do("UPDATE rankings SET assessed_by = 'pg' WHERE id = 1")
    with pytest.raises(PipelineError, match="no longer frozen"):
        live.rollback()
    assert live.state == "live"
    assert live.source.run("SELECT rank_score FROM rankings WHERE id = 1") == [(2.5,)]


# What nobody wrote


def test_a_zone_that_was_changed_meanwhile_changes_no_date(live: World) -> None:
    before = content(live.source.path)
    live.do("UPDATE learning_content SET title = title")
    live.do("UPDATE content_fragments SET extra = 'x'")
    live.do("UPDATE fragment_assets SET created_by = 'x'")
    live.do("UPDATE rankings SET rank_score = 1")
    live.policies = Policies(naive_zone="Asia/Bangkok")
    with pytest.raises(
        PipelineError, match="columns or the policies of learning_content have changed"
    ):
        live.rollback()
    assert (live.state, content(live.source.path)) == ("live", before)


def test_originals_of_values_that_were_overwritten_are_forgotten(world: World) -> None:
    world.source.run("UPDATE rankings SET rank_score = 4.5049 WHERE id IN (1, 2, 3)")
    world.live()
    world.do("UPDATE rankings SET rank_score = 1 WHERE id = 1")
    world.do("UPDATE rankings SET assessed_by = 'x' WHERE id = 2")
    world.do("DELETE FROM rankings WHERE id = 3")
    world.rollback()
    assert query(world.url, "SELECT source_key, original FROM migration.conversions") == [
        ("2", "4.5049")
    ]
    assert world.source.run("SELECT rank_score FROM rankings WHERE id < 3 ORDER BY id") == [
        (1.0,),
        (4.5049,),
    ]


def test_policies_that_fill_ignore_and_mend_do_not_leak_into_the_source(world: World) -> None:
    world.policies = Policies(
        forbidden_nulls={"fragment_assets.asset_data": ""}, extra_columns="ignore"
    )
    world.source.run("UPDATE fragment_assets SET asset_data = NULL WHERE id < 3")
    world.source.run("UPDATE learning_content SET last_review_at = 'whenever'")
    world.live()
    world.do("UPDATE fragment_assets SET created_by = 'pg' WHERE id = 1")
    world.do("UPDATE learning_content SET title = 'pg' WHERE id = 1")
    world.rollback()
    assert world.source.run("SELECT asset_data, created_by FROM fragment_assets WHERE id < 3") == [
        (None, "pg"),
        (None, None),
    ]
    assert world.source.run("SELECT DISTINCT last_review_at FROM learning_content") == [
        ("whenever",)
    ]


# The target's schema changes while it is live


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE rankings ADD COLUMN stars integer NOT NULL DEFAULT 1",
        "ALTER TABLE learning_content ALTER COLUMN title TYPE text",
        "ALTER TABLE rankings DROP COLUMN assessment_notes",
        "ALTER TABLE rankings RENAME COLUMN assessed_by TO judge",
        "ALTER TABLE rankings RENAME TO ratings",
        "ALTER TABLE learning_content ALTER COLUMN created_at TYPE timestamp",
    ],
)
def test_a_schema_that_the_application_changed_is_told_or_comes_back(live: World, sql: str) -> None:
    live.do(sql)
    before = content(live.source.path)
    live.do("UPDATE fragment_assets SET created_by = 'pg' WHERE id = 1")
    live.do("UPDATE learning_content SET translation = 'pg' WHERE id = 1")
    try:
        live.rollback()
    except PipelineError as error:
        assert (live.state, content(live.source.path)) == ("live", before)
        assert (
            "learning_content" in str(error) or "rankings" in str(error) or "fragment" in str(error)
        )
    else:
        assert live.source.run("SELECT translation FROM learning_content WHERE id = 1") == [("pg",)]
        assert live.state == "shadow"


# Much at once


def test_values_that_are_unique_and_move_between_batches_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.source.run("CREATE UNIQUE INDEX one_title ON learning_content (title)")
    world.live()
    monkeypatch.setattr(replay, "_BATCH_ROWS", 1)
    world.delete_share = 1
    world.do("DELETE FROM learning_content WHERE id = 3")
    world.do("UPDATE learning_content SET title = 'word 3' WHERE id = 1")
    world.rollback()
    assert world.source.run("SELECT title FROM learning_content ORDER BY id") == [
        ("word 3",),
        ("word 2",),
    ]


def test_a_way_back_that_would_empty_the_source_stops(live: World) -> None:
    before = content(live.source.path)
    live.do("TRUNCATE learning_content CASCADE")
    with pytest.raises(PipelineError, match="3 of 3 rows of the source would be deleted"):
        live.rollback()
    assert (live.state, content(live.source.path)) == ("live", before)
    live.delete_share = 1
    live.rollback()
    assert live.source.run("SELECT count(*) FROM rankings") == [(0,)]


def test_while_it_is_live_the_status_tells_what_the_way_back_needs(live: World) -> None:
    live.do("UPDATE rankings SET rank_score = 1 WHERE id < 3")
    assert live.ask() == {
        "nobody writes the source": "its tables are frozen",
        "every write is captured": "2 so far",
    }
    live.do("DROP TRIGGER pipeline_notes_update ON rankings")
    freezing.unfreeze(live.source.path)
    assert live.ask() == {
        "nobody writes the source": "no: its tables can be written",
        "every write is captured": "no: writes to rankings are not captured",
    }


# Kills


def killed(world: World, act: Callable[[], object], module: object, name: str, when: str) -> None:
    """Do something in a process that is killed before or after it calls a function."""
    pid = os.fork()
    if pid == 0:
        whole = getattr(module, name)

        def last(*arguments: object, **more: object) -> None:
            if when == "after":
                whole(*arguments, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, last)
        try:
            act()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    with Target.connect(world.url, shown="the target") as target:
        while locks.holder(target.rows):
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        (freezing, "freeze", "before"),
        (freezing, "freeze", "after"),
        (steps, "_catch_up", "after"),
        (states, "change", "after"),
    ],
)
def test_a_cut_over_that_was_killed_goes_on_or_back(
    world: World, module: object, name: str, when: str
) -> None:
    killed(world, world.live, module, name, when)
    world.ask()
    if name == "freeze":
        world.unfreeze()
        assert world.state == "shadow"
        world.source.run("UPDATE rankings SET rank_score = 1.5 WHERE id = 1")
    assert world.live().state == "live"
    there = query(world.url, "SELECT rank_score::text FROM rankings WHERE id = 1")
    assert there == [("1.50" if name == "freeze" else "4.50",)]
    with pytest.raises(sqlite3.IntegrityError):
        world.source.run("UPDATE rankings SET rank_score = 2")


@pytest.mark.parametrize(
    ("module", "name", "when"),
    [
        (rollback, "replay", "after"),
        (rollback, "write_back", "before"),
        (rollback, "write_back", "after"),
        (freezing, "unfreeze", "before"),
        (freezing, "unfreeze", "after"),
    ],
)
def test_a_way_back_that_was_killed_is_done_again(
    live: World, module: object, name: str, when: str
) -> None:
    live.do("UPDATE rankings SET rank_score = 1.5 WHERE id = 1; DELETE FROM rankings WHERE id = 3")
    killed(live, live.rollback, module, name, when)
    live.ask()
    if (name, when) != ("unfreeze", "after"):
        with pytest.raises(sqlite3.IntegrityError):
            live.source.run("UPDATE rankings SET rank_score = 2")
        live.rollback()
    live.source.run("UPDATE rankings SET rank_score = 2.5 WHERE id = 2")
    assert live.source.run("SELECT id, rank_score FROM rankings WHERE id < 4") == [
        (1, 1.5),
        (2, 2.5),
    ]
    assert [moved.written_rows for moved in sync_all(live.source.path, live.url).values()] == [
        *(0, 0, 0, 1)
    ]


# Sources of other kinds

OTHERS = {
    "id INTEGER NOT NULL PRIMARY KEY, native_text": "id INT NOT NULL PRIMARY KEY, native_text",
    "rankings (id INTEGER NOT NULL PRIMARY KEY,": "rankings (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " doubled REAL AS (rank_score * 2), kept REAL AS (rank_score * 3) STORED,",
    "created_by VARCHAR(100));": "created_by VARCHAR(100)) WITHOUT ROWID;",
}


@pytest.fixture
def other(world: World, tmp_path: Path) -> World:
    """A source with a key that is no rowid, one without rowids, computed columns, and no WAL."""
    ddl = CONTENT_DDL
    for plain, odd in OTHERS.items():
        assert ddl.count(plain) == 1
        ddl = ddl.replace(plain, odd)
    world.source.path.unlink()
    world.source = SourceFile.make(world.source.path, ddl)
    world.source.add_family()
    return world


def test_tables_of_every_kind_come_back(other: World) -> None:
    other.source.add("content_fragments", {"id": 40, "native_text": "x" * 9, "extra": 5})
    other.live()
    other.do("UPDATE rankings SET rank_score = 1.25 WHERE id = 1; DELETE FROM rankings WHERE id=12")
    other.do("UPDATE fragment_assets SET id = 60, asset_data = 'x' WHERE id = 6")
    with pytest.raises(PipelineError, match=r"rankings 1, doubled: source 2\.5"):
        other.rollback()
    other.do("UPDATE rankings SET doubled = 2.5, kept = 3.75 WHERE id = 1")
    other.do(
        "SELECT setval('rankings_id_seq', 699);"
        " INSERT INTO rankings (assessed_by, doubled, kept) VALUES ('pg', 0, 0), ('gone', 0, 0)"
    )
    other.do("DELETE FROM rankings WHERE id = 701")
    other.do(
        "INSERT INTO content_fragments (id, native_text, body_text, fragment_type)"
        " VALUES (7, 'n', 'b', 't'); DELETE FROM content_fragments WHERE id = 7"
    )
    other.do("UPDATE content_fragments SET id = 80 WHERE id = 40")
    other.rollback()
    equal(other)
    assert other.source.run("SELECT doubled, kept FROM rankings WHERE id = 1") == [(2.5, 3.75)]
    other.source.run("INSERT INTO rankings (assessed_by) VALUES ('new')")
    assert other.source.run("SELECT max(id) FROM rankings") == [(702,)]


def test_a_reader_that_does_not_end_stops_neither_for_good(
    other: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(write_back, "BUSY_SECONDS", 0.2)
    freeze = freezing.freeze
    with closing(sqlite3.connect(other.source.path, isolation_level=None)) as reader:

        def while_reading(*arguments: object) -> None:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM rankings").fetchall()
            freeze(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(freezing, "freeze", while_reading)
            with pytest.raises(PipelineError, match="is locked by another program"):
                other.live()
        reader.execute("COMMIT")
        other.source.run("UPDATE rankings SET rank_score = 1.5 WHERE id = 1")
        assert other.live().state == "live"
        other.do("UPDATE rankings SET assessed_by = 'pg' WHERE id = 1")
        before = content(other.source.path)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM rankings").fetchall()
        with pytest.raises(PipelineError, match="is locked by another program"):
            other.rollback()
    assert (other.state, content(other.source.path)) == ("live", before)
    other.rollback()
    assert other.source.run("SELECT assessed_by FROM rankings WHERE id = 1") == [("pg",)]


def test_mended_values_stay_mends_and_what_was_written_over_them_comes_back(world: World) -> None:
    world.source.run("UPDATE rankings SET rank_score = 9, assessed_by = 'bad' WHERE id IN (1, 2)")
    move_all(world.source.path, world.url)
    with Target.connect(world.url, shown="the target") as target, target.transaction():
        record = {"table": "rankings", "storage": "real", "value": "4.0", "column": "rank_score"}
        name = {"column": "assessed_by", "storage": "text", "value": "good"}
        for row_id in "12":
            overrides.import_overrides(
                target, [record | {"row_id": row_id}, record | name | {"row_id": row_id}]
            )
    assert world.live().state == "live"
    world.do("UPDATE rankings SET assessed_by = 'other' WHERE id = 1")
    world.do("UPDATE rankings SET assessment_notes = 'pg' WHERE id = 2")
    world.rollback()
    assert world.source.run(
        "SELECT rank_score, assessed_by, assessment_notes FROM rankings WHERE id < 3"
    ) == [(9.0, "other", None), (9.0, "bad", "pg")]


def test_a_transaction_that_is_open_while_the_way_back_begins_comes_back_too(live: World) -> None:
    with closing(psycopg2.connect(live.url)) as application, application.cursor() as cursor:
        cursor.execute("UPDATE rankings SET rank_score = 1.5 WHERE id = 1")
        ending = threading.Timer(0.3, application.commit)
        ending.start()
        live.rollback()
        ending.join()
    assert live.source.run("SELECT rank_score FROM rankings WHERE id = 1") == [(1.5,)]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        (
            "MERGE INTO rankings USING (VALUES (1), (90)) AS v (id) ON rankings.id = v.id"
            " WHEN MATCHED THEN UPDATE SET rank_score = 1.5"
            " WHEN NOT MATCHED THEN INSERT (id, assessed_by, rank_score) VALUES (90, 'x', 1.5)",
            [(1, 1.5), (2, 4.5), (90, 1.5)],
        ),
        (
            "DELETE FROM rankings WHERE id = 2; INSERT INTO rankings (id, assessed_by, rank_score)"
            " VALUES (2, 'again', 0.5)",
            [(1, 4.5), (2, 0.5)],
        ),
        (
            "SET session_replication_role = replica;"
            " UPDATE rankings SET rank_score = 1 WHERE id = 1",
            [(1, 1.0), (2, 4.5)],
        ),
        (
            "UPDATE rankings SET id = 90 WHERE id = 1; UPDATE rankings SET id = 1 WHERE id = 2",
            [(1, 4.5), (90, 4.5)],
        ),
    ],
)
def test_rows_written_by_any_statement_come_back(
    live: World, sql: str, rows: list[tuple[int, float]]
) -> None:
    live.do(sql)
    live.rollback()
    found = live.source.run(
        "SELECT id, rank_score FROM rankings WHERE id < 3 OR id > 12 ORDER BY id"
    )
    assert found == rows
    equal(live)


def test_a_large_value_of_json_does_not_travel_with_many_others(
    live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_BATCH_BYTES", 10_000)
    live.do("UPDATE learning_content SET tags = to_jsonb(repeat('x', 9000))")
    mapping = match(TABLES[0], [SourceColumn(c.name, "") for c in TABLES[0].columns])
    with Target.connect(live.url, shown="the target") as target:
        assert list(replay._batches(target, mapping, [1, 2, 3])) == [[1], [2], [3]]


def test_a_card_whose_content_would_go_is_named_with_where_it_lives(world: World) -> None:
    world.source.run(
        "CREATE TABLE cards (id INTEGER PRIMARY KEY, content_id REFERENCES learning_content(id))"
    )
    world.source.run("INSERT INTO cards VALUES (7, 3)")
    world.live()
    world.delete_share = 1
    world.do("DELETE FROM learning_content WHERE id = 3")
    with pytest.raises(PipelineError, match=r"cards 7 would refer .* in their database"):
        world.rollback()
    world.source.run("DELETE FROM cards")
    world.rollback()
    assert world.source.run("SELECT id FROM learning_content") == [(1,), (2,)]


def test_a_failed_check_stops_a_cut_over_after_the_freeze(shadow: World) -> None:
    assert shadow.freeze().state == "frozen"
    shadow.do("ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey")
    with pytest.raises(PipelineError, match=r"rankings .*foreign_keys"):
        shadow.live()
    assert shadow.state == "shadow"
