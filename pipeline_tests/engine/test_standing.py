"""Standing checks: what is committed is held against source, ledger and declaration.

Faults are planted in one moved target, each within a transaction that is undone; changes of the
source are made in a copy of it. What the checks say is compared whole.
"""

import hashlib
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ShapeError, Transient
from pipeline.core.findings import (
    CheckResult,
    DigestDiffers,
    Drift,
    Finding,
    KeyNotEnforced,
    Lossy,
    NotComparable,
    NotConserved,
    Orphan,
    Quarantined,
    QuarantineOutdated,
    RowExtra,
    RowMissing,
    SchemaDiffers,
    SequenceBehind,
    Unaccounted,
    ValueDiffers,
)
from pipeline.migrations.content import metadata
from pipeline.move.compare import changes
from pipeline.move.ledger import overrides
from pipeline.move.proof import verification as standing_module
from pipeline.move.proof.verification import NAMES, Sample
from pipeline.move.reading import extract
from pipeline.move.reading.extract import Source
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.standings import (
    TABLES,
    Moved,
    broken,
    checked,
    findings,
    numbers,
    opened,
    standing,
    without_digests,
)
from pipeline_tests.support.targets import query


@pytest.fixture
def changed(moved: Moved, tmp_path: Path) -> Callable[..., Source]:
    """Copies of the moved source with something changed since."""

    def change(*statements: str) -> Source:
        file = SourceFile(tmp_path / f"changed {next(numbers)}.db")
        shutil.copy(moved.file.path, file.path)
        for statement in statements:
            file.run(statement)
        return opened(file.path, tmp_path)

    return change


def conservation(
    source: int, target: int, aside: int, *found: Finding, unaccounted: int = 0, outdated: int = 0
) -> CheckResult:
    figures = {
        "source_rows": source,
        "moved": target,
        "quarantined": aside,
        "unaccounted": unaccounted,
    }
    figures |= {"outdated": outdated} if outdated else {}
    return CheckResult("conservation", not found, True, found, figures)


def keys(compared: int, *found: Finding) -> CheckResult:
    extra = sum(isinstance(finding, RowExtra) for finding in found)
    figures = {"compared": compared, "missing": len(found) - extra, "extra": extra}
    return CheckResult("keys", not found, True, found, figures)


def digests(compared: int, *found: ValueDiffers) -> CheckResult:
    figures = {"values_compared": compared, "values_differing": len(found)}
    return CheckResult("digests", not found, True, found, figures)


def foreign_keys(valid: int, *found: Finding, **orphans: int) -> CheckResult:
    counted = {f"orphans by {column}": count for column, count in orphans.items()}
    return CheckResult(
        "foreign_keys", not found, True, found, {**counted, "valid constraints": valid}
    )


def sequences(upcoming: int, largest: int, *found: Finding) -> CheckResult:
    return CheckResult("sequences", not found, True, found, {"next": upcoming, "largest": largest})


def schema(declared: int, *found: Finding, more: int = 0) -> CheckResult:
    # Rights are checked on a server that has Supabase's roles, see test_access.py.
    figures = {"declared": declared, "differing": len(found), "more": more, "roles": 0}
    return CheckResult("schema", not found, True, found, figures)


def not_comparable(table: str, said: str) -> tuple[CheckResult, ...]:
    why = NotComparable(
        table,
        f"Table {table} of the target has another shape: {said}. Rename or drop that table, or"
        " point DATABASE_URL at another database.",
    )
    names = ("conservation", "keys", "digests")
    return tuple(CheckResult(name, False, True, (why,)) for name in names)


def warning(name: str, *found: Finding, **figures: int) -> CheckResult:
    return CheckResult(name, not found, False, found, figures)


_TOO_LONG = Quarantined("learning_content", "is longer than 200 characters", "title", 1, ("50",))
_TOO_GOOD = Quarantined(
    "rankings", "breaks the rule rank_score >= 0.0 AND rank_score <= 5.0", "rank_score", 1, ("50",)
)
_CARRIED = Drift(
    "learning_content",
    "last_review_at",
    "carried",
    "added to the target as timestamp with time zone",
)
_ROUNDED = Lossy("rankings", "rank_score", 1, (("51", "3.14159", "3.14"),))
SOUND: dict[str, tuple[CheckResult, ...]] = {
    "learning_content": (
        conservation(4, 3, 1),
        keys(3),
        digests(39),
        foreign_keys(0),
        sequences(51, 3),
        schema(20),
        warning("drift", _CARRIED),
        warning("quarantine", _TOO_LONG, rows=1),
        warning("conversions", values=0),
        warning("overrides", values=0, outdated=0),
    ),
    "content_fragments": (
        conservation(6, 6, 0),
        keys(6),
        digests(60),
        foreign_keys(1, learning_content_id=0),
        sequences(7, 6),
        schema(16),
        warning("drift"),
        warning("quarantine", rows=0),
        warning("conversions", values=0),
        warning("overrides", values=0, outdated=0),
    ),
    "fragment_assets": (
        conservation(6, 6, 0),
        keys(6),
        digests(42),
        foreign_keys(1, fragment_id=0),
        sequences(7, 6),
        schema(13),
        warning("drift"),
        warning("quarantine", rows=0),
        warning("conversions", values=0),
        warning("overrides", values=0, outdated=0),
    ),
    "rankings": (
        conservation(14, 13, 1),
        keys(13),
        digests(104),
        foreign_keys(2, asset_id=0, fragment_id=0),
        sequences(52, 51),
        schema(16),
        warning("drift"),
        warning("quarantine", _TOO_GOOD, rows=1),
        warning("conversions", _ROUNDED, values=1),
        warning("overrides", values=0, outdated=0),
    ),
}


