"""Housekeeping: what is older than the newest runs of a job goes, whatever else stays.

One real run is recorded in a real target, and then copied within the database, as often as a
schedule would have started it; its evidence and its output are copied as files.
"""

import itertools
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.core.proof import MOVE_CHECKS
from pipeline.orchestration.assets.housekeeping import AT_ONCE, Kept, tidy
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import usable
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import new_database, query

KEPT = 10
"""The smallest KEEP_RUNS there is."""
MIB_OF_A_RUN = 0.6
"""More than what a run leaves in the database: about 0.36 MiB, and room for what vacuum reuses."""
BY_RUN = ("runs", "run_tags", "event_logs", "asset_check_executions")
"""Tables of Dagster whose rows name their run."""


@dataclass
class Home:
    """A target, the records of runs, and the folder that the pipeline keeps its files in."""

    url: str
    records: str
    folder: Path
    instance: dg.DagsterInstance
    template: str

    def runs(self) -> list[str]:
        """Runs that Dagster remembers, the oldest first."""
        return [
            run for (run,) in query(self.records, "SELECT run_id FROM dagster.runs ORDER BY id")
        ]

    def traces(self) -> dict[str, set[str]]:
        """Where runs have left something -> which runs."""
        places = {f"dagster.{table}": self.records for table in BY_RUN}
        places["migration.evidence"] = self.url
        found = {
            place: {run for (run,) in query(url, f"SELECT DISTINCT run_id FROM {place}")}
            for place, url in places.items()
        }
        loaded = settings.load()
        for folder in (loaded.reports, loaded.dagster_files):
            found[folder.name] = {path.name for path in folder.iterdir() if path.is_dir()}
        return found

    def copy(self, times: int = 1, **changed: str) -> list[str]:
        """Copy the template run so often, with other values in the table of runs."""
        made = [str(uuid.uuid4()) for _ in range(times)]
        with closing(psycopg2.connect(self.records)) as connection, connection:
            for run in made:
                self._copy(connection.cursor(), run, changed)
        for run in made:
            query(
                self.url,
                "INSERT INTO migration.evidence SELECT %s, table_name, now(), source_rows,"
                " target_rows, quarantined_rows, digests FROM migration.evidence WHERE run_id = %s",
                (run, self.template),
            )
        loaded = settings.load()
        for run in made:
            for folder in (loaded.reports, loaded.dagster_files):
                shutil.copytree(folder / self.template, folder / run)
        return made

    def _copy(self, cursor: Any, run: str, changed: dict[str, str]) -> None:
        cursor.execute(
            "SELECT max(id) + 1 - (SELECT min(id) FROM dagster.event_logs WHERE run_id = %s)"
            " FROM dagster.event_logs",
            (self.template,),
        )
        (ahead,) = cursor.fetchone()
        for table in BY_RUN:
            cursor.execute(
                "SELECT attname::text, atttypid = 'text'::regtype OR attname = 'run_id'"
                " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                " AND (attname <> 'id' OR %s)",
                (f"dagster.{table}", table == "event_logs"),
            )
            names, values = [], []
            for name, is_text in cursor.fetchall():
                names.append(f'"{name}"')
                value = f'"{name}"'
                if name in (
                    "id",
                    "evaluation_event_storage_id",
                    "materialization_event_storage_id",
                ):
                    value += " + %(ahead)s"
                elif table == "runs" and name in changed:
                    value = f"%({name})s"
                elif is_text:
                    value = f"replace({value}, %(template)s, %(run)s)"
                values.append(value)
            cursor.execute(
                f"INSERT INTO dagster.{table} ({', '.join(names)}) SELECT {', '.join(values)}"
                f" FROM dagster.{table} WHERE run_id = %(template)s ORDER BY id",
                {"ahead": ahead, "run": run, "template": self.template, **changed},
            )
        cursor.execute(
            "SELECT setval('dagster.event_logs_id_seq', (SELECT max(id) FROM dagster.event_logs))"
        )
        cursor.execute(
            "INSERT INTO dagster.asset_event_tags (event_id, asset_key, key, value,"
            " event_timestamp) SELECT event_id + %s, asset_key, key, value, event_timestamp"
            " FROM dagster.asset_event_tags WHERE event_id IN"
            " (SELECT id FROM dagster.event_logs WHERE run_id = %s)",
            (ahead, self.template),
        )
        cursor.execute(
            "UPDATE dagster.asset_keys SET last_run_id = %(run)s,"
            " last_materialization = replace(last_materialization, last_run_id, %(run)s)",
            {"run": run},
        )

    def tidy(self, *, keep: int = KEPT) -> Kept:
        """Do what the asset does at the end of a sync."""
        with Target.connect(self.url, shown="the target") as target:
            return tidy(self.instance, target, settings.load(keep_runs=keep))

    def mib(self) -> float:
        """Size of Dagster's tables and the ledger."""
        size = (
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace::regnamespace::text = %s"
        )
        places = ((self.records, "dagster"), (self.url, "migration"))
        return sum(float(query(url, size, (name,))[0][0]) for url, name in places) / 2**20


