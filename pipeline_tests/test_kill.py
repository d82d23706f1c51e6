"""Kill a move anywhere, or start two at once: nothing is lost, doubled or left behind.

SOAK_SEEDS (default 1) says how many seeds the loop of kills takes; a seed decides every value of
the source, every change of it and every moment of a kill.
"""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pipeline.migrations.content import metadata
from pipeline.move.target import Target
from pipeline.settings import PROJECT, libpq
from pipeline_tests.commands import environment, pipeline, usable
from pipeline_tests.support import SourceFile, move_all, query

SEEDS = [
    pytest.param(seed, marks=[pytest.mark.slow] if seed else [])
    for seed in range(int(os.environ.get("SOAK_SEEDS", "1")))
]
KILLS_OF_A_MOVE = 10
KILLS_OF_A_COMMAND = 4
PARENTS = {
    "learning_content": {},
    "content_fragments": {"learning_content_id": "learning_content"},
    "fragment_assets": {"fragment_id": "content_fragments"},
    "rankings": {"fragment_id": "content_fragments", "asset_id": "fragment_assets"},
}
MOVER = """
import os, signal, sys, time
from pathlib import Path
from pipeline_tests.support import move_all
for kill_after in sys.stdin:
    started = time.perf_counter()
    child = os.fork()
    if not child:
        move_all(Path(sys.argv[1]), sys.argv[2])
        os._exit(0)
    if kill_after != "never\\n":
        time.sleep(float(kill_after))
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, time.perf_counter() - started, flush=True)
"""
"""Moves in a process of its own, as often as it is told to, and kills it when it is told to.

Everything is imported once, so the moment of a kill lies within the move itself.
"""

