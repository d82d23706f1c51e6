"""A target that already belongs to something else is not touched, unless that is asked for."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.core.errors import ShapeError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.doctor import target as target_doctor
from pipeline.migrations.content import CONTENT, metadata
from pipeline.move.engine import Engine
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run.plan import TablePlan, plan_tables
from pipeline.move.run.scope import Everything
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all, moving
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import did
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
ADOPT = replace(DEFAULT, adopt_target=True)
HELD = "public.rankings of the target contains 2 rows that were not written by a move"


@pytest.fixture
def taken(source: SourceFile, target_url: str) -> str:
    """A target in which the application has made its tables and written rows of its own."""
    source.add("learning_content", {"id": 1})
    move_all(source.path, target_url)
    query(
        target_url,
        "TRUNCATE learning_content CASCADE; DROP SCHEMA migration CASCADE;"
        "INSERT INTO rankings (id, assessed_by) VALUES (1, 'other'), (77, 'other')",
    )
    return target_url


def rankings(url: str) -> list[tuple[object, ...]]:
    return query(url, "SELECT id, assessed_by FROM rankings ORDER BY id")


def mover(source: SourceFile, url: str, policies: Policies) -> AbstractContextManager[Engine]:
    return moving(source.path, url, Everything(), delete_share=1, policies=policies)


def plans(source: SourceFile, url: str, policies: Policies = DEFAULT) -> dict[str, TablePlan]:
    snapshot = take_snapshot(source.path, source.path.with_name("plan.db"), tables=TABLES)
    with Target.connect(url, shown="the target") as target:
        found = plan_tables(TABLES, source=SourceView(snapshot), target=target, policies=policies)
    return {plan.table: plan for plan in found}


def test_rows_that_no_move_has_put_there_stop_the_run_before_anything_is_changed(
    source: SourceFile, taken: str
) -> None:
    before = rankings(taken)
    with pytest.raises(ShapeError) as caught:
        move_all(source.path, taken, delete_share=1)
    assert caught.value.problem == HELD
    assert "ADOPT_TARGET=true" in caught.value.remedy
    assert rankings(taken) == before == [(1, "other"), (77, "other")]
    # Not even the parents, whose turn comes first, nor the ledger.
    assert query(taken, "SELECT count(*) FROM learning_content") == [(0,)]
    assert query(taken, "SELECT to_regnamespace('migration') IS NULL") == [(True,)]


def test_rows_that_come_between_the_look_and_the_move_are_seen_under_the_lock(
    source: SourceFile, taken: str
) -> None:
    query(taken, "DELETE FROM rankings")
    with mover(source, taken, DEFAULT) as moving:
        moving.move(TABLES[0])
        query(taken, "INSERT INTO rankings (id, assessed_by) VALUES (5, 'late')")
        for table in TABLES[1:3]:
            moving.move(table)
        with pytest.raises(ShapeError, match="contains 1 row that was not written by a move"):
            moving.move(TABLES[3])
    assert rankings(taken) == [(5, "late")]


def test_rows_are_made_equal_to_the_source_where_that_is_asked_for(
    source: SourceFile, taken: str
) -> None:
    with mover(source, taken, ADOPT) as moving:
        moves = {table.name: moving.move(table) for table in TABLES}
    assert moves["rankings"].deleted_rows == 2
    assert rankings(taken) == []
    # From then on they are known.
    assert did(move_all(source.path, taken)) == {}


def test_tables_that_were_moved_and_emptied_or_written_by_hand_are_known(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, "TRUNCATE learning_content CASCADE")
    query(target_url, "INSERT INTO rankings (id, assessed_by) VALUES (77, 'by hand')")
    move_all(source.path, target_url, delete_share=1)
    assert [key for key, _ in rankings(target_url)] == [1, 2, 3, 4]


@pytest.mark.parametrize("memory", ["watermarks", "evidence"])
def test_half_a_ledger_is_enough_to_know_a_table(
    memory: str, source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, f"TRUNCATE migration.{memory}")
    move_all(source.path, target_url)
    query(target_url, "TRUNCATE migration.watermarks, migration.evidence")
    with pytest.raises(ShapeError, match=r"public\.learning_content of the target contains 1 row "):
        move_all(source.path, target_url)


def test_a_plan_says_what_is_in_the_way(source: SourceFile, taken: str) -> None:
    found = plans(source, taken)
    assert (found["rankings"].obstacle or "").startswith(HELD)
    assert found["learning_content"].obstacle is None
    assert plans(source, taken, ADOPT)["rankings"].obstacle is None


def test_the_doctor_says_what_is_in_the_way(taken: str, database: URL) -> None:
    def contents(*, adopt: bool) -> tuple[str, str]:
        found = target_doctor.examine(database, tables=TABLES, bytes_needed=1, adopt=adopt)
        (diagnostic,) = [each for each in found if each.name == "contents"]
        return diagnostic.state, diagnostic.detail

    assert libpq(database) == taken
    assert contents(adopt=False) == ("error", HELD)
    assert contents(adopt=True)[0] == "ok"


def test_the_setting_is_off_and_can_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settings.load().policies(CONTENT).adopt_target
    monkeypatch.setenv("ADOPT_TARGET", "true")
    assert settings.load().policies(CONTENT).adopt_target


def test_a_copy_of_the_database_brings_its_ledger_along(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    # What a restored backup has: the rows and the ledger, in other tables than those moved into.
    query(
        target_url,
        "CREATE TABLE again AS TABLE rankings; DROP TABLE rankings;"
        "ALTER TABLE again RENAME TO rankings; ALTER TABLE rankings ALTER id SET NOT NULL",
    )
    move_all(source.path, target_url)
    assert len(rankings(target_url)) == 4
