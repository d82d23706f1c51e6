"""What an earlier version has left goes on to work, and nothing that its ledger knows is lost.

The learning application's migration was live then, the group spaces' a shadow with realtime on.
"""

import asyncio
import sqlite3
from pathlib import Path

import dagster as dg
import pytest

from pipeline.anki.store.collection import CollectionFile
from pipeline.core.policies import Policies
from pipeline.declared import ledger
from pipeline.migrations.content import CONTENT
from pipeline.migrations.spaces import SPACES
from pipeline.move.ledger import check_results
from pipeline.orchestration import runs
from pipeline.orchestration.assets.cutover import anki_consistent, realtime_arrives
from pipeline.orchestration.assets.gate import require_proven
from pipeline.postgres.target import Target
from pipeline_tests.support.feeds import changes
from pipeline_tests.support.old_world import Ledger, OldWorld
from pipeline_tests.support.runs import use
from pipeline_tests.support.spaces_world import move
from pipeline_tests.support.subscribers import keys, opened, take

LATER = "2027-01-01T00:00:00.000Z"
LASTING = ("quarantine", "quarantine_values", "overrides", "signed_off", "conversions", "cutover")
"""Tables of the ledger of which a move that finds nothing new loses nothing."""


def of_now(before: Ledger) -> Ledger:
    """A ledger of then, or of now, with the names of now."""
    names = dict(ledger.RENAMED_TABLES)
    columns = {(table, old): new for table, old, new in ledger.RENAMED_COLUMNS}
    return {
        names.get(name, name): [
            {columns.get((names.get(name, name), old), old): row[old] for old in row}
            for row in rows
        ]
        for name, rows in before.items()
    }


def lost(before: Ledger, after: Ledger, *tables: str) -> Ledger:
    """Rows of then that are not there any more; columns that were added since do not matter."""
    before = of_now(before)
    gone = {
        name: [row for row in before[name] if not any(row.items() <= now.items() for now in rows)]
        for name, rows in after.items()
        if name in (tables or before)
    }
    assert set(gone) == set(tables or before)
    return {name: rows for name, rows in gone.items() if rows}


def test_a_live_target_is_known_as_live_and_looking_changes_nothing(old_world: OldWorld) -> None:
    before = old_world.ledger()
    status = old_world("cutover", "status")
    assert (status.code, "the migration is live since" in status.out) == (0, True), status.err
    assert status.row("nobody writes the source")[0] == "yes"
    assert status.row("every write is captured") == ["yes", "3 so far"]
    planned = old_world("plan")
    assert (planned.code, planned.row("learning_content")[:3]) == (0, ["10", "2.5 KiB", "3"])
    doctor = old_world("doctor")
    assert (doctor.code, "target of earlier moves" in doctor.out) == (0, True), doctor.out
    refused = old_world("verify")
    assert (refused.code, "the migration is live since" in refused.err) == (1, True)
    with pytest.raises(sqlite3.IntegrityError, match="has moved to PostgreSQL"):
        old_world.content.run("DELETE FROM rankings")
    assert lost(before, old_world.ledger()) == {}


def test_a_live_target_comes_back_is_synced_and_goes_live_again(
    old_world: OldWorld, tmp_path: Path
) -> None:
    before = old_world.ledger()
    back = old_world("rollback")
    assert (back.code, "rankings: 1 inserted, 0 updated, 1 deleted" in back.out) == (0, True)
    content = old_world.content
    assert content.run("SELECT title FROM learning_content WHERE id = 1") == [
        ("changed while live",)
    ]
    assert content.run("SELECT id, assessed_by FROM rankings WHERE id IN (2, 9014)") == [
        (9014, "written while live")
    ]
    content.run(f"UPDATE learning_content SET title = 'now', updated_at = '{LATER}' WHERE id = 3")
    synced = old_world("sync")
    assert (synced.code, synced.row("learning_content")[:4]) == (0, ["synced", "10", "7", "1"])
    after = old_world.ledger()
    gone = lost(before, after, *LASTING, "evidence")
    # The reason of one row names its column now.
    ((reworded,),) = gone.values()
    assert reworded["reasons"][0]["column"] is None
    (now,) = (row for row in after["quarantine"] if row["row_id"] == reworded["row_id"])
    assert (now["table_name"], now["reasons"][0]["code"]) == (reworded["table_name"], "json")
    exported = old_world("quarantine", "export", str(tmp_path / "rejected.json"))
    assert exported.out.startswith("117 values written to")
    for command in ("verify", "migrate", "plan", "backup"):
        ran = old_world(command)
        assert ran.code == 0, ran.out + ran.err
    # A row that is rejected for another reason needs another decision.
    signed = old_world("cutover", "sign-off", reworded["table_name"], "--by", "me", "--reason", "x")
    assert signed.code == 0, signed.err
    live = old_world("cutover", "live")
    assert (live.code, "the migration is live since" in live.out) == (0, True), live.out + live.err
    assert live.row("quarantine is empty or signed off") == ["yes", "12 rows signed off"]
    gone = lost(before, old_world.ledger(), *LASTING)
    # The decision was made again for all rejected rows of its table.
    tables = {row["table_name"] for row in gone.pop("signed_off")}
    assert (tables, len(gone.pop("quarantine")), gone) == ({reworded["table_name"]}, 1, {})