FIRST_USES = """
import os
from contextlib import closing, contextmanager
import psycopg2
from pipeline import environment, runs, settings, storage
for _ in range(2):
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as connection, connection:
        connection.cursor().execute("DROP SCHEMA IF EXISTS dagster CASCADE")
    children = []
    wait, go = os.pipe()
    for _ in range(4):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(wait, 1)
            loaded = settings.load()
            storage.prepare(environment.server(loaded), loaded)
            with runs.instance() as opened:
                opened.get_runs()
            os._exit(0)
        children.append(child)
    os.close(go)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""
"""Twice: four processes that, at the same moment, are the first to use a target."""

Rows = dict[int, dict[str, Any]]
"""Rows of a table by id."""


def write_source(source: SourceFile, rng: random.Random) -> None:
    """Some 4,000 rows; in every table a few that the target refuses."""

    def moment() -> str:
        day, part = rng.randint(1, 28), rng.randrange(10**6)
        return f"2025-{rng.randint(1, 12):02}-{day:02} 03:07:13.{part:06}"

    contents = [
        (i, f"คำ {i}", "vocabulary", "thai", "กิน", "to eat", "kin", '["food"]', moment())
        for i in range(1, 251)
    ]
    fragments = [
        (i, "ผมกินข้าว", f"I eat {i}", "usage_tip", moment(), rng.randint(1, 250))
        for i in range(1, 1001)
    ]
    assets = [
        (i, rng.randint(1, 1000), "audio", rng.randbytes(rng.randrange(2000)), moment())
        for i in range(1, 601)
    ]
    rankings = [
        (i, rng.randint(1, 1000), rng.choice([None, rng.randint(1, 600)]), rng.randint(0, 20) / 4)
        for i in range(1, 2001)
    ]
    with closing(sqlite3.connect(source.path)) as live, live:
        for into, rows in (
            (
                "learning_content (id, title, content_type, language, native_text, translation,"
                " ipa, tags, created_at)",
                contents,
            ),
            (
                "content_fragments (id, native_text, body_text, fragment_type, created_at,"
                " learning_content_id)",
                fragments,
            ),
            ("fragment_assets (id, fragment_id, asset_type, asset_data, created_at)", assets),
            ("rankings (id, fragment_id, asset_id, rank_score)", rankings),
        ):
            live.executemany(f"INSERT INTO {into} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        live.execute("UPDATE rankings SET assessed_by = 'malee'")
    break_some(source, rng)


def break_some(source: SourceFile, rng: random.Random) -> None:
    """Give a few rows of every table a value that the target refuses."""
    for table, change, rows in (
        ("learning_content", "tags = '[''food'']'", 250),
        ("content_fragments", "body_text = 'a' || char(0) || 'b'", 1000),
        ("fragment_assets", "asset_data = NULL", 600),
        ("rankings", "rank_score = 9", 2000),
    ):
        for _ in range(3):
            source.run(f"UPDATE {table} SET {change} WHERE id = ?", [rng.randint(1, rows)])


def change_some(source: SourceFile, rng: random.Random) -> None:
    """Repair what was broken, break others; update, delete and insert some rows."""
    source.run("UPDATE learning_content SET tags = '[\"food\"]' WHERE NOT json_valid(tags)")
    source.run("UPDATE rankings SET rank_score = 5 WHERE rank_score > 5")
    break_some(source, rng)
    third = rng.randrange(3)
    source.run(
        "UPDATE content_fragments SET body_text = body_text || '!' WHERE id % 3 = ?", [third]
    )
    source.run("UPDATE fragment_assets SET asset_data = randomblob(99) WHERE id % 9 = ?", [third])
    source.run("DELETE FROM rankings WHERE id IN (SELECT id FROM rankings ORDER BY id LIMIT 50)")
    source.run(
        "INSERT INTO rankings (fragment_id, rank_score, assessed_by)"
        " SELECT id, 2.25, 'new' FROM content_fragments WHERE id % 40 = ?",
        [rng.randrange(40)],
    )


def refused(table: str, row: dict[str, Any]) -> bool:
    """Whether a source row breaks what the target demands of it alone."""
    match table:
        case "learning_content":
            return row["tags"].startswith("['")
        case "content_fragments":
            return "\0" in row["body_text"]
        case "fragment_assets":
            return row["asset_data"] is None
    return bool(row["rank_score"] > 5)


def as_it_arrives(name: str, value: Any) -> Any:
    """A source value as psycopg2 gives it back."""
    if value is None:
        return None
    if name in ("created_at", "updated_at", "last_review_at"):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if name in ("tags", "content_metadata", "fragment_metadata", "asset_metadata"):
        return json.loads(value)
    return Decimal(str(value)) if name == "rank_score" else value


def expected(source: SourceFile) -> dict[str, tuple[Rows, set[int]]]:
    """By table: the rows that the target must hold, and the ids that quarantine must hold."""
    found: dict[str, tuple[Rows, set[int]]] = {}
    with closing(sqlite3.connect(source.path)) as live:
        live.row_factory = sqlite3.Row
        for table, parents in PARENTS.items():
            rows = [dict(row) for row in live.execute(f"SELECT * FROM {table}")]
            aside = {
                row["id"]
                for row in rows
                if refused(table, row)
                or any(row[column] in found[parent][1] for column, parent in parents.items())
            }
            found[table] = (
                {
                    row["id"]: {name: as_it_arrives(name, value) for name, value in row.items()}
                    for row in rows
                    if row["id"] not in aside
                },
                aside,
            )
    return found


def held_by(url: str) -> dict[str, tuple[Rows, set[int]]]:
    """By table: the target's rows and the ids in quarantine; a table that is missing is empty."""
    found: dict[str, tuple[Rows, set[int]]] = {}
    for table in PARENTS:
        rows: Rows = {}
        aside: set[int] = set()
        if query(url, "SELECT to_regclass(%s)", (f"public.{table}",)) != [(None,)]:
            names = [
                name
                for (name,) in query(
                    url,
                    "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass"
                    " AND attnum > 0",
                    (table,),
                )
            ]
            for values in query(url, f"SELECT * FROM {table}"):
                row = dict(zip(names, values, strict=True))
                if table == "fragment_assets":
                    row["asset_data"] = row["asset_data"].tobytes()
                assert row["id"] not in rows
                rows[row["id"]] = row
        if query(url, "SELECT to_regclass('migration.quarantine')") != [(None,)]:
            handles = query(
                url, "SELECT handle FROM migration.quarantine WHERE table_name = %s", (table,)
            )
            aside = {int(handle) for (handle,) in handles}
        found[table] = (rows, aside)
    return found


