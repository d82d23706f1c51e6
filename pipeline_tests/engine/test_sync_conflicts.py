"""A row that somebody changed in the target is kept, overwritten or a reason to stop."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.core.errors import ConflictError
from pipeline.core.findings import Conflict
from pipeline.core.policies import Policies
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import (
    FIRST,
    LATER,
    LATEST,
    OLDER,
    age,
    assert_sides_agree,
    begin,
    check,
    conflicts,
    did,
    everything,
    sync,
    whole,
)
from pipeline_tests.support.targets import query


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


@pytest.mark.parametrize("strategy", ["sync", "whole"])
def test_a_file_that_the_target_changed_later_is_a_conflict(
    source: SourceFile, target_url: str, mode: str, strategy: str
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
    moves = sync(source, target_url) if strategy == "sync" else whole(source.path, target_url)
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
    sync(source, target_url, retry_rejected=True)
    sql = "SELECT source_key, column_name FROM migration.conflicts ORDER BY 2"
    assert query(target_url, sql) == noted
