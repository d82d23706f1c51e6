"""Attacks on the cut-over and the way back: lost writes, half-done steps, a wrong yes."""

import os
import signal
import sqlite3
from collections.abc import Callable

import pytest

from pipeline.cutover import freezing, replay, steps
from pipeline.move.errors import PipelineError
from pipeline.move.mover import Mover
from pipeline.move.policies import Policies
from pipeline_tests.cutover_world import World, content, equal
from pipeline_tests.support import query


@pytest.fixture
def world(shadow: World) -> World:
    return shadow


# The source is not left frozen


def test_a_connection_that_is_cut_while_it_is_frozen_leaves_the_source_writable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(site: steps.Site) -> int:
        pid = site.target.value("SELECT pg_backend_pid()")
        query(world.url, "SELECT pg_terminate_backend(%s)", (pid,))
        return int(site.target.value("SELECT 1"))

    with monkeypatch.context() as patch:
        patch.setattr(steps, "_catch_up", cut)
        with pytest.raises(PipelineError, match="the connection was cut"):
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
    move = Mover.move

    def written(self: Mover, *arguments: object, **more: object) -> object:
        moved = move(self, *arguments, **more)  # type: ignore[arg-type]
        if moved.table == "rankings" and moved.way == "filled":
            query(world.url, "UPDATE rankings SET rank_score = 1 WHERE id = 1")
        return moved

    monkeypatch.setattr(Mover, "move", written)
    outcome = world.live()
    assert (
        outcome.open,
        query(world.url, "SELECT rank_score::text FROM rankings WHERE id = 1"),
    ) in (
        (True, [("4.50",)]),
        (False, [("1.00",)]),
    )


def test_what_was_written_to_a_source_that_is_not_frozen_is_not_overwritten(live: World) -> None:
    freezing.thaw(live.source.path)
    live.source.run("UPDATE rankings SET rank_score = 2.5 WHERE id = 1")
    live.do("UPDATE rankings SET assessed_by = 'pg' WHERE id = 1")
    with pytest.raises(PipelineError, match="not frozen"):
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
    with pytest.raises(PipelineError, match="columns or policies of learning_content are others"):
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
        "ALTER TABLE rankings ALTER COLUMN id TYPE bigint",
        "ALTER TABLE rankings ALTER COLUMN rank_score TYPE double precision",
        "ALTER TABLE rankings RENAME COLUMN assessed_by TO judge",
        "ALTER TABLE rankings RENAME TO ratings",
        "DROP TABLE rankings",
        "ALTER TABLE learning_content ALTER COLUMN created_at TYPE timestamp",
        "ALTER TABLE fragment_assets ALTER COLUMN asset_metadata TYPE text",
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


# Kills


def killed(act: Callable[[], object], *, at: tuple[object, str], after: bool = False) -> None:
    """Do something in a process that is killed before (or after) it calls a function."""
    module, name = at
    pid = os.fork()
    if pid == 0:
        whole = getattr(module, name)

        def last(*arguments: object, **more: object) -> None:
            if after:
                whole(*arguments, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, last)
        try:
            act()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
