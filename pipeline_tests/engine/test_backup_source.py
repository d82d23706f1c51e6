"""A backup of the SQLite file brings it back, whatever became of it and whoever has it open."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.backup import source as sources
from pipeline.backup.errors import BackupError, RestoreRefused
from pipeline.backup.manifest import SourceTable
from pipeline.core.errors import SourceError
from pipeline_tests.support.sources import SourceFile

Figures = tuple[SourceTable, ...]


def figures(path: Path) -> Figures:
    """What a file holds, as another program would see it."""
    with closing(sqlite3.connect(path)) as connection:
        return sources.figures(connection, shown=str(path))


@pytest.fixture
def filled(source: SourceFile) -> SourceFile:
    """A source in WAL mode with values of every storage class."""
    source.run("PRAGMA journal_mode = WAL")
    source.add_family(contents=2)
    source.run("CREATE TABLE odd (a, b TEXT PRIMARY KEY) WITHOUT ROWID")
    source.run("INSERT INTO odd VALUES (NULL, ''), (x'00ff', 'ก'), (1e308, char(0)), (-0.0, x'ff')")
    source.run("INSERT INTO odd VALUES (7, CAST(x'ff' AS TEXT)), ('7', 'seven'), (7.0, '7.0')")
    return source


def backed_up(source: SourceFile, folder: Path) -> tuple[Path, Figures]:
    """A copy and what it holds."""
    folder.mkdir(exist_ok=True)
    return folder / "copy.db", sources.back_up(source.path, folder / "copy.db")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[3] ^= 1
    path.write_bytes(raw)


def repaged(source: SourceFile) -> None:
    with closing(sqlite3.connect(source.path, isolation_level=None)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM;"
            "PRAGMA journal_mode = WAL"
        )


HARM: dict[str, Callable[[SourceFile], object]] = {
    "nothing": lambda s: None,
    "changed": lambda s: s.run("UPDATE learning_content SET title = 'other'"),
    "emptied": lambda s: [s.run(f"DELETE FROM {t}") for t in ("rankings", "odd")],
    "a table dropped": lambda s: s.run("DROP TABLE odd"),
    "larger": lambda s: s.run("CREATE TABLE more AS SELECT zeroblob(300000)"),
    "no wal": lambda s: s.run("PRAGMA journal_mode = DELETE"),
    "other pages": repaged,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_restore_undoes_whatever_was_done(
    filled: SourceFile, tmp_path: Path, harm: Callable[[SourceFile], object]
) -> None:
    copy, expected = backed_up(filled, tmp_path / "backup")
    assert figures(filled.path) == expected
    harm(filled)
    now = figures(filled.path)
    kept = tmp_path / "kept.db"
    done = sources.restore(copy, filled.path, kept=kept, expected=expected)
    assert figures(filled.path) == expected
    assert done.damaged_file is None
    assert (done.kept, kept.exists()) == ((None, False) if now == expected else (kept, True))
    if done.kept:
        assert figures(kept) == now


HARM_TO_FILE: dict[str, Callable[[Path], object]] = {
    "cut": shorten,
    "flip": flip,
    "gone": lambda path: path.unlink(),
    "no bytes": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARM_TO_FILE.values(), ids=HARM_TO_FILE)
def test_what_cannot_be_opened_is_moved_aside_with_all_that_belongs_to_it(
    filled: SourceFile, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    copy, expected = backed_up(filled, tmp_path / "backup")
    harm(filled.path)
    stale = filled.path.with_name("source.db-wal")
    stale.write_bytes(b"of another file")
    was = filled.path.read_bytes() if filled.path.exists() else None
    done = sources.restore(copy, filled.path, kept=tmp_path / "kept.db", expected=expected)
    assert figures(filled.path) == expected
    assert (done.damaged_file.read_bytes() if done.damaged_file else None) == was
    (wal,) = tmp_path.glob("source.db.damaged-*-wal")
    assert wal.read_bytes() == b"of another file"


def test_an_open_application_sees_a_restore_like_any_commit(
    filled: SourceFile, tmp_path: Path
) -> None:
    copy, expected = backed_up(filled, tmp_path / "backup")
    with closing(sqlite3.connect(filled.path, isolation_level=None)) as application:
        application.execute("UPDATE learning_content SET title = 'other'")
        application.execute("BEGIN")
        assert application.execute("SELECT DISTINCT title FROM learning_content").fetchall() == [
            ("other",)
        ]
        sources.restore(copy, filled.path, kept=tmp_path / "kept.db", expected=expected)
        seen = application.execute("SELECT DISTINCT title FROM learning_content").fetchall()
        assert seen == [("other",)]
        application.execute("COMMIT")
        assert sources.figures(application, shown="it") == expected
        application.execute("UPDATE learning_content SET title = 'after'")
    assert figures(filled.path) != expected


def test_a_locked_source_is_left_as_it_is(
    filled: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, expected = backed_up(filled, tmp_path / "backup")
    filled.run("DELETE FROM odd")
    before = figures(filled.path)
    monkeypatch.setattr(sources, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(filled.path, isolation_level=None)) as application:
        application.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            RestoreRefused, match="stayed locked by another program and was not changed"
        ):
            sources.restore(copy, filled.path, kept=tmp_path / "kept.db", expected=expected)
    assert figures(filled.path) == before


def test_a_backup_is_of_one_moment_while_the_application_writes(
    filled: SourceFile, tmp_path: Path
) -> None:
    filled.run("CREATE TABLE a (n)")
    filled.run("CREATE TABLE b (n)")
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(filled.path)) as connection:
            while not ended.is_set():
                with connection:
                    connection.execute("INSERT INTO a VALUES (zeroblob(5000))")
                    connection.execute("INSERT INTO b VALUES (zeroblob(5000))")

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    try:
        while len(seen) < 5:
            copy, found = backed_up(filled, tmp_path / "backup")
            rows = {table.name: table.rows for table in found}
            assert rows["a"] == rows["b"]
            assert figures(copy) == found
            seen.append(rows["a"])
    finally:
        ended.set()
        writer.join()
    assert seen[-1] > seen[0]


def test_a_damaged_source_gives_no_backup(filled: SourceFile, tmp_path: Path) -> None:
    filled.run("CREATE INDEX i ON odd (a)")
    filled.run("PRAGMA wal_checkpoint(TRUNCATE)")
    ((root,),) = filled.run("SELECT rootpage FROM sqlite_master WHERE name = 'i'")
    raw = bytearray(filled.path.read_bytes())
    raw[root * 4096 - 40 : root * 4096 - 30] = b"\x55" * 10
    filled.path.write_bytes(raw)
    with pytest.raises(BackupError, match=r"source\.db is damaged \("):
        backed_up(filled, tmp_path / "backup")
    with pytest.raises(SourceError, match="There is no source"):
        backed_up(SourceFile(tmp_path / "none.db"), tmp_path / "backup")


KILLED = """
import os, signal, sys, time
from pathlib import Path
from pipeline.backup import source
copy, live, kept = map(Path, sys.argv[1:])
with source._open_copy(copy) as connection:
    expected = source.figures(connection, shown="it")
