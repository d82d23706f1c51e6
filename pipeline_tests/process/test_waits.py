"""A command is never silent for long: it names what it waits for, and how long already."""

import contextlib
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from bench.proxy import relay
from pipeline.cli.commands import display
from pipeline.config.settings import libpq
from pipeline.core import progress
from pipeline.core.place import PUBLIC
from pipeline.core.progress import LongWaits, Progress, waiting, watched_by
from pipeline.postgres.descriptions import describe
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import PROGRAM, command, environment, usable
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.terminals import on_terminal, text

STATEMENTS = {
    'CREATE UNIQUE INDEX IF NOT EXISTS "a b" ON x (y)': "building index a b",
    "CREATE INDEX i ON x (y); CREATE INDEX j ON x (z)": "building index i, building index j",
    "ALTER TABLE x ADD CONSTRAINT k PRIMARY KEY (id)": "building key k",
    'ALTER TABLE x ADD CONSTRAINT "f" FOREIGN KEY(y) REFERENCES z': "checking f",
    'ALTER TABLE x VALIDATE CONSTRAINT "f"': "checking f",
    'ANALYZE "rankings"': "analyzing rankings",
    'LOCK TABLE ONLY "rankings" IN SHARE MODE': "waiting for other sessions that use rankings",
    "COMMIT": "committing",
    "SELECT 1": None,
    "BEGIN ISOLATION LEVEL READ COMMITTED": None,
}


@dataclass
class Heard:
    """Remembers what was waited for, in order."""

    waited: list[str] = field(default_factory=list)

    def __call__(self, made: Progress, /) -> None:
        """Bars have tests of their own."""

    def waits(self, what: str | None) -> None:
        """Remember it."""
        if what is not None:
            self.waited.append(what)

    def note(self, sentence: str) -> None:
        """Nothing breaks here."""
        raise AssertionError(sentence)


def test_statements_that_may_take_long_have_a_name() -> None:
    assert {statement: describe(statement) for statement in STATEMENTS} == STATEMENTS


def test_a_move_names_what_it_waits_for(source: SourceFile, target_url: str) -> None:
    source.add_family(contents=1)
    heard = Heard()
    with watched_by(heard):
        move_all(source.path, target_url)
    assert heard.waited[0] == "connecting to the target"
    built = [each for each in heard.waited if each.startswith("rankings, keys: building index ")]
    assert "building index idx_rankings_score" in built[0]
    assert {
        f"copying {source.path}",
        "rankings, load",
        "rankings, keys: checking rankings_fragment_id_fkey",
        "rankings, analyze: analyzing rankings",
        "rankings, prove",
        "rankings, witness",
        "committing",
    } <= set(heard.waited)
    source.run("UPDATE rankings SET rank_score = 1, updated_at = '2026-01-01'")
    heard.waited.clear()
    with watched_by(heard):
        sync_all(source.path, target_url)
    assert {
        "waiting for other sessions that use rankings",
        "rankings, compare",
        "rankings, prove",
    } <= set(heard.waited)


def test_one_line_is_written_for_each_wait_that_lasts() -> None:
    lines = list[str]()
    with LongWaits(lines.append, seconds=0.2) as long_waits:
        for what, seconds in (("one", 0.9), ("short", 0.05), ("two", 0.5), (None, 0.4)):
            long_waits.waits(what)
            time.sleep(seconds)
    assert lines == ["Waiting for 0 s: one", "Waiting for 0 s: two"]


def test_a_terminal_shows_a_wait_with_its_seconds_and_then_nothing(
    monkeypatch: pytest.MonkeyPatch, database: URL
) -> None:
    with (
        on_terminal(monkeypatch) as shown,
        relay(database, delay=0.2) as far,
        display.Display() as bars,
        watched_by(bars),
    ):
        with waiting("a short one"):
            time.sleep(0.1)
        assert text(shown) == ""
        with Target.connect(libpq(far.url), shown="PostgreSQL far away") as target:
            assert "connecting to PostgreSQL far away" in text(shown)
            with waiting("migrate"):
                bars(Progress("rankings", "load", 5, 10, 2**20, 1.0))
                target.run("BEGIN")
                target.run("COMMIT")
                time.sleep(0.5)
                assert "migrate: committing" in text(shown)
                assert "0:00:01" in text(shown)
                assert "5/10  1 MiB/s" in text(shown)
                progress.note("the connection was lost. Trying again in 1 s.")
                time.sleep(0.3)
                assert "Trying again in 1 s." in text(shown)
        time.sleep(0.3)
        last = b"".join(shown)
        time.sleep(0.3)
        # The line is erased, and nothing more is drawn.
        assert b"".join(shown) == last
        assert b"\x1b[2K" in last[-40:]


@pytest.mark.dagster
def test_a_command_waits_visibly_for_another_run(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    outer, inner = os.openpty()
    settings = usable(source, target_url, tmp_path)
    with Target.connect(target_url, shown="the target") as other, other.lock(PUBLIC):
        process = subprocess.Popen(
            [PROGRAM, "migrate"],
            env=environment(TERM="xterm", LOCK_SECONDS=2, **settings),
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        shown = list[bytes]()
        with contextlib.suppress(OSError):
            while data := os.read(outer, 65536):
                shown.append(data)
        assert process.wait() == 1
    os.close(outer)
    assert "waiting for another run" in text(shown)
    assert "is in use by another run (server process" in " ".join(text(shown).split())


@pytest.mark.dagster
def test_without_a_terminal_one_line_names_a_long_wait(
    source: SourceFile,
    target_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source.add_family(contents=1)
    monkeypatch.setattr(display, "_LINE_SECONDS", 1.0)
    settings = usable(source, target_url, tmp_path)
    with Target.connect(target_url, shown="the target") as other, other.lock(PUBLIC):
        ran = command(monkeypatch, capfd, "migrate", LOCK_SECONDS=3, **settings)
    assert ran.code == 1
    (line,) = [line for line in ran.err.splitlines() if "waiting for another run" in line]
    assert re.fullmatch(
        r"Waiting for \d s: migrate: waiting for another run \(server process .* UTC\)", line
    )


def test_a_network_that_swallows_everything_ends_a_command_within_the_stated_time(
    source: SourceFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source.add_family(contents=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        started = time.monotonic()
        ran = command(monkeypatch, capfd, "migrate", **usable(source, url, tmp_path))
        assert time.monotonic() - started < 2 + 3
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert line.startswith("PostgreSQL x at 127.0.0.1:")
    assert "the server does not respond" in line
    assert "Check the host and port in DATABASE_URL and that the server is running." in line