@pytest.mark.parametrize("table", SOUND)
def test_a_sound_target_passes_with_these_figures(moved: Moved, table: str) -> None:
    assert tuple(without_digests(moved.sound[table]).values()) == SOUND[table]
    columns = [column.name for column in metadata.tables[table].columns]
    carried = ["last_review_at"] if table == "learning_content" else []
    assert list(moved.sound[table]["digests"].figures["digests"]) == columns + carried


def _schema_differs(
    table: str, kind: Any, name: str, declared: str | None, actual: str | None
) -> SchemaDiffers:
    return SchemaDiffers(table, kind, name, declared, actual)


_SCORE = "CHECK (rank_score >= 0.0 AND rank_score <= 5.0)"
_ASSET = "FOREIGN KEY (asset_id) REFERENCES fragment_assets(id) ON DELETE CASCADE"
_BY_ASSET = "CREATE INDEX idx_rankings_asset ON rankings USING btree (asset_id)"
_NO_ASSET_KEY = foreign_keys(
    1, KeyNotEnforced("rankings", "rankings_asset_id_fkey"), asset_id=0, fragment_id=0
)


def _asset_key(actual: str | None) -> CheckResult:
    name = "rankings_asset_id_fkey"
    return schema(16, _schema_differs("rankings", "constraint", name, _ASSET, actual))


def _asset_index(actual: str | None) -> CheckResult:
    name = "idx_rankings_asset"
    return schema(16, _schema_differs("rankings", "index", name, _BY_ASSET, actual))


def _column(table: str, declared: int, name: str, expected: str, actual: str | None) -> CheckResult:
    return schema(declared, _schema_differs(table, "column", name, expected, actual))


