"""Kill a move anywhere, or start two at once: nothing is lost, doubled or left behind.

SOAK_SEEDS (default 1) says how many seeds the loop of kills takes; a seed decides every value of
the source, every change of it and every moment of a kill.
"""

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.migrations.content import CONTENT, metadata
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import environment, pipeline, running, usable
from pipeline_tests.support.comparison import EMPTY, expected, held_by
from pipeline_tests.support.kills import MOVER, assert_whole, moments, move, program, wipe
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.random_writer import SEEDS, change_some, write_source
from pipeline_tests.support.sources import PARENTS, SourceFile
from pipeline_tests.support.targets import query

KILLS_OF_A_MOVE = 10
KILLS_OF_A_COMMAND = 4
FIRST_USES = """
import os
from contextlib import closing, contextmanager
import psycopg2
from pipeline.config import environment, settings
from pipeline.orchestration import runs
from pipeline.orchestration.instance import storage
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


@pytest.fixture
def mover(source: SourceFile, target_url: str, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that moves the source to the target."""
    with program(MOVER, source, target_url, tmp_path) as process:
        yield process


@pytest.mark.parametrize("seed", SEEDS)
def test_a_move_that_is_killed_anywhere_and_run_again_ends_as_if_never_killed(
    seed: int, source: SourceFile, target_url: str, mover: "subprocess.Popen[str]"
) -> None:
    rng = random.Random(seed)
    write_source(source, rng)
    after = expected(source.path)
    seconds, codes = {}, []
    for strategy in ("fill", "merge"):
        if strategy == "merge":
            change_some(source, rng)
            after = expected(source.path)
        code, seconds[strategy] = move(mover, kill_after=None)
        assert code == 0
        assert held_by(target_url) == after
    for at, share in enumerate(moments(KILLS_OF_A_MOVE, rng)):
        strategy = ("fill", "merge")[at % 2]
        before = after
        if strategy == "fill":
            wipe(target_url)
            before = EMPTY
        change_some(source, rng)
        after = expected(source.path)
        code, _ = move(mover, kill_after=share * seconds[strategy])
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
            "SELECT row_id, jsonb_array_length(reasons) > 0,"
            " (SELECT count(*) FROM migration.quarantine_values v"
            "  WHERE (v.table_name, v.row_id) = (q.table_name, q.row_id))"
            " FROM migration.quarantine q WHERE table_name = %s ORDER BY 1",
            (table,),
        )
        aside = expected(source.path)[table][1]
        assert kept == sorted((key, True, width) for key in aside)


@pytest.mark.dagster("fresh")
def test_the_command_can_be_killed_anywhere_and_run_again(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    rng = random.Random(20)
    write_source(source, rng)
    settings = usable(source, target_url, tmp_path) | {"LOCK_SECONDS": "60"}
    # How long it takes is known for this machine, and as busy as it is, only by trying.
    tried = pipeline("migrate", **settings)
    seconds = float(re.findall(r"proven in ([\d.]+) s", tried.out)[0])
    wipe(target_url)
    seen = 0
    shares = moments(KILLS_OF_A_COMMAND, rng)
    for first, second in zip(shares[::2], shares[1::2], strict=True):
        before, after = held_by(target_url), expected(source.path)
        for share in (first, second):
            with running("migrate", **settings) as process:
                assert process.line().startswith("source")
                time.sleep(share * seconds)
                process.kill()
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
def test_two_runs_at_once_take_turns(source: SourceFile, target_url: str, tmp_path: Path) -> None:
    write_source(source, random.Random(2))
    settings = usable(source, target_url, tmp_path)
    with running("migrate", **settings) as one, running("migrate", **settings) as other:
        ran = [one.ended(), other.ended()]
    assert [(each.code, each.err) for each in ran] == [(0, ""), (0, "")]
    ways = sorted((each.out.count(" filled "), "nothing has changed" in each.out) for each in ran)
    assert ways == [(0, True), (4, False)]
    assert held_by(target_url) == expected(source.path)
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []


@pytest.mark.dagster("fresh")
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
    assert f"in use by another run (server process {holder}, from a local socket" in sentence
    assert "Traceback" not in ran.err
    assert query(target_url, "SELECT to_regclass('public.learning_content')") == [(None,)]


def test_runs_that_start_together_leave_each_other_their_copies(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.orchestration.common.resources import SourceDatabase

    source.add_family(contents=1)
    for name, value in usable(source, target_url, tmp_path).items():
        monkeypatch.setenv(name, value)

    def run(worker: int) -> bool:
        """As often as said: take a copy, use it, let it go."""
        found = []
        with Target.connect(target_url, shown="the target") as target:
            for number in range(25):
                resource, rankings = SourceDatabase(), [metadata.tables["rankings"]]
                views = resource.views(CONTENT, run_id=f"run {worker} {number}")
                opened = views.copy(rankings, target=target)
                with opened.sqlite() as copy:
                    found += copy.execute("SELECT count(*) FROM rankings").fetchone()
                resource.teardown_after_execution(None)  # type: ignore[arg-type]
        return found == [4] * 25

    with ThreadPoolExecutor(6) as runs:
        assert all(runs.map(run, range(6)))
    assert list((tmp_path / "home" / "snapshots").iterdir()) == []