def schemas(old_world: OldWorld) -> set[str]:
    """The schemas of functions that triggers and policies call."""
    return {
        name
        for (name,) in old_world.query(
            "SELECT DISTINCT nspname::text FROM pg_proc JOIN pg_namespace AS n"
            " ON n.oid = pronamespace WHERE prorettype = 'trigger'::regtype"
            r" OR proname LIKE '%of\_me'"
        )
    } - {"pg_catalog", "feed", "migration", "realtime"}


def test_functions_of_then_stay_in_a_schema_of_another_name(old_world: OldWorld) -> None:
    functions = (
        "SELECT oid FROM pg_proc WHERE pronamespace ="
        " coalesce(to_regnamespace('pipeline_functions'), to_regnamespace('upkeep')) ORDER BY 1"
    )
    before = old_world.query(functions)
    assert schemas(old_world) == {"upkeep"}
    lines = map(str.split, old_world("verify", "spaces", "--verbose").out.splitlines())
    checks = [(check, result) for _, check, result, *_ in (line + [""] * 3 for line in lines)]
    assert {result for name, result in checks if name == "schema"} == {"passed"}
    assert schemas(old_world) == {"pipeline_functions"}
    made = "SELECT oid, xmin::text FROM pg_policy UNION ALL SELECT oid, xmin::text FROM pg_trigger"
    made += " WHERE NOT tgisinternal ORDER BY 1"
    then = old_world.query(made)
    synced = old_world("sync", "spaces")
    # The verification has found the row that a policy keeps as it is in the target.
    assert (synced.code, "rows of messages differ" in synced.out) == (1, True), synced.err
    assert old_world.query(functions) == before
    assert old_world.query(made) == then


def test_a_schema_of_somebody_else_keeps_its_name(old_world: OldWorld) -> None:
    old_world.query(
        "ALTER SCHEMA upkeep RENAME TO pipeline_functions; CREATE SCHEMA upkeep;"
        " CREATE FUNCTION upkeep.stamp_it() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN new; END'"
    )
    old_world("verify", "spaces")
    assert schemas(old_world) == {"pipeline_functions", "upkeep"}
    old_world.query("ALTER SCHEMA pipeline_functions RENAME TO elsewhere")
    old_world("verify", "spaces")
    assert "upkeep" in schemas(old_world)


def test_backups_of_then_are_restored(old_world: OldWorld) -> None:
    refused = old_world("restore", "target", "--yes")
    assert (refused.code, "would be lost" in refused.err) == (2, True)
    done = old_world("restore", "target", "--yes", "--discard-writes")
    assert done.code == 0, done.err
    assert (
        "the migration is shadow; the source is frozen: run pipeline cutover unfreeze" in done.out
    )
    assert old_world("cutover", "unfreeze").code == 0
    for command in (
        ("sync",),
        ("restore", "source", "--yes"),
        ("restore", "target", "spaces", "--yes"),
        ("realtime", "on"),
        ("realtime", "status"),
    ):
        ran = old_world(*command)
        assert ran.code == 0, ran.out + ran.err
    assert schemas(old_world) == {"pipeline_functions"}


def test_the_other_migration_follows_its_source(old_world: OldWorld) -> None:
    before = old_world.ledger()
    old_world.spaces.run(f"UPDATE notes SET title = 'now', updated_at = '{LATER}' WHERE id = 2")
    synced = old_world("sync", "spaces")
    assert (synced.code, synced.row("notes")[:4]) == (0, ["synced", "24", "24", "1"]), synced.err
    assert lost(before, old_world.ledger(), *LASTING, "conflicts", "evidence") == {}
    # What was changed in the target is left as it is, until a person decides.
    move(old_world.spaces, old_world.url, policies=Policies(conflicts="source"))
    assert old_world.ledger()["conflicts"] == []
    verified = old_world("verify", "spaces")
    assert verified.code == 0, verified.out
    assert lost(before, old_world.ledger(), *LASTING) == {}


def test_rows_of_then_in_quarantine_are_tried_again(old_world: OldWorld) -> None:
    before = old_world.ledger()
    old_world.spaces.run("UPDATE messages SET attachments = '[]' WHERE id = 9002")
    ran = old_world("redrive", "spaces")
    assert (ran.code, "6 rows are still in quarantine" in ran.out) == (0, True), ran.out + ran.err
    (left,) = lost(before, old_world.ledger(), "quarantine")["quarantine"]
    assert (left["table_name"], left["row_id"]) == ("messages", "9002")


def test_what_was_switched_on_then_tells_changes(old_world: OldWorld) -> None:
    ((_, *of_then),) = changes(old_world.url)
    assert of_then == ["messages", "UPDATE", "5", None]
    # What a feed of then lacks is said, and made by switching it on again.
    status = old_world("realtime", "status")
    assert (status.code, "table feed.fleeting" in status.out) == (1, True), status.out

    async def hear() -> list[int]:
        async with opened(old_world.url) as hub:
            mine = hub.subscribe(["messages"])
            old_world.query("UPDATE messages SET content = 'now' WHERE id = 6")
            return keys(await take(mine, 1))

    assert asyncio.run(hear()) == [6]
    assert len(changes(old_world.url)) == 2
    assert old_world("realtime", "on").code == 0
    status = old_world("realtime", "status")
    assert (status.code, "differs" in status.out) == (0, False), status.out
    assert len(changes(old_world.url)) == 2


