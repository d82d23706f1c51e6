"""What a person decides holds in the move, in its proof, in a later check, and for every value."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.config import settings
from pipeline.core.errors import LossyConversion, SettingsError, SourceError
from pipeline.core.findings import (
    Drift,
    Lossy,
    Quarantined,
    RowExtra,
    Unaccounted,
    ValueDiffers,
)
from pipeline.core.policies import DEFAULT, Policies
from pipeline.mapping.casts.types import cast_for
from pipeline.migrations.content import CONTENT as LEARNING
from pipeline.migrations.content import metadata
from pipeline.move.reading.prepare import prepare
from pipeline.move.run.transaction import MoveResult
from pipeline_tests.support.commands import command, usable
from pipeline_tests.support.plans import found_by, moved, planned
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query, reasons
from pipeline_tests.support.verification import broken, findings, opened, standing

TABLES = metadata.sorted_tables
CONTENT = TABLES[:1]


@pytest.fixture(autouse=True)
def _no_policies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NAIVE_ZONE", "FORBIDDEN_NULLS", "EXTRA_COLUMNS", "LOSSY_CONVERSIONS"):
        monkeypatch.delenv(f"POLICY_{name}", raising=False)


def move_content(source: SourceFile, url: str, folder: Path, policies: Policies) -> MoveResult:
    """Move the table learning_content alone."""
    return moved(source, url, tables=CONTENT, policies=policies)["learning_content"]


def check_content(
    source: SourceFile, url: str, folder: Path, policies: Policies = DEFAULT
) -> set[str]:
    """Names of the standing checks of learning_content that fail."""
    copy = opened(source.path, folder)
    return broken(standing(url, copy, "learning_content", policies=policies))


def column_of(url: str, column: str, table: str = "learning_content") -> dict[int, Any]:
    return dict(query(url, f'SELECT id, "{column}" FROM {table}'))


def originals(url: str) -> set[tuple[str, ...]]:
    """Table, key, column, storage class and value of every original in the ledger."""
    sql = "SELECT table_name, source_key, column_name, storage, original FROM migration.conversions"
    return set(query(url, sql))


# The zone of dates that name none.


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _add_dates(source: SourceFile, *texts: str | None) -> None:
    rows = [{"id": at, "created_at": text} for at, text in enumerate(texts, start=1)]
    source.add("learning_content", *rows)


def test_naive_dates_are_of_the_zone_and_others_are_not(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    _add_dates(
        source,
        "2025-08-06 03:07:13.716509",
        "2025-08-06",
        "2025-08-06T03:07:13Z",
        "2025-08-06 03:07:13+02:00",
        None,
        "2025-08-06 03:07:13.1234567",
        "2025-08-06 03:07:13.9999999+07:00",
    )
    bangkok = Policies(naive_zone="Asia/Bangkok")
    move = move_content(source, target_url, tmp_path, bangkok)
    assert move.quarantined_rows == 0
    assert column_of(target_url, "created_at") == {
        1: _utc("2025-08-05 20:07:13.716509"),
        2: _utc("2025-08-05 17:00:00"),
        3: _utc("2025-08-06 03:07:13"),
        4: _utc("2025-08-06 01:07:13"),
        5: None,
        6: _utc("2025-08-05 20:07:13.123457"),
        7: _utc("2025-08-05 20:07:14"),
    }
    assert {key: original for _, key, _, _, original in originals(target_url)} == {
        "6": "2025-08-06 03:07:13.1234567",
        "7": "2025-08-06 03:07:13.9999999+07:00",
    }
    assert move_content(source, target_url, tmp_path, bangkok).strategy == "unchanged"
    assert check_content(source, target_url, tmp_path, bangkok) == set()
    found = standing(target_url, opened(source.path, tmp_path), "learning_content")
    assert broken(found) == {"digests"}
    wrong = [f for f in findings(found) if isinstance(f, ValueDiffers)]
    assert {f.key for f in wrong if f.column == "created_at"} == {1, 2, 6}


def test_an_hour_that_is_not_there_or_there_twice_goes_to_quarantine(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    _add_dates(
        source,
        "2025-03-30 01:59:59.999999",
        "2025-03-30 02:00:00",
        "2025-03-30 02:59:59.999999",
        "2025-03-30 03:00:00",
        "2025-10-26 01:59:59",
        "2025-10-26 02:00:00",
        "2025-10-26 02:59:59.9999999",
        "2025-10-26 03:00:00",
        "2025-10-26 02:30:00+02:00",
        "2025-03-30 02:30:00Z",
        "2025-03-30",
        "2025-03-30 01:59:59.9999999",
    )
    berlin = Policies(naive_zone="Europe/Berlin")
    (plan,) = planned(source, target_url, tmp_path, tables=CONTENT, policies=berlin).values()
    move = move_content(source, target_url, tmp_path, berlin)
    assert set(plan.rejections) == set(found_by(move, Quarantined))
    wrong = {"2", "3", "6", "7"}
    assert reasons(target_url, "learning_content") == {key: {"conversion"} for key in wrong}
    for found in found_by(move, Quarantined):
        assert found.column == "created_at"
        assert "Europe/Berlin" in found.reason
    assert column_of(target_url, "created_at") == {
        1: _utc("2025-03-30 00:59:59.999999"),
        4: _utc("2025-03-30 01:00:00"),
        5: _utc("2025-10-25 23:59:59"),
        8: _utc("2025-10-26 02:00:00"),
        9: _utc("2025-10-26 00:30:00"),
        10: _utc("2025-03-30 02:30:00"),
        11: _utc("2025-03-29 23:00:00"),
        12: _utc("2025-03-30 01:00:00"),
    }
    assert check_content(source, target_url, tmp_path, berlin) == set()
    move_content(source, target_url, tmp_path, Policies(naive_zone="Asia/Bangkok"))
    assert reasons(target_url, "learning_content") == {}


_BEFORE_2038 = st.datetimes(datetime(1, 1, 3), datetime(2037, 12, 30))
_AFTER_2037 = st.datetimes(datetime(2038, 1, 1), datetime(9999, 12, 30))
_ZONES = st.sampled_from(
    [
        *("Asia/Bangkok", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"),
        *("Africa/Casablanca", "Europe/Dublin", "America/Sao_Paulo", "Pacific/Apia", "Etc/GMT+5"),
    ]
)
_MOMENT = sa.Column("at", sa.DateTime(timezone=True))


def _converted(text: str, zone: str) -> datetime | None:
    """The instant, None where the zone has no such hour or has it twice."""
    try:
        found = cast_for(_MOMENT, naive_zone=zone).convert(pa.array([text])).values
    except pa.ArrowInvalid:
        return None
    microseconds = found.cast(pa.int64())[0].as_py()
    return datetime(1970, 1, 1) + timedelta(microseconds=microseconds)


def _meant(naive: datetime, zone: str) -> datetime | None:
    """The same, as Python's own reading of the zones has it."""
    here, later = (naive.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    offset = here.utcoffset()
    assert offset is not None
    return naive - offset if offset == later.utcoffset() else None


@given(naive=_BEFORE_2038, zone=_ZONES)
def test_an_instant_is_what_the_zone_makes_of_it(naive: datetime, zone: str) -> None:
    assert _converted(naive.isoformat(" "), zone) == _meant(naive, zone)


@given(naive=_AFTER_2037, zone=_ZONES)
def test_an_instant_after_2037_is_what_the_zone_makes_of_it(naive: datetime, zone: str) -> None:
    assert _converted(naive.isoformat(" "), zone) == _meant(naive, zone)


def test_summer_time_goes_on_after_2037(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    _add_dates(source, "2037-07-01 12:00:00", "2040-07-01 12:00:00")
    move_content(source, target_url, tmp_path, Policies(naive_zone="Europe/Berlin"))
    sql = "SELECT id, to_char(created_at AT TIME ZONE 'Europe/Berlin', 'HH24:MI') FROM"
    assert query(target_url, f"{sql} learning_content ORDER BY 1") == [(1, "12:00"), (2, "12:00")]


def test_a_zone_that_cannot_be_used_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = "2025-01-15 12:00:00"
    for zone in (zone for zone in available_timezones() if _converted(noon, zone) is None):
        monkeypatch.setenv("POLICY_NAIVE_ZONE", zone)
        with pytest.raises(SettingsError):
            settings.load()


# What stands for a NULL that the target forbids.

_ALLOWS_NULL = CONTENT_DDL.replace(" NOT NULL,", ",")
_FILLS: Mapping[str, Any] = {
    "learning_content.native_text": "",
    "content_fragments.native_text": "(none)",
    "fragment_assets.asset_data": "",
    "rankings.assessed_by": "unknown",
}


@pytest.fixture
def with_nulls(tmp_path: Path) -> SourceFile:
    """Rows with NULLs that the target forbids."""
    source = SourceFile.make(tmp_path / "nulls.db", _ALLOWS_NULL)
    source.add_family(contents=1)
    source.run("UPDATE learning_content SET native_text = NULL")
    source.run("UPDATE content_fragments SET native_text = NULL WHERE id = 2")
    source.run("UPDATE fragment_assets SET asset_data = NULL WHERE id = 2")
    source.run("UPDATE rankings SET assessed_by = NULL WHERE id IN (2, 3)")
    return source


def test_a_forbidden_null_gets_its_value_and_is_kept_in_the_ledger(
    with_nulls: SourceFile, target_url: str, tmp_path: Path
) -> None:
    policies = Policies(forbidden_nulls=_FILLS)
    moves = moved(with_nulls, target_url, policies=policies)
    assert {move.quarantined_rows for move in moves.values()} == {0}
    assert column_of(target_url, "native_text") == {1: ""}
    assert column_of(target_url, "native_text", "content_fragments")[2] == "(none)"
    assert bytes(column_of(target_url, "asset_data", "fragment_assets")[2]) == b""
    assert column_of(target_url, "assessed_by", "rankings") == {
        1: "somchai",
        2: "unknown",
        3: "unknown",
        4: "somchai",
    }
    assert originals(target_url) == {
        ("learning_content", "1", "native_text", "null", None),
        ("content_fragments", "2", "native_text", "null", None),
        ("fragment_assets", "2", "asset_data", "null", None),
        ("rankings", "2", "assessed_by", "null", None),
        ("rankings", "3", "assessed_by", "null", None),
    }
    lossy = found_by(moves["rankings"], Lossy)
    assert lossy == [
        Lossy(
            "rankings",
            "assessed_by",
            2,
            (("2", None, "unknown"), ("3", None, "unknown")),  # type: ignore[arg-type]
        )
    ]
    again = moved(with_nulls, target_url, policies=policies)
    assert {move.strategy for move in again.values()} == {"unchanged"}
    copy = opened(with_nulls.path, tmp_path)
    for table in TABLES:
        assert broken(standing(target_url, copy, table, policies=policies)) == set()
    found = standing(target_url, copy, "rankings")
    assert broken(found) == {"digests"}
    assert ValueDiffers("rankings", 2, "assessed_by", None, "unknown") in findings(found)


def test_without_a_value_the_row_goes_to_quarantine_and_with_another_it_is_rewritten(
    with_nulls: SourceFile, target_url: str, tmp_path: Path
) -> None:
    only = {"learning_content.native_text": "a", "content_fragments.native_text": "b"}
    moved(with_nulls, target_url, policies=Policies(forbidden_nulls=only))
    assert reasons(target_url, "rankings") == {"2": {"null"}, "3": {"null"}, "4": {"held"}}
    more = only | {"content_fragments.native_text": "c", "fragment_assets.asset_data": "x"}
    policies = Policies(forbidden_nulls=more | {"rankings.assessed_by": "?"})
    moves = moved(with_nulls, target_url, policies=policies)
    assert {name: move.strategy for name, move in moves.items()} == {
        "learning_content": "unchanged",
        "content_fragments": "merged",
        "fragment_assets": "merged",
        "rankings": "merged",
    }
    assert reasons(target_url, "rankings") == {}
    kept = dict(query(target_url, "SELECT column_name, kept_as FROM migration.conversions"))
    assert {kept["native_text"], kept["assessed_by"]} <= {"a", "c", "?"}
    moved(with_nulls, target_url)
    assert reasons(target_url, "learning_content") == {"1": {"null"}}
    assert originals(target_url) == set()


def test_a_row_with_another_fault_stays_whole_in_quarantine(
    with_nulls: SourceFile, target_url: str, tmp_path: Path
) -> None:
    with_nulls.run("UPDATE rankings SET rank_score = 9 WHERE id = 2")
    moved(with_nulls, target_url, policies=Policies(forbidden_nulls=_FILLS))
    assert reasons(target_url, "rankings") == {"2": {"check"}}
    kept = query(
        target_url,
        "SELECT storage, value FROM migration.quarantine_values WHERE column_name = 'assessed_by'",
    )
    assert kept == [("null", None)]


@pytest.mark.parametrize("lossy", ["quarantine", "fail"])
def test_what_stands_for_a_null_is_no_lossy_conversion_that_a_policy_forbids(
    with_nulls: SourceFile, target_url: str, tmp_path: Path, lossy: Any
) -> None:
    policies = Policies(forbidden_nulls=_FILLS, lossy_conversions=lossy)
    moves = moved(with_nulls, target_url, policies=policies)
    assert {move.quarantined_rows for move in moves.values()} == {0}
    assert len(originals(target_url)) == 5


def test_a_value_that_breaks_a_check_sends_its_row_to_quarantine(
    with_nulls: SourceFile, target_url: str, tmp_path: Path
) -> None:
    with_nulls.run("UPDATE fragment_assets SET asset_type = NULL WHERE id = 1")
    policies = Policies(forbidden_nulls={**_FILLS, "fragment_assets.asset_type": "document"})
    moves = moved(with_nulls, target_url, policies=policies)
    (found,) = found_by(moves["fragment_assets"], Quarantined)
    assert (found.rows, found.examples) == (1, ("1",))
    assert "fragment_assets_asset_type_check" in found.reason or found.column == "asset_type"
    assert column_of(target_url, "asset_type", "fragment_assets") == {2: "audio"}


# A table with a column of each type, none of which may be NULL.

_OTHER = sa.MetaData(naming_convention=metadata.naming_convention)
THINGS = sa.Table(
    "things",
    _OTHER,
    sa.Column("id", sa.Integer, primary_key=True),
    *(
        sa.Column(name, kind, nullable=False)
        for name, kind in {
            "number": sa.Integer(),
            "score": sa.Numeric(3, 2),
            "label": sa.String(5),
            "note": sa.Text(),
            "doc": JSONB(),
            "at": sa.DateTime(timezone=True),
            "data": sa.LargeBinary(),
        }.items()
    ),
)
_THINGS_DDL = (
    "CREATE TABLE things (id INTEGER PRIMARY KEY, number INTEGER, score FLOAT, label VARCHAR(5),"
    " note TEXT, doc JSON, at DATETIME, data BLOB);"
    "INSERT INTO things (id) VALUES (1);"
    "INSERT INTO things VALUES (2, 7, 1.5, 'a', 'b', '{\"spaced\":1}', '2025-08-06', x'01');"
)
_THINGS: dict[str, Any] = {
    "things.number": -1,
    "things.score": 0,
    "things.label": "?",
    "things.note": "",
    "things.doc": "{}",
    "things.at": "1970-01-01",
    "things.data": "none",
}


@pytest.fixture
def things(tmp_path: Path) -> SourceFile:
    """A row of NULLs and a sound one."""
    return SourceFile.make(tmp_path / "things.db", _THINGS_DDL)


def move_things(
    things: SourceFile, url: str, folder: Path, fills: Mapping[str, Any] = _THINGS
) -> MoveResult:
    policies = Policies(naive_zone="Asia/Bangkok", forbidden_nulls=fills)
    return moved(things, url, tables=[THINGS], policies=policies)["things"]


def test_a_null_of_every_type_gets_its_value(
    things: SourceFile, target_url: str, tmp_path: Path
) -> None:
    move = move_things(things, target_url, tmp_path)
    assert (move.moved_rows, move.quarantined_rows) == (2, 0)
    (row,) = query(target_url, "SELECT t.*::text FROM things AS t WHERE id = 1")
    assert row == ('(1,-1,0.00,?,"",{},"1969-12-31 17:00:00+00","\\\\x6e6f6e65")',)
    assert move_things(things, target_url, tmp_path).strategy == "unchanged"


def test_the_null_of_every_type_is_kept_in_the_ledger(
    things: SourceFile, target_url: str, tmp_path: Path
) -> None:
    expected = {("things", "1", name.split(".")[1], "null", None) for name in _THINGS}
    for _ in ("filled", "unchanged"):
        move_things(things, target_url, tmp_path)
        assert originals(target_url) == expected


WRONG_VALUES: dict[str, tuple[str, Any]] = {
    "a text for a number": ("number", "many"),
    "a fraction for an integer": ("number", 1.5),
    "too large for an integer": ("number", 2**40),
    "too large for anything": ("number", 2**70),
    "too large for a numeric": ("score", 10),
    "a number for a text": ("note", 5),
    "too long for a varchar": ("label", "too long"),
    "a NUL in a text": ("note", "a\0b"),
    "half a character": ("note", "\ud800"),
    "no JSON": ("doc", "{bad"),
    "an empty text for JSON": ("doc", ""),
    "no date": ("at", "next tuesday"),
    "a number for bytes": ("data", 5),
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_a_value_that_its_column_cannot_take_is_one_sentence(
    things: SourceFile, tmp_path: Path, wrong: str
) -> None:
    column, value = WRONG_VALUES[wrong]
    policies = Policies(forbidden_nulls=_THINGS | {f"things.{column}": value})
    copy = opened(things.path, tmp_path, [THINGS])
    with pytest.raises(SettingsError, match=rf"things\.{column}") as caught:
        prepare(THINGS, copy, policies)
    assert str(caught.value).endswith("Correct POLICY_FORBIDDEN_NULLS.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "rankings.rank_score",
        "rankings.no_such_column",
        "ranking.assessed_by",
        "public.rankings.assessed_by",
        "assessed_by",
    ],
)
def test_a_name_that_is_no_column_which_forbids_null_is_one_sentence(
    source: SourceFile, tmp_path: Path, name: str
) -> None:
    copy = opened(source.path, tmp_path)
    with pytest.raises(SettingsError) as caught:
        for table in TABLES:
            prepare(table, copy, Policies(forbidden_nulls={name: "x"}))
    assert str(caught.value).startswith(
        f"POLICY_FORBIDDEN_NULLS names {name}, which is not a NOT NULL column"
    )


@pytest.mark.parametrize("value", [5, 1.5, "null", '"unknown"'])
def test_a_value_for_json_is_any_json(
    things: SourceFile, target_url: str, tmp_path: Path, value: Any
) -> None:
    move_things(things, target_url, tmp_path, _THINGS | {"things.doc": value})
    kept = query(target_url, "SELECT doc::text FROM things ORDER BY id")
    assert kept == [(str(value),), ('{"spaced": 1}',)]


def test_a_value_for_null_hides_no_other_loss(
    things: SourceFile, target_url: str, tmp_path: Path
) -> None:
    things.run("UPDATE things SET doc = ? WHERE id = 2", (REPEATED["at the top"],))
    policies = Policies(forbidden_nulls=_THINGS, lossy_conversions="quarantine")
    move = moved(things, target_url, tables=[THINGS], policies=policies)["things"]
    assert (move.moved_rows, move.quarantined_rows) == (1, 1)
    assert set(reasons(target_url, "things")) == {"2"}


# Columns that only the source has.


def test_an_extra_column_is_carried_ignored_or_a_reason_to_stop(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1, "last_review_at": "2025-08-06"})
    with pytest.raises(SourceError) as caught:
        move_content(source, target_url, tmp_path, Policies(extra_columns="fail"))
    assert str(caught.value) == (
        "Table learning_content of the source has undeclared columns: last_review_at."
        " Declare them, or set POLICY_EXTRA_COLUMNS to carry or ignore."
    )
    assert query(target_url, "SELECT to_regclass('learning_content')") == [(None,)]

    ignore = Policies(extra_columns="ignore")
    move = move_content(source, target_url, tmp_path, ignore)
    drift = ("learning_content", "last_review_at")
    assert found_by(move, Drift) == [Drift(*drift, "ignored", "stays in the source")]
    columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'learning_content'::regclass"
    assert ("last_review_at",) not in query(target_url, columns)
    assert check_content(source, target_url, tmp_path, ignore) == set()

    move = move_content(source, target_url, tmp_path, DEFAULT)
    assert (move.strategy, [found.kind for found in found_by(move, Drift)]) == (
        "merged",
        ["carried"],
    )
    assert column_of(target_url, "last_review_at") == {1: _utc("2025-08-06")}
    assert check_content(source, target_url, tmp_path) == set()

    source.run("UPDATE learning_content SET last_review_at = '2025-08-07'")
    source.add("learning_content", {"id": 2, "last_review_at": "2025-08-08"})
    assert move_content(source, target_url, tmp_path, ignore).written_rows == 1
    assert column_of(target_url, "last_review_at") == {1: _utc("2025-08-06"), 2: None}
    assert check_content(source, target_url, tmp_path, ignore) == set()
    assert check_content(source, target_url, tmp_path) == {"digests"}

    move_content(source, target_url, tmp_path, DEFAULT)
    assert column_of(target_url, "last_review_at") == {
        1: _utc("2025-08-07"),
        2: _utc("2025-08-08"),
    }


def test_a_check_under_ignore_of_what_moved_under_carry_passes(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2, "title": "x" * 201})
    move_content(source, target_url, tmp_path, DEFAULT)
    ignore = Policies(extra_columns="ignore")
    assert check_content(source, target_url, tmp_path, ignore) == set()


