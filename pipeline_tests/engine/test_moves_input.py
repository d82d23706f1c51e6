"""Bad input gets one clear sentence, ends with what to do about it, and changes nothing."""

import contextlib
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import LockedError, PipelineError, SourceError, TargetError
from pipeline.core.place import PUBLIC
from pipeline.migrations.content import metadata
from pipeline.move.reading import surveys
from pipeline.postgres.embedded import postmaster
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query, reasons

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]


def refusal(kind: type[PipelineError], call: Callable[[], object]) -> str:
    """The sentence of an error of this kind, which is one line and ends with its remedy."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    assert text.endswith(caught.value.remedy + ".")
    assert "secret" not in text
    return text


def relations(url: str) -> list[str]:
    """Everything that is in the target, in any schema of its own."""
    sql = (
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace IN (SELECT oid FROM"
        " pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema') ORDER BY 1"
    )
    return [name for (name,) in query(url, sql)]


def run_sqlite(path: Path, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another program that uses the source; it has said that it is ready."""
    start = (
        "import os, sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start + script, str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@contextlib.contextmanager
def another_program(path: Path, script: str, *arguments: object) -> Iterator[None]:
    """Another program that uses the source meanwhile; it is killed at the end."""
    process = run_sqlite(path, script, *arguments)
    try:
        yield
        assert process.poll() is None, "the other program ended by itself"
    finally:
        process.kill()
        process.communicate()


# Files that are no source.


def _make(path: Path) -> bytes:
    source = SourceFile.make(path)
    source.add_family(contents=20)
    return path.read_bytes()


def _cut(path: Path, pages: float) -> None:
    path.write_bytes(_make(path)[: int(pages * 4096)])


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "There is no source"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.touch(), "is empty"),
    "a text": (lambda path: path.write_text("id,title\n1,x\n"), "is not an SQLite database"),
    "encrypted": (lambda path: path.write_bytes(random.Random(1).randbytes(8192)), "encrypted"),
    "cut in its first line": (lambda path: path.write_bytes(_make(path)[:16]), "truncated"),
    "cut in its header": (lambda path: path.write_bytes(_make(path)[:60]), "truncated"),
    "cut within a page": (lambda path: _cut(path, 5.5), "truncated"),
    "cut between two pages": (lambda path: _cut(path, 5), "truncated"),
    "cut after the first page": (lambda path: _cut(path, 1), "truncated"),
    "without tables": (lambda path: SourceFile.make(path, "CREATE TABLE t (x)"), "no table"),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_no_source_is_refused(tmp_path: Path, target_url: str, file: str) -> None:
    make, words = FILES[file]
    path = tmp_path / "the source.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    text = refusal(SourceError, lambda: move_all(path, target_url))
    assert words in text
    assert str(path) in text
    assert (path.read_bytes() if path.is_file() else None) == before
    assert relations(target_url) == []


@pytest.mark.parametrize(
    "instead",
    [
        "SELECT 1",
        "CREATE VIEW rankings AS SELECT * FROM other",
        "CREATE INDEX rankings ON other(id)",
    ],
    ids=["nothing", "a view", "an index"],
)
def test_a_table_that_is_none_is_named(source: SourceFile, target_url: str, instead: str) -> None:
    source.run("ALTER TABLE rankings RENAME TO other")
    source.run(instead)
    text = refusal(SourceError, lambda: move_all(source.path, target_url))
    assert "no table rankings" in text
    assert relations(target_url) == []


def _spoil_page(path: Path, marker: bytes, spoiled: bytes, *, size: int = 1024) -> None:
    whole = bytearray(path.read_bytes())
    at = whole.index(marker) // size * size
    whole[at : at + len(spoiled)] = spoiled
    path.write_bytes(whole)


