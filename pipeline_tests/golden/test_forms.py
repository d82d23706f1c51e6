"""Moments as numbers, truth values as words, decimals as text: read, kept in step, written back."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SettingsError
from pipeline.core.policies import Policies
from pipeline.migrations.content import metadata
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.moments import add_moment, with_moments
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.spaces_world import TABLES as SPACES
from pipeline_tests.support.spaces_world import add, ddl, fill, move
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables[:1]


@dataclass(frozen=True)
class Case:
    """A form, a value of the source in it, and the moment that it is."""

    form: str
    declared: str
    value: Any
    moment: str
    later: Any
    """What a rollback writes for 2025-01-01 00:00:00.5+00, in this form."""


CASES = (
    Case("seconds", "INTEGER", 1705311000, "2024-01-15 09:30:00+00", 1735689600),
    Case("seconds", "INTEGER", -86400, "1969-12-31 00:00:00+00", 1735689600),
    Case("seconds", "REAL", 1705311000.25, "2024-01-15 09:30:00.25+00", 1735689600.0),
    Case("seconds", "TEXT", "1705311000", "2024-01-15 09:30:00+00", "1735689600"),
    Case("seconds", "", "1705311000.5", "2024-01-15 09:30:00.5+00", 1735689600),
    Case("milliseconds", "INTEGER", 1705311000123, "2024-01-15 09:30:00.123+00", 1735689600500),
    Case("milliseconds", "TIMESTAMP", 1705311000123, "2024-01-15 09:30:00.123+00", 1735689600500),
    Case(
        "milliseconds", "INTEGER", "2024-01-15T09:30:00Z", "2024-01-15 09:30:00+00", 1735689600500
    ),
    Case(
        "microseconds",
        "INTEGER",
        1705311000123456,
        "2024-01-15 09:30:00.123456+00",
        1735689600500000,
    ),
    Case("julian_days", "REAL", 2460324.8958333335, "2024-01-15 09:30:00+00", 2460676.5000057872),
    Case("julian_days", "", 2460325, "2024-01-15 12:00:00+00", 2460676.5000057872),
)


def _values(source: SourceFile, sql: str) -> list[Any]:
    return [value for (value,) in source.run(sql)]


def _stored(source: SourceFile, key: int) -> tuple[Any, str]:
    with closing(sqlite3.connect(source.path)) as file:
        sql = "SELECT created_at, typeof(created_at) FROM learning_content WHERE id = ?"
        return file.execute(sql, (key,)).fetchone()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.form} {case.declared}")
def test_a_moment_is_read_kept_in_step_and_written_back_in_its_form(
    case: Case, target_url: str, tmp_path: Path
) -> None:
    source = with_moments(tmp_path, case.declared)
    for key in (1, 2, 3):
        add_moment(source, key, case.value)
    policies = Policies(forms={"learning_content.created_at": case.form})
    moved = move_all(source.path, target_url, policies=policies, tables=TABLES)["learning_content"]
    assert (moved.moved_rows, moved.quarantined_rows) == (3, 0)
    assert _moments(target_url) == [case.moment] * 3
    add_moment(source, 4, case.value)
    synced = sync_all(source.path, target_url, policies=policies, tables=TABLES)["learning_content"]
    assert (synced.written_rows, synced.quarantined_rows) == (1, 0)
    assert _moments(target_url) == [case.moment] * 4


def _moments(url: str) -> list[str]:
    sql = "SELECT (created_at AT TIME ZONE 'UTC')::text || '+00' FROM learning_content ORDER BY id"
    return [text for (text,) in query(url, sql)]


_WRITTEN_BACK = [CASES[at] for at in (0, 3, 5, 8, 9)]


@pytest.mark.parametrize("case", _WRITTEN_BACK, ids=lambda case: f"{case.form} {case.declared}")
def test_a_rollback_writes_moments_in_the_form_that_was_there(
    case: Case, shadow: World, tmp_path: Path
) -> None:
    source = shadow.source = with_moments(tmp_path, case.declared)
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    for key in (1, 2):
        add_moment(source, key, case.value)
    before = _stored(source, 1)
    shadow.policies = Policies(forms={"learning_content.created_at": case.form})
    assert shadow.live().state == "live"
    shadow.do(
        "UPDATE learning_content SET created_at = '2025-01-01 00:00:00.5+00' WHERE id = 2;"
        " INSERT INTO learning_content (id, title, content_type, native_text, translation, ipa,"
        " created_at) VALUES (9, 'a', 'b', 'c', 'd', 'e', '2025-01-01 00:00:00.500123+00')"
    )
    shadow.rollback()
    assert _stored(source, 1) == before
    later = type(before[0])(case.later)
    finer = 123 if case.form == "microseconds" else 0
    assert _stored(source, 2) == (later, before[1])
    assert _stored(source, 9) == (later + finer if finer else later, before[1])


def _spaces(path: Path, column: str, declared: str) -> SourceFile:
    """A source whose column of truth values has another type."""
    schema = ddl().replace(f'"{column}" INTEGER', f'"{column}" {declared}')
    return fill(SourceFile.make(path / "spaces.db", schema))


@pytest.mark.parametrize("form", ["t/f", "true/false", "yes/no"])
def test_truth_values_as_words_are_read_kept_in_step_and_written_back(
    form: str, shadow: World, tmp_path: Path
) -> None:
    true, _, false = form.partition("/")
    source = shadow.source = _spaces(tmp_path, "read", "TEXT")
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    source.run("UPDATE notifications SET read = ?", (false,))
    add(source, "notifications", {"read": true.upper()}, {"read": true}, {"read": 1})
    shadow.policies = Policies(forms={"notifications.read": form})
    shadow.tables = SPACES
    move(source, shadow.url, policies=shadow.policies)
    sql = "SELECT array_agg(read ORDER BY id) FROM notifications"
    assert query(shadow.url, sql) == [([False, True, True, True],)]
    add(source, "notifications", {"read": false})
    synced = sync_all(source.path, shadow.url, policies=shadow.policies, tables=SPACES)
    assert synced["notifications"].written_rows == 1
    assert shadow.live().state == "live"
    shadow.do("UPDATE notifications SET read = NOT read WHERE id IN (1, 3)")
    shadow.rollback()
    assert _values(source, "SELECT read FROM notifications ORDER BY id") == [
        *(true, true.upper(), false, "1", false)
    ]


def test_words_of_any_script_are_read_beside_a_value_that_is_neither(
    target_url: str, tmp_path: Path
) -> None:
    source = _spaces(tmp_path, "read", "TEXT")
    source.run("UPDATE notifications SET read = 'Нет'")
    add(source, "notifications", {"read": "Да"}, {"read": "?"})
    move(source, target_url, policies=Policies(forms={"notifications.read": "Да/Нет"}))
    assert query(target_url, "SELECT array_agg(read ORDER BY id) FROM notifications") == [
        ([False, True],)
    ]
    sql = "SELECT reasons -> 0 ->> 'message' FROM migration.quarantine"
    assert query(target_url, sql) == [("is neither Да nor Нет",)]


def test_decimal_text_is_read_kept_in_step_and_written_back(shadow: World, tmp_path: Path) -> None:
    schema = CONTENT_DDL.replace("rank_score FLOAT", "rank_score TEXT")
    source = shadow.source = SourceFile.make(tmp_path / "decimal.db", schema)
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    source.add_family()
    given = ["4.5", "0.07", "3", "2.675", "4.999"]
    for number, text in enumerate(given, 20):
        source.add("rankings", {"id": number, "rank_score": text})
    source.run("DELETE FROM rankings WHERE id < 20")
    shadow.policies = Policies(forms={"rankings.rank_score": "decimal_text"})
    moved = move_all(source.path, shadow.url, policies=shadow.policies)["rankings"]
    assert moved.quarantined_rows == 0
    sql = "SELECT rank_score::text FROM rankings ORDER BY id"
    assert query(shadow.url, sql) == [("4.50",), ("0.07",), ("3.00",), ("2.68",), ("5.00",)]
    originals = "SELECT original, storage FROM migration.conversions ORDER BY source_key"
    assert query(shadow.url, originals) == [("2.675", "text"), ("4.999", "text")]
    assert shadow.live().state == "live"
    shadow.do("UPDATE rankings SET rank_score = 1.25 WHERE id = 20")
    shadow.rollback()
    assert _values(source, "SELECT rank_score FROM rankings ORDER BY id") == ["1.25", *given[1:]]


@pytest.mark.parametrize(
    ("form", "value", "reason"),
    [
        ("milliseconds", 10**17, "as milliseconds is before the year 1 or after the year 9999"),
        ("milliseconds", "soon", "is not a date"),
        ("milliseconds", b"1", "is not integer or real or text"),
        ("seconds", 9e999, "as seconds is before the year 1 or after the year 9999"),
        ("julian_days", 3e9, "as julian days is before the year 1 or after the year 9999"),
    ],
)
def test_a_value_that_is_not_of_the_form_is_rejected_with_a_reason(
    form: str, value: Any, reason: str, target_url: str, tmp_path: Path
) -> None:
    source = with_moments(tmp_path, "INTEGER")
    add_moment(source, 1, 2460324 if form == "julian_days" else 1705311000)
    add_moment(source, 2, value)
    policies = Policies(forms={"learning_content.created_at": form})
    move_all(source.path, target_url, policies=policies, tables=TABLES)
    sql = "SELECT source_key, reasons -> 0 ->> 'column', reasons -> 0 ->> 'message'"
    assert query(target_url, f"{sql} FROM migration.quarantine") == [("2", "created_at", reason)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"learning_content.title": "seconds"}, "a character varying.200., the form seconds"),
        ({"learning_content.created_at": "fortnights"}, "the form fortnights"),
        ({"learning_content.born": "seconds"}, "names learning_content.born, which is not a"),
        ({"other.created_at": "seconds"}, "names other.created_at, which is not a column"),
    ],
)
def test_a_form_that_does_not_fit_is_named(
    named: dict[str, str], message: str, source: SourceFile, target_url: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        move_all(source.path, target_url, policies=Policies(forms=named), tables=TABLES)


def test_a_rollback_rounds_nothing_that_the_application_did_not_write(
    shadow: World, tmp_path: Path
) -> None:
    source = shadow.source = with_moments(tmp_path, "REAL")
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    for key in (1, 2, 3):
        add_moment(source, key, 1705311000.25)
    shadow.policies = Policies(forms={"learning_content.created_at": "seconds"})
    assert shadow.live().state == "live"
    # The second row is written, but not its moment.
    shadow.do("UPDATE learning_content SET title = 'new' WHERE id = 2")
    shadow.do("UPDATE learning_content SET created_at = '2025-01-01 00:00:00.5+00' WHERE id = 3")
    shadow.rollback()
    sql = "SELECT created_at FROM learning_content ORDER BY id"
    assert _values(source, sql) == [1705311000.25, 1705311000.25, 1735689600.0]
