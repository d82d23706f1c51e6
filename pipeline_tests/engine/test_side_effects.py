"""Triggers and rules of others in the target: what they do is proven, told by name, or refused."""

from pathlib import Path

import pytest

from pipeline.backup import restore
from pipeline.backup.errors import BackupError
from pipeline.core.errors import PipelineError, ShapeError, TargetError
from pipeline.cutover.rollback import NotEqual
from pipeline.move.proof.table_checks import ProofFailed
from pipeline_tests.support.backups import Place
from pipeline_tests.support.cutover_world import World, content, equal
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.pairs import Pair
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query, reasons

WAYS = ["full", "sync", "subset"]

DEFERRED = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER {name} AFTER INSERT OR UPDATE ON {table}
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {name}();
"""
PLAIN = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN {new}; END $$;
CREATE TRIGGER {name} {when} ON {table} FOR EACH {each} EXECUTE FUNCTION {name}();
"""


def plain(
    table: str, when: str, body: str, *, name: str = "meddle", each: str = "ROW", new: str = "NEW"
) -> str:
    return PLAIN.format(table=table, when=when, body=body, name=name, each=each, new=new)


def deferred(table: str, body: str, *, name: str = "meddle") -> str:
    return DEFERRED.format(table=table, body=body, name=name)


CHANGE = (
    "UPDATE rankings SET assessed_by = 'somebody' WHERE id = NEW.id AND assessed_by <> 'somebody'"
)
NEW_RANKING = {"id": 99, "fragment_id": 1}


@pytest.mark.parametrize("strategy", WAYS)
def test_what_a_deferred_trigger_changes_is_seen_by_the_proof(pair: Pair, strategy: str) -> None:
    pair.do(deferred("rankings", CHANGE))
    pair.source.add("rankings", NEW_RANKING)
    before = pair.rows()
    with pytest.raises(ProofFailed, match=r"rankings was rolled back.*trigger meddle") as caught:
        pair.move(strategy)
    failed = {check.name for check in caught.value.checks if not check.passed and check.blocking}
    assert failed == {"digests", "witness"}
    assert pair.rows() == before


def test_what_a_deferred_trigger_changes_is_seen_where_an_empty_table_is_filled(
    source: SourceFile, target_url: str
) -> None:
    move_all(source.path, target_url)
    query(target_url, deferred("rankings", CHANGE))
    source.add_family(contents=1)
    with pytest.raises(ProofFailed, match="trigger meddle"):
        move_all(source.path, target_url)
    assert query(target_url, "SELECT count(*) FROM rankings") == [(0,)]


def test_a_deferred_key_is_asked_before_the_proof_and_named(pair: Pair) -> None:
    pair.do(
        "CREATE TABLE people (name varchar(100) PRIMARY KEY);"
        " INSERT INTO people VALUES ('somchai');"
        " ALTER TABLE rankings ADD CONSTRAINT known FOREIGN KEY (assessed_by) REFERENCES people"
        " DEFERRABLE INITIALLY DEFERRED"
    )
    pair.source.add("rankings", NEW_RANKING | {"assessed_by": "nobody"})
    before = pair.rows()
    with pytest.raises(TargetError, match=r'rankings.*foreign key constraint "known"') as caught:
        pair.move("sync")
    assert "run again afterwards" not in str(caught.value)
    assert pair.rows() == before


@pytest.mark.parametrize("state", ["P0001", "23514", "42501", "40001", "UA001"])
def test_what_a_trigger_raises_about_a_row_is_its_reason(pair: Pair, state: str) -> None:
    body = f"IF NEW.id = 99 THEN RAISE EXCEPTION 'no, %', NEW.id USING ERRCODE = '{state}'; END IF"
    pair.do(plain("rankings", "BEFORE INSERT OR UPDATE", body))
    pair.source.add("rankings", NEW_RANKING, {"id": 100, "fragment_id": 1})
    assert pair.move("sync")["rankings"].quarantined_rows == 1
    found = query(pair.url, "SELECT source_key, reasons->0->>'message' FROM migration.quarantine")
    said = f"trigger meddle of rankings (function meddle()) refuses it: no, 99 (SQLSTATE {state})"
    assert found == [("99", said)]
    assert query(pair.url, "SELECT id FROM rankings WHERE id > 98") == [(100,)]