def test_an_ignored_column_can_hold_what_no_cast_takes(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1, "last_review_at": "next tuesday"})
    ignore = Policies(extra_columns="ignore")
    move = move_content(source, target_url, tmp_path, ignore)
    assert (move.quarantined_rows, move.moved_rows) == (0, 1)


def test_without_extra_columns_nothing_fails(tmp_path: Path, target_url: str) -> None:
    ddl = CONTENT_DDL.replace(", last_review_at DATETIME", "")
    source = SourceFile.make(tmp_path / "plain.db", ddl)
    assert moved(source, target_url, policies=Policies(extra_columns="fail"))


def test_a_check_under_carry_of_what_moved_under_ignore_names_the_column(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1})
    move_content(source, target_url, tmp_path, Policies(extra_columns="ignore"))
    found = standing(target_url, opened(source.path, tmp_path), "learning_content")
    assert "schema" in broken(found)


# Conversions that cannot be undone.


def _add_lossy(source: SourceFile) -> None:
    source.add(
        "learning_content",
        {"id": 1},
        {"id": 2, "created_at": "2025-08-06 03:07:13.1234567"},
        {"id": 3, "tags": '{"a": 1, "a": 2}'},
        {"id": 4, "created_at": "2025-08-06 03:07:13.1230000", "tags": '[{"a": 1}, {"a": 1}]'},
    )
    source.add("content_fragments", {"id": 1}, {"id": 2, "learning_content_id": 3})
    source.add(
        "rankings",
        {"id": 1, "rank_score": 3.14159},
        {"id": 2, "rank_score": 4.99},
        {"id": 3, "fragment_id": 2},
        {"id": 4, "rank_score": None},
    )


