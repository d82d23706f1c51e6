"""Standing checks: what is committed is held against source, ledger and declaration.

Faults are planted in one moved target, each within a transaction that is undone; changes of the
source are made in a copy of it. What the checks say is compared whole.
"""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ShapeError, Transient
from pipeline.core.findings import (
    CheckResult,
    DigestDiffers,
    RowExtra,
    RowMissing,
    ValueDiffers,
)
from pipeline.core.policies import DEFAULT
from pipeline.migrations.content import metadata
from pipeline.move.compare import tiles
from pipeline.move.ledger import overrides
from pipeline.move.proof import verification as standing_module
from pipeline.move.proof.verification import NAMES, Sample
from pipeline.move.reading import surveys
from pipeline.move.reading.prepare import Prepared, prepare
from pipeline.move.reading.source_view import SourceView
from pipeline.postgres.findings import SchemaDiffers
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.scenarios import Scenario, scenarios
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import (
    TABLES,
    Moved,
    broken,
    checked,
    findings,
    opened,
    standing,
)


def _schema_differs(
    table: str, kind: Any, name: str, declared: str | None, actual: str | None
) -> SchemaDiffers:
    return SchemaDiffers(table, kind, name, declared, actual)


def test_a_fault_is_undone_after_looking(moved: Moved) -> None:
    planted = "DELETE FROM rankings; DROP INDEX idx_rankings_asset"
    assert broken(standing(moved.session, moved.source, "rankings", planted=planted))
    assert standing(moved.session, moved.source, "rankings") == moved.sound["rankings"]


@pytest.mark.parametrize(
    "scenario",
    [each for each in scenarios("verify_target") if each.name.startswith("another value")],
    ids=lambda each: each.name,
)
def test_the_digest_of_a_changed_column_differs_and_no_other(
    moved: Moved, scenario: Scenario
) -> None:
    found = standing(moved.session, moved.source, scenario.table, planted=scenario.sql)
    assert broken(found) == {"digests"}
    _, digest = found["digests"].findings
    assert isinstance(digest, DigestDiffers)
    intact = moved.sound[scenario.table]["digests"].figures["digests"]
    now = found["digests"].figures["digests"]
    assert (digest.source, digest.target) == (intact[digest.column], now[digest.column])
    assert {name for name in intact if intact[name] != now[name]} == {digest.column}


def test_a_digest_names_twenty_offenders_and_counts_all(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "BATCH_ROWS", 7)  # they are found in several ranges
    source.add("learning_content", *({"id": n} for n in range(1, 41)))
    move_all(source.path, target_url, tables=TABLES[:1])
    planted = "UPDATE learning_content SET ipa = 'x', title = 'y'; DELETE FROM learning_content"
    copy = opened(source.path, tmp_path)
    found = standing(target_url, copy, "learning_content", planted=f"{planted} WHERE id > 10")
    assert found["keys"].figures == {"compared": 10, "missing": 30, "extra": 0}
    assert len(found["keys"].findings) == 20
    assert found["digests"].figures["values_differing"] == 20


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
    moved: Moved, changed: Callable[..., SourceView], difference: str
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
    assert not broken(found)
    assert found["conservation"].figures["moved"] == found["keys"].figures["compared"] == 0
    assert found["sequences"].figures == {"next": 1, "largest": 0}
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
    monkeypatch.setattr(surveys, "BATCH_BYTES", 1)
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
    monkeypatch.setattr(tiles, "_TILE_ROWS", 5)
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
            assert (
                overrides.import_overrides(target, [names | {"storage": "text", "value": "short"}])
                == 1
            )
        overrides.apply(copy, TABLES, overrides.read(target, ["learning_content"]), DEFAULT)
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
    fetch = Target._fetch

    def counted(self: Target, sql: str, *more: Any, **options: Any) -> Any:
        asked.append(sql)
        return fetch(self, sql, *more, **options)

    monkeypatch.setattr(Target, "_fetch", counted)
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


def test_a_column_that_the_source_has_gained_since_is_named(
    moved: Moved, changed: Callable[..., SourceView]
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
        raise Transient("the target: another session holds a lock on a table", remedy="Run again")

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