DAMAGE = {
    "zeros": bytes(1024),
    "random": random.Random(3).randbytes(1024),
    "another kind of page": b"\x05",
    "a count that is too large": b"\x0d\x00\x00\xff\xff",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_page_stops_its_table_and_is_told(
    tmp_path: Path, target_url: str, damage: str
) -> None:
    source = SourceFile.make(tmp_path / "damaged.db", "PRAGMA page_size = 1024;" + CONTENT_DDL)
    source.add("learning_content")
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.executemany(
            "INSERT INTO rankings (id, assessed_by) VALUES (?, ?)",
            [(key, f"marker {key:06}") for key in range(1, 2001)],
        )
    _spoil_page(source.path, b"marker 001000", DAMAGE[damage])
    text = refusal(SourceError, lambda: move_all(source.path, target_url))
    assert str(source.path) in text
    assert "damaged" in text
    assert "rankings" not in relations(target_url)


def test_a_damaged_file_inside_a_table_stops_it(tmp_path: Path, target_url: str) -> None:
    source = SourceFile.make(tmp_path / "damaged.db", "PRAGMA page_size = 1024;" + CONTENT_DDL)
    source.add_family(contents=1)
    blob = b"".join(b"%08d" % at for at in range(2000))
    source.run("UPDATE fragment_assets SET asset_data = ? WHERE id = 2", (blob,))
    _spoil_page(source.path, b"00001500", b"\xff\xff\xff\xff")
    text = refusal(SourceError, lambda: move_all(source.path, target_url))
    assert "damaged" in text
    assert "fragment_assets" not in relations(target_url)


def test_a_source_that_is_locked_by_another_program_is_waited_for_and_told(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=1)
    script = "db.execute('BEGIN EXCLUSIVE'); print('ready', flush=True); time.sleep(60)"

    def snapshot() -> object:
        into = source.path.with_name("copy.db")
        return take_snapshot(source.path, into, tables=TABLES, busy_seconds=0.3)

    with another_program(source.path, script):
        started = time.monotonic()
        text = refusal(SourceError, snapshot)
        assert 0.3 <= time.monotonic() - started < 3
    assert str(source.path) in text
    assert "locked" in text
    snapshot()


def test_a_source_whose_program_was_killed_amid_a_transaction_is_told(
    source: SourceFile, target_url: str
) -> None:
    source.add_family(contents=5)
    script = (
        "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN');"
        "db.execute('UPDATE rankings SET assessed_by = hex(randomblob(5000))');"
        "db.execute('UPDATE fragment_assets SET asset_data = randomblob(50000)');"
        "print('ready', flush=True); os._exit(1)"
    )
    run_sqlite(source.path, script).communicate()
    journal = source.path.with_name(source.path.name + "-journal")
    before = source.path.read_bytes(), journal.read_bytes()
    text = refusal(SourceError, lambda: move_all(source.path, target_url))
    assert str(source.path) in text
    assert "journal" in text or "unfinished" in text
    assert (source.path.read_bytes(), journal.read_bytes()) == before
    assert relations(target_url) == []


# Tables that are declared otherwise than they should be.


def test_a_table_without_rowids_moves(tmp_path: Path, target_url: str) -> None:
    ddl = re.sub(
        r"(CREATE TABLE rankings .*?\))(;)", r"\1 WITHOUT ROWID\2", CONTENT_DDL, flags=re.S
    )
    assert "WITHOUT ROWID" in ddl
    source = SourceFile.make(tmp_path / "source.db", ddl)
    source.add_family(contents=2)
    source.add("rankings", {"id": 99, "rank_score": 7})
    moves = move_all(source.path, target_url)
    assert moves["rankings"].moved_rows == 8
    assert reasons(target_url, "rankings") == {"99": {"check"}}


@pytest.mark.parametrize(
    ("declared", "batch_rows"),
    [("id", 2), ("id", 9999), ("id INTEGER", 2), ("id INT PRIMARY KEY", 9999)],
)
def test_rows_whose_id_is_none_are_quarantined_and_others_arrive(
    tmp_path: Path,
    target_url: str,
    monkeypatch: pytest.MonkeyPatch,
    declared: str,
    batch_rows: int,
) -> None:
    monkeypatch.setattr(surveys, "BATCH_ROWS", batch_rows)
    ddl = CONTENT_DDL.replace("rankings (id INTEGER NOT NULL PRIMARY KEY", f"rankings ({declared}")
    source = SourceFile.make(tmp_path / "source.db", ddl)
    source.add_family(contents=1)
    unique = "PRIMARY" in declared
    good: list[Any] = [7, 2**31 - 1, -3]
    bad: list[Any] = [None, "text", b"\x01", 1.5, 2**31, None, *([] if unique else [9, 9, 9])]
    for key in [*good, *bad]:
        source.add("rankings", {"id": key})
    moves = move_all(source.path, target_url)
    assert moves["rankings"].quarantined_rows == len(bad)
    found = query(target_url, "SELECT id FROM rankings ORDER BY id")
    assert [key for (key,) in found] == [-3, 1, 2, 3, 4, 7, 2**31 - 1]
    codes = set().union(*reasons(target_url, "rankings").values())
    assert codes == {"null", "type", "range"} | (set() if unique else {"duplicate_key"})
    assert {m.strategy for m in move_all(source.path, target_url).values()} == {"unchanged"}


def test_a_source_in_utf_16_moves(tmp_path: Path, target_url: str) -> None:
    source = SourceFile.make(tmp_path / "wide.db", "PRAGMA encoding = 'UTF-16';" + CONTENT_DDL)
    source.add("learning_content", {"id": 1, "title": "กิน 😀"}, {"id": 2, "title": "ก" * 201})
    move_all(source.path, target_url)
    assert query(target_url, "SELECT id, title FROM learning_content") == [(1, "กิน 😀")]


# Targets that cannot be written.


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "place", ["127.0.0.1:1/learning", "no-such-host.invalid/learning", "/learning?host=/no/folder"]
)
def test_no_server_at_the_url_is_told(source: SourceFile, place: str) -> None:
    source.add_family(contents=1)
    text = refusal(TargetError, lambda: move_all(source.path, f"postgresql://me:secret@{place}"))
    assert "the target: the server does not respond" in text
    assert "DATABASE_URL" in text


