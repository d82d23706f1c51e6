"""A run whose connection with the target breaks goes on from the table that it was at.

Tables committed before are not moved again, the source is not copied again, and the figures of the
run are those of what it did, even if the answer to a commit was lost.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from sqlalchemy.engine import URL

from bench.proxy import relay
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError, Transient
from pipeline.migrations.content import metadata
from pipeline.move.run import views
from pipeline.orchestration.common import retries
from pipeline.orchestration.common.run_options import run_config
from pipeline_tests.support.commands import running, usable
from pipeline_tests.support.comparison import assert_same, expected, held_by
from pipeline_tests.support.first_moves import first_move
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.proxy import Proxy, proxied
from pipeline_tests.support.random_writer import SEEDS, write_source
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

NAMES = [table.name for table in metadata.sorted_tables]
Job = Callable[..., dg.ExecuteInProcessResult]
CONNECTED = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pipeline'"
    " AND datname = current_database()"
)
FIGURES = ("strategy", "moved", "written", "deleted", "quarantined")
COMMIT = b"COMMIT\0"


@pytest.fixture
def proxy(database: URL) -> Iterator[Proxy]:
    with proxied(database) as made:
        yield made


@pytest.fixture
def family(source: SourceFile) -> SourceFile:
    """Three contents with all that belongs to them, and a row that goes to quarantine."""
    source.add_family(contents=3)
    source.add("rankings", {"id": 99, "rank_score": 9})
    return source


@pytest.fixture
def job(family: SourceFile, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Runs a job in this process through the proxy; what it records is kept in memory."""
    for name, value in usable(family, libpq(proxy.url), tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCK_SECONDS", "2")
    monkeypatch.setattr(retries, "wait_before", lambda _: 0)
    from pipeline.orchestration.definitions import defs

    def run(name: str, **options: Any) -> dg.ExecuteInProcessResult:
        """One run to its end."""
        return defs.resolve_job_def(name).execute_in_process(
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
            run_config=run_config(**options) if options else None,
        )

    return run


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often the source was copied or pinned."""
    found = list[str]()
    for name in ("take_snapshot", "pinned"):
        real = getattr(views, name)

        def noted(*given: Any, real: Any = real, name: str = name, **named: Any) -> Any:
            found.append(name)
            return real(*given, **named)

        monkeypatch.setattr(views, name, noted)
    return found


def restarts(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.step_key for event in result.all_events if event.is_step_restarted]


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """What failed steps say; the whole error where it is none of the pipeline's own."""
    said = []
    for event in result.all_events:
        if event.is_step_failure:
            own, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
            shown = own.description if own else error.to_string() if error else ""
            said.append(f"{event.step_key}: {shown}")
    return said


def moved(result: dg.ExecuteInProcessResult) -> dict[str, tuple[Any, ...]]:
    """By table: strategy and the figures of the run."""
    found = {}
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            values = {name: value.value for name, value in made.metadata.items()}
            if "strategy" in values:
                found[made.asset_key.to_user_string()] = tuple(values[name] for name in FIGURES)
    return found


def test_a_migration_goes_on_from_the_table_whose_connection_broke(
    job: Job,
    family: SourceFile,
    proxy: Proxy,
    target_url: str,
    opened: list[str],
    tmp_path: Path,
) -> None:
    proxy.plan_all(
        # The first table: three times, which is as often as a step is tried again.
        ("truncate", b"FROM STDIN", 0),
        ("reset", b"INSERT INTO migration.watermarks", 0),
        ("lose the answer", COMMIT, 0),
        # The second.
        ("reset", b"FOREIGN KEY(", 0),
        ("reset", COMMIT, 0),
        # The third, once it is committed.
        ("lose the answer", b"floor(log(2", 0),
        # The last.
        ("lose the answer", b"array_send", 0),
        ("lose the answer", COMMIT, 0),
    )
    result = job("migrate")
    assert result.success
    assert proxy.broken == 8, proxy.marker
    assert restarts(result) == [
        *["learning_content"] * 3,
        *["content_fragments"] * 2,
        "fragment_assets",
        *["rankings"] * 2,
    ]
    assert opened == ["take_snapshot"]
    assert moved(result) == {
        "learning_content": ("filled", 3, 3, 0, 0),
        "content_fragments": ("filled", 6, 6, 0, 0),
        "fragment_assets": ("filled", 6, 6, 0, 0),
        "rankings": ("filled", 12, 12, 0, 1),
    }
    assert_same(family.path, target_url)
    ledger = "SELECT table_name, run_id, target_rows FROM migration.evidence ORDER BY proven_at"
    assert query(target_url, ledger) == [
        (name, result.run_id, rows) for name, rows in zip(NAMES, (3, 6, 6, 12), strict=True)
    ]
    evidence = json.loads(
        (tmp_path / "home" / "reports" / result.run_id / "evidence.json").read_text()
    )
    assert [table["moved"]["written"] for table in evidence["tables"]] == [3, 6, 6, 12]


def test_a_sync_goes_on_with_the_changes_that_it_found(
    mode: str, job: Job, family: SourceFile, proxy: Proxy, target_url: str, opened: list[str]
) -> None:
    first_move(family, target_url, tracked=mode == "tracked")
    opened.clear()
    now = "2026-01-01 00:00:00"
    family.run(f"UPDATE learning_content SET title = 'new', updated_at = '{now}' WHERE id = 1")
    family.run(f"UPDATE rankings SET rank_score = 1, updated_at = '{now}' WHERE id < 5")
    family.run("DELETE FROM rankings WHERE id = 5")
    proxy.plan_all(
        ("lose the answer", b"SET LOCAL pipeline.moving", 0),
        ("lose the answer", COMMIT, 0),
        ("reset", b'DELETE FROM "rankings"', 0),
        ("vanish", b'INSERT INTO "rankings"', 0),
        ("lose the answer", COMMIT, 0),
    )
    result = job("sync")
    assert failures(result) == []
    assert proxy.broken == 5, proxy.marker
    assert opened == ["pinned"]
    found = moved(result)
    assert found["learning_content"][:3:2] == ("synced", 1)
    assert found["rankings"][2:] == (4, 1, 1)
    assert_same(family.path, target_url)


def test_a_subset_keeps_the_rows_that_it_found_before_their_parents_moved(
    job: Job, family: SourceFile, proxy: Proxy, target_url: str, opened: list[str]
) -> None:
    move_all(family.path, target_url)
    opened.clear()
    # In the target, fragment 1 belongs to content 1, whose subset moves.
    now = "2026-01-01 00:00:00"
    family.run(
        f"UPDATE content_fragments SET learning_content_id = 3, updated_at = '{now}' WHERE id = 1"
    )
    family.run("DELETE FROM rankings WHERE id IN (1, 2)")
    proxy.plan_all(("lose the answer", COMMIT, 1), ("reset", b'DELETE FROM "rankings"', 0))
    result = job("migrate", only_content=[1])
    assert failures(result) == []
    assert proxy.broken == 2, proxy.marker
    assert opened == ["pinned"]
    found = moved(result)
    assert found["content_fragments"] == ("subset", 2, 1, 0, 0)
    assert found["rankings"][3] == 2
    assert_same(family.path, target_url)


def test_a_verification_is_tried_again_with_the_same_copy(
    job: Job, family: SourceFile, proxy: Proxy, target_url: str, opened: list[str]
) -> None:
    move_all(family.path, target_url)
    opened.clear()
    proxy.plan_all(("reset", b"array_send", 0), ("lose the answer", b"array_send", 2))
    result = job("verify")
    assert failures(result) == []
    assert proxy.broken == 2, proxy.marker
    assert opened == ["take_snapshot"]
    assert len(restarts(result)) == 2


def test_a_session_that_the_server_still_thinks_alive_holds_nothing_up(
    job: Job, family: SourceFile, proxy: Proxy, target_url: str
) -> None:
    # One of them fills a table that it has created, the other one holds the run's lock.
    proxy.plan_all(("vanish", b"FROM STDIN", 1), ("vanish", b"PRIMARY KEY", 1))
    result = job("migrate")
    assert failures(result) == []
    assert proxy.broken == 2, proxy.marker
    assert_same(family.path, target_url)


def test_a_run_does_not_go_on_after_another_one_that_came_between(
    job: Job,
    family: SourceFile,
    proxy: Proxy,
    target_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other_run(_: int) -> int:
        family.add("rankings", {"id": 100})
        move_all(family.path, target_url)
        return 0

    monkeypatch.setattr(retries, "wait_before", other_run)
    proxy.plan("reset", b"REFERENCES learning_content")
    result = job("migrate")
    (said,) = failures(result)
    assert said == (
        "content_fragments: Another run moved learning_content, content_fragments, fragment_assets,"
        " rankings while the connection was lost. Run again; tables that this run has committed"
        " are kept."
    )
    assert_same(family.path, target_url)


@pytest.mark.parametrize(
    "said",
    [
        "SSL connection has been closed unexpectedly",
        "SSL error: unexpected eof while reading",
        "SSL SYSCALL error: EOF detected",
        "could not receive data from server: Connection timed out",
    ],
)
def test_an_encrypted_connection_that_is_lost_is_tried_again_as_well(said: str) -> None:
    error = TargetError.from_driver(psycopg2.OperationalError(said), where="the target")
    assert isinstance(error, Transient)
    assert "the connection to the server was lost" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["migrate", "sync", "subset", "verify"])
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_breaks_at_random_a_command_ends_with_success(
    seed: int, command: str, source: SourceFile, database: URL, tmp_path: Path
) -> None:
    rng, url = random.Random(f"{command} {seed}"), libpq(database)
    write_source(source, rng)
    if command != "migrate":
        first_move(source, url, tracked=bool(seed % 2))
        source.run("UPDATE rankings SET assessed_by = 'x', updated_at = '2026-01-01 00:00:00'")
    arguments = {"subset": ("migrate", "--limit", "9")}.get(command, (command,))
    with relay(database, delay=0.001) as network:
        settings = usable(source, libpq(network.url), tmp_path)
        if command == "verify":
            move_all(source.path, url)
        with running(*arguments, **settings) as process:
            # What prepares a command is not tried again.
            while query(url, CONNECTED) == [(0,)]:
                time.sleep(0.01)
            for _ in range(3):
                time.sleep(rng.random() * 0.6)
                network.cut()
            ran = process.ended()
    assert ran.code == 0, ran.err
    if command in ("migrate", "sync"):
        assert held_by(url) == expected(source.path)