FAULTS: dict[str, tuple[str, str, tuple[CheckResult, ...]]] = {
    "a missing row": (
        "rankings",
        "DELETE FROM rankings WHERE id = 3",
        (
            conservation(14, 12, 1, NotConserved("rankings", 14, 12, 1)),
            keys(12, RowMissing("rankings", 3)),
            digests(96),
        ),
    ),
    "a missing last row": (
        "rankings",
        "DELETE FROM rankings WHERE id = 51",
        (
            conservation(14, 12, 1, NotConserved("rankings", 14, 12, 1)),
            keys(12, RowMissing("rankings", 51)),
            digests(96),
            sequences(52, 12),
        ),
    ),
    "an extra row": (
        "rankings",
        "INSERT INTO rankings (id, assessed_by) VALUES (30, 'x')",
        (
            conservation(14, 14, 1, NotConserved("rankings", 14, 14, 1)),
            keys(14, RowExtra("rankings", 30)),
        ),
    ),
    "extra rows at both ends": (
        "rankings",
        "INSERT INTO rankings (id, assessed_by) VALUES (-5, 'x'), (1003, 'y')",
        (
            conservation(14, 15, 1, NotConserved("rankings", 14, 15, 1)),
            keys(15, RowExtra("rankings", -5), RowExtra("rankings", 1003)),
            sequences(52, 1003, SequenceBehind("rankings", "public.rankings_id_seq", 52, 1003)),
        ),
    ),
    "a row under another id": (
        "rankings",
        "UPDATE rankings SET id = 30 WHERE id = 3",
        (keys(13, RowMissing("rankings", 3), RowExtra("rankings", 30)), digests(96)),
    ),
    "a row in quarantine and in the target": (
        "rankings",
        "INSERT INTO rankings (id, assessed_by) VALUES (50, 'somchai')",
        (
            conservation(14, 14, 1, NotConserved("rankings", 14, 14, 1)),
            keys(14, RowExtra("rankings", 50)),
        ),
    ),
    "a row that left quarantine for nowhere": (
        "learning_content",
        "DELETE FROM migration.quarantine WHERE table_name = 'learning_content'",
        (
            conservation(
                4,
                3,
                0,
                NotConserved("learning_content", 4, 3, 0),
                Unaccounted("learning_content", "50"),
                unaccounted=1,
            ),
            warning("quarantine", rows=0),
        ),
    ),
    "an orphan": (
        "rankings",
        "SET LOCAL session_replication_role = replica; DELETE FROM fragment_assets WHERE id = 2",
        (
            foreign_keys(
                2,
                Orphan("rankings", 4, "asset_id", "fragment_assets"),
                asset_id=1,
                fragment_id=0,
            ),
        ),
    ),
    "a foreign key that is gone": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey",
        (_NO_ASSET_KEY, _asset_key(None)),
    ),
    "a foreign key that was never validated": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey; ALTER TABLE rankings ADD"
        f" CONSTRAINT rankings_asset_id_fkey {_ASSET} NOT VALID",
        (_NO_ASSET_KEY, _asset_key(f"{_ASSET} NOT VALID")),
    ),
    "a foreign key that keeps children": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey; ALTER TABLE rankings ADD"
        " CONSTRAINT rankings_asset_id_fkey FOREIGN KEY (asset_id) REFERENCES fragment_assets",
        (_asset_key("FOREIGN KEY (asset_id) REFERENCES fragment_assets(id)"),),
    ),
    "a foreign key to another schema's table": (
        "rankings",
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.fragment_assets AS TABLE fragment_assets;"
        "ALTER TABLE elsewhere.fragment_assets ADD PRIMARY KEY (id);"
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey; ALTER TABLE rankings ADD"
        " CONSTRAINT rankings_asset_id_fkey FOREIGN KEY (asset_id) REFERENCES"
        " elsewhere.fragment_assets ON DELETE CASCADE",
        (_asset_key(_ASSET.replace("fragment_assets", "elsewhere.fragment_assets")),),
    ),
    "a sequence that is behind": (
        "rankings",
        "ALTER SEQUENCE rankings_id_seq RESTART WITH 51",
        (sequences(51, 51, SequenceBehind("rankings", "public.rankings_id_seq", 51, 51)),),
    ),
    "a column of another type": (
        "rankings",
        "ALTER TABLE rankings ALTER assessed_by TYPE text",
        (
            *not_comparable("rankings", "assessed_by is text instead of character varying(100)"),
            _column(
                "rankings", 16, "assessed_by", "character varying(100) NOT NULL", "text NOT NULL"
            ),
        ),
    ),
    "a column that is gone": (
        "rankings",
        "ALTER TABLE rankings DROP COLUMN assessment_notes",
        (
            *not_comparable("rankings", "assessment_notes is missing"),
            _column("rankings", 16, "assessment_notes", "text", None),
        ),
    ),
    "another default": (
        "learning_content",
        "ALTER TABLE learning_content ALTER language SET DEFAULT 'lao'",
        (
            _column(
                "learning_content",
                20,
                "language",
                "character varying(10) NOT NULL DEFAULT 'thai'::character varying",
                "character varying(10) NOT NULL DEFAULT 'lao'::character varying",
            ),
        ),
    ),
    "no default": (
        "rankings",
        "ALTER TABLE rankings ALTER id DROP DEFAULT",
        (
            _column(
                "rankings",
                16,
                "id",
                "integer NOT NULL DEFAULT nextval('rankings_id_seq'::regclass)",
                "integer NOT NULL",
            ),
        ),
    ),
    "a column that allows NULL": (
        "rankings",
        "ALTER TABLE rankings ALTER assessed_by DROP NOT NULL",
        (
            _column(
                "rankings",
                16,
                "assessed_by",
                "character varying(100) NOT NULL",
                "character varying(100)",
            ),
        ),
    ),
    "a CHECK that allows more": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_rank_score_check, ADD CONSTRAINT"
        " rankings_rank_score_check CHECK (rank_score >= 0.0 AND rank_score <= 9.0)",
        (
            schema(
                16,
                _schema_differs(
                    "rankings",
                    "constraint",
                    "rankings_rank_score_check",
                    _SCORE,
                    _SCORE.replace("5.0", "9.0"),
                ),
            ),
        ),
    ),
    "a CHECK that is gone": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_rank_score_check",
        (
            schema(
                16,
                _schema_differs(
                    "rankings",
                    "constraint",
                    "rankings_rank_score_check",
                    _SCORE,
                    None,
                ),
            ),
        ),
    ),
    "an index that is gone": (
        "rankings",
        "DROP INDEX idx_rankings_asset",
        (_asset_index(None),),
    ),
    "an index on another column": (
        "rankings",
        "DROP INDEX idx_rankings_asset; CREATE INDEX idx_rankings_asset ON rankings (fragment_id)",
        (_asset_index(_BY_ASSET.replace("asset_id", "fragment_id")),),
    ),
    "an index on a part of the rows": (
        "rankings",
        "DROP INDEX idx_rankings_asset;"
        " CREATE INDEX idx_rankings_asset ON rankings (asset_id) WHERE asset_id > 5",
        (_asset_index(f"{_BY_ASSET} WHERE asset_id > 5"),),
    ),
    "an index whose building failed": (
        "rankings",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_rankings_asset'::regclass",
        (_asset_index(f"{_BY_ASSET} NOT VALID"),),
    ),
    "no primary key": (
        "rankings",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey",
        (
            schema(
                16,
                _schema_differs(
                    "rankings", "constraint", "rankings_pkey", "PRIMARY KEY (id)", None
                ),
                _schema_differs(
                    "rankings",
                    "index",
                    "rankings_pkey",
                    "CREATE UNIQUE INDEX rankings_pkey ON rankings USING btree (id)",
                    None,
                ),
            ),
        ),
    ),
    "an index and a column that nobody declared": (
        "rankings",
        "CREATE INDEX mine ON rankings (assessed_by); ALTER TABLE rankings ADD COLUMN own text;"
        " ALTER TABLE rankings ADD CONSTRAINT mine CHECK (id > -5)",
        (schema(16, more=3),),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_target_is_found_by_these_checks_alone(moved: Moved, fault: str) -> None:
    table, planted, expected = FAULTS[fault]
    found = standing(moved.session, moved.source, table, planted=planted)
    assert without_digests(found) == moved.expected(table, *expected)


def test_a_fault_is_undone_after_looking(moved: Moved) -> None:
    planted = "DELETE FROM rankings; DROP INDEX idx_rankings_asset"
    assert broken(standing(moved.session, moved.source, "rankings", planted=planted))
    assert standing(moved.session, moved.source, "rankings") == moved.sound["rankings"]


_FILE, _SPOILED = bytes([2]) * 100, bytes([2]) * 9 + bytes([34]) + bytes([2]) * 90
VALUES: dict[str, tuple[str, str, str, str, str]] = {
    "integer": ("learning_content", "difficulty_level", "2", "1", "2"),
    "numeric": ("rankings", "rank_score", "4.51", "4.50", "4.51"),
    "text": ("learning_content", "ipa", "'kin '", "kin", "kin "),
    "varchar": ("learning_content", "title", "'Word 2'", "word 2", "Word 2"),
    "jsonb": ("learning_content", "tags", """'["food", 1]'""", '["food"]', '["food", 1]'),
    "timestamptz": (
        "learning_content",
        "created_at",
        "created_at + interval '1 microsecond'",
        "2025-08-06 03:07:13.716509+00:00",
        "2025-08-06 03:07:13.716510+00:00",
    ),
    "bytea": (
        "fragment_assets",
        "asset_data",
        "set_bit(asset_data, 77, 1)",
        hashlib.md5(_FILE).hexdigest(),
        hashlib.md5(_SPOILED).hexdigest(),
    ),
    "a carried column": (
        "learning_content",
        "last_review_at",
        "'2025-08-06Z'",
        "None",
        "2025-08-06 00:00:00+00:00",
    ),
    "a text that became empty": ("learning_content", "translation", "''", "to eat", ""),
    "a reference": ("rankings", "fragment_id", "5", "1", "5"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_changed_value_of_each_type_is_found(moved: Moved, kind: str) -> None:
    table, column, value, ours, theirs = VALUES[kind]
    planted = f"UPDATE {table} SET {column} = {value} WHERE id = 2"
    found = standing(moved.session, moved.source, table, planted=planted)
    assert broken(found) == {"digests"}
    differs, digest = found["digests"].findings
    assert isinstance(differs, ValueDiffers)
    assert isinstance(digest, DigestDiffers)
    assert (differs.table, differs.key, differs.column) == (table, 2, column)
    assert (str(differs.source), str(differs.target)) == (ours, theirs)
    sound = moved.sound[table]["digests"].figures["digests"]
    now = found["digests"].figures["digests"]
    assert (digest.column, digest.source, digest.target) == (column, sound[column], now[column])
    assert {name for name in sound if sound[name] != now[name]} == {column}
    assert found["digests"].figures["values_differing"] == 1


def test_a_digest_names_twenty_offenders_and_counts_all(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "BATCH_ROWS", 7)  # they are found in several ranges
    source.add("learning_content", *({"id": n} for n in range(1, 41)))
    move_all(source.path, target_url, tables=TABLES[:1])
    planted = "UPDATE learning_content SET ipa = 'x', title = 'y'; DELETE FROM learning_content"
    copy = opened(source.path, tmp_path)
    found = standing(target_url, copy, "learning_content", planted=f"{planted} WHERE id > 10")
    assert found["keys"].figures == {"compared": 10, "missing": 30, "extra": 0}
    assert len(found["keys"].findings) == 20
    assert found["digests"].figures["values_differing"] == 20


CHANGES: dict[str, tuple[str, str, tuple[CheckResult, ...]]] = {
    "a row was changed": (
        "rankings",
        "UPDATE rankings SET assessed_by = 'malee' WHERE id = 3",
        (digests(104, ValueDiffers("rankings", 3, "assessed_by", "malee", "somchai")),),
    ),
    "a row was deleted": (
        "rankings",
        "DELETE FROM rankings WHERE id = 3",
        (
            conservation(13, 13, 1, NotConserved("rankings", 13, 13, 1)),
            keys(13, RowExtra("rankings", 3)),
            digests(96),
        ),
    ),
    "a row was added": (
        "rankings",
        "INSERT INTO rankings (id, assessed_by) VALUES (30, 'malee')",
        (
            conservation(15, 13, 1, NotConserved("rankings", 15, 13, 1)),
            keys(13, RowMissing("rankings", 30)),
        ),
    ),
    "a row in quarantine is gone": (
        "rankings",
        "DELETE FROM rankings WHERE id = 50",
        (
            conservation(
                13,
                13,
                1,
                NotConserved("rankings", 13, 13, 1),
                QuarantineOutdated("rankings", "50"),
                outdated=1,
            ),
        ),
    ),
    "a row in quarantine is gone and another was added": (
        "rankings",
        "UPDATE rankings SET id = 30, rank_score = 1 WHERE id = 50",
        (
            conservation(14, 13, 1, QuarantineOutdated("rankings", "50"), outdated=1),
            keys(13, RowMissing("rankings", 30)),
        ),
    ),
    "a row in quarantine was mended": (
        "rankings",
        "UPDATE rankings SET rank_score = 4 WHERE id = 50",
        (conservation(14, 13, 1, QuarantineOutdated("rankings", "50"), outdated=1),),
    ),
    "a row breaks its contract now": (
        "rankings",
        "UPDATE rankings SET created_at = 'next tuesday' WHERE id = 3",
        (
            conservation(14, 13, 1, Unaccounted("rankings", "3"), unaccounted=1),
            keys(13, RowExtra("rankings", 3)),
            digests(96),
        ),
    ),
    "a row was added that breaks its contract": (
        "rankings",
        "INSERT INTO rankings (id, assessed_by) VALUES (30, x'00')",
        (
            conservation(
                15,
                13,
                1,
                NotConserved("rankings", 15, 13, 1),
                Unaccounted("rankings", "30"),
                unaccounted=1,
            ),
        ),
    ),
    "a row points to nothing": (
        "rankings",
        "UPDATE rankings SET fragment_id = 77 WHERE id = 3",
        (digests(104, ValueDiffers("rankings", 3, "fragment_id", 77, 2)),),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_in_the_source_since_the_move_is_found(
    moved: Moved, changed: Callable[..., Source], change: str
) -> None:
    table, statement, expected = CHANGES[change]
    found = standing(moved.session, changed(statement), table)
    assert without_digests(found) == moved.expected(table, *expected)


HARMLESS = {
    "JSON members in another order": (
        """content_metadata = '{"frequency" : 1}', tags = '[ "food" ]'"""
    ),
    "numbers of JSON spelled otherwise": """content_metadata = '{"frequency": 1.00}'""",
    "escaped letters of JSON": """content_metadata = '{"fr\\u0065quency": 1e0}'""",
    "equal instants in another zone": (
        "created_at = '2025-08-06T10:07:13.716509+07:00',"
        " updated_at = '2025-08-05 20:07:13.716509-07:00'"
    ),
    "digits of a second that are zero": "created_at = '2025-08-06 03:07:13.7165090000Z'",
    "a date with a time": "last_review_at = substr(last_review_at || ' 00:00:00', 1, 19)",
}


@pytest.mark.parametrize("difference", HARMLESS)
def test_what_means_the_same_is_not_reported(
    moved: Moved, changed: Callable[..., Source], difference: str
) -> None:
    spelled = f"UPDATE learning_content SET {HARMLESS[difference]} WHERE id < 50"
    found = standing(moved.session, changed(spelled), "learning_content")
    assert found == moved.sound["learning_content"]


def test_json_members_in_another_order_in_a_deep_object_are_not_reported(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1, "tags": '[{"b": [1, {"y": 1.0, "x": null}], "a": 0}]'})
    move_all(source.path, target_url, tables=TABLES[:1])
    other = '[{"a": 0e5, "b": [1.0, {"x": null, "y": 1.00}]}]'
    source.run("UPDATE learning_content SET tags = ?", (other,))
    assert not broken(standing(target_url, opened(source.path, tmp_path), "learning_content"))


def test_an_empty_table_passes_and_a_row_in_it_is_extra(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    move_all(source.path, target_url)
    copy = opened(source.path, tmp_path)
    found = standing(target_url, copy, "rankings")
    assert without_digests(found) == {
        check.name: check
        for check in (
            conservation(0, 0, 0),
            keys(0),
            digests(0),
            foreign_keys(2, asset_id=0, fragment_id=0),
            sequences(1, 0),
            schema(16),
            warning("drift"),
            warning("quarantine", rows=0),
            warning("conversions", values=0),
            warning("overrides", values=0, outdated=0),
        )
    }
    planted = "INSERT INTO rankings (assessed_by) VALUES ('x')"
    found = standing(target_url, copy, "rankings", planted=planted)
    assert broken(found) == {"conservation", "keys"}
    assert found["keys"].findings == (RowExtra("rankings", 1),)


@pytest.mark.parametrize("gone", ["TABLE rankings", "SCHEMA migration"])
def test_a_missing_table_or_ledger_is_said_in_a_sentence(moved: Moved, gone: str) -> None:
    with pytest.raises(ShapeError) as caught:
        standing(moved.session, moved.source, "rankings", planted=f"DROP {gone} CASCADE")
    said = "rankings has never been moved into the target. Move it first."
    assert str(caught.value) == said


def test_a_view_in_the_place_of_the_table_is_not_compared(moved: Moved) -> None:
    planted = "ALTER TABLE rankings RENAME TO r; CREATE VIEW rankings AS SELECT * FROM r"
    found = standing(moved.session, moved.source, "rankings", planted=planted)
    assert {"conservation", "keys", "digests", "schema"} <= broken(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_check_can_be_made_alone(moved: Moved, name: str) -> None:
    found = standing(moved.session, moved.source, "rankings", only={name})
    assert found == {name: moved.sound["rankings"][name]}


# A part of a large table, chosen by a seed.


@pytest.fixture
def in_ranges(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The rankings, cut into a range for every row."""
    monkeypatch.setattr(extract, "BATCH_BYTES", 1)
    prepared = prepare(metadata.tables["rankings"], moved.source)
    assert {part.rows for part in prepared.survey.ranges} == {1}
    return prepared


def _picked(moved: Moved, prepared: Prepared, seed: int, share: float = 0.5) -> CheckResult:
    """What is found when every value of a column is wrong: those of the sample."""
    sample = Sample(round(prepared.survey.bytes * share), seed)
    with moved.session.read_only():
        moved.session.run("UPDATE rankings SET assessed_by = 'x'")
        (found,) = checked(prepared, moved.source, moved.session, sample=sample, only={"digests"})
    return found


def _keys_of(check: CheckResult) -> set[int]:
    return {f.key for f in check.findings if isinstance(f, ValueDiffers)}


def test_the_same_seed_picks_the_same_values_and_others_pick_others(
    moved: Moved, in_ranges: Prepared
) -> None:
    picked = {}
    for seed in range(8):
        found = _picked(moved, in_ranges, seed)
        picked[seed] = frozenset(_keys_of(found))
        assert (found.figures["seed"], found.figures["of_rows"]) == (seed, 14)
        # A row in quarantine can be in the sample, and differs from nothing.
        assert found.figures["sampled_rows"] - len(picked[seed]) in (0, 1)
        assert 6 <= found.figures["sampled_rows"] <= 9
    assert _picked(moved, in_ranges, 0) == _picked(moved, in_ranges, 0)
    assert len(set(picked.values())) == len(picked)
    assert frozenset().union(*picked.values()) == {*range(1, 13), 51}


def test_keys_outside_the_sample_are_still_compared(moved: Moved, in_ranges: Prepared) -> None:
    outside = {*range(1, 13), 51} - _keys_of(_picked(moved, in_ranges, seed=3))
    assert len(outside) >= 5
    sample = Sample(round(in_ranges.survey.bytes * 0.5), seed=3)
    for key in outside:
        with moved.session.read_only():
            moved.session.run(f"UPDATE rankings SET id = {key} + 100 WHERE id = {key}")
            found = checked(in_ranges, moved.source, moved.session, sample=sample, only={"keys"})
        wrong = (RowMissing("rankings", key), RowExtra("rankings", key + 100))
        assert set(found[0].findings) == set(wrong)


def test_a_sample_as_large_as_the_table_is_all_of_it(moved: Moved, in_ranges: Prepared) -> None:
    found = _picked(moved, in_ranges, seed=1, share=1.0)
    assert _keys_of(found) == {*range(1, 13), 51}
    assert "seed" not in found.figures


_TWICE = (
    "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey;"
    " INSERT INTO rankings SELECT * FROM rankings WHERE id IN (3, 51)"
)
FEW_ROWS: dict[str, tuple[str, set[str]]] = {
    "nothing": ("SELECT 1", set()),
    "an extra row": (
        "INSERT INTO rankings (id, assessed_by) VALUES (-1, 'x'), (30, 'x')",
        {"conservation", "keys"},
    ),
    "a missing row": ("DELETE FROM rankings WHERE id = 51", {"conservation", "keys"}),
    "ids that are there twice": (_TWICE, {"conservation", "keys", "schema"}),
    "another value": ("UPDATE rankings SET assessed_by = 'x' WHERE id = 7", {"digests"}),
}


@pytest.mark.parametrize("fault", FEW_ROWS)
def test_a_range_that_holds_far_more_in_the_target_is_compared_all_the_same(
    moved: Moved, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(changes, "_TILE_ROWS", 5)
    planted, expected = FEW_ROWS[fault]
    usual = standing(moved.session, moved.source, "rankings", planted=planted)
    monkeypatch.undo()
    assert usual == standing(moved.session, moved.source, "rankings", planted=planted)
    assert broken(usual) == expected


def test_nothing_is_written_to_the_target(moved: Moved, in_ranges: Prepared) -> None:
    before = _contents(moved.url)
    with Target.connect(moved.url, shown="the target") as target, target.read_only():
        assert len(checked(in_ranges, moved.source, target, sample=Sample(300, 1))) == len(NAMES)
        counted = target.value(
            "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_xact_all_tables"
            " WHERE schemaname IN ('public', 'migration')"
        )
        assert counted == 0
        assert target.value("SELECT count(*) FROM pg_class WHERE relpersistence = 't'") == 0
        setting = target.value("SELECT current_setting('search_path')")
    assert setting == "public, pg_temp"
    assert _contents(moved.url) == before


def _contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Rows, catalog and sequences of a target."""
    names = [*(table.name for table in TABLES), "migration.quarantine"]
    names += [f"migration.{name}" for name in ("quarantine_values", "conversions", "evidence")]
    found = {name: query(url, f"SELECT t.*::text FROM {name} AS t ORDER BY 1") for name in names}
    found["classes"] = query(url, "SELECT oid, relname, relnatts FROM pg_class ORDER BY 1")
    found["constraints"] = query(url, "SELECT oid, conname FROM pg_constraint ORDER BY 1")
    found["defaults"] = query(url, "SELECT oid, adrelid FROM pg_attrdef ORDER BY 1")
    found["next"] = query(url, "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
    return found


def test_a_user_who_may_only_read_can_check(moved: Moved) -> None:
    query(
        moved.url,
        "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public, migration TO reader;"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public, migration TO reader;"
        " GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader",
    )
    try:
        url = moved.url.replace("postgres:@", "reader:@")
        assert standing(url, moved.source, "rankings") == moved.sound["rankings"]
    finally:
        query(moved.url, "DROP OWNED BY reader; DROP ROLE reader")


# The ledger is a part of what is committed.

LEDGER = {
    "the values of a quarantined row are gone": (
        "DELETE FROM migration.quarantine_values WHERE table_name = 'rankings'"
    ),
    "a value of a quarantined row is gone": (
        "DELETE FROM migration.quarantine_values WHERE table_name = 'rankings'"
        " AND column_name = 'assessed_by'"
    ),
    "a value of a quarantined row was changed": (
        "UPDATE migration.quarantine_values SET value = 'x' WHERE table_name = 'rankings'"
        " AND column_name = 'assessed_by'"
    ),
    "the original of a lossy value is gone": "DELETE FROM migration.conversions",
    "the original of a lossy value was changed": "UPDATE migration.conversions SET original = '9'",
}


@pytest.mark.parametrize("loss", LEDGER)
def test_what_the_ledger_lost_is_found(moved: Moved, loss: str) -> None:
    assert broken(standing(moved.session, moved.source, "rankings", planted=LEDGER[loss]))


def test_originals_that_the_ledger_lost_are_all_counted(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    lossy = "2025-08-06 03:07:13.1234567"
    source.add("learning_content", *({"created_at": lossy} for _ in range(25)))
    move_all(source.path, target_url, tables=TABLES[:1])
    copy, planted = opened(source.path, tmp_path), "DELETE FROM migration.conversions"
    check = standing(target_url, copy, "learning_content", planted=planted)["digests"]
    assert len(check.findings) == 20
    assert 25 in check.figures.values()


def test_quarantine_is_not_held_in_memory_as_a_whole(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.run(
        "INSERT INTO learning_content (id, title, content_type, language, native_text, translation,"
        " ipa) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        " SELECT i, hex(randomblob(101)), 'a', 'b', 'c', 'd', 'e' FROM n"
    )
    move_all(source.path, target_url, tables=TABLES[:1])
    copy = opened(source.path, tmp_path)
    tracemalloc.start()
    try:
        found = standing(target_url, copy, "learning_content")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["quarantine"].figures == {"rows": 2000}
    assert not broken(found)
    assert peak < 8 * 2**20, peak


def test_a_mended_value_that_waits_for_its_redrive_is_no_loss(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2, "title": "x" * 201})
    move_all(source.path, target_url, tables=TABLES[:1])
    names = {"table": "learning_content", "row_id": "2", "column": "title"}
    copy = opened(source.path, tmp_path)
    with Target.connect(target_url, shown="the target") as target:
        with target.transaction():
            assert overrides.take_in(target, [names | {"storage": "text", "value": "short"}]) == 1
        overrides.apply(copy, TABLES, overrides.read(target, ["learning_content"]))
    found = standing(target_url, copy, "learning_content")
    assert found["overrides"].figures == {"values": 1, "outdated": 0}
    assert not broken(found)


def test_quarantine_is_not_read_row_by_row(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add("learning_content", *({"id": at, "title": "x" * 201} for at in range(1, 61)))
    move_all(source.path, target_url, tables=TABLES[:1])
    copy = opened(source.path, tmp_path)
    asked = []
    arrow = Target.arrow

    def counted(self: Target, sql: str, *more: Any) -> Any:
        asked.append(sql)
        return arrow(self, sql, *more)

    monkeypatch.setattr(Target, "arrow", counted)
    assert not broken(standing(target_url, copy, "learning_content"))
    assert len(asked) < 60


def test_quarantine_of_a_source_that_was_built_anew_is_no_traceback(
    tmp_path: Path, target_url: str
) -> None:
    text_key = "CREATE TABLE {} (id INTEGER NOT NULL PRIMARY KEY, title VARCHAR(200) NOT NULL,"
    table = text_key.format("learning_content")
    assert table in CONTENT_DDL
    rowless = CONTENT_DDL.replace("last_review_at DATETIME);", "last_review_at DATETIME) {};")
    old = SourceFile.make(tmp_path / "old.db", rowless.format("WITHOUT ROWID"))
    new = SourceFile.make(tmp_path / "new.db", rowless.format(""))
    for source in (old, new):
        source.add("learning_content", {"id": 1}, {"id": 2, "title": "x" * 201})
    old.run("ALTER TABLE learning_content RENAME COLUMN id TO id")
    move_all(old.path, target_url, tables=TABLES[:1])
    copy = opened(new.path, tmp_path)
    assert "keys" not in broken(standing(target_url, copy, "learning_content"))


# What makes a single check impossible must not silence the others.

UNREADABLE = {
    "an id that is there twice": (
        _TWICE,
        {"conservation", "keys", "schema"},
    ),
    "a foreign key's column that is gone": (
        "ALTER TABLE rankings DROP COLUMN fragment_id",
        {"conservation", "keys", "digests", "foreign_keys", "schema"},
    ),
    "a foreign key's column of another type": (
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey;"
        " ALTER TABLE rankings ALTER asset_id TYPE text",
        {"conservation", "keys", "digests", "foreign_keys", "schema"},
    ),
    "a parent's table that is gone": (
        "DROP TABLE fragment_assets CASCADE",
        {"foreign_keys", "schema"},
    ),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_the_other_checks_are_made_all_the_same(moved: Moved, fault: str) -> None:
    planted, expected = UNREADABLE[fault]
    found = standing(moved.session, moved.source, "rankings", planted=planted)
    assert tuple(found) == NAMES
    assert expected <= broken(found)


def test_a_column_that_the_source_has_gained_since_is_named(
    moved: Moved, changed: Callable[..., Source]
) -> None:
    wider = changed("ALTER TABLE rankings ADD COLUMN mood TEXT DEFAULT 'fine'")
    found = standing(moved.session, wider, "rankings")
    assert tuple(found) == NAMES
    assert "schema" in broken(found)
    assert _schema_differs("rankings", "column", "mood", "text", None) in findings(found)


def test_a_server_that_cannot_answer_now_is_no_fault_of_the_data(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> CheckResult:
        raise Transient("the target: a table stayed locked", remedy="Run again")

    monkeypatch.setitem(standing_module._SINGLY, "sequences", locked)
    with pytest.raises(Transient):
        standing(moved.session, moved.source, "rankings", only={"sequences"})


def test_a_row_without_an_id_is_extra(moved: Moved) -> None:
    planted = (
        "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey;"
        " ALTER TABLE rankings ALTER id DROP NOT NULL;"
        " INSERT INTO rankings (id, assessed_by) VALUES (NULL, 'x')"
    )
    found = standing(moved.session, moved.source, "rankings", planted=planted)
    assert {"conservation", "schema"} <= broken(found)


# Differences that hide from a comparison of names and texts.

HIDDEN = {
    "a sequence that nobody owns and that is behind": (
        "rankings",
        "ALTER SEQUENCE rankings_id_seq OWNED BY NONE;"
        " ALTER SEQUENCE rankings_id_seq RESTART WITH 1",
        "sequences",
    ),
    "a sequence that counts down": (
        "rankings",
        "ALTER SEQUENCE rankings_id_seq INCREMENT BY -1",
        "sequences",
    ),
    "a sequence that has reached its end": (
        "rankings",
        "ALTER SEQUENCE rankings_id_seq MAXVALUE 51",
        "sequences",
    ),
    "a default that says public.": (
        "learning_content",
        "ALTER TABLE learning_content ALTER language SET DEFAULT 'public.thai'",
        "schema",
    ),
    "another collation": (
        "rankings",
        'ALTER TABLE rankings ALTER assessed_by TYPE varchar(100) COLLATE "C"',
        "schema",
    ),
    "a NOT NULL that was never validated": (
        "rankings",
        "ALTER TABLE rankings ALTER assessed_by DROP NOT NULL;"
        " ALTER TABLE rankings ADD CONSTRAINT said NOT NULL assessed_by NOT VALID",
        "schema",
    ),
}


@pytest.mark.parametrize("fault", HIDDEN)
def test_a_fault_that_hides_is_found(moved: Moved, fault: str) -> None:
    table, planted, check = HIDDEN[fault]
    assert check in broken(standing(moved.session, moved.source, table, planted=planted))