def test_a_server_that_hangs_up_is_told(source: SourceFile) -> None:
    source.add_family(contents=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"postgresql://me:secret@127.0.0.1:{listener.getsockname()[1]}/learning"
        assert "the target" in refusal(TargetError, lambda: move_all(source.path, url))


PASSWORD = "secret+%&@:/?#'word"


@pytest.fixture(scope="module")
def guarded(server: URL) -> Iterator[URL]:
    """Another PostgreSQL, on TCP, that asks for a password."""
    programs = postmaster.programs()
    user = "embedded_postgres" if os.geteuid() == 0 else None
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="pgpw", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        password = Path(folder) / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = f"{folder}/data"

        def run(program: str, *arguments: str) -> None:
            with (Path(folder) / "output").open("w") as output:
                command = [programs / program, "-D", data, *arguments]
                subprocess.run(command, user=user, check=True, stdout=output, stderr=output)

        run("initdb", "-U", "owner", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k '' -c fsync=off"
        run("pg_ctl", "-w", "-l", f"{folder}/data/log", "-o", options, "start")
        try:
            yield URL.create(
                "postgresql", "owner", PASSWORD, "127.0.0.1", port, database="postgres"
            )
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


def test_a_wrong_password_is_told_without_it(source: SourceFile, guarded: URL) -> None:
    source.add_family(contents=1)
    wrong = libpq(guarded.set(password="wrong-secret"))
    text = refusal(TargetError, lambda: move_all(source.path, wrong))
    assert "rejected the user or password" in text
    assert "DATABASE_URL" in text
    none = libpq(guarded._replace(password=None))
    assert "password" in refusal(TargetError, lambda: move_all(source.path, none))
    assert move_all(source.path, libpq(guarded))["rankings"].moved_rows == 4


def test_a_password_with_a_blank_is_understood_and_not_told(
    source: SourceFile, guarded: URL
) -> None:
    source.add_family(contents=1)
    wrong = libpq(guarded.set(password="wrong secret"))
    text = refusal(TargetError, lambda: move_all(source.path, wrong))
    assert "rejected the user or password" in text


def test_a_database_that_does_not_exist_is_told(source: SourceFile, guarded: URL) -> None:
    source.add_family(contents=1)
    url = libpq(guarded.set(database="nowhere"))
    text = refusal(TargetError, lambda: move_all(source.path, url))
    assert "the database does not exist" in text
    assert "nowhere" in text


def test_a_user_without_rights_is_told(source: SourceFile, database: URL) -> None:
    source.add_family(contents=1)
    owner = libpq(database)
    query(owner, "CREATE ROLE nobody LOGIN")
    try:
        url = libpq(database.set(username="nobody"))
        text = refusal(TargetError, lambda: move_all(source.path, url))
        assert "lacks a privilege" in text
        assert "Grant" in text
        assert relations(owner) == []
    finally:
        query(owner, "DROP ROLE nobody")


def test_a_target_that_is_read_only_by_default_is_written(
    source: SourceFile, database: URL
) -> None:
    source.add_family(contents=1)
    url = libpq(database)
    query(url, f"ALTER DATABASE {database.database} SET default_transaction_read_only = on")
    assert move_all(source.path, url)["rankings"].written_rows == 4


def test_a_second_run_is_told_who_holds_the_target(target_url: str) -> None:
    with (
        closing(psycopg2.connect(target_url)) as other,
        Target.connect(target_url, shown="the target") as target,
    ):
        other.cursor().execute("SELECT pg_advisory_lock(%s)", (PUBLIC.lock_key,))

        def lock() -> None:
            with target.lock(seconds=0.3):
                pass

        text = refusal(LockedError, lock)
        assert f"server process {other.get_backend_pid()}" in text
        other.close()
        time.sleep(0.1)
        lock()


def test_a_connection_that_is_cut_amid_a_move_leaves_the_target_as_it_was(
    source: SourceFile, target_url: str
) -> None:
    move_all(source.path, target_url)
    source.add_family(contents=2)
    query(
        target_url,
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;"
        "CREATE TRIGGER cut BEFORE INSERT ON rankings FOR EACH ROW EXECUTE FUNCTION cut()",
    )
    before = relations(target_url)
    text = refusal(TargetError, lambda: move_all(source.path, target_url))
    assert "connection to the server was lost" in text
    assert query(target_url, "SELECT count(*) FROM rankings") == [(0,)]
    assert relations(target_url) == before
    query(target_url, "DROP FUNCTION cut CASCADE")
    assert move_all(source.path, target_url)["rankings"].moved_rows == 8


@pytest.fixture
def tiny_disk(database: URL) -> Iterator[Callable[[int], None]]:
    """New tables of the database lie on a disk of 4 MB; calling it gives the disk more."""
    folder = Path(tempfile.mkdtemp(prefix="disk"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only a user who may mount can plant a full disk")
    space = f"tiny_{database.database}"
    place = folder / "space"
    place.mkdir()
    subprocess.run(["chown", "embedded_postgres", str(place)], check=True)
    url = libpq(database)
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLESPACE {space} LOCATION '{place}'")
        cursor.execute(f"ALTER DATABASE {database.database} SET default_tablespace = {space}")

        def grow(megabytes: int) -> None:
            again = ["mount", "-o", f"remount,size={megabytes}m", str(folder)]
            subprocess.run(again, check=True)

        yield grow
        cursor.execute(f"ALTER DATABASE {database.database} RESET default_tablespace")
        cursor.execute("DROP SCHEMA IF EXISTS public, migration CASCADE")
        cursor.execute(f"DROP TABLESPACE {space}")
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_of_the_server_is_told_and_the_table_rolled_back(
    source: SourceFile, target_url: str, tiny_disk: Callable[[int], None]
) -> None:
    source.add_family(contents=2)
    source.run("UPDATE fragment_assets SET asset_data = randomblob(2000000)")
    text = refusal(TargetError, lambda: move_all(source.path, target_url))
    assert "disk is full" in text
    assert "Free space" in text
    assert "fragment_assets" not in relations(target_url)
    tiny_disk(64)
    assert move_all(source.path, target_url)["fragment_assets"].moved_rows == 4


# The application goes on writing.

WRITER = """
db.execute(f'PRAGMA journal_mode = {sys.argv[2]}')
text = "'a', 'b', 'thai', 'c', 'd', 'e'"
key = 100
while True:
    db.execute('BEGIN IMMEDIATE')
    db.execute(f"INSERT INTO learning_content (id, title, content_type, language, native_text,"
               f" translation, ipa) VALUES ({key}, {text})")
    for part in range(3):
        db.execute(f"INSERT INTO content_fragments (id, native_text, body_text, fragment_type,"
                   f" learning_content_id) VALUES ({10 * key + part}, 'a', 'b', 'c', {key})")
        db.execute("INSERT INTO fragment_assets (id, fragment_id, asset_type, asset_data)"
                   f" VALUES ({10 * key + part}, {10 * key + part}, 'audio', randomblob(3000))")
        db.execute("INSERT INTO rankings (fragment_id, asset_id, assessed_by)"
                   f" VALUES ({10 * key + part}, {10 * key + part}, 'x')")
    db.execute('COMMIT')
    key += 1
    if key == 110:
        print('ready', flush=True)
    time.sleep(0.002)
"""


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
def test_while_the_application_writes_each_move_sees_one_point_in_time(
    source: SourceFile, target_url: str, mode: str
) -> None:
    source.add_family(contents=1)
    seen = []
    with another_program(source.path, WRITER, mode):
        for _ in range(3):
            moves = move_all(source.path, target_url)
            assert [reasons(target_url, name) for name in NAMES] == [{}] * 4
            checks = [c for m in moves.values() for c in m.checks if c.name != "drift"]
            assert all(check.passed for check in checks)
            rows = [moves[name].moved_rows for name in NAMES]
            contents = rows[0] - 1
            assert rows == [contents + 1, 3 * contents + 2, 3 * contents + 2, 3 * contents + 4]
            seen.append(contents)
    assert seen[0] < seen[1] < seen[2]


def test_what_a_killed_application_had_committed_is_moved(
    source: SourceFile, target_url: str
) -> None:
    process = run_sqlite(source.path, WRITER, "wal")
    time.sleep(0.1)
    process.kill()
    process.communicate()
    wal = source.path.with_name(source.path.name + "-wal")
    assert wal.stat().st_size > 0
    moves = move_all(source.path, target_url)
    assert wal.stat().st_size > 0
    ((contents,),) = source.run("SELECT count(*) FROM learning_content")
    assert contents >= 10
    assert moves["learning_content"].moved_rows == contents
    assert moves["rankings"].moved_rows == 3 * contents
