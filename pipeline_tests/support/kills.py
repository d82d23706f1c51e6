"""Moves in a process of their own, killed at a chosen moment, and what they may leave."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.settings import PROJECT
from pipeline_tests.support.commands import environment
from pipeline_tests.support.comparison import Side, held_by
from pipeline_tests.support.sources import PARENTS, SourceFile
from pipeline_tests.support.targets import query

MOVER = """
import os, signal, sys, time
from pathlib import Path
from pipeline_tests.support.moves import move_all
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


def assert_whole(url: str, before: Side, after: Side) -> None:
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