def wait_for_other_sessions(url: str) -> None:
    """Wait until the server has noticed that its client is dead."""
    deadline = time.monotonic() + 30
    while query(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_whole(
    url: str,
    before: dict[str, tuple[Rows, set[int]]],
    after: dict[str, tuple[Rows, set[int]]],
) -> None:
    """Every table is as it was or as it will be; a deleted parent takes its children along."""
    wait_for_other_sessions(url)
    now = held_by(url)
    for table, parents in PARENTS.items():
        rows, aside = now[table]
        with_parents = {
            key: row
            for key, row in before[table][0].items()
            if all(row[c] is None or row[c] in now[parent][0] for c, parent in parents.items())
        }
        whole = (rows, aside) in (before[table], after[table], (with_parents, before[table][1]))
        assert whole, f"{table} is neither as before nor as after"


def wipe(url: str) -> None:
    """Take away what moves have made, and what Dagster has recorded."""
    query(
        url,
        "DROP SCHEMA IF EXISTS migration CASCADE; DROP SCHEMA IF EXISTS dagster CASCADE;"
        f" DROP TABLE IF EXISTS {', '.join(PARENTS)} CASCADE",
    )


@contextmanager
def program(
    script: str, source: SourceFile, url: str, tmp_path: Path
) -> Iterator["subprocess.Popen[str]"]:
    """A process that works on source and target; its temporary files stay in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(source.path), url],
        env=environment(TMPDIR=tmp_path, PIPELINE_HOME=tmp_path / "home"),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate(timeout=60)


@pytest.fixture
def mover(source: SourceFile, target_url: str, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that moves the source to the target."""
    with program(MOVER, source, target_url, tmp_path) as process:
        yield process


def move(mover: "subprocess.Popen[str]", *, kill_after: float | None) -> tuple[int, float]:
    """Let it move, or kill it after some seconds: exit code (negative: signal) and seconds."""
    assert mover.stdin
    assert mover.stdout
    mover.stdin.write(f"{'never' if kill_after is None else kill_after}\n")
    mover.stdin.flush()
    code, seconds = mover.stdout.readline().split()
    return int(code), float(seconds)


def moments(kills: int, rng: random.Random) -> list[float]:
    """Shares of a run's duration, spread over all of it, in random order."""
    shares = [(at + rng.random()) / kills for at in range(kills)]
    rng.shuffle(shares)
    return shares


@pytest.mark.parametrize("seed", SEEDS)
def test_a_move_that_is_killed_anywhere_and_run_again_ends_as_if_never_killed(
    seed: int, source: SourceFile, target_url: str, mover: "subprocess.Popen[str]"
) -> None:
    rng = random.Random(seed)
    write_source(source, rng)
    after = expected(source)
    seconds, codes = {}, []
    for way in ("fill", "merge"):
        if way == "merge":
            change_some(source, rng)
            after = expected(source)
        code, seconds[way] = move(mover, kill_after=None)
        assert code == 0
        assert held_by(target_url) == after
    for at, share in enumerate(moments(KILLS_OF_A_MOVE, rng)):
        way = ("fill", "merge")[at % 2]
        before = after
        if way == "fill":
            wipe(target_url)
            before = {table: ({}, set()) for table in PARENTS}
        change_some(source, rng)
        after = expected(source)
        code, _ = move(mover, kill_after=share * seconds[way])
        codes.append(code)
        assert_whole(target_url, before, after)
        move_all(source.path, target_url)
        assert held_by(target_url) == after
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes.count(0) < KILLS_OF_A_MOVE * 3 / 4, "most kills came too late to test anything"
    assert_quarantine_holds_whole_rows(source, target_url)


def assert_quarantine_holds_whole_rows(source: SourceFile, url: str) -> None:
    """Every row in quarantine has a reason, and every value of it with its storage class."""
    for table in PARENTS:
        names = metadata.tables[table].columns.keys()
        width = len(names) + (table == "learning_content")
        kept = query(
            url,
            "SELECT handle, jsonb_array_length(reasons) > 0,"
            " (SELECT count(*) FROM migration.quarantine_values v"
            "  WHERE (v.table_name, v.handle) = (q.table_name, q.handle))"
            " FROM migration.quarantine q WHERE table_name = %s ORDER BY 1",
            (table,),
        )
        aside = expected(source)[table][1]
        assert kept == sorted((str(handle), True, width) for handle in aside)


@pytest.fixture
def killed() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that the test has started; none outlives it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_the_command_can_be_killed_anywhere_and_run_again(
    source: SourceFile, target_url: str, tmp_path: Path, killed: list["subprocess.Popen[str]"]
) -> None:
    rng = random.Random(20)
    write_source(source, rng)
    settings = usable(source, target_url, tmp_path) | {"LOCK_SECONDS": "60"}
    # How long it takes is known for this machine, and as busy as it is, only by trying.
    tried = pipeline("migrate", **settings)
    seconds = float(re.findall(r"proven in ([\d.]+) s", tried.out)[0])
    wipe(target_url)
    command, seen = [Path(sys.executable).with_name("pipeline"), "migrate"], 0
    shares = moments(KILLS_OF_A_COMMAND, rng)
    for first, second in zip(shares[::2], shares[1::2], strict=True):
        before, after = held_by(target_url), expected(source)
        for share in (first, second):
            process = subprocess.Popen(
                command, env=environment(**settings), stdout=subprocess.PIPE, text=True
            )
            killed.append(process)
            assert process.stdout
            assert process.stdout.readline().startswith("source")
            time.sleep(share * seconds)
            process.kill()
            process.communicate()
            assert_whole(target_url, before, after)
            seen += len(list((tmp_path / "home" / "snapshots").glob("*")))
        ran = pipeline("migrate", **settings)
        assert (ran.code, ran.err) == (0, "")
        assert held_by(target_url) == after
        assert_quarantine_holds_whole_rows(source, target_url)
        assert list((tmp_path / "home" / "snapshots").iterdir()) == []
        change_some(source, rng)
    statuses = query(target_url, "SELECT DISTINCT status FROM dagster.runs ORDER BY 1")
    assert statuses == [("FAILURE",), ("SUCCESS",)], "a killed run seems to go on for ever"
    assert seen, "no kill came while a run had its copy of the source"


@pytest.mark.dagster
def test_two_runs_at_once_take_turns(
    source: SourceFile, target_url: str, tmp_path: Path, killed: list["subprocess.Popen[str]"]
) -> None:
    write_source(source, random.Random(2))
    settings = usable(source, target_url, tmp_path)
    for _ in range(2):
        process = subprocess.Popen(
            [Path(sys.executable).with_name("pipeline"), "migrate"],
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        killed.append(process)
    outs = [process.communicate(timeout=120) for process in killed]
    assert [(process.returncode, err) for process, (_, err) in zip(killed, outs, strict=True)] == [
        (0, ""),
        (0, ""),
    ]
    ways = sorted((out.count(" filled "), out.count(" unchanged ")) for out, _ in outs)
    assert ways == [(0, 4), (4, 0)]
    assert held_by(target_url) == expected(source)
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []


def test_four_who_use_a_fresh_target_first_all_can_record_their_runs(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USES],
        env=environment(**usable(source, target_url, tmp_path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[0, 0, 0, 0]\n" * 2, done.stderr
    assert query(target_url, "SELECT count(*) FROM dagster.runs") == [(0,)]


@pytest.mark.dagster
def test_a_run_that_waits_too_long_says_who_holds_the_target(
    source: SourceFile, server: URL, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    with ExitStack() as held:
        # Another database of the same server is locked as well; it is not the one meant.
        for url in (libpq(server), target_url):
            target = held.enter_context(Target.connect(url, shown="the target"))
            held.enter_context(target.lock())
        holder = target.value("SELECT pg_backend_pid()")
        settings = usable(source, target_url, tmp_path) | {"LOCK_SECONDS": "0.5"}
        ran = pipeline("migrate", **settings)
    assert ran.code != 0
    sentence = ran.err.splitlines()[0]
    assert f"held by another run (server process {holder}, from a local socket" in sentence
    assert "Traceback" not in ran.err
    assert query(target_url, "SELECT to_regclass('public.learning_content')") == [(None,)]


def test_runs_that_start_together_leave_each_other_their_copies(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.resources import SourceDatabase

    source.add_family(contents=1)
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(worker: int) -> bool:
        """As often as said: take a copy, use it, let it go."""
        found = []
        with Target.connect(target_url, shown="the target") as target:
            for number in range(25):
                resource, rankings = SourceDatabase(), [metadata.tables["rankings"]]
                opened = resource.open(rankings, target=target, run_id=f"run {worker} {number}")
                with opened.sqlite() as copy:
                    found += copy.execute("SELECT count(*) FROM rankings").fetchone()
                resource.teardown_after_execution(None)  # type: ignore[arg-type]
        return found == [4] * 25

    with ThreadPoolExecutor(6) as runs:
        assert all(runs.map(run, range(6)))
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []
