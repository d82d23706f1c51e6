"""Whatever happens to a sync, the next one converges, or one sentence says what to do.

SOAK_SEEDS (default 1) says how many seeds the tests of random moments take. Both sides are compared
by code that shares nothing with the pipeline.
"""

import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest

from pipeline.core.errors import LockedError, PipelineError, SourceError, TooManyDeletes
from pipeline.migrations.content import metadata
from pipeline.move.engine import ChangesUnknown
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support import comparison, kills, random_writer
from pipeline_tests.support.commands import pipeline, running, usable
from pipeline_tests.support.comparison import assert_same
from pipeline_tests.support.first_moves import first_move
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.random_writer import MODES, SEEDS
from pipeline_tests.support.servers import restart
from pipeline_tests.support.sources import CHANGED_BY, DEFAULTS, PARENTS, SourceFile
from pipeline_tests.support.targets import query

KILLS, CUTS = 3, 2
"""How often by default; the slow seeds take four times as many."""
TABLES = metadata.sorted_tables
SYNCER = kills.MOVER.replace("move_all", "sync_all")
"""Syncs in a process of its own, as often as it is told to, and kills it when it is told to."""

SENTENCES = re.compile(r"[A-Z][^\n]*\. [A-Z][^\n]*\.")
"""What is wrong and where; what to do about it."""


def change(source: SourceFile, rng: random.Random, *, dated: bool) -> None:
    """Repair what was broken, break others; update, delete and insert some rows of each table."""
    moment = f"'2025-09-01 00:00:{rng.randrange(60):02}.{rng.randrange(10**6):06}'"

    def update(table: str, sets: str, where: str) -> None:
        """One update; without tracking it sets the date of change."""
        date = f", {CHANGED_BY[table]} = {moment}" if dated else ""
        live.execute(f"UPDATE {table} SET {sets}{date} WHERE {where}")

    with closing(sqlite3.connect(source.path, timeout=30)) as live, live:
        update("learning_content", "tags = '[\"food\"]'", "NOT json_valid(tags)")
        update("rankings", "rank_score = 5", "rank_score > 5")
        for table, broken, rows in (
            ("learning_content", "tags = '[''food'']'", 250),
            ("content_fragments", "body_text = 'a' || char(0) || 'b'", 1000),
            ("fragment_assets", "asset_data = NULL", 600),
            ("rankings", "rank_score = 9", 2000),
        ):
            update(table, broken, f"id IN ({rng.randint(1, rows)}, {rng.randint(1, rows)})")
        part = rng.randrange(5)
        update("learning_content", "ipa = ipa || '!'", f"id % 5 = {part}")
        update("content_fragments", "extra = ifnull(extra, '') || '!'", f"id % 5 = {part}")
        update("fragment_assets", "asset_data = randomblob(99)", f"id % 9 = {part}")
        update("rankings", "assessment_notes = hex(randomblob(4))", f"id % 5 = {part}")
        live.execute("DELETE FROM rankings WHERE id IN (SELECT id FROM rankings LIMIT 50)")
        live.execute(
            "INSERT INTO rankings (fragment_id, rank_score, assessed_by)"
            f" SELECT id, 2.25, 'new' FROM content_fragments WHERE id % 40 = {part}"
        )


def inserted(table: str, **values: Any) -> tuple[str, list[Any]]:
    """What inserts a row; what is not said is sound."""
    row = DEFAULTS[table] | values
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [
        *row.values()
    ]


def family(source: SourceFile, url: str, *, tracked: bool, contents: int = 6) -> None:
    """A small source, moved once."""
    with closing(sqlite3.connect(source.path)) as live, live:
        for c in range(1, contents + 1):
            live.execute(*inserted("learning_content", id=c, title=f"word {c}"))
            for f in (2 * c - 1, 2 * c):
                live.execute(*inserted("content_fragments", id=f, learning_content_id=c))
                live.execute(*inserted("fragment_assets", id=f, fragment_id=f))
                live.execute(*inserted("rankings", id=2 * f - 1, fragment_id=f))
                live.execute(*inserted("rankings", id=2 * f, fragment_id=f, asset_id=f))
    first_move(source, url, tracked=tracked)
    assert_same(source.path, url)