def test_what_a_trigger_raises_is_a_reason_where_a_table_is_filled_too(
    source: SourceFile, target_url: str
) -> None:
    move_all(source.path, target_url)
    body = "IF NEW.id = 2 THEN RAISE 'not two'; END IF"
    query(target_url, plain("rankings", "AFTER INSERT", body))
    source.add_family(contents=1)
    assert move_all(source.path, target_url)["rankings"].moved_rows == 3
    assert reasons(target_url, "rankings") == {"2": {"refused"}}


REFUSING = {
    "a deferred one": deferred("rankings", "RAISE 'not today'"),
    "one of a statement": plain(
        "rankings", "BEFORE INSERT", "RAISE 'not today'", each="STATEMENT", new="NULL"
    ),
    "one that is broken": plain("rankings", "BEFORE INSERT", "NEW.nothing := 'not today'"),
    "one on deletes": plain("rankings", "BEFORE DELETE", "RAISE 'not today'", new="OLD"),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_a_trigger_that_is_no_rule_for_one_row_stops_the_table_by_name(
    pair: Pair, kind: str
) -> None:
    pair.do(REFUSING[kind])
    pair.source.add("rankings", NEW_RANKING)
    pair.source.run("DELETE FROM rankings WHERE id = 1")
    before = pair.rows()
    with pytest.raises(TargetError) as caught:
        pair.move("sync")
    said = str(caught.value)
    assert "trigger meddle of rankings (function meddle())" in said
    assert ("not today" in said) or 'has no field "nothing"' in said
    assert "pipeline.moving" in caught.value.remedy
    assert pair.rows() == before


def test_an_event_trigger_that_refuses_ddl_is_named(pair: Pair) -> None:
    pair.do(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no keys here'; END $$;"
        " ALTER TABLE rankings DROP CONSTRAINT rankings_pkey;"
        " CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('ALTER TABLE')"
        " EXECUTE FUNCTION forbid()"
    )
    with pytest.raises(TargetError) as caught:
        pair.move("full")
    assert "event trigger forbid (function forbid())" in str(caught.value)
    assert "violate its keys" not in str(caught.value)


TOUCH = "UPDATE learning_content SET updated_at = now() WHERE id = 1"
BESIDE = {
    "a parent": (plain("rankings", "AFTER INSERT", TOUCH), "learning_content"),
    "a parent, deferred": (deferred("rankings", TOUCH), "learning_content"),
    "a new row of a parent": (
        plain(
            "rankings",
            "AFTER INSERT",
            "INSERT INTO content_fragments SELECT 77, native_text, body_text, ipa, extra,"
            " fragment_type, fragment_metadata, created_at, updated_at, learning_content_id"
            " FROM content_fragments WHERE id = 1",
        ),
        "content_fragments",
    ),
    "a deleted row of a sibling": (
        plain("rankings", "AFTER INSERT", "DELETE FROM fragment_assets WHERE id = 60"),
        "fragment_assets",
    ),
    "by what a move remembers": (
        plain("migration.watermarks", "AFTER INSERT OR UPDATE", TOUCH),
        "learning_content",
    ),
}


@pytest.mark.parametrize("strategy", ["full", "sync"])
@pytest.mark.parametrize("what", BESIDE)
def test_a_trigger_that_changes_another_table_stops_the_move(
    pair: Pair, what: str, strategy: str
) -> None:
    sql, other = BESIDE[what]
    pair.do(sql)
    pair.source.add("rankings", NEW_RANKING)
    before = pair.rows()
    with pytest.raises(TargetError, match=rf"{other} ") as caught:
        pair.move(strategy)
    assert "was rolled back" in str(caught.value)
    assert pair.rows() == before


def test_a_trigger_that_changes_other_rows_of_the_table_stops_a_sync(pair: Pair) -> None:
    body = "UPDATE rankings SET assessment_notes = 'old' WHERE id = 1"
    pair.do(plain("rankings", "AFTER INSERT", body))
    pair.source.add("rankings", NEW_RANKING)
    before = pair.rows()
    with pytest.raises(TargetError, match=r"rankings 1\b.*trigger meddle"):
        pair.move("sync")
    assert pair.rows() == before


def test_a_trigger_on_what_a_move_remembers_cannot_change_the_proven_table(pair: Pair) -> None:
    body = "UPDATE rankings SET assessment_notes = 'old' WHERE id = 1"
    pair.do(plain("migration.watermarks", "AFTER INSERT OR UPDATE", body))
    pair.source.add("rankings", NEW_RANKING)
    before = pair.rows()
    with pytest.raises(TargetError, match="rankings"):
        pair.move("full")
    assert pair.rows() == before


@pytest.mark.parametrize("strategy", WAYS)
def test_a_trigger_that_keeps_a_count_of_its_own_is_no_fault(pair: Pair, strategy: str) -> None:
    pair.do(
        "ALTER TABLE content_fragments ADD COLUMN ratings int NOT NULL DEFAULT 0;"
        " CREATE TABLE log (id int);"
        + plain(
            "rankings",
            "AFTER INSERT",
            "UPDATE content_fragments SET ratings = ratings + 1 WHERE id = NEW.fragment_id;"
            " UPDATE rankings SET assessed_by = assessed_by WHERE id = 1;"
            " INSERT INTO log VALUES (1)",
        )
    )
    pair.source.add("rankings", NEW_RANKING)
    pair.move(strategy)
    sql = "SELECT ratings, (SELECT count(*) FROM log) FROM content_fragments WHERE id = 1"
    assert query(pair.url, sql) == [(1, 1)]


@pytest.mark.parametrize("strategy", WAYS)
def test_rows_that_go_with_their_parent_are_no_side_effect(pair: Pair, strategy: str) -> None:
    for table, column in (("rankings", "fragment_id"), ("fragment_assets", "fragment_id")):
        pair.source.run(f"DELETE FROM {table} WHERE {column} IN (1, 2)")
    pair.source.run("DELETE FROM content_fragments WHERE id IN (1, 2)")
    pair.source.run("DELETE FROM learning_content WHERE id = 1")
    if strategy == "subset":
        pair.source.add("learning_content", {"id": 1})
    moves = pair.move(strategy)
    assert moves["content_fragments"].target_rows == 4
    assert moves["rankings"].target_rows == 8


SWALLOWING = {
    "swallows a row": (
        plain("rankings", "BEFORE INSERT", "RETURN NULL"),
        {"conservation", "keys", "witness"},
    ),
    "changes a row": (
        plain("rankings", "BEFORE INSERT", "NEW.assessed_by := 'x'"),
        {"digests", "witness"},
    ),
    "keeps a date": (
        plain("rankings", "BEFORE INSERT OR UPDATE", "NEW.updated_at := now()"),
        {"digests", "witness"},
    ),
}


@pytest.mark.parametrize("kind", SWALLOWING)
def test_a_trigger_that_swallows_or_changes_rows_is_named_beside_the_failed_proof(
    pair: Pair, kind: str
) -> None:
    sql, expected = SWALLOWING[kind]
    pair.do(sql)
    pair.source.add("rankings", NEW_RANKING)
    with pytest.raises(ProofFailed, match=r"trigger meddle of rankings") as caught:
        pair.move("full")
    assert {c.name for c in caught.value.checks if c.blocking and not c.passed} == expected


def test_the_same_trigger_that_leaves_a_move_alone_does_no_harm(pair: Pair) -> None:
    body = (
        "IF current_setting('pipeline.moving', true) IS DISTINCT FROM 'on' THEN"
        " NEW.updated_at := now(); END IF"
    )
    pair.do(plain("rankings", "BEFORE INSERT OR UPDATE", body))
    pair.source.add("rankings", NEW_RANKING)
    assert pair.move("sync")["rankings"].written_rows == 1


@pytest.mark.parametrize("strategy", WAYS)
def test_ids_that_the_target_would_give_out_itself_are_written_all_the_same(
    pair: Pair, strategy: str
) -> None:
    pair.do(
        "ALTER TABLE rankings ALTER COLUMN id DROP DEFAULT;"
        " ALTER TABLE rankings ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY,"
        " ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED NOT NULL,"
        " ADD COLUMN number bigint GENERATED BY DEFAULT AS IDENTITY"
    )
    pair.source.add("rankings", NEW_RANKING)
    assert pair.move(strategy)["rankings"].quarantined_rows == 0
    assert query(pair.url, "SELECT twice FROM rankings WHERE id = 99") == [(198,)]


UNWRITABLE = {
    "a rule": (
        "CREATE RULE ignored AS ON INSERT TO rankings DO INSTEAD NOTHING",
        "rule ignored",
    ),
    "a computed column": (
        "ALTER TABLE rankings DROP COLUMN assessed_by, ADD COLUMN assessed_by varchar(100)"
        " GENERATED ALWAYS AS ('x') STORED",
        "assessed_by",
    ),
    "a deferrable key": (
        "ALTER TABLE rankings DROP CONSTRAINT rankings_pkey,"
        " ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED",
        "rankings_pkey",
    ),
    "no log": ("ALTER TABLE rankings SET UNLOGGED", "unlogged"),
}


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_a_table_that_does_not_keep_what_is_written_is_refused_before_anything_moves(
    pair: Pair, kind: str
) -> None:
    sql, named = UNWRITABLE[kind]
    pair.do(sql)
    pair.source.add("rankings", NEW_RANKING)
    pair.source.run(
        "UPDATE learning_content SET title = 'new', updated_at = '2026-01-01' WHERE id = 1"
    )
    before = pair.rows()
    for strategy in WAYS:
        with pytest.raises(ShapeError, match=rf"public\.rankings .*{named}") as caught:
            pair.move(strategy)
        assert isinstance(caught.value, PipelineError)
    assert pair.rows() == before


def test_the_way_back_does_not_go_on_where_a_trigger_changes_what_was_compared(
    live: World,
) -> None:
    live.do("UPDATE rankings SET assessment_notes = 'seen' WHERE id = 2")
    body = "UPDATE rankings SET assessment_notes = 'old' WHERE id = 1"
    live.do(plain("migration.cutover", "AFTER INSERT", body))
    before = content(live.source.path)
    with pytest.raises(NotEqual, match="rankings"):
        live.rollback()
    assert (live.state, content(live.source.path)) == ("live", before)
    live.do("DROP TRIGGER meddle ON migration.cutover")
    live.rollback()
    assert live.state == "shadow"
    equal(live)


def test_what_is_deferred_while_a_table_is_restored_comes_before_the_comparison(
    pair: Pair, tmp_path: Path
) -> None:
    place = Place.at(pair.source.path, pair.url, tmp_path)
    kept = place.back_up().manifest
    pair.do(
        "CREATE TABLE ddl (tag text);"
        + deferred("ddl", "UPDATE public.rankings SET assessment_notes = 'old' WHERE id = 1")
        + "CREATE FUNCTION log() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.ddl VALUES (tg_tag); END $$;"
        " CREATE EVENT TRIGGER log ON ddl_command_end EXECUTE FUNCTION log()"
    )

    def put_back() -> None:
        tables, folder = kept.target_tables, place.folder(kept)
        restore.restore(pair.url, shown="it", tables=tables, folder=folder)

    with pytest.raises(BackupError, match="rankings"):
        put_back()
    pair.do("ALTER TABLE ddl DISABLE TRIGGER meddle")
    put_back()
    pair.do(
        "CREATE OR REPLACE FUNCTION log() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF tg_tag = 'ALTER TABLE' THEN RAISE 'not today'; END IF; END $$"
    )
    with pytest.raises(TargetError, match=r"event trigger log \(function log\(\)\).*not today"):
        put_back()
