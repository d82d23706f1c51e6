"""A dump becomes the database that it was made of, or nothing, and can do nothing else."""

import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.config import settings
from pipeline.config.environment import source_file
from pipeline.migrations.content import CONTENT
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump
from pipeline_tests.support.dumps import TABLE, large, rich
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """PIPELINE_HOME of a test."""
    return tmp_path / "home"


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Schema and rows, with storage classes."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        found = {
            "schema": connection.execute(
                "SELECT type, name, replace(sql, 'IF NOT EXISTS ', '') FROM sqlite_master"
                " ORDER BY 1, 2"
            ).fetchall()
        }
        for name in ("it's", "kept", "sqlite_sequence"):
            rows = connection.execute(f'SELECT * FROM "{name}" ORDER BY 1').fetchall()
            found[name] = [tuple((type(each), each) for each in row) for row in rows]
        return found


def by_shell(database: Path) -> bytes:
    return subprocess.run(
        ["sqlite3", str(database), ".dump"], check=True, capture_output=True
    ).stdout


def test_a_dump_becomes_the_database_that_it_was_made_of(tmp_path: Path, home: Path) -> None:
    database = rich(tmp_path / "rich.db")
    (tmp_path / "x.sql").write_bytes(by_shell(database))
    made = fetch(Dump(tmp_path / "x.sql"), home=home)
    assert contents(made) == contents(database)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700


def test_virtual_tables_are_left_out_and_told(tmp_path: Path, home: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "v.db")) as made:
        made.executescript(TABLE + "CREATE VIRTUAL TABLE words USING fts5(w);")
        made.executescript("INSERT INTO words VALUES ('กิน'); INSERT INTO t VALUES (1, 2);")
    (tmp_path / "x.sql").write_bytes(by_shell(tmp_path / "v.db"))
    said: list[str] = []
    made_file = fetch(Dump(tmp_path / "x.sql"), home=home, log=said.append)
    with closing(sqlite3.connect(made_file)) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert "t" in names and "words_content" in names and "words" not in names
    assert len(said) == 1 and "1 virtual table was skipped" in said[0]


def test_a_value_that_is_no_text_arrives_as_it_was(tmp_path: Path, home: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "bad.db")) as made:
        made.executescript(TABLE)
        for value in (b"\xffit's\n;\xe0\xb8", b"\xc3", b"sound"):
            made.execute("INSERT INTO t (v) VALUES (CAST(? AS TEXT))", (value,))
        made.commit()
    (tmp_path / "x.sql").write_bytes(by_shell(tmp_path / "bad.db"))
    files = (fetch(Dump(tmp_path / "x.sql"), home=home), tmp_path / "bad.db")
    read = "SELECT id, typeof(v), hex(v) FROM t"
    found = [sqlite3.connect(file).execute(read).fetchall() for file in files]
    assert found[0] == found[1] and len(found[0]) == 3


CALL = """
import sys; from pathlib import Path
from pipeline.sqlite.fetch import fetch; from pipeline.sqlite.origin import Dump
fetch(Dump(Path(sys.argv[1])), home=Path(sys.argv[2]))
"""


def test_two_at_once_make_it_once_and_a_kill_leaves_nothing(tmp_path: Path, home: Path) -> None:
    path = large(tmp_path / "x.sql", 60_000)
    started = subprocess.Popen([sys.executable, "-c", CALL, str(path), str(home)])
    deadline = time.monotonic() + 20
    while not list(home.rglob("making.db")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(home.rglob("making.db"))
    started.kill()
    started.wait()
    assert not list(home.rglob("source.db"))
    made: list[int] = []
    both = [
        threading.Thread(target=lambda: made.append(fetch(Dump(path), home=home).stat().st_ino))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert made[0] == made[1]
    assert not list(home.rglob("making.db"))
    with closing(sqlite3.connect(fetch(Dump(path), home=home))) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (60_000,)


def test_a_dump_moves_like_the_file_that_it_was_made_of(
    source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.add_family()
    (tmp_path / "x.sql").write_bytes(by_shell(source.path))
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"dump:///{tmp_path / 'x.sql'}")
    path = source_file(settings.load(), CONTENT)
    assert path.is_relative_to(tmp_path / "home")
    moved = move_all(path, target_url)
    assert moved["rankings"].target_rows == 12
    assert query(target_url, "SELECT count(*) FROM fragment_assets") == [(6,)]
    assert move_all(source.path, target_url)["fragment_assets"].written_rows == 0