def follow(source: Path, url: str, *, busy_seconds: float = 2) -> str | None:
    """Sync as a run does, as a whole where that is needed; why it was."""
    try:
        sync_all(source, url, run_id="follow", busy_seconds=busy_seconds)
    except ChangesUnknown as error:
        move_all(source, url)
        return error.why
    return None


# --- killed -------------------------------------------------------------------------------------


@pytest.fixture
def syncer(
    source: SourceFile, target_url: str, tmp_path: Path
) -> Iterator["subprocess.Popen[str]"]:
    """A process that syncs the source to the target."""
    with kills.program(SYNCER, source, target_url, tmp_path) as process:
        yield process


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sync_that_is_killed_anywhere_and_run_again_ends_as_if_never_killed(
    seed: int,
    mode: str,
    source: SourceFile,
    target_url: str,
    syncer: "subprocess.Popen[str]",
) -> None:
    rng, dated = random.Random(f"{mode} {seed}"), mode == "dates"
    random_writer.write_source(source, rng)
    if not dated:
        tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    change(source, rng, dated=dated)
    code, seconds = kills.move(syncer, kill_after=None)
    assert code == 0
    assert comparison.held_by(target_url) == comparison.expected(source.path)
    codes = []
    for share in kills.moments(4 * KILLS if seed else KILLS, rng):
        before = comparison.expected(source.path)
        change(source, rng, dated=dated)
        after = comparison.expected(source.path)
        code, _ = kills.move(syncer, kill_after=share * seconds)
        codes.append(code)
        kills.assert_whole(target_url, before, after)
        if rng.random() < 0.3:
            # What has moved moves on before the rest has caught up.
            change(source, rng, dated=dated)
            after = comparison.expected(source.path)
        sync_all(source.path, target_url)
        assert comparison.held_by(target_url) == after
    assert set(codes) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in codes, "every kill came too late to test anything"


@pytest.mark.dagster
def test_the_command_can_be_killed_and_run_again(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    rng = random.Random(3)
    random_writer.write_source(source, rng)
    move_all(source.path, target_url)
    change(source, rng, dated=True)
    settings = usable(source, target_url, tmp_path)
    with running("sync", **settings):
        wait_for_session(target_url)
        time.sleep(rng.random() * 0.3)
    ran = pipeline("sync", **settings)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count(" synced ") == 4
    assert comparison.held_by(target_url) == comparison.expected(source.path)
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []


def wait_for_session(url: str) -> None:
    """Wait until a run has connected with the target."""
    deadline = time.monotonic() + 60
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while time.monotonic() < deadline:
            cursor.execute("SELECT FROM pg_stat_activity WHERE application_name = 'pipeline'")
            if cursor.fetchone() is not None:
                return
            time.sleep(0.01)
    raise AssertionError("no run has connected")


# --- the connection is lost ---------------------------------------------------------------------


@pytest.fixture
def job(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dg.ExecuteInProcessResult]:
    """Runs the job that syncs, in this process; what it records is kept in memory."""
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)
    from pipeline.orchestration.definitions import defs

    def run() -> dg.ExecuteInProcessResult:
        """One run to its end."""
        return defs.resolve_job_def("sync").execute_in_process(
            instance=dg.DagsterInstance.ephemeral(), raise_on_error=False
        )

    return run


def retries(result: dg.ExecuteInProcessResult) -> int:
    """How often a step was tried again."""
    return sum(e.event_type == dg.DagsterEventType.STEP_RESTARTED for e in result.all_events)


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    """What failed steps say; the whole error where it is none of the pipeline's own."""
    said = []
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            own = data.user_failure_data
            shown = own.description if own else data.error.to_string() if data.error else ""
            said.append(f"{event.step_key}: {shown}")
    return said


