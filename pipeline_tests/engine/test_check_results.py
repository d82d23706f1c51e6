"""Results of checks in the ledger: who writes them, and what the gate before Anki makes of them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dagster as dg
import psycopg2
import pytest

from bench.proxy import relay
from pipeline.config.environment import update_ledger
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.core.findings import CheckResult
from pipeline.core.proof import BLOCKING, MOVE_CHECKS, OF_A_VERIFICATION
from pipeline.declared import ledger
from pipeline.move.ledger import check_results
from pipeline.orchestration import runs
from pipeline.orchestration.assets.gate import require_proven
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.commands import usable
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES, TABLES
from pipeline_tests.support.targets import query

LATER = "2027-01-01 00:00:00"
FALSIFIED = """
CREATE FUNCTION falsify() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.rank_score := 1; RETURN NEW; END $$;
CREATE TRIGGER falsify BEFORE INSERT OR UPDATE ON rankings FOR EACH ROW EXECUTE FUNCTION falsify();
"""


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """A source without a flaw."""
    source.add_family()
    return source


@pytest.fixture
def instance(
    family: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """An instance of Dagster for the jobs of this target."""
    use(monkeypatch, usable(family, target_url, tmp_path))
    with runs.instance() as opened:
        yield opened


def failed(url: str) -> set[tuple[str, str]]:
    """Subjects and blocking checks whose newest result is a failure."""
    sql = "SELECT subject, name FROM migration.checks WHERE blocking AND NOT passed"
    return set(query(url, sql))


def refused(url: str) -> str | None:
    """Why the gate before Anki is closed; None if it is open."""
    with Target.connect(url, shown="the target") as target:
        try:
            require_proven(target, NAMES)
        except TargetError as error:
            return str(error)
    return None


def test_results_of_a_move_are_stored_with_its_rows(family: SourceFile, target_url: str) -> None:
    assert (refused(target_url) or "").startswith("The target has no table learning_content, ")
    move_all(family.path, target_url)
    stored = query(
        target_url,
        "SELECT subject, array_agg(name ORDER BY name),"
        " bool_and(passed OR NOT blocking), min(run_id),"
        " bool_and(at = (SELECT at FROM migration.watermarks WHERE table_name = subject))"
        " FROM migration.checks GROUP BY subject",
    )
    assert {row[0]: row[1:] for row in stored} == {
        name: (sorted(MOVE_CHECKS), True, "test", True) for name in NAMES
    }
    blocking = "SELECT DISTINCT name FROM migration.checks WHERE blocking"
    assert {name for (name,) in query(target_url, blocking)} == set(BLOCKING)
    assert refused(target_url) is None


def test_a_check_without_a_result_closes_the_gate(family: SourceFile, target_url: str) -> None:
    move_all(family.path, target_url)
    query(target_url, "DELETE FROM migration.checks WHERE (subject, name) = ('rankings', 'keys')")
    missing = (
        "The target is not proven: the ledger has no results of the checks of {}."
        " Run pipeline migrate or pipeline verify."
    )
    assert refused(target_url) == missing.format("rankings")
    query(target_url, "DROP TABLE migration.checks")
    assert refused(target_url) == missing.format(", ".join(NAMES))


def test_results_of_a_table_are_stored_in_one_statement(target_url: str) -> None:
    checks = move_checks(passed=False)
    with relay(target_url) as proxy, Target.connect(libpq(proxy.url), shown="it") as target:
        proxy.taken()
        check_results.write(target, "rankings", checks, run_id="first")
        counts = proxy.taken()
        assert (counts.round_trips, len(counts.statements)) == (1, 1)
        check_results.write(target, "rankings", move_checks(passed=True), run_id="second")
        found = check_results.read(target, ["rankings", "other"])
    assert {key: result.passed for key, result in found.items()} == {
        ("rankings", name): True for name in MOVE_CHECKS
    }


def move_checks(*, passed: bool) -> list[CheckResult]:
    return [CheckResult(name, passed=passed, blocking=True) for name in MOVE_CHECKS]


def test_the_gate_goes_by_the_newest_proof_even_if_it_was_rolled_back(
    instance: dg.DagsterInstance, family: SourceFile, target_url: str
) -> None:
    assert runs.run("migrate", opened=instance).success
    assert refused(target_url) is None
    query(target_url, FALSIFIED)
    family.run(f"UPDATE rankings SET rank_score = 5, updated_at = '{LATER}' WHERE id = 2")
    assert not runs.run("sync", opened=instance).success
    assert failed(target_url) == {("rankings", "digests"), ("rankings", "witness")}
    assert refused(target_url) == (
        "The target is not proven: digests of rankings, witness of rankings failed in its last run."
        " Inspect the findings and repair the target, then run pipeline migrate or pipeline verify."
    )
    query(target_url, "DROP TRIGGER falsify ON rankings")
    assert runs.run("sync", opened=instance).success
    assert (failed(target_url), refused(target_url)) == (set(), None)


def test_a_sync_that_compares_nothing_does_not_undo_what_verify_found(
    instance: dg.DagsterInstance, target_url: str
) -> None:
    assert runs.run("migrate", opened=instance).success
    query(target_url, "UPDATE rankings SET rank_score = 1 WHERE id = 2")
    assert not runs.run("verify", opened=instance).success
    found = failed(target_url)
    assert found == {("rankings", "digests"), ("rankings", "witness")}
    stored = query(target_url, "SELECT name FROM migration.checks WHERE subject = 'rankings'")
    assert {name for (name,) in stored} == {*MOVE_CHECKS, *OF_A_VERIFICATION}
    assert runs.run("sync", opened=instance).success
    assert failed(target_url) == found
    query(target_url, "UPDATE rankings SET rank_score = 4.5 WHERE id = 2")
    assert runs.run("verify", opened=instance).success
    assert refused(target_url) is None


def update(url: str) -> None:
    with Target.connect(url, shown="the target") as target:
        update_ledger(target)


def test_results_of_an_older_version_are_copied_from_the_tables_of_dagster_once(
    family: SourceFile, target_url: str
) -> None:
    move_all(family.path, target_url)
    query(
        target_url,
        "DROP TABLE migration.checks; CREATE SCHEMA dagster;"
        " CREATE TABLE dagster.asset_check_executions (id bigserial, asset_key text, check_name"
        " text, run_id text, execution_status text, evaluation_event text,"
        " evaluation_event_timestamp timestamp, evaluation_event_storage_id bigint)",
    )
    warning = '{"severity": {"__enum__": "AssetCheckSeverity.WARN"}}'
    error = '{"severity": {"__enum__": "AssetCheckSeverity.ERROR"}, "\\u0000": 1}'
    for subject, name, run_id, status, event, made in (
        # Planned first and made last: its run waited for the lock.
        ("rankings", "digests", "a", "FAILED", error, 20),
        ("rankings", "digests", "b", "SUCCEEDED", error, 10),
        ("rankings", "keys", "a", "FAILED", error, 1),
        ("rankings", "standing_keys", "b", "SUCCEEDED", error, 2),
        ("rankings", "keys", "c", "PLANNED", None, None),
        ("rankings", "quarantine", "a", "FAILED", warning, 3),
        ("rankings", "drift", "c", "PLANNED", None, None),
    ):
        query(
            target_url,
            "INSERT INTO dagster.asset_check_executions (asset_key, check_name, run_id,"
            " execution_status, evaluation_event, evaluation_event_storage_id)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (f'["{subject}"]', name, run_id, status, event, made),
        )
    update(target_url)
    stored = "SELECT name, passed, blocking, run_id FROM migration.checks ORDER BY name"
    copied = [
        ("digests", False, True, "a"),
        ("keys", True, True, "b"),
        ("quarantine", False, False, "a"),
    ]
    assert query(target_url, stored) == copied
    query(target_url, "DELETE FROM dagster.asset_check_executions")
    update(target_url)
    assert query(target_url, stored) == copied
    assert "digests of rankings failed" in (refused(target_url) or "")
    sync_all(family.path, target_url)
    assert query(target_url, ledger.OUTDATED) == [(False,)]


def test_commands_that_update_a_ledger_at_once_take_turns(
    family: SourceFile, target_url: str
) -> None:
    move_all(family.path, target_url)
    # The first versions had no cut-over, whose table would be locked before.
    query(target_url, "DROP TABLE migration.checks, migration.cutover")
    with closing(psycopg2.connect(target_url)) as first, ThreadPoolExecutor(1) as others:
        first.cursor().execute(ledger.UPDATE)
        second = others.submit(query, target_url, ledger.UPDATE)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while query(target_url, waiting) == [(0,)]:
            assert not second.done()
            time.sleep(0.01)
        first.commit()
        assert second.result() == []
    assert query(target_url, ledger.OUTDATED) == [(False,)]


def test_a_sync_that_repairs_a_table_leaves_the_gate_open(
    family: SourceFile, target_url: str
) -> None:
    family.add("learning_content", {"id": 99, "title": "x" * 300})
    move_all(family.path, target_url)
    assert refused(target_url) is None
    family.run("DELETE FROM learning_content WHERE id = 99")
    assert sync_all(family.path, target_url)["learning_content"].checks.failed == []
    assert query(target_url, "SELECT * FROM migration.quarantine") == []
    query(target_url, "ALTER SEQUENCE rankings_id_seq RESTART WITH 1")
    family.run("CREATE TABLE another (a)")
    assert sync_all(family.path, target_url)["rankings"].checks.failed == []
    assert refused(target_url) is None


@pytest.mark.parametrize("how", ["nothing changed", "another row changed"])
def test_only_a_verification_or_a_whole_move_undoes_what_a_verification_found(
    how: str, instance: dg.DagsterInstance, family: SourceFile, target_url: str
) -> None:
    tracking.switch_on(family.path, TABLES)
    assert runs.run("migrate", opened=instance).success
    query(target_url, "UPDATE rankings SET rank_score = 1 WHERE id = 2")
    assert not runs.run("verify", opened=instance).success
    found = {("rankings", "digests"), ("rankings", "witness")}
    assert failed(target_url) == found
    if how == "nothing changed":
        query(target_url, "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey")
        runs.run("sync", opened=instance)
        found |= {("rankings", "foreign_keys")}
    else:
        family.run(f"UPDATE rankings SET updated_at = '{LATER}' WHERE id = 3")
        assert runs.run("sync", opened=instance).success
    assert failed(target_url) == found
    assert runs.run("migrate", opened=instance).success
    assert refused(target_url) is None


def test_a_verification_reports_what_it_found_if_it_cannot_store_it(
    instance: dg.DagsterInstance, family: SourceFile, target_url: str
) -> None:
    assert runs.run("migrate", opened=instance).success
    query(
        target_url,
        "UPDATE rankings SET rank_score = 1 WHERE id = 2;"
        " ALTER TABLE migration.checks ADD CONSTRAINT no CHECK (subject <> 'rankings') NOT VALID",
    )
    result = runs.run("verify", opened=instance)
    assert not result.success
    reported = {
        (event.asset_key.to_user_string(), event.check_name): event.passed
        for event in result.get_asset_check_evaluations()
    }
    assert reported["rankings", "digests"] is False
    (failure,) = result.get_step_failure_events()
    assert "violates check constraint" in str(failure.step_failure_data.user_failure_data)
