"""What a command says when its disk is full, or its server ends while the command runs."""

import itertools
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from pipeline.config.records import DAGSTER_OPTIONS
from pipeline.config.settings import libpq
from pipeline.orchestration import runs
from pipeline.postgres.embedded.server import ensure_server, leave
from pipeline_tests.support.commands import Ran, pipeline, usable
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a short path, whose embedded server this process uses."""
    folder = Path(tempfile.mkdtemp())
    ensure_server(folder / "home" / "postgres")
    yield folder / "home"
    leave(folder / "home" / "postgres")
    shutil.rmtree(folder)


def kill(data: Path) -> None:
    """Kill a server with all of its processes."""
    server = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    parts = [server, *server.children(recursive=True)]
    server.kill()
    psutil.wait_procs(parts, timeout=20)


def test_a_server_that_ends_during_a_run_is_one_sentence_and_the_next_run_converges(
    home: Path, source: SourceFile
) -> None:
    source.add_family(contents=2)
    settings = {"SQLITE_DATABASE_URL": f"sqlite:///{source.path}", "PIPELINE_HOME": home}
    with ThreadPoolExecutor() as beside:
        with closing(sqlite3.connect(source.path, isolation_level=None)) as writer:
            # The run waits for this program, until there is no server any more.
            writer.execute("BEGIN EXCLUSIVE")
            run = beside.submit(pipeline, "migrate", **settings)
            until = time.monotonic() + 60
            while not list((home / "snapshots").glob("*/source.db")):
                assert time.monotonic() < until
                assert not run.done(), run.result()
                time.sleep(0.02)
            kill(home / "postgres")
        ran: Ran = run.result()
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"The embedded PostgreSQL in {home}/postgres stopped during the command; the current"
        " transaction was rolled back. Run again to restart it;"
        f" {home}/postgres/log may name the cause."
    ]
    again = pipeline("migrate", **settings)
    assert again.code == 0, again.err
    url = libpq(ensure_server(home / "postgres"))
    assert query(url, "SELECT count(*) FROM rankings") == [(8,)]
    assert query(url, "SELECT status FROM dagster.runs ORDER BY id") == [
        ("FAILURE",),
        ("SUCCESS",),
    ]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """PIPELINE_HOME on a disk of its own; calling it leaves so many KiB free."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(home)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only a user who may mount can plant a full disk")

    def leave_free(kilobytes: int) -> None:
        for path in home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (home / "full").write_bytes(b"\0" * (2**20 - kilobytes * 1024))

    yield leave_free
    subprocess.run(["umount", str(home)], check=True)


def test_a_full_disk_is_named_and_the_next_run_converges(
    source: SourceFile, target_url: str, tmp_path: Path, full: Callable[[int], None]
) -> None:
    source.add_family(contents=2)
    home, settings = tmp_path / "home", usable(source, target_url, tmp_path)

    def refused(command: str) -> str:
        ran = pipeline(command, **settings)
        assert ran.code == 1
        assert "Errno" not in ran.err
        return ran.err.replace(str(home), "HOME").splitlines()[0]

    for command in ("migrate", "verify"):
        full(4)
        assert refused(command).startswith(f"The copy of {source.path} needs 0 MiB in HOME/")
    full(900)
    assert pipeline("migrate", **settings).code == 0
    source.add("learning_content", {"id": 9})
    full(4)
    assert refused("sync").startswith(
        f"There is no space for the copy of {source.path} in HOME/snapshots/"
    )
    full(900)
    # The table is committed before its evidence is written; what lacks evidence is no success.
    (home / "reports").write_text("in the way")
    assert refused("sync").startswith("HOME/reports cannot be written (Not a directory). Check")
    (home / "reports").unlink()
    assert pipeline("sync", **settings).code == 0
    assert query(target_url, "SELECT count(*) FROM learning_content") == [(3,)]


def test_a_first_start_on_a_full_disk_is_one_sentence(
    tmp_path: Path, full: Callable[[int], None]
) -> None:
    home = tmp_path / "home"
    for kilobytes in (0, 900):
        full(kilobytes)
        ran = pipeline("plan", PIPELINE_HOME=home)
        assert ran.code == 2
        assert len(ran.err.splitlines()) == 1
        assert str(home) in ran.err
        assert "No space left on device" in ran.err or "disk is full" in ran.err
    assert not (home / "postgres").exists()


@pytest.mark.dagster
def test_a_run_does_not_notice_that_dagsters_own_connections_are_cut(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family(contents=2)
    use(monkeypatch, usable(source, target_url, tmp_path))
    number, cut = itertools.count(), list[str]()

    def cut_some(_: object, cursor: Any, statement: str, *rest: object) -> None:
        if DAGSTER_OPTIONS in cursor.connection.info.options and next(number) % 23 == 0:
            cut.append(statement)
            query(
                target_url,
                "SELECT pg_terminate_backend(%s)",
                (cursor.connection.get_backend_pid(),),
            )

    with runs.instance() as instance, listening(sa.Engine, "before_cursor_execute", cut_some):
        result = runs.run("migrate", opened=instance)
    assert result.success
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert len({statement.split()[0] for statement in cut}) >= 3, cut
    assert query(target_url, "SELECT status FROM dagster.runs") == [("SUCCESS",)]


@contextmanager
def listening(what: type, event: str, listener: Callable[..., None]) -> Iterator[None]:
    """A listener of SQLAlchemy's, for as long as the context lasts."""
    sa.event.listen(what, event, listener)
    yield
    sa.event.remove(what, event, listener)