_KEPT = {
    ("learning_content", "2", "created_at", "text", "2025-08-06 03:07:13.1234567"),
    ("learning_content", "3", "tags", "text", '{"a": 1, "a": 2}'),
    ("rankings", "1", "rank_score", "real", "3.14159"),
}


def test_a_lossy_row_is_kept_set_aside_and_taken_back(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    _add_lossy(source)
    aside = Policies(lossy_conversions="quarantine")
    moves = moved(source, target_url, policies=aside)
    assert [move.quarantined_rows for move in moves.values()] == [2, 1, 0, 2]
    assert reasons(target_url, "learning_content") == {"2": {"lossy"}, "3": {"lossy"}}
    assert reasons(target_url, "rankings") == {"1": {"lossy"}, "3": {"held"}}
    assert originals(target_url) == set()
    copy = opened(source.path, tmp_path)
    for table in TABLES:
        assert broken(standing(target_url, copy, table, policies=aside)) == set()

    moves = moved(source, target_url)
    assert [move.quarantined_rows for move in moves.values()] == [0, 0, 0, 0]
    assert originals(target_url) == _KEPT
    found = standing(target_url, copy, "rankings", policies=aside)
    assert broken(found) == {"conservation", "keys"}
    assert Unaccounted("rankings", "1") in findings(found)
    assert RowExtra("rankings", 1) in findings(found)

    moves = moved(source, target_url, policies=aside)
    assert [move.quarantined_rows for move in moves.values()] == [2, 1, 0, 2]
    assert originals(target_url) == set()


@pytest.mark.parametrize("already", [False, True], ids=["filling", "merging"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE learning_content SET created_at = '2025-08-06 03:07:13.1234567'", "created_at"),
        ("""UPDATE learning_content SET tags = '{"a": 1, "a": 2}'""", "tags"),
    ],
    ids=["seven digits of a second", "a name of JSON twice"],
)
def test_a_lossy_value_stops_the_move_and_nothing_changes(
    source: SourceFile, target_url: str, tmp_path: Path, already: bool, change: str, named: str
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2, "title": "x" * 201})
    never = Policies(lossy_conversions="fail")
    everything = "SELECT t.*::text FROM learning_content AS t ORDER BY 1"
    if already:
        move_content(source, target_url, tmp_path, never)
        before = query(target_url, everything)
    source.add("learning_content", {"id": 3})
    source.run(f"{change} WHERE id = 1")
    with pytest.raises(LossyConversion) as caught:
        move_content(source, target_url, tmp_path, never)
    assert str(caught.value).startswith(f"learning_content 1: {named} ")
    assert str(caught.value).endswith(
        "Nothing of learning_content was changed. Correct the value in the source, or set"
        " POLICY_LOSSY_CONVERSIONS to keep or quarantine."
    )
    if already:
        assert query(target_url, everything) == before
        assert set(reasons(target_url, "learning_content")) == {"2"}
    else:
        assert query(target_url, "SELECT to_regclass('learning_content')") == [(None,)]