for line in sys.stdin:
    child = os.fork()
    if not child:
        source.restore(copy, live, kept=kept, expected=expected)
        os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_restore_that_is_killed_leaves_the_file_as_it_was_or_restored(
    filled: SourceFile, tmp_path: Path
) -> None:
    filled.run("CREATE TABLE large AS SELECT randomblob(9000000) AS b")
    copy, expected = backed_up(filled, tmp_path / "backup")
    filled.run("UPDATE large SET b = zeroblob(9000000)")
    before = figures(filled.path)
    command = [sys.executable, "-c", KILLED, copy, filled.path, tmp_path / "kept.db"]
    outcomes = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        for delay in (0.01, 0.02, 0.04, 0.06, 0.09):
            process.stdin.write(f"{delay}\n")
            process.stdin.flush()
            outcomes.append(int(process.stdout.readline()))
            assert figures(filled.path) in (before, expected)
        process.stdin.close()
    assert -signal.SIGKILL in outcomes
    sources.restore(copy, filled.path, kept=tmp_path / "kept.db", expected=expected)
    assert figures(filled.path) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_gives_a_sentence_and_no_backup(filled: SourceFile, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        filled.run("CREATE TABLE large AS SELECT randomblob(300000) AS b")
        with pytest.raises(SourceError, match=r"needs 0 MiB in .*small, which has 0 MiB free"):
            backed_up(filled, small)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
