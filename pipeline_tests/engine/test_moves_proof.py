"""A proof that fails rolls the table back and names the offender.

The faults are planted as triggers of the target: they spoil what the load sets down, as a defect
of the load or of the way would, and the proof has to find it by reading both sides again.
"""

import hashlib
import random
import sqlite3
import string
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.core.findings import (
    CheckResult,
    DigestDiffers,
    Finding,
    NotConserved,
    Orphan,
    RowExtra,
    RowMissing,
    ValueDiffers,
)
from pipeline.mapping.matching import SourceColumn, match
from pipeline.mapping.table_mapping import TableMapping
from pipeline.migrations.content import metadata
from pipeline.move.ledger import watermarks
from pipeline.move.proof import constraints
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres import schema
from pipeline.postgres.findings import SequenceBehind
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query, reasons

TABLES = metadata.sorted_tables
BLOCKING = ["conservation", "keys", "digests", "foreign_keys", "sequences", "witness"]


def plant(url: str, table: str, body: str, *, when: str = "BEFORE INSERT") -> None:
    """Let a trigger of the target spoil rows of a table."""
    query(
        url,
        f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}"
        f" RETURN NEW; END $$; CREATE TRIGGER spoil {when} ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION spoil()",
    )


def uproot(url: str) -> None:
    query(url, "DROP FUNCTION spoil CASCADE")


