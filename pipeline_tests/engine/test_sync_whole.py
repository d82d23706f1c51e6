"""What makes it necessary to look at every value, and not only at what changed."""

import shutil
from pathlib import Path

import pytest

from pipeline.core.errors import LockedError
from pipeline.core.policies import Policies
from pipeline.move.engine import ChangesUnknown
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import (
    LATER,
    LATEST,
    TABLES,
    assert_sides_agree,
    begin,
    check,
    reason_for_a_whole_move,
    sync,
    syncing,
)
from pipeline_tests.support.targets import query


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
    assert "change log" in str(reason_for_a_whole_move(source.path, target_url))
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
    assert "change log" in str(reason_for_a_whole_move(source.path, target_url))
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


def test_a_whole_move_is_needed_when_more_rows_changed_than_fit_into_memory(
    source: SourceFile, target_url: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=2)
    begin(source, target_url, mode)
    source.run("UPDATE rankings SET updated_at = ?", (LATER,))
    monkeypatch.setattr("pipeline.move.run.sync.MANY_ROWS", 8)
    with syncing(source, target_url):
        pass
    monkeypatch.setattr("pipeline.move.run.sync.MANY_ROWS", 7)
    with pytest.raises(ChangesUnknown) as caught, syncing(source, target_url):
        pass
    assert caught.value.why == "more than 7 rows of rankings may have changed"


def test_a_ledger_that_was_set_back_while_the_connection_was_lost_stops_the_run(
    source: SourceFile, target_url: str
) -> None:
    source.add_family()
    tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    query(target_url, "CREATE TABLE kept AS TABLE migration.watermarks")
    source.run("UPDATE rankings SET assessed_by = 'a' WHERE id = 1")
    sync(source, target_url)
    source.run("UPDATE rankings SET assessed_by = 'b' WHERE id = 2")
    with (
        syncing(source, target_url) as engine,
        Target.connect(target_url, shown="the target") as again,
    ):
        engine.suspend()
        query(target_url, "DELETE FROM migration.watermarks")
        query(target_url, "INSERT INTO migration.watermarks SELECT * FROM kept; DROP TABLE kept")
        with pytest.raises(LockedError, match=r"record of .*rankings changed"):
            engine.resume(again)
    assert sync(source, target_url)["rankings"].checks.failed == []