_numbers = itertools.count()


@pytest.fixture(scope="module", params=["apart"])
def recorded(
    request: pytest.FixtureRequest,
    server: URL,
    dagster_tables: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, str, bool]]:
    """One run of sync by which all tables were moved, in a database ``recorded``: folder and id.

    The records of the run are in that database or in another one, ``recorded_runs``.
    """
    from pipeline.orchestration import runs

    folder = tmp_path_factory.mktemp("recorded")
    source = SourceFile.make(folder / "source.db")
    source.add_family(contents=1)
    apart = request.param == "apart"
    with (
        pytest.MonkeyPatch.context() as patch,
        new_database(server, "recorded_runs", template=dagster_tables) as kept,
        new_database(server, "recorded", template="template1" if apart else dagster_tables) as made,
    ):
        variables = {"DAGSTER_DATABASE_URL": libpq(kept if apart else made)}
        use(patch, usable(source, libpq(made), folder) | variables)
        with runs.instance() as opened:
            result = runs.run("sync", opened=opened)
            assert result.success
        query(
            libpq(server),
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname IN ('recorded', 'recorded_runs')",
        )
        yield folder, result.run_id, apart


@pytest.fixture
def home(
    recorded: tuple[Path, str, bool], server: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A copy of the recorded run, in a database and a folder of this test's own."""
    from pipeline.orchestration import runs

    folder, run_id, apart = recorded
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.delenv("KEEP_RUNS", raising=False)
    number = next(_numbers)
    with (
        new_database(server, f"home_{number}", template="recorded") as made,
        new_database(server, f"home_{number}_runs", template="recorded_runs") as elsewhere,
    ):
        kept = libpq(elsewhere if apart else made)
        variables = usable(SourceFile(tmp_path / "source.db"), libpq(made), tmp_path)
        use(monkeypatch, variables | {"DAGSTER_DATABASE_URL": kept})
        with runs.instance() as opened:
            yield Home(libpq(made), kept, tmp_path / "home", opened, run_id)


def test_five_hundred_runs_of_a_job_are_kept_unless_another_number_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KEEP_RUNS", raising=False)
    assert settings.load().keep_runs == 500
    monkeypatch.setenv("KEEP_RUNS", "20")
    assert settings.load().keep_runs == 20
    monkeypatch.setenv("KEEP_RUNS", "9")
    with pytest.raises(
        SettingsError, match=r"KEEP_RUNS cannot be used: .*at least 10, not KEEP_RUNS=9"
    ):
        settings.load()


def test_nothing_goes_while_there_are_no_more_runs_than_are_kept(home: Home) -> None:
    home.copy(KEPT - 1)
    before = home.traces()
    kept = home.tidy()
    assert (kept.runs, kept.forgotten) == (KEPT, 0)
    assert home.traces() == before


@pytest.mark.parametrize("recorded", ["apart", "together"], indirect=True)
def test_the_oldest_runs_go_with_all_that_they_left(home: Home) -> None:
    made = home.copy(KEPT + 2)
    everywhere = {home.template, *made}
    assert all(there == everywhere for there in home.traces().values())
    kept = home.tidy()
    assert (kept.runs, kept.forgotten) == (KEPT, 3)
    printed = settings.load().dagster_files.name
    left = {place: runs for place, runs in home.traces().items() if place != printed}
    assert left == {place: set(made[2:]) for place in left}
    assert len(left) == 6
    tags = "SELECT count(*) FROM dagster.asset_event_tags WHERE event_id NOT IN (SELECT id FROM"
    assert query(home.records, f"{tags} dagster.event_logs)") == [(0,)]


def test_what_a_step_printed_goes_with_its_run(home: Home) -> None:
    made = home.copy(KEPT)
    home.tidy()
    printed = [path.name for path in settings.load().dagster_files.iterdir()]
    assert sorted(printed) == sorted(made)


def test_runs_are_counted_by_job(home: Home) -> None:
    verify = home.copy(KEPT - 1, pipeline_name="verify")
    sync = home.copy(KEPT + 1)
    kept = home.tidy()
    assert (kept.runs, kept.forgotten) == (2 * KEPT - 1, 2)
    assert home.runs() == verify + sync[1:]


def test_a_job_that_has_not_run_for_long_is_not_left_out(home: Home) -> None:
    verify = home.copy(KEPT + 2, pipeline_name="verify")
    sync = home.copy(KEPT)
    home.tidy()
    assert home.runs() == verify[2:] + sync


@pytest.mark.parametrize("status", ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_a_run_under_way_never_goes(home: Home, status: str) -> None:
    under_way = home.copy(2, status=status)
    ended = home.copy(KEPT + 5)
    home.tidy()
    assert home.runs() == under_way + ended[5:]
    assert set(home.traces()["reports"]) == {*under_way, *ended[5:]}


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_a_run_that_ended_goes_however_it_ended(home: Home, status: str) -> None:
    home.copy(2, status=status)
    ended = home.copy(KEPT)
    home.tidy()
    assert home.runs() == ended


def test_a_long_backlog_goes_in_pieces(home: Home) -> None:
    made = home.copy(KEPT + 2 * AT_ONCE)
    forgotten = [home.tidy().forgotten for _ in range(4)]
    assert forgotten == [AT_ONCE, AT_ONCE, 1, 0]
    assert home.runs() == made[-KEPT:]


def last_known(home: Home) -> dict[str, Any]:
    """By table, the rows of its last materialization, whether that is there, and its checks."""
    storage = home.instance.event_log_storage
    found: dict[str, Any] = {}
    for table in NAMES:
        key = dg.AssetKey(table)
        event = home.instance.get_latest_materialization_event(key)
        rows = event.asset_materialization.metadata.get("dagster/row_count") if event else None
        fetched = home.instance.fetch_materializations(key, limit=1).records
        keys = [dg.AssetCheckKey(key, name) for name in MOVE_CHECKS]
        checks = storage.get_latest_asset_check_execution_by_key(keys)
        found[table] = (
            rows.value if rows else None,
            len(fetched),
            {each.name: checks[each].status.value for each in keys if each in checks},
        )
    return found


def test_the_last_materialization_and_check_results_of_each_table_stay(home: Home) -> None:
    before = last_known(home)
    assert before["rankings"] == (4, 1, dict.fromkeys(MOVE_CHECKS, "SUCCEEDED"))
    home.copy(KEPT + 3)
    home.tidy()
    assert last_known(home) == before


def test_the_last_materialization_stays_though_all_later_runs_failed(home: Home) -> None:
    before = last_known(home)
    later = home.copy(KEPT + 3, status="FAILURE")
    for table in ("event_logs", "asset_check_executions"):
        query(home.records, f"DELETE FROM dagster.{table} WHERE run_id = ANY(%s)", (later,))
    query(
        home.records,
        "UPDATE dagster.asset_keys SET last_materialization ="
        " replace(last_materialization, last_run_id, %s), last_run_id = %s",
        (home.template, home.template),
    )
    assert last_known(home) == before
    home.tidy()
    assert last_known(home) == before


def test_a_job_of_runs_reports_what_housekeeping_did(home: Home) -> None:
    from pipeline.orchestration import runs

    made = home.copy(KEPT + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEEP_RUNS", str(KEPT))
        result = runs.run("sync", opened=home.instance)
    assert result.success
    (materialization,) = result.asset_materializations_for_node("housekeeping")
    figures = {name: value.value for name, value in materialization.metadata.items()}
    assert (figures["runs"], figures["forgotten"]) == (KEPT + 1, 2)
    assert 0.1 < figures["storage_bytes"] / 2**20 < home.mib() * 2
    assert 0.01 < figures["ledger_bytes"] / 2**20 < home.mib()
    # This run was under way while it tidied, so it is one more than are kept.
    assert home.runs() == [*made[-KEPT:], result.run_id]


def test_housekeeping_forgets_nothing_where_dagster_keeps_its_runs_in_memory(
    target_url: str, tmp_path: Path
) -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        Target.connect(target_url, shown="the target") as target,
    ):
        for number in range(KEPT + 1):
            status = dg.DagsterRunStatus.SUCCESS
            instance.add_run(dg.DagsterRun("sync", f"run {number}", status=status))
        kept = tidy(instance, target, settings.load(keep_runs=KEPT))
        assert kept == Kept(runs=KEPT + 1, forgotten=0, storage_bytes=0, ledger_bytes=0)


def test_a_schedule_that_never_rests_does_not_fill_the_disk(home: Home) -> None:
    """A week at a tick a minute, scaled down: many times more ticks than runs are kept."""
    sizes = []
    for _ in range(6):
        for _ in range(KEPT):
            # What was copied first is forgotten like any other run.
            (home.template,) = home.copy()
            home.tidy()
        # As often as the server's autovacuum comes to it in a week.
        for table in ("event_logs", "asset_check_executions", "asset_event_tags", "run_tags"):
            with closing(psycopg2.connect(home.records)) as connection:
                connection.autocommit = True
                connection.cursor().execute(f"VACUUM dagster.{table}")
        sizes.append(home.mib())
    assert len(home.runs()) == KEPT
    assert sizes[-1] < 3 + 2 * KEPT * MIB_OF_A_RUN
    # What comes takes the room of what went.
    assert sizes[-1] < 1.5 * sizes[1]
    loaded = settings.load()
    assert len(list(loaded.reports.iterdir())) == KEPT
