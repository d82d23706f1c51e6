"""What the pipeline writes can be read by its user alone, from the moment it is made."""

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.backup import source as backed_up
from pipeline.backup import store
from pipeline.core import private
from pipeline.core.errors import FilesError
from pipeline.core.locks import locked, private_folder
from pipeline.migrations import sample_file as sample
from pipeline.migrations.content import metadata
from pipeline.move.reading.pinned_source import pinned
from pipeline.orchestration.common import evidence
from pipeline.postgres.embedded.server import ensure_server, leave
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.files import loose
from pipeline_tests.support.sources import SourceFile

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def any_umask() -> Iterator[None]:
    """A process whose umask lets everybody read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that others may enter."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextmanager
def spied_on(home: Path) -> Iterator[set[str]]:
    """Looks at a folder again and again; what it ever saw loose."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if home.exists():
                # A folder may end while it is read.
                with suppress(FileNotFoundError):
                    seen.update(loose(home))
            ended.wait(0.01)

    spy = threading.Thread(target=look)
    spy.start()
    try:
        yield seen
    finally:
        ended.set()
        spy.join()


def test_nothing_of_a_run_can_be_read_by_others_while_it_goes_on_or_afterwards(
    folder: Path, any_umask: None
) -> None:
    home = folder / "made" / "home"
    settings = {"PIPELINE_HOME": home, "KEEP_BACKUPS": 1}
    with spied_on(home) as seen:
        ensure_server(home / "postgres")
        try:
            for command in ("migrate", "backup", "verify"):
                ran = pipeline(command, **settings)
                assert ran.code == 0, ran.err + ran.out
        finally:
            leave(home / "postgres")
    assert seen == set()
    assert loose(home) == set()
    kept = {path.name for path in home.iterdir()}
    assert {"backups", "dagster", "reports", "sample.db", "postgres", "snapshots"} <= kept
    # The folder above was made, too.
    assert stat.S_IMODE(home.parent.stat().st_mode) & 0o067 == 0
    if os.geteuid() == 0:
        for tried in (home, home / "sample.db", home / "reports"):
            assert "Permission denied" in as_nobody("ls", tried)


def as_nobody(*command: object) -> str:
    ran = subprocess.run(
        [str(part) for part in command],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_what_a_library_makes_does_not_depend_on_the_umask(
    folder: Path, any_umask: None, source: SourceFile
) -> None:
    source.add_family(contents=2)
    tables = metadata.sorted_tables
    home = private.home(folder / "home")
    with private_folder(home / "snapshots", "run") as made:
        take_snapshot(source.path, made / "copy.db", tables=tables)
        with pinned(source.path, made / "live", tables=tables):
            assert loose(home) == set()
            assert len(list((made / "live").iterdir())) == 5
    with store.unfinished(home, "backup") as made:
        backed_up.back_up(source.path, made / "source.db")
        assert loose(home) == set()
    run = evidence.RunEvidence("run", "migrate", "source", "target", planned=["rankings"])
    part = evidence.TableEvidence("rankings", datetime.now(UTC).isoformat())
    evidence.record(home / "reports" / "run", run, part)
    sample.write(home / "sample.db", lambda made: None)
    with locked(home / "lock", wait=True), closing(sqlite3.connect(home / "sample.db")) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("CREATE TABLE one (two)")
        assert (home / "sample.db-wal").exists()
        assert loose(home) == set()


def test_a_home_of_an_older_version_is_closed_and_nothing_outside_of_it(
    folder: Path, any_umask: None
) -> None:
    outside = folder / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").write_text("somebody else's")
    home = folder / "home"
    (home / "reports" / "run").mkdir(parents=True)
    (home / "reports" / "run" / "evidence.json").write_text("{}")
    (home / "reports" / "elsewhere").symlink_to(outside)
    (home / "file").symlink_to(outside / "file")
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(home / "code.sock"))
    assert len(loose(home)) == 5
    private.home(home)
    assert loose(home) == {"code.sock srwxrwxrwx"}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert loose(outside) == {". drwxr-xr-x", "file -rw-rw-rw-"}
    # Whatever became loose later is closed as well.
    (home / "reports").chmod(0o755)
    private.home(home)
    assert loose(home) == {"code.sock srwxrwxrwx"}


def test_a_home_that_is_not_the_pipelines_own_stays_open_and_that_is_said(
    folder: Path, any_umask: None
) -> None:
    folder.chmod(0o1777)
    (folder / "somebody's").write_text("")
    said: list[str] = []
    for _ in range(2):
        private.home(folder, report=said.append)
    assert len(said) == 1
    assert f"Other users can access PIPELINE_HOME {folder}" in said[0]
    assert loose(folder) == {". drwxrwxrwt", "somebody's -rw-rw-rw-"}
    private.write_text(folder / "note", "private")
    assert "note" not in " ".join(loose(folder))


def test_files_of_somebody_else_in_a_home_keep_their_rights(folder: Path) -> None:
    home = folder / "home"
    (home / "site").mkdir(parents=True)
    page = home / "site" / "index.html"
    page.write_text("for all")
    for each, mode in ((home, 0o755), (page.parent, 0o755), (page, 0o644)):
        each.chmod(mode)
    said: list[str] = []
    private.home(home, report=said.append)
    assert "it contains other files" in said[0]
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (home, page.parent, page)]
    assert modes == [0o755, 0o755, 0o644]


@root_only
def test_a_home_of_another_user_stays_as_it_is_and_that_is_said(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    said: list[str] = []
    private.home(folder, report=said.append)
    assert "because it belongs to another user" in said[0]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_restored_source_keeps_its_mode_and_owner(
    folder: Path, any_umask: None, source: SourceFile, mode: int
) -> None:
    source.add_family()
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(source.path, owner, -1)
    source.path.chmod(mode)
    found, copy = private.Rights.of(source.path), folder / "copy.db"
    expected = backed_up.back_up(source.path, copy)

    def restored() -> tuple[int, int]:
        backed_up.restore(
            copy, source.path, kept=folder / "kept.db", expected=expected, rights=found
        )
        now = source.path.stat()
        return stat.S_IMODE(now.st_mode), now.st_uid

    source.run("DELETE FROM rankings")
    assert restored() == (mode, owner)
    assert loose(folder) <= {". drwxr-xr-x"}
    source.path.write_bytes(b"no database")
    assert restored() == (mode, owner)
    source.path.unlink()
    assert restored() == (mode, owner)


@root_only
def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(
        FilesError, match=r"file cannot be written \(Not a directory\)\. Check that"
    ):
        private.home(folder / "file")