@dataclass
class Cut:
    """Ends the sessions of a run just before its nth use of the target.

    Attributes:
        url: the target.
        at: how many uses it waits for; None for never.
        uses: how many there were.
        where: what was about to be done.
    """

    url: str
    at: int | None = None
    uses: int = 0
    where: str = ""

    def note(self, statement: str) -> None:
        """Count a use."""
        self.uses += 1
        if self.uses == self.at:
            self.where = statement[:200]
            query(
                self.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'pipeline'",
            )


@pytest.fixture
def cut(target_url: str, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Counts what this process asks of the target."""
    found, fetch, run, copy = Cut(target_url), Target._fetch, Target.run, Target.copy

    def counted_fetch(self: Target, sql: str, *more: Any, **options: Any) -> Any:
        found.note(sql)
        return fetch(self, sql, *more, **options)

    def counted_run(self: Target, *statements: str) -> None:
        found.note(";".join(statements))
        run(self, *statements)

    def counted_copy(self: Target, table: str, batch: Any, **options: Any) -> None:
        found.note(f"COPY {table}")
        copy(self, table, batch, **options)

    monkeypatch.setattr(Target, "_fetch", counted_fetch)
    monkeypatch.setattr(Target, "run", counted_run)
    monkeypatch.setattr(Target, "copy", counted_copy)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_whose_connection_is_cut_tries_again_by_itself(
    seed: int,
    mode: str,
    source: SourceFile,
    target_url: str,
    cut: Cut,
    job: Callable[[], dg.ExecuteInProcessResult],
) -> None:
    rng, dated = random.Random(f"{mode} {seed}"), mode == "dates"
    random_writer.write_source(source, rng)
    if not dated:
        tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    change(source, rng, dated=dated)
    cut.uses = 0
    assert job().success
    uses, wrong, again = cut.uses, [], 0
    for share in kills.moments(4 * CUTS if seed else CUTS, rng):
        change(source, rng, dated=dated)
        cut.at, cut.uses = max(1, int(share * uses)), 0
        result = job()
        again += retries(result)
        cut.at = None
        if not result.success:
            wrong.append((cut.where, failures(result)))
            continue
        assert comparison.held_by(target_url) == comparison.expected(source.path)
    assert wrong == []
    assert again


@pytest.mark.parametrize("what", ["LIMIT 5", "pg_total_relation_size"])
def test_a_run_whose_connection_is_cut_after_a_table_has_moved_tries_again_by_itself(
    what: str,
    source: SourceFile,
    target_url: str,
    job: Callable[[], dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family(source, target_url, tracked=False)
    source.run("DELETE FROM rankings WHERE id = 1")
    fetch, done = Target._fetch, list[str]()

    def cut_once(self: Target, sql: str, *more: Any, **options: Any) -> Any:
        if what in sql and not done:
            done.append(sql)
            Cut(target_url, at=1).note(sql)
        return fetch(self, sql, *more, **options)

    monkeypatch.setattr(Target, "_fetch", cut_once)
    result = job()
    if not done:
        pytest.skip(f"nothing that a run asks has {what} in it")
    assert failures(result) == []
    assert result.success
    assert_same(source.path, target_url)


@pytest.mark.parametrize("how", ["fast", pytest.param("immediate", marks=pytest.mark.slow)])
def test_a_run_tries_again_when_the_server_is_restarted(
    how: str,
    own_server: tuple[Path, str],
    source: SourceFile,
    tmp_path: Path,
) -> None:
    rng, (data, url) = random.Random(how), own_server
    random_writer.write_source(source, rng)
    move_all(source.path, url)
    change(source, rng, dated=True)
    with running("sync", **usable(source, url, tmp_path)) as process:
        wait_for_session(url)
        time.sleep(rng.random() * 0.2)
        restart(data, how)
        ran = process.ended()
    assert ran.code == 0, ran.err
    assert comparison.held_by(url) == comparison.expected(source.path)


@pytest.mark.parametrize("mode", MODES)
def test_too_many_deletes_are_not_tried_again(
    mode: str,
    source: SourceFile,
    target_url: str,
    job: Callable[[], dg.ExecuteInProcessResult],
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    before = comparison.held_by(target_url)
    source.run("DELETE FROM rankings WHERE id % 2 = 0")
    result = job()
    assert not result.success
    assert retries(result) == 0
    (said,) = failures(result)
    assert "12 of 24 rows of the target would be deleted" in said
    assert said.endswith(" is the right source; if it is, raise MAX_DELETE_SHARE.")
    assert comparison.held_by(target_url) == before


@pytest.mark.parametrize("mode", MODES)
def test_a_proof_that_failed_is_not_tried_again(
    mode: str,
    source: SourceFile,
    target_url: str,
    job: Callable[[], dg.ExecuteInProcessResult],
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    query(
        target_url,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.body_text := 'changed on the way'; RETURN NEW; END $$;"
        " CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON content_fragments"
        " FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    before = comparison.held_by(target_url)
    source.run("UPDATE content_fragments SET body_text = 'x', updated_at = '2026-01-01 00:00:00'")
    result = job()
    assert not result.success
    assert retries(result) == 0
    (said,) = failures(result)
    assert said.startswith("content_fragments: content_fragments was rolled back: the proof failed")
    assert comparison.held_by(target_url) == before
    query(target_url, "DROP TRIGGER spoil ON content_fragments")
    assert job().success
    assert_same(source.path, target_url)


# --- the source ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_source_that_somebody_holds_is_one_sentence_and_then_it_goes_on(
    mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    with closing(sqlite3.connect(source.path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("UPDATE rankings SET rank_score = 1, updated_at = '2026-01-01 00:00:00'")
        with pytest.raises(SourceError) as caught:
            follow(source.path, target_url, busy_seconds=0.3)
        assert SENTENCES.fullmatch(str(caught.value))
        assert "is locked by another program" in str(caught.value)
        writer.execute("COMMIT")
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
def test_a_writer_in_wal_mode_is_not_waited_for(
    mode: str, source: SourceFile, target_url: str
) -> None:
    with closing(sqlite3.connect(source.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        family(source, target_url, tracked=mode == "tracked")
        writer.execute("UPDATE rankings SET rank_score = 2, updated_at = '2026-01-01 00:00:00'")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE rankings SET rank_score = 1, updated_at = '2026-01-01 00:00:01'")
        assert follow(source.path, target_url, busy_seconds=0.3) is None
        assert_same(source.path, target_url)
        writer.execute("COMMIT")
        assert follow(source.path, target_url) is None
        assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_sync_leaves_the_source_as_it_was(
    journal: str, mode: str, source: SourceFile, target_url: str
) -> None:
    source.run(f"PRAGMA journal_mode = {journal}")
    family(source, target_url, tracked=mode == "tracked")
    before = source.path.read_bytes()
    follow(source.path, target_url)
    with closing(sqlite3.connect(source.path, timeout=0)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
    assert source.path.read_bytes() == before


def without_tables(path: Path) -> None:
    """An SQLite file that holds nothing of the application."""
    path.unlink()
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")


def run_in(path: Path, *statements: str) -> None:
    """Change a file's schema."""
    with closing(sqlite3.connect(path)) as made:
        for statement in statements:
            made.execute(statement)
        made.commit()


REPLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (lambda path: path.write_bytes(b""), "is empty"),
    "nothing": (lambda path: path.unlink(), "There is no source"),
    "a file without tables": (without_tables, "has no table"),
    "one without a column": (
        lambda path: run_in(path, "ALTER TABLE learning_content DROP COLUMN title"),
        "has no column title",
    ),
    "one with a renamed table": (
        lambda path: run_in(path, "ALTER TABLE rankings RENAME TO ratings"),
        "has no table rankings",
    ),
    "one with a view in place of a table": (
        lambda path: run_in(
            path,
            "ALTER TABLE rankings RENAME TO ratings",
            "CREATE VIEW rankings AS SELECT * FROM ratings",
        ),
        "has no table rankings",
    ),
    "rubbish": (
        lambda path: path.write_bytes(random.Random(1).randbytes(9999)),
        "not an SQLite database",
    ),
    "rubbish behind a sound head": (
        lambda path: path.write_bytes(
            path.read_bytes()[:100] + random.Random(1).randbytes(path.stat().st_size - 100)
        ),
        "The source ",
    ),
    "a file that ends within a page": (
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "is truncated",
    ),
    "a file that ends after half of its pages": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 8192 * 4096]),
        "damaged or truncated",
    ),
}
"""What stands in the place of the source, and a word of what is said of it."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", REPLACED)
def test_a_source_replaced_by_something_else_is_one_sentence_and_changes_nothing(
    what: str, mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked", contents=12)
    source.run("UPDATE rankings SET rank_score = 2, updated_at = '2026-01-01 00:00:00'")
    sound, before = source.path.read_bytes(), comparison.held_by(target_url)
    replace, word = REPLACED[what]
    replace(source.path)
    with pytest.raises(PipelineError) as caught:
        follow(source.path, target_url)
    assert SENTENCES.fullmatch(str(caught.value))
    assert word in str(caught.value)
    assert comparison.held_by(target_url) == before
    source.path.write_bytes(sound)
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_pages_of_a_source_are_one_sentence(
    seed: int, mode: str, source: SourceFile, target_url: str
) -> None:
    rng = random.Random(f"{mode} {seed}")
    random_writer.write_source(source, rng)
    if mode == "tracked":
        tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    change(source, rng, dated=mode == "dates")
    sound, said = source.path.read_bytes(), 0
    pages = len(sound) // 4096
    for _ in range(8):
        damaged = bytearray(sound)
        for page in rng.sample(range(pages), 1 + pages // 50):
            damaged[page * 4096 + 100 * (page == 0) : (page + 1) * 4096] = bytes(
                4096 - 100 * (page == 0)
            )
        source.path.write_bytes(damaged)
        try:
            follow(source.path, target_url)
        except PipelineError as error:
            said += 1
            assert SENTENCES.search(str(error))
    assert said
    source.path.write_bytes(sound)
    move_all(source.path, target_url, delete_share=1.0)
    assert comparison.held_by(target_url) == comparison.expected(source.path)


@contextmanager
def backed_up(source: SourceFile) -> Iterator[None]:
    """Take a backup, and restore it at the end."""
    backup = source.path.with_suffix(".bak")
    shutil.copy(source.path, backup)
    yield
    backup.replace(source.path)


def go_on(source: SourceFile, url: str) -> None:
    """Some changes that are followed."""
    source.add("learning_content", {"id": 7, "updated_at": "2026-01-01 00:00:00"})
    source.run(
        "UPDATE content_fragments SET extra = 'new', updated_at = '2026-01-01 00:00:00'"
        " WHERE id < 4"
    )
    source.run("UPDATE fragment_assets SET asset_data = x'00', created_at = '2026-01-02 00:00:00'")
    source.run("DELETE FROM rankings WHERE id = 24")
    assert follow(source.path, url) is None
    assert_same(source.path, url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("written", ["not at all", "as often", "once less", "often"])
def test_an_older_backup_of_the_source_is_noticed_and_followed(
    written: str, mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    with backed_up(source):
        go_on(source, target_url)
    # The log of the backup may grow to the number that was read last, or beyond it.
    since = 1 + 3 + 12 + 1
    for _ in range(
        {"not at all": 0, "as often": since, "once less": since - 1, "often": 99}[written]
    ):
        source.run(
            "UPDATE rankings SET rank_score = 3, updated_at = '2026-01-03 00:00:00' WHERE id = 2"
        )
    whole = follow(source.path, target_url)
    assert (whole is not None) == (mode == "tracked")
    assert_same(source.path, target_url)
    assert follow(source.path, target_url) is None


@pytest.mark.parametrize("mode", MODES)
def test_an_older_backup_that_lacks_too_much_changes_nothing(
    mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    with backed_up(source):
        for key in range(100, 130):
            source.add("learning_content", {"id": key})
        assert follow(source.path, target_url) is None
    before = comparison.held_by(target_url)
    with pytest.raises(TooManyDeletes, match="30 of 36 rows of the target would be deleted"):
        follow(source.path, target_url)
    assert comparison.held_by(target_url) == before


def test_a_backup_from_before_tracking_is_noticed(source: SourceFile, target_url: str) -> None:
    family(source, target_url, tracked=False)
    with backed_up(source):
        tracking.switch_on(source.path, TABLES)
        assert follow(source.path, target_url) is not None
        go_on(source, target_url)
    assert follow(source.path, target_url) is not None
    assert_same(source.path, target_url)


def test_tracking_that_was_off_for_a_while_is_noticed(source: SourceFile, target_url: str) -> None:
    family(source, target_url, tracked=True)
    tracking.switch_off(source.path)
    source.run("UPDATE rankings SET rank_score = 1")
    tracking.switch_on(source.path, TABLES)
    assert follow(source.path, target_url) is not None
    assert_same(source.path, target_url)
    source.run("DROP TRIGGER pipeline_changes_rankings_after_update")
    source.run("UPDATE rankings SET rank_score = 2")
    assert follow(source.path, target_url) is not None
    assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", ["no number", b"no number", None, 2**40])
@pytest.mark.parametrize(
    "declared",
    ["INT PRIMARY KEY", pytest.param("INT PRIMARY KEY NOT NULL", marks=pytest.mark.slow)],
)
def test_a_key_of_another_type_comes_and_goes(
    declared: str, key: Any, mode: str, target_url: str, tmp_path: Path
) -> None:
    if key is None and "NOT NULL" in declared:
        pytest.skip("such a table has no key that is NULL")
    ddl = random_writer.ddl_with(declared)
    if "NOT NULL" in declared:
        ddl = ddl.replace(");\n", ") WITHOUT ROWID;\n")
    source = SourceFile.make(tmp_path / "keys.db", ddl)
    family(source, target_url, tracked=mode == "tracked", contents=2)
    source.run(*inserted("rankings", id=key, updated_at="2026-01-01 00:00:00"))
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)
    source.run(
        "UPDATE rankings SET id = 99, updated_at = '2026-01-01 00:00:01' WHERE id IS ?", [key]
    )
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)
    source.run(
        "UPDATE rankings SET id = ?, updated_at = '2026-01-01 00:00:02' WHERE id = 99", [key]
    )
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)
    source.run("DELETE FROM rankings WHERE id IS ?", [key])
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "declared", ["INT PRIMARY KEY", pytest.param("INTEGER", marks=pytest.mark.slow)]
)
def test_rows_whose_numbers_change_stay_in_quarantine(
    declared: str, mode: str, target_url: str, tmp_path: Path
) -> None:
    source = SourceFile.make(tmp_path / "keys.db", random_writer.ddl_with(declared))
    family(source, target_url, tracked=mode == "tracked")
    for key in (12, 20):
        source.run(
            "UPDATE rankings SET rank_score = 9, updated_at = '2026-01-01 00:00:00' WHERE id = ?",
            [key],
        )
    assert follow(source.path, target_url) is None
    source.run("DELETE FROM rankings WHERE id IN (1, 2)")
    numbers = source.run("SELECT rowid, id FROM rankings")
    source.run("VACUUM")
    if source.run("SELECT rowid, id FROM rankings") == numbers:
        source.run("UPDATE rankings SET rowid = rowid + 1000")
    # Where the log is read, that they moved asks for a look at every value.
    follow(source.path, target_url)
    assert_same(source.path, target_url)
    source.run(
        "UPDATE rankings SET rank_score = 3, updated_at = '2026-01-01 00:00:01' WHERE id = 12"
    )
    assert follow(source.path, target_url) is None
    assert_same(source.path, target_url)


# --- two at once, and parts of a run ------------------------------------------------------------


def test_a_sync_that_waits_too_long_says_who_holds_the_target(
    source: SourceFile,
    target_url: str,
    job: Callable[[], dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family(source, target_url, tracked=False)
    source.run("DELETE FROM rankings WHERE id = 1")
    monkeypatch.setenv("LOCK_SECONDS", "0.5")
    with Target.connect(target_url, shown="the target") as target, target.lock():
        holder = target.value("SELECT pg_backend_pid()")
        result = job()
    assert not result.success
    assert retries(result) == 0
    said = failures(result)[0]
    assert f"in use by another run (server process {holder}" in said
    assert "Traceback" not in said
    assert query(target_url, "SELECT count(*) FROM rankings WHERE id = 1") == [(1,)]


@pytest.mark.dagster
def test_two_syncs_at_once_take_turns(source: SourceFile, target_url: str, tmp_path: Path) -> None:
    rng = random.Random(5)
    random_writer.write_source(source, rng)
    move_all(source.path, target_url)
    change(source, rng, dated=True)
    settings = usable(source, target_url, tmp_path)
    with running("sync", **settings) as one, running("sync", **settings) as other:
        ran = [one.ended(), other.ended()]
    assert [(each.code, each.err) for each in ran] == [(0, ""), (0, "")]
    assert comparison.held_by(target_url) == comparison.expected(source.path)


def test_the_lock_is_not_taken_by_two(target_url: str) -> None:
    with (
        Target.connect(target_url, shown="the target") as one,
        Target.connect(target_url, shown="the target") as other,
        one.lock(),
        pytest.raises(LockedError, match="is in use by another run"),
        other.lock(seconds=0.1),
    ):
        pass


def test_sessions_of_one_run_share_its_lock_until_who_took_it_lets_it_go(target_url: str) -> None:
    with (
        Target.connect(target_url, shown="the target") as one,
        Target.connect(target_url, shown="the target") as other,
    ):
        with one.lock(), one.another() as second:
            with second.lock(seconds=0):
                pass
            with pytest.raises(LockedError), other.lock(seconds=0):
                pass
        with other.lock(seconds=0), pytest.raises(LockedError), one.lock(seconds=0):
            pass


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("table", [table for table in PARENTS if PARENTS[table]])
def test_a_table_that_moved_before_its_parents_is_not_left_behind(
    table: str, mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    source.add("learning_content", {"id": 7, "updated_at": "2026-01-01 00:00:00"})
    source.add("content_fragments", {"id": 13, "learning_content_id": 7})
    source.add("fragment_assets", {"id": 13, "fragment_id": 13})
    source.add("rankings", {"id": 25, "fragment_id": 13, "asset_id": 13})
    random_writer.age(source.path, 1_600_000_000)
    sync_all(source.path, target_url, tables=[metadata.tables[table]])
    sync_all(source.path, target_url)
    assert_same(source.path, target_url)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("table", PARENTS)
def test_a_table_that_moved_without_the_others_does_not_leave_them_behind(
    table: str, mode: str, source: SourceFile, target_url: str
) -> None:
    family(source, target_url, tracked=mode == "tracked")
    source.run(
        "UPDATE learning_content SET tags = '[', updated_at = '2026-01-01 00:00:00' WHERE id = 1"
    )
    source.run("DELETE FROM content_fragments WHERE id = 3")
    source.run(
        "UPDATE rankings SET assessed_by = 'x', updated_at = '2026-01-01 00:00:00' WHERE id > 20"
    )
    random_writer.age(source.path, 1_600_000_000)
    sync_all(source.path, target_url, tables=[metadata.tables[table]])
    sync_all(source.path, target_url)
    assert_same(source.path, target_url)
    sync_all(source.path, target_url)
    assert_same(source.path, target_url)


def test_random_cuts_from_another_thread_do_no_harm(
    source: SourceFile,
    target_url: str,
    job: Callable[[], dg.ExecuteInProcessResult],
) -> None:
    rng = random.Random(9)
    random_writer.write_source(source, rng)
    move_all(source.path, target_url)
    change(source, rng, dated=True)
    stop = threading.Event()

    def cut_now_and_then() -> None:
        """Two cuts, each at a moment when a run is connected."""
        for _ in range(2):
            while not stop.wait(0.3 + rng.random()):
                done = query(
                    target_url,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'pipeline'",
                )
                if done:
                    break

    other = threading.Thread(target=cut_now_and_then)
    other.start()
    try:
        result = job()
    finally:
        stop.set()
        other.join()
    assert failures(result) == []
    assert result.success
    assert comparison.held_by(target_url) == comparison.expected(source.path)
