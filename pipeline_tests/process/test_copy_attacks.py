"""The command ``copy`` when it is killed or kept out, and what it never shows."""

import json
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline_tests.support.commands import Ran, pipeline, running
from pipeline_tests.support.copies import assert_same, constraints, database
from pipeline_tests.support.kills import moments, wait_for_other_sessions
from pipeline_tests.support.targets import everything_stored, query
from pipeline_tests.support.turso import Server

TABLES = ("a", "b", "c")
SECRET = "s3cr3t-Wort"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for at, name in enumerate(TABLES):
            parent = f"REFERENCES {TABLES[at - 1]} (id)" if at else ""
            connection.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY {parent}, v TEXT)")
            rows = [(n, f"{name} {n}") for n in range(5_000)]
            connection.executemany(f"INSERT INTO {name} VALUES (?, ?)", rows)
    return path


def copy(source: Path, url: str, *more: str, **settings: object) -> Ran:
    home = source.parent / "home"
    return pipeline("copy", f"sqlite:///{source}", url, *more, PIPELINE_HOME=home, **settings)


def test_a_copy_killed_anywhere_goes_on(source: Path, target_url: str) -> None:
    arguments = ("copy", f"sqlite:///{source}", target_url, "--json")
    home = source.parent / "home"
    started = time.monotonic()
    assert pipeline(*arguments, PIPELINE_HOME=home).code == 0
    seconds = time.monotonic() - started
    query(target_url, f"DROP TABLE {', '.join(TABLES)}; DROP SCHEMA migration CASCADE")
    for share in moments(3, random.Random(7)):
        with running(*arguments, PIPELINE_HOME=home) as process:
            time.sleep(share * seconds)
            process.kill()
        wait_for_other_sessions(target_url)
        for name in TABLES:
            if query(target_url, "SELECT to_regclass(%s)", (name,)) != [(None,)]:
                # What is there is whole, with its keys.
                assert_same(source, target_url, name)
                assert f"{name}_pkey" in constraints(target_url, name)

    assert pipeline(*arguments, PIPELINE_HOME=home).code == 0
    assert_same(source, target_url, *TABLES)
    assert "b_id_fkey" in constraints(target_url, "b")
    assert list((home / "copies").iterdir()) == []