def test_a_rank_that_would_be_rounded_stops_its_table_alone(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    source.run("UPDATE rankings SET rank_score = 3.14159 WHERE id = 1")
    with pytest.raises(LossyConversion, match="rankings 1: rank_score "):
        moved(source, target_url, policies=Policies(lossy_conversions="fail"))
    rows = "SELECT (SELECT count(*) FROM fragment_assets), to_regclass('rankings')"
    assert query(target_url, rows) == [(2, None)]


def test_a_row_that_is_rejected_anyway_loses_nothing_and_stops_nothing(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add(
        "learning_content", {"id": 1}, {"id": 2, "tags": '{"a": 1, "a": 2}', "title": "x" * 201}
    )
    move = move_content(source, target_url, tmp_path, Policies(lossy_conversions="fail"))
    assert (move.moved_rows, move.quarantined_rows) == (1, 1)


@pytest.mark.parametrize("lossy", ["keep", "quarantine", "fail"])
def test_a_table_without_a_clean_row_moves_under_every_policy(
    source: SourceFile, target_url: str, tmp_path: Path, lossy: Any
) -> None:
    source.add("learning_content", {"id": 1, "title": "x" * 201})
    policies = Policies(lossy_conversions=lossy)
    (plan,) = planned(source, target_url, tmp_path, tables=CONTENT, policies=policies).values()
    move = move_content(source, target_url, tmp_path, policies)
    assert (move.moved_rows, move.quarantined_rows, plan.rejected_rows) == (0, 1, 1)
    assert check_content(source, target_url, tmp_path, policies) == set()


REPEATED = {
    "at the top": '{"a": 1, "a": 2}',
    "the same value": '{"a": 1, "a": 1}',
    "written with an escape": '{"a": 1, "\\u0061": 2}',
    "within a list": '[1, {"b": {"a": 1, "a": 2}}]',
    "an empty name": '{"": 1, "": 2}',
    "deep down": "[" * 1500 + '{"a": 1, "a": 2}' + "]" * 1500,
}
ONCE = ['{"a": {"b": 1}, "c": {"b": 1}}', '[{"a": 1}, {"a": 1}]', '{"1": 1, "01": 2}']


def test_a_json_name_that_is_said_twice_is_seen_under_every_policy(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", *({"tags": text} for text in (*REPEATED.values(), *ONCE)))
    where = dict(enumerate((*REPEATED, *ONCE), start=1))
    move_content(source, target_url, tmp_path, DEFAULT)
    assert {where[int(key)] for _, key, *_ in originals(target_url)} == set(REPEATED)
    move_content(source, target_url, tmp_path, Policies(lossy_conversions="quarantine"))
    aside = reasons(target_url, "learning_content")
    assert {where[int(key)] for key in aside} == set(REPEATED)
    assert originals(target_url) == set()


# Settings and the command.


def test_policies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().policies(LEARNING) == DEFAULT
    fills = {"rankings.assessed_by": "ไม่รู้", "a.b": 1, "c.d": 1.5}
    monkeypatch.setenv("POLICY_NAIVE_ZONE", "Asia/Bangkok")
    monkeypatch.setenv("POLICY_FORBIDDEN_NULLS", json.dumps(fills))
    monkeypatch.setenv("POLICY_EXTRA_COLUMNS", "ignore")
    monkeypatch.setenv("POLICY_LOSSY_CONVERSIONS", "fail")
    found = settings.load().policies(LEARNING)
    assert found == Policies("Asia/Bangkok", fills, "ignore", "fail")
    assert [type(value) for value in found.forbidden_nulls.values()] == [str, int, float]


@pytest.mark.parametrize("value", ["strict", '{"naive_zone": "Mars/Base"}'])
def test_a_variable_of_somebody_else_is_no_policy(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("POLICY", value)
    assert settings.load().policies(LEARNING) == DEFAULT


BAD_SETTINGS = [
    ("POLICY_NAIVE_ZONE", "Mars/Base"),
    ("POLICY_NAIVE_ZONE", "+07:00"),
    ("POLICY_NAIVE_ZONE", ""),
    ("POLICY_FORBIDDEN_NULLS", "{bad"),
    ("POLICY_FORBIDDEN_NULLS", "rankings.assessed_by=x"),
    ("POLICY_FORBIDDEN_NULLS", '["rankings.assessed_by"]'),
    ("POLICY_FORBIDDEN_NULLS", '{"rankings.assessed_by": null}'),
    ("POLICY_FORBIDDEN_NULLS", '{"rankings.assessed_by": ["x"]}'),
    ("POLICY_EXTRA_COLUMNS", "drop"),
    ("POLICY_LOSSY_CONVERSIONS", "never"),
    ("VERIFY_MIB", "0"),
    ("VERIFY_MIB", "inf"),
    ("VERIFY_SEED", "seven"),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_a_bad_setting_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    said = str(caught.value)
    assert said.startswith(f"{name} cannot be used")
    assert "\n" not in said
    assert said.endswith("Correct it in the environment or .env.")


@pytest.mark.parametrize(("name", "value"), [BAD_SETTINGS[0], BAD_SETTINGS[3]])
def test_the_command_exits_with_two_on_a_bad_setting(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    ran = command(monkeypatch, capfd, "migrate", **{name: value})
    assert (ran.code, ran.out) == (2, "")
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith(f"{name} cannot be used")


def test_the_command_moves_under_the_policies_of_its_environment(
    with_nulls: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with_nulls.run("UPDATE rankings SET rank_score = 3.14159 WHERE id = 1")
    decided = {
        "POLICY_NAIVE_ZONE": "Asia/Bangkok",
        "POLICY_FORBIDDEN_NULLS": json.dumps(dict(_FILLS)),
        "POLICY_EXTRA_COLUMNS": "ignore",
        "POLICY_LOSSY_CONVERSIONS": "fail",
    }
    named = usable(with_nulls, target_url, tmp_path)
    ran = command(monkeypatch, capfd, "migrate", **named, **decided)
    (row,) = query(target_url, "SELECT native_text, created_at FROM learning_content")
    assert row == ("", _utc("2025-08-05 20:07:13.716509"))
    assert ran.row("fragment_assets", "conversions") == ["warning", "values 1"]
    assert ran.code == 1
    assert ran.err.startswith("rankings 1: rank_score would lose what cannot be undone.")
    assert query(target_url, "SELECT to_regclass('rankings')") == [(None,)]
