"""A database on Turso is read as a file that follows it; what goes wrong is one sentence."""

import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from pipeline.config import environment, settings
from pipeline.core.errors import PipelineError, SettingsError, SourceError, Transient
from pipeline.migrations.content import CONTENT
from pipeline.sqlite import replica
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Remote, parse
from pipeline.sqlite.snapshot import fingerprint_of
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import query
from pipeline_tests.support.turso import TOKEN, Gate, Server, application, gate_before

CALL = """
import sys; from pathlib import Path; from pydantic import SecretStr
from pipeline.sqlite.fetch import fetch; from pipeline.sqlite.origin import Remote
fetch(Remote(sys.argv[1], SecretStr(sys.stdin.readline().strip())), home=Path(sys.argv[2]))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """PIPELINE_HOME of a test."""
    return tmp_path / "home"


def origin(gate: Gate, token: str = TOKEN) -> Remote:
    return Remote(gate.url, SecretStr(token))


def rows(path: Path, sql: str = "SELECT * FROM t ORDER BY id") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def filled(server: Server, *values: Any) -> None:
    server.run("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
    for value in values:
        server.run("INSERT INTO t (v) VALUES (?)", (value,))


def detail(gate: Gate, home: Path, token: str = TOKEN) -> PipelineError:
    """What is said when it cannot be fetched; the token is in nothing that is left."""
    with pytest.raises(PipelineError) as caught:
        fetch(origin(gate, token), home=home)
    told = "".join(traceback.format_exception(caught.value))
    assert token not in told
    assert re.fullmatch(r"[A-Z\w].*\. [A-Z].*\.", str(caught.value), re.S), str(caught.value)
    return caught.value


def test_the_file_holds_what_the_server_has(turso: Server, gate: Gate, home: Path) -> None:
    values = [1, -0.1, "กิน\nข้าว", b"\x00\xff" * 30_000, None, 2**63 - 1, "a\0b", ""]
    filled(turso, *values)
    path = fetch(origin(gate), home=home)
    assert [row[1] for row in rows(path)] == values
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not [each for each in home.rglob("*") if TOKEN[:20] in each.name]


def test_changes_deletes_and_new_tables_follow(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, *range(50))
    path = fetch(origin(gate), home=home)
    turso.run("DELETE FROM t WHERE id > 10")
    turso.run("UPDATE t SET v = 'new' WHERE id = 3")
    turso.run("ALTER TABLE t ADD COLUMN w TEXT DEFAULT 'x'")
    turso.run("CREATE TABLE u (id INTEGER PRIMARY KEY)")
    turso.run("CREATE INDEX i ON t (v)")
    assert len(rows(path)) == 50
    fetch(origin(gate), home=home)
    assert rows(path) == [(n, "new" if n == 3 else n - 1, "x") for n in range(1, 11)]
    assert rows(path, "SELECT * FROM u") == []
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_keeps_its_view_while_the_file_follows(
    turso: Server, gate: Gate, home: Path
) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
        turso.run("DELETE FROM t")
        fetch(origin(gate), home=home)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_look_that_finds_nothing_new_asks_once_and_leaves_the_file_as_it_was(
    turso: Server, gate: Gate, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(turso, 1)
    monkeypatch.setenv("SQLITE_DATABASE_URL", gate.url)
    monkeypatch.setenv("TURSO_AUTH_TOKEN", TOKEN)
    loaded = settings.load()
    never = environment.watched_file(loaded, CONTENT)
    assert not never.exists() and gate.asked == []
    path = fetch(loaded.origin(CONTENT), home=loaded.pipeline_home)
    assert path == never
    time.sleep(1.1)
    before, gate.asked[:] = fingerprint_of(path), []
    assert fingerprint_of(environment.watched_file(loaded, CONTENT)) == before is not None
    assert gate.asked == ["/pull-updates"]
    turso.run("DELETE FROM t")
    assert fingerprint_of(environment.watched_file(loaded, CONTENT)) != before


def test_databases_are_fetched_once_and_brought_up_to_date_when_asked(
    turso: Server, gate: Gate, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(turso, 1)
    monkeypatch.setenv("SQLITE_DATABASE_URL", gate.url)
    monkeypatch.setenv("TURSO_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("DATABASE_URL", target_url)
    found = environment.databases(settings.load(), CONTENT)
    filled(turso, 2)
    assert len(rows(environment.databases(settings.load(), CONTENT).source)) == 1
    assert len(rows(environment.databases(settings.load(), CONTENT, fresh=True).source)) == 2
    assert TOKEN not in repr(settings.load()) + repr(settings.load().origin) + repr(found)


def test_a_server_that_was_restarted_is_followed(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    turso.stop()
    assert isinstance(detail(gate, home), Transient)
    turso.start()
    filled(turso, 2)
    fetch(origin(gate), home=home)
    assert rows(path) == [(1, 1), (2, 2)]


def test_another_database_at_the_same_place_is_fetched_anew(
    turso: Server, gate: Gate, home: Path
) -> None:
    filled(turso, *range(30))
    path = fetch(origin(gate), home=home)
    turso.stop()
    for file in turso.file.parent.glob("primary.db*"):
        file.unlink()
    turso.start()
    filled(turso, "other")
    said: list[str] = []
    fetch(origin(gate), home=home, log=said.append)
    assert rows(path) == [(1, "other")]
    assert len(said) == 1 and "the database was replaced" in said[0]
    assert len(list(home.rglob("replica.damaged-*"))) == 1


def test_databases_are_kept_apart(turso: Server, gate: Gate, home: Path, tursodb: Path) -> None:
    filled(turso, 1)
    first = fetch(origin(gate), home=home)
    other = Server(tursodb, turso.file.with_name("other.db"))
    other.start()
    try:
        filled(other, "other")
        with gate_before(other) as beside:
            second = fetch(origin(beside), home=home)
    finally:
        other.stop()
    assert rows(first) == [(1, 1)] and rows(second) == [(1, "other")]


def test_what_the_server_refuses_is_a_sentence(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    for status, sentence, transient in (
        (401, "does not accept the token", False),
        (403, "does not accept the token", False),
        (404, "has no such database", False),
        (429, "reported an internal error (HTTP 429)", True),
        (500, "reported an internal error (HTTP 500)", True),
        (418, "sent an unexpected response", False),
    ):
        gate.status = status
        error = detail(gate, home)
        assert sentence in error.problem and isinstance(error, SourceError)
        assert isinstance(error, Transient) is transient
    gate.status = None
    fetch(origin(gate), home=home)
    assert rows(path) == [(1, 1)]
    assert not list(home.rglob("replica.damaged-*"))


def test_a_wrong_token_and_none_are_refused(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, 1)
    assert "does not accept the token" in detail(gate, home, "wrong-token-of-somebody").problem
    with pytest.raises(SourceError, match="TURSO_AUTH_TOKEN"):
        fetch(Remote(gate.url), home=home)


@pytest.mark.parametrize("token", ["two\nlines-of-it", "ไม่ใช่โทเค็น", "with a space"])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(SettingsError, match="TURSO_AUTH_TOKEN is not a token") as caught:
        parse("libsql://h", token=SecretStr(token), name="SOURCE")
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sentence", "transient"),
    [
        ("https://no-such-host.invalid", "the host name is unknown|did not respond", None),
        ("http://127.0.0.1:1", "did not respond, or closed the connection", True),
    ],
)
def test_a_server_that_is_not_there_is_named(
    url: str, sentence: str, transient: bool | None, home: Path
) -> None:
    with pytest.raises(SourceError, match=sentence) as caught:
        fetch(Remote(url, SecretStr(TOKEN)), home=home)
    assert transient is None or isinstance(caught.value, Transient) is transient


def test_a_server_without_tls_is_named(gate: Gate, home: Path) -> None:
    with pytest.raises(SourceError, match="does not support TLS"):
        fetch(Remote(gate.url.replace("http:", "https:"), SecretStr(TOKEN)), home=home)


def test_a_pull_that_breaks_off_leaves_what_was_and_is_done_again(
    turso: Server, gate: Gate, home: Path
) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    filled(turso, b"x" * 200_000)
    for fault in ("cut", "lose the answer"):
        gate.fault = fault  # type: ignore[assignment]
        assert isinstance(detail(gate, home), Transient)
        assert rows(path) == [(1, 1)]
    gate.fault = None
    fetch(origin(gate), home=home)
    assert len(rows(path)) == 2
    assert not list(home.rglob("replica.damaged-*"))


def test_a_first_pull_that_breaks_off_is_done_again(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, b"x" * 200_000)
    gate.fault = "cut"
    assert isinstance(detail(gate, home), Transient)
    gate.fault = None
    assert len(rows(fetch(origin(gate), home=home))) == 1


def test_what_is_interrupted_between_replica_and_file_is_made_up_for(
    turso: Server, gate: Gate, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    filled(turso, 2)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replica, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(origin(gate), home=home)
    monkeypatch.undo()
    assert rows(path) == [(1, 1)]
    fetch(origin(gate), home=home)
    assert rows(path) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("end", ["", "-info", "-wal-revert"])
def test_a_damaged_replica_is_set_aside_and_fetched_anew(
    end: str, turso: Server, gate: Gate, home: Path
) -> None:
    filled(turso, *range(30))
    path = fetch(origin(gate), home=home)
    file = path.parent / "replica" / f"replica.db{end}"
    file.write_bytes(b"garbage!" * (file.stat().st_size // 8))
    filled(turso, "new")
    said: list[str] = []
    fetch(origin(gate), home=home, log=said.append)
    assert len(rows(path)) == 31
    assert all("and is fetched again" in each for each in said)
    assert bool(said) or end == "-wal-revert"


def test_a_damaged_page_of_the_replica_does_not_reach_the_file(
    turso: Server, gate: Gate, home: Path
) -> None:
    filled(turso, *(f"{n}" * 900 for n in range(60)))
    path = fetch(origin(gate), home=home)
    file = path.parent / "replica" / "replica.db"
    whole = bytearray(file.read_bytes())
    page = next(at for at in range(4096, len(whole), 4096) if whole[at] == 0x0D)
    whole[page : page + 200] = b"\xff" * 200
    file.write_bytes(whole)
    turso.run("CREATE TABLE u (id INTEGER PRIMARY KEY)")
    said: list[str] = []
    fetch(origin(gate), home=home, log=said.append)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(rows(path)) == 60 and len(said) == 1


def test_a_damaged_file_is_made_anew(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, 1)
    path = fetch(origin(gate), home=home)
    for file in path.parent.glob("source.db-*"):
        file.unlink()
    path.write_bytes(b"garbage!" * 1000)
    (path.parent / "source.db.follows").write_text("x")
    fetch(origin(gate), home=home)
    assert rows(path) == [(1, 1)]


def started(gate: Gate, home: Path) -> subprocess.Popen[str]:
    call = subprocess.Popen(
        [sys.executable, "-c", CALL, gate.url, str(home)], stdin=subprocess.PIPE, text=True
    )
    assert call.stdin is not None
    call.stdin.write(f"{TOKEN}\n")
    call.stdin.close()
    return call


def test_a_kill_leaves_what_the_next_run_heals(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, b"x" * 3_000_000)
    gate.slow = 1.0
    call = started(gate, home)
    while not gate.asked:
        time.sleep(0.01)
    call.send_signal(signal.SIGKILL)
    call.wait()
    gate.slow = 0.0
    # The pull itself goes on and holds the lock; whoever comes waits for it.
    assert len(rows(fetch(origin(gate), home=home))) == 1


def test_two_at_once_pull_one_after_the_other(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso, 1)
    gate.slow = 0.3
    made: list[Path] = []
    both = [
        threading.Thread(target=lambda: made.append(fetch(origin(gate), home=home)))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert made[0] == made[1] and len(rows(made[0])) == 1


def test_a_pull_that_takes_long_says_so(
    turso: Server, gate: Gate, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_REPORT_SECONDS", 0.2)
    filled(turso, 1)
    gate.slow = 0.5
    said: list[str] = []
    fetch(origin(gate), home=home, log=said.append)
    assert said and all("the replica has" in each for each in said)


def test_the_token_is_in_no_argument_and_no_environment_of_a_process(
    turso: Server, gate: Gate, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(turso, 1)
    gate.slow = 0.7
    seen: list[bytes] = []

    def look() -> None:
        while not gate.asked:
            time.sleep(0.01)
        for child in psutil.Process().children():
            process = Path("/proc", str(child.pid))
            try:
                command = (process / "cmdline").read_bytes()
                if b"pipeline.sqlite.pulling" in command:
                    seen.append(command + (process / "environ").read_bytes())
            except OSError:
                continue

    with caplog.at_level(logging.DEBUG):
        read_only = threading.Thread(target=look)
        read_only.start()
        fetch(origin(gate), home=home)
        read_only.join()
    assert seen and not [each for each in seen if TOKEN.encode() in each]
    assert TOKEN not in caplog.text
    for file in home.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()
    assert os.environ.get("TURSO_AUTH_TOKEN") is None


def test_a_large_database_is_pulled(turso: Server, gate: Gate, home: Path) -> None:
    filled(turso)
    piece = os.urandom(1_000_000)
    for n in range(24):
        turso.run("INSERT INTO t (v) VALUES (?)", (bytes([n]) + piece,))
    path = fetch(origin(gate), home=home)
    assert rows(path, "SELECT count(*), sum(length(v)) FROM t") == [(24, 24 * 1_000_001)]


def test_a_database_on_turso_moves_and_is_followed(
    turso: Server, gate: Gate, home: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_DATABASE_URL", gate.url)
    monkeypatch.setenv("TURSO_AUTH_TOKEN", TOKEN)
    loaded = settings.load()
    app = application(turso, loaded.source_path(CONTENT))
    app.add_family()
    moved = move_all(environment.source_file(loaded, CONTENT), target_url)
    assert moved["fragment_assets"].target_rows == 6
    app.run("UPDATE rankings SET rank_score = 1, updated_at = '2026-01-01' WHERE id = 5")
    app.run("DELETE FROM rankings WHERE id = 6")
    sync_all(environment.source_file(loaded, CONTENT), target_url)
    assert query(target_url, "SELECT count(*), min(rank_score) FROM rankings") == [(11, 1)]