def test_an_interrupted_copy_ends_at_once(source: Path, target_url: str) -> None:
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("CREATE TABLE z (v BLOB)")
        connection.executemany("INSERT INTO z VALUES (randomblob(?))", [(1_000_000,)] * 150)
    home = source.parent / "home"
    url = f"sqlite:///{source}"
    with running("copy", url, target_url, PIPELINE_HOME=home) as process:
        deadline = time.monotonic() + 30
        begun = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%COPY%z%' AND datname ="
        while not query(target_url, f"{begun} current_database() AND pid <> pg_backend_pid()"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        ended = process.ended()

    assert ended.code not in (0, 1)
    assert "Traceback" not in ended.err
    wait_for_other_sessions(target_url)
    assert query(target_url, "SELECT to_regclass('z')") == [(None,)]
    assert list((home / "copies").iterdir()) == []


def test_the_ddl_of_a_dry_run_can_be_executed(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "app.db",
        'CREATE TABLE "a;b" (id INTEGER PRIMARY KEY, n TEXT NOT NULL COLLATE NOCASE UNIQUE'
        " DEFAULT 'it''s; 100%', c INT CHECK (c > 0), g INT AS (c * 2) STORED)",
        'CREATE TABLE circle (id INTEGER PRIMARY KEY, o INT REFERENCES other (id), "x\ny" DATE)',
        "CREATE TABLE other (id INTEGER PRIMARY KEY, c INT REFERENCES circle (id))",
        "CREATE INDEX part ON circle (o) WHERE o > 1",
        "CREATE TRIGGER t AFTER INSERT ON other BEGIN\n SELECT 1; END",
        "INSERT INTO circle VALUES (1, 1, '2020-01-01')",
        "INSERT INTO other VALUES (1, 1)",
    )
    home = tmp_path / "home"
    arguments = ("copy", f"sqlite:///{path}", "--dry-run")

    ran = pipeline(*arguments, PIPELINE_HOME=home)
    planned = json.loads(pipeline(*arguments, "--json", PIPELINE_HOME=home).out)

    assert ran.code == 0
    query(target_url, ran.out)
    printed = [constraints(target_url, name) for name in ("a;b", "circle", "other")]
    query(target_url, 'DROP TABLE "a;b", circle, other CASCADE')
    query(target_url, "\n".join(planned["ddl"]))
    assert [constraints(target_url, name) for name in ("a;b", "circle", "other")] == printed
    query(target_url, 'DROP TABLE "a;b", circle, other CASCADE')
    assert copy(path, target_url).code == 0
    assert [constraints(target_url, name) for name in ("a;b", "circle", "other")] == printed


def test_a_password_is_never_shown_or_stored(
    source: Path, target_url: str, database: URL, server: URL
) -> None:
    query(libpq(server), f"CREATE ROLE secretive LOGIN SUPERUSER PASSWORD '{SECRET}'")
    try:
        url = libpq(database.set(username="secretive", password=SECRET))
        ran = copy(source, url)
        as_json = copy(source, url, "--json")
        query(target_url, "CREATE VIEW public.z AS SELECT 1")
        with closing(sqlite3.connect(source)) as connection, connection:
            connection.execute("CREATE TABLE z (a)")
        refused = copy(source, url)
        wrong = copy(source, url.replace("/test_", "/none_"))
    finally:
        query(target_url, "DROP OWNED BY secretive CASCADE; DROP ROLE secretive")

    assert [each.code for each in (ran, as_json, refused, wrong)] == [0, 0, 2, 2]
    for each in (ran, as_json, refused, wrong):
        assert SECRET not in each.out + each.err
    assert not [table for table, value in everything_stored(target_url) if SECRET in value]
    home = source.parent / "home"
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("postgresql://u@db.pooler.supabase.com:6543/d",), "transaction pooler"),
        (("{target}", "--schema", "migration"), "--schema cannot be migration"),
        (("{target}", "--exclude", "nothing"), "nothing"),
        (("{target}", "--cast", "a.nothing=int"), "nothing"),
    ],
)
def test_what_cannot_start_ends_with_two_and_one_sentence(
    source: Path, target_url: str, arguments: tuple[str, ...], reason: str
) -> None:
    given = [each.format(target=target_url) for each in arguments]
    ran = pipeline("copy", f"sqlite:///{source}", *given, PIPELINE_HOME=source.parent / "home")

    assert ran.code == 2
    assert reason in ran.err + ran.out
    assert "Traceback" not in ran.err
    assert query(target_url, "SELECT to_regclass('a')") == [(None,)]


def test_a_dump_is_copied_as_its_file(source: Path, target_url: str, tmp_path: Path) -> None:
    dump = tmp_path / "app.sql"
    with closing(sqlite3.connect(source)) as connection:
        dump.write_text("\n".join(connection.iterdump()))

    ran = pipeline("copy", f"dump:///{dump}", target_url, PIPELINE_HOME=tmp_path / "home")

    assert ran.code == 0, ran.err
    assert_same(source, target_url, *TABLES)


def test_a_database_on_turso_is_copied(turso: Server, target_url: str, tmp_path: Path) -> None:
    turso.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, b BLOB)")
    turso.run("INSERT INTO t VALUES (1, 'é', ?), (2, NULL, NULL)", (b"\0",))
    url = f"http://127.0.0.1:{turso.port}"

    first = pipeline("copy", url, target_url, PIPELINE_HOME=tmp_path / "home")
    turso.run("UPDATE t SET v = 'x' WHERE id = 2")
    second = pipeline("copy", url, target_url, PIPELINE_HOME=tmp_path / "home")

    assert (first.code, second.code) == (0, 0), first.err + second.err
    rows = [(1, "é", b"\0"), (2, "x", None)]
    found = query(target_url, "SELECT id, v, b FROM t ORDER BY 1")
    assert [(n, v, None if b is None else bytes(b)) for n, v, b in found] == rows