def state(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables and of the ledger, and the indexes."""
    ledger = ("quarantine", "quarantine_values", "conversions", "evidence")
    names = [*(t.name for t in TABLES), *(f"migration.{name}" for name in ledger)]
    found = {name: query(url, f"SELECT t.*::text FROM {name} t ORDER BY 1") for name in names}
    found["indexes"] = query(url, "SELECT indexdef FROM pg_indexes ORDER BY 1")
    return found


def failed(checks: tuple[CheckResult, ...]) -> dict[str, list[Finding]]:
    """Findings of the blocking checks that failed, which the second witness saw, too."""
    found = {c.name: list(c.findings) for c in checks if c.blocking and not c.passed}
    witnessed = set(found.pop("witness", ()))
    assert witnessed == {
        finding
        for name in ("keys", "digests")
        for finding in found.get(name, ())
        if not isinstance(finding, DigestDiffers)
    }
    return found


def assert_proven(moves: dict[str, MoveResult]) -> None:
    for move in moves.values():
        assert [c.name for c in move.checks if c.blocking and c.passed] == BLOCKING, move.table


def assert_rolled_back(
    source: SourceFile, url: str, table: str, expected: dict[str, list[Finding]]
) -> None:
    """The move of a table fails with these findings and changes nothing; then heal and move."""
    at = [t.name for t in TABLES].index(table)
    move_all(source.path, url, tables=TABLES[:at], delete_share=1)
    before = state(url)
    with pytest.raises(ProofFailed) as caught:
        move_all(source.path, url, tables=[TABLES[at]], run_id="spoiled")
    found = failed(caught.value.checks)
    for differs in [f for f in found.get("digests", []) if isinstance(f, DigestDiffers)]:
        found["digests"].remove(differs)
        assert differs.source != differs.target
        columns = {f.column for f in found["digests"] if isinstance(f, ValueDiffers)}
        assert differs.column in columns
    assert found == expected
    assert table in str(caught.value)
    assert all(name in str(caught.value) for name in expected)
    assert str(caught.value).endswith(caught.value.remedy + ".")
    assert state(url) == before
    uproot(url)
    assert_proven(move_all(source.path, url, tables=TABLES[: at + 1], delete_share=1))


def _differs(table: str, column: str, *values: tuple[int, Any, Any]) -> dict[str, list[Finding]]:
    return {"digests": [ValueDiffers(table, key, column, a, b) for key, a, b in values]}


FILE, SPOILED = bytes([3]) * 100, bytes([3]) * 9 + bytes([35]) + bytes([3]) * 90
FAULTS: dict[str, tuple[str, str, dict[str, list[Finding]]]] = {
    "a changed text": (
        "content_fragments",
        "IF NEW.id = 3 THEN NEW.body_text := NEW.body_text || ' '; END IF;",
        _differs("content_fragments", "body_text", (3, "I eat rice", "I eat rice ")),
    ),
    "an empty text instead of NULL": (
        "content_fragments",
        "IF NEW.id = 3 THEN NEW.extra := ''; END IF;",
        _differs("content_fragments", "extra", (3, None, "")),
    ),
    "a changed number": (
        "learning_content",
        "IF NEW.id = 3 THEN NEW.difficulty_level := 2; END IF;",
        _differs("learning_content", "difficulty_level", (3, 1, 2)),
    ),
    "a changed JSON": (
        "learning_content",
        "IF NEW.id = 3 THEN NEW.tags := '[]'; END IF;",
        _differs("learning_content", "tags", (3, '["food"]', "[]")),
    ),
    "two values that changed places": (
        "learning_content",
        "IF NEW.id < 3 THEN NEW.title := 'word ' || (3 - NEW.id); END IF;",
        _differs("learning_content", "title", (1, "word 1", "word 2"), (2, "word 2", "word 1")),
    ),
    "one bit of one file": (
        "fragment_assets",
        "IF NEW.id = 3 THEN NEW.asset_data := set_bit(NEW.asset_data, 77, 1); END IF;",
        _differs(
            "fragment_assets",
            "asset_data",
            (3, hashlib.md5(FILE).hexdigest(), hashlib.md5(SPOILED).hexdigest()),
        ),
    ),
    "a row that got lost": (
        "rankings",
        "IF NEW.id = 3 THEN RETURN NULL; END IF;",
        {
            "conservation": [NotConserved("rankings", 12, 11, 0)],
            "keys": [RowMissing("rankings", 3)],
        },
    ),
    "a row that came twice": (
        "rankings",
        "IF NEW.id = 3 THEN INSERT INTO rankings (id, assessed_by) VALUES (1003, 'x'); END IF;",
        {
            "conservation": [NotConserved("rankings", 12, 13, 0)],
            "keys": [RowExtra("rankings", 1003)],
        },
    ),
    "a row under another id": (
        "rankings",
        "IF NEW.id = 3 THEN NEW.id := 1003; END IF;",
        {"keys": [RowMissing("rankings", 3), RowExtra("rankings", 1003)]},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_filling_is_found_and_rolled_back(
    source: SourceFile, target_url: str, fault: str
) -> None:
    table, body, expected = FAULTS[fault]
    assert_proven(move_all(source.path, target_url))
    source.add_family(contents=3)
    plant(target_url, table, body)
    assert_rolled_back(source, target_url, table, expected)


MERGE_FAULTS: dict[str, tuple[str, str, dict[str, list[Finding]]]] = {
    "a changed value": (
        "BEFORE INSERT",
        "NEW.assessed_by := 'nobody';",
        _differs("rankings", "assessed_by", (3, "somchai", "nobody")),
    ),
    "an update that did not happen": (
        "BEFORE UPDATE",
        "RETURN NULL;",
        _differs("rankings", "assessment_notes", (3, "new", None)),
    ),
    "a moment that a trigger of the user sets": (
        "BEFORE UPDATE",
        "NEW.assessment_notes := 'by trigger';",
        _differs("rankings", "assessment_notes", (3, "new", "by trigger")),
    ),
    "a neighbour that went away": (
        "AFTER UPDATE",
        "DELETE FROM rankings WHERE id = 5;",
        {
            "conservation": [NotConserved("rankings", 12, 11, 0)],
            "keys": [RowMissing("rankings", 5)],
        },
    ),
}


@pytest.mark.parametrize("fault", MERGE_FAULTS)
def test_a_fault_of_the_merging_is_found_and_rolled_back(
    source: SourceFile, target_url: str, fault: str
) -> None:
    when, body, expected = MERGE_FAULTS[fault]
    source.add_family(contents=3)
    move_all(source.path, target_url)
    source.run("UPDATE rankings SET assessment_notes = 'new' WHERE id = 3")
    plant(target_url, "rankings", body, when=when)
    assert_rolled_back(source, target_url, "rankings", expected)


def test_a_parent_that_goes_away_during_the_move_is_found(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    source.run("UPDATE content_fragments SET extra = 'new' WHERE id = 6")
    plant(
        target_url,
        "content_fragments",
        "PERFORM set_config('session_replication_role', 'replica', true);"
        " DELETE FROM learning_content WHERE id = 1;"
        " PERFORM set_config('session_replication_role', 'origin', true);",
        when="AFTER UPDATE",
    )
    lonely = [
        Orphan("content_fragments", key, "learning_content_id", "learning_content")
        for key in (1, 2)
    ]
    assert_rolled_back(source, target_url, "content_fragments", {"foreign_keys": [*lonely]})


def test_a_sequence_that_falls_behind_during_the_move_is_found(
    source: SourceFile, target_url: str
) -> None:
    move_all(source.path, target_url)
    source.add_family(contents=3)
    source.run("UPDATE rankings SET rank_score = 9 WHERE id = 3")
    plant(
        target_url,
        "migration.quarantine",
        "PERFORM setval('rankings_id_seq', 5);",
        when="AFTER INSERT",
    )
    behind = SequenceBehind("rankings", "public.rankings_id_seq", 6, 12)
    assert_rolled_back(source, target_url, "rankings", {"sequences": [behind]})


# The two checks that ask the target alone, on a target that was spoiled by hand.


def _mapping(table: sa.Table) -> TableMapping:
    return match(table, [SourceColumn(column.name, "") for column in table.columns])


def _checked(
    url: str, check: Callable[[Target, TableMapping], CheckResult], table: str
) -> CheckResult:
    with Target.connect(url, shown="the target") as target:
        return check(target, _mapping(metadata.tables[table]))


def test_foreign_keys_are_checked_row_by_row(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    assert _checked(target_url, constraints.foreign_keys, "rankings").passed
    query(
        target_url,
        "SET session_replication_role = replica; DELETE FROM fragment_assets WHERE id = 2;"
        " DELETE FROM content_fragments WHERE id = 6",
    )
    found = _checked(target_url, constraints.foreign_keys, "rankings")
    assert not found.passed
    assert found.findings == (
        Orphan("rankings", 4, "asset_id", "fragment_assets"),
        Orphan("rankings", 11, "fragment_id", "content_fragments"),
        Orphan("rankings", 12, "fragment_id", "content_fragments"),
    )
    assert found.figures["orphans by fragment_id"] == 2


@pytest.mark.parametrize("valid", [True, False], ids=["missing", "not valid"])
def test_a_foreign_key_that_is_not_enforced_fails_its_check(
    source: SourceFile, target_url: str, valid: bool
) -> None:
    source.add_family(contents=1)
    move_all(source.path, target_url)
    query(target_url, "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey")
    if not valid:
        query(
            target_url,
            "ALTER TABLE rankings ADD CONSTRAINT rankings_asset_id_fkey"
            " FOREIGN KEY (asset_id) REFERENCES fragment_assets NOT VALID",
        )
    assert not _checked(target_url, constraints.foreign_keys, "rankings").passed


@pytest.mark.parametrize(("at", "called", "upcoming"), [(1, False, 1), (11, True, 12)])
def test_a_sequence_behind_the_largest_id_fails_its_check(
    source: SourceFile, target_url: str, at: int, called: bool, upcoming: int
) -> None:
    source.add_family(contents=3)
    move_all(source.path, target_url)
    assert _checked(target_url, constraints.sequences, "rankings").passed
    query(target_url, "SELECT setval('rankings_id_seq', %s, %s)", (at, called))
    found = _checked(target_url, constraints.sequences, "rankings")
    assert not found.passed
    behind = SequenceBehind("rankings", "public.rankings_id_seq", upcoming, 12)
    assert found.findings == (behind,)
    assert move_all(source.path, target_url)["rankings"].strategy == "unchanged"
    assert _checked(target_url, constraints.sequences, "rankings").passed


def test_ids_in_quarantine_are_not_given_out_again(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 1}, {"id": 70, "title": "x" * 201})
    assert_proven(move_all(source.path, target_url))
    assert query(target_url, "SELECT nextval('learning_content_id_seq')") == [(71,)]


def test_an_id_that_no_integer_holds_is_quarantined(source: SourceFile, target_url: str) -> None:
    source.add("learning_content", {"id": 1}, {"id": 2**31})
    moves = move_all(source.path, target_url)
    assert_proven(moves)
    assert reasons(target_url, "learning_content") == {str(2**31): {"range"}}


# What only PostgreSQL can know of a row is found by cutting batches in halves.


def _fragments(source: SourceFile, texts: dict[int, str], *, rows: int = 3000) -> None:
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.executemany(
            "INSERT OR REPLACE INTO content_fragments (id, native_text, body_text, fragment_type,"
            " learning_content_id) VALUES (?, ?, 'b', 't', 1)",
            [(key, texts.get(key, f"text {key}")) for key in range(1, rows + 1)],
        )


def _random_text(letters: int) -> str:
    return "".join(random.Random(7).choices(string.ascii_letters, k=letters))


@pytest.mark.parametrize("merging", [False, True], ids=["filling", "merging"])
def test_a_text_too_long_for_its_index_is_quarantined_alone(
    source: SourceFile, target_url: str, merging: bool
) -> None:
    source.add("learning_content", {"id": 1})
    if merging:
        _fragments(source, {})
        move_all(source.path, target_url)
    _fragments(source, {1234: _random_text(100_000), 99: "ก" * 30_000, 100: _random_text(2600)})
    moves = move_all(source.path, target_url)
    assert_proven(moves)
    assert reasons(target_url, "content_fragments") == {"1234": {"refused"}}
    assert moves["content_fragments"].moved_rows == 2999
    sql = "SELECT id, length(native_text) FROM content_fragments WHERE id IN (99, 100, 1234)"
    assert query(target_url, sql + " ORDER BY 1") == [(99, 30_000), (100, 2600)]
    sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_fragment_text'::regclass"
    assert query(target_url, sql) == [(True,)]


@pytest.mark.parametrize("merging", [False, True], ids=["filling", "merging"])
@pytest.mark.parametrize(
    ("text", "code"),
    [('{"a": "\\u0000"}', "json"), ('["\\ud800"]', "refused"), ("[1e999999]", "refused")],
)
def test_a_row_that_only_postgresql_refuses_is_quarantined_alone(
    source: SourceFile, target_url: str, merging: bool, text: str, code: str
) -> None:
    source.add("learning_content", {"id": 1})
    _fragments(source, {})
    if merging:
        move_all(source.path, target_url)
    source.run("UPDATE content_fragments SET fragment_metadata = ? WHERE id = 2222", (text,))
    source.add("fragment_assets", {"id": 5, "fragment_id": 2222})
    moves = move_all(source.path, target_url)
    assert_proven(moves)
    assert reasons(target_url, "content_fragments") == {"2222": {code}}
    assert reasons(target_url, "fragment_assets") == {"5": {"held"}}
    assert moves["content_fragments"].moved_rows == 2999


def test_json_of_great_depth_moves(source: SourceFile, target_url: str) -> None:
    deep = "[" * 900 + '{"a": 1, "a": 2}' + "]" * 900
    deeper = "[" * 1500 + '{"a": 1, "a": 2}' + "]" * 1500
    source.add("learning_content", {"id": 1, "tags": deep}, {"id": 2, "tags": deeper})
    assert_proven(move_all(source.path, target_url))
    sql = "SELECT source_key FROM migration.conversions UNION SELECT source_key FROM"
    assert query(target_url, f"{sql} migration.quarantine ORDER BY 1") == [("1",), ("2",)]


@pytest.mark.parametrize("newest", [None, datetime(2026, 1, 1, tzinfo=UTC)])
def test_what_a_move_remembers_does_not_end_its_transaction(
    target_url: str, newest: datetime | None
) -> None:
    mark = watermarks.Watermark(newest, 0, "rules", None, None)
    with Target.connect(target_url, shown="the target") as target:
        with target.transaction():
            schema.make_ledger(target)
        with pytest.raises(ZeroDivisionError), target.transaction():
            watermarks.write(target, "rankings", mark, run_id="r")
            raise ZeroDivisionError
    assert query(target_url, "SELECT table_name FROM migration.watermarks") == []