def test_runs_of_then_are_read_and_new_ones_recorded(
    old_world: OldWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, old_world.variables)
    with runs.instance() as instance:
        jobs = {run.job_name for run in instance.get_runs()}
        assert {"plan", "migrate", "sync", "redrive", "verify", "backup", "cutover"} <= jobs
        assert {"spaces_migrate", "spaces_sync", "anki_sync", "realtime"} <= jobs
        for table in (*CONTENT.tables, *SPACES.tables):
            event = instance.get_latest_materialization_event(dg.AssetKey(table.name))
            assert event is not None
            assert event.asset_materialization is not None
        before = instance.get_runs_count()
        assert runs.run("plan", opened=instance).success
        assert instance.get_runs_count() == before + 1


def test_an_upgrade_closes_no_gate(old_world: OldWorld) -> None:
    # Any command brings the ledger up to date.
    assert old_world("realtime", "status").out
    newest = """
      SELECT DISTINCT ON (1, 2) asset_key::json ->> 0, regexp_replace(check_name, '^standing_', ''),
        execution_status = 'SUCCEEDED'
      FROM dagster.asset_check_executions WHERE execution_status IN ('SUCCEEDED', 'FAILED')
      ORDER BY 1, 2, evaluation_event_storage_id DESC"""
    recorded = old_world.query(
        "SELECT subject, name, passed FROM migration.checks WHERE rules IS NULL"
    )
    assert sorted(recorded) == sorted(old_world.query(newest))
    with Target.connect(old_world.url, shown="the target") as target:
        for migration in (CONTENT, SPACES):
            require_proven(target, [table.name for table in migration.tables])
            plan = (migration.named("plan"), ledger.PLANNED)
            planned = check_results.read(target, [plan[0]])[plan]
            assert len(planned.rules or "") == 64
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANKI_COLLECTION", old_world.variables["ANKI_COLLECTION"])
            assert anki_consistent(target).yes
        assert realtime_arrives(target).yes


def test_notes_of_an_earlier_version_are_followed_and_get_the_tag_of_their_source(
    old_world: OldWorld,
) -> None:
    assert old_world("anki", "sync").code == 0
    old_world.query("UPDATE learning_content SET translation = 'now' WHERE id = 1")
    ran = old_world("anki", "sync")
    assert (ran.code, "1 updated" in ran.out) == (0, True), ran.out + ran.err
    ((label, profile, missing),) = old_world.query(
        "SELECT label, profile, missing FROM migration.anki_source"
    )
    assert (profile, missing) == ("anki", 0)
    with CollectionFile(Path(old_world.variables["ANKI_COLLECTION"])) as anki:
        (changed,) = anki.notes(anki.find(f"sync::source::{label}")).values()
    assert "sync::content::1" in changed.tags


def test_overrides_survive_a_run_of_an_older_version(old_world: OldWorld) -> None:
    assert old_world("verify", "spaces").out
    rows = "SELECT to_jsonb(t) - 'since' FROM migration.overrides t ORDER BY table_name, row_id"
    first, *others = old_world.query(rows)
    # What an older version makes before it fails; it has read a correction of its own, and a later
    # and an earlier one of values that were corrected already.
    old_world.query(
        "CREATE TABLE migration.mended (LIKE migration.overrides INCLUDING ALL);"
        " INSERT INTO migration.mended SELECT * FROM migration.overrides;"
        " UPDATE migration.mended SET value = 'later', since = since + interval '1 hour'"
        f" WHERE (table_name, row_id, column_name) = {_key(first)};"
        " UPDATE migration.mended SET value = 'earlier', since = since - interval '1 hour'"
        f" WHERE (table_name, row_id, column_name) <> {_key(first)};"
        " ALTER TABLE migration.mended RENAME row_id TO handle;"
        " INSERT INTO migration.mended (table_name, handle, column_name, was_storage, storage)"
        " VALUES ('messages', '1', 'content', 'null', 'null');"
        " ALTER TABLE migration.watermarks RENAME fingerprint TO seen"
    )
    old_world("verify", "spaces")
    now = old_world.query(rows)
    assert len(now) == len(others) + 2
    assert [row for row in others if row not in now] == []
    (changed,) = (row for (row,) in now if _key((row,)) == _key(first))
    assert bytes.fromhex(changed["value"].removeprefix("\\x")) == b"later"
    assert old_world.query("SELECT to_regclass('migration.mended')") == [(None,)]
    assert "fingerprint" in {
        name
        for (name,) in old_world.query(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'migration.watermarks'::regclass"
        )
    }


def _key(row: tuple[dict[str, str]]) -> str:
    return str(tuple(row[0][name] for name in ("table_name", "row_id", "column_name")))
