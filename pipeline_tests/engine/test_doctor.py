"""`pipeline doctor`: what it finds on a real source and a real target, well and ill."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from pipeline.config.environment import Server, require_session
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.doctor import source as source_doctor
from pipeline.doctor import target as target_doctor
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.migrations.content import metadata
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
IN_SOURCE = ["library", "readable", "integrity", "journal", "tables", "foreign keys", "disk space"]
IN_TARGET = [
    *("reachable", "session", "version", "encryption", "password", "connections"),
    *("rights", "temporary files", "locks", "clock", "extensions", "contents", "disk space"),
]


def of_source(path: Path) -> dict[str, Diagnostic]:
    """What is found in a source, by name."""
    folder = path.parent / "snapshots"
    found = source_doctor.examine(path, snapshots=folder, tables=TABLES)
    return {diagnostic.name: diagnostic for diagnostic in found}


def of_target(url: URL) -> dict[str, Diagnostic]:
    """What is found in a target, by name."""
    found = target_doctor.examine(url, tables=TABLES, bytes_needed=2**20)
    return {diagnostic.name: diagnostic for diagnostic in found}


def ill(found: dict[str, Diagnostic]) -> dict[str, str]:
    """What is not well, and how bad it is; each has a remedy."""
    wrong = {
        name: diagnostic.state for name, diagnostic in found.items() if diagnostic.state != "ok"
    }
    assert all(found[name].remedy for name in wrong)
    assert not any(diagnostic.remedy for name, diagnostic in found.items() if name not in wrong)
    return wrong


def test_a_sound_source_is_well(source: SourceFile) -> None:
    source.add_family(contents=2)
    source.run("PRAGMA journal_mode = WAL")
    before = source.path.read_bytes()
    found = of_source(source.path)
    assert list(found) == IN_SOURCE
    assert ill(found) == {}
    assert source.path.read_bytes() == before


def test_a_source_without_a_write_ahead_log_is_warned_of(source: SourceFile) -> None:
    assert ill(of_source(source.path)) == {"journal": "warning"}


def test_rows_without_parents_are_counted(source: SourceFile) -> None:
    source.run("PRAGMA journal_mode = WAL")
    source.add_family(contents=1)
    source.add("rankings", {"id": 91, "asset_id": 77}, {"id": 92, "asset_id": 78})
    found = of_source(source.path)
    assert ill(found) == {"foreign keys": "warning"}
    assert found["foreign keys"].detail == "parents missing: 2 rows (rankings to fragment_assets)"


def test_a_view_in_the_place_of_a_table_is_no_table(source: SourceFile) -> None:
    source.run("PRAGMA journal_mode = WAL")
    source.run("ALTER TABLE rankings RENAME TO votes")
    source.run("CREATE VIEW rankings AS SELECT * FROM votes")
    found = of_source(source.path)
    assert ill(found) == {"tables": "error"}
    assert found["tables"].detail == "no table rankings"


def test_a_damaged_page_is_found(source: SourceFile) -> None:
    source.run("PRAGMA journal_mode = WAL")
    source.add_family(contents=30)
    with closing(sqlite3.connect(source.path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'content_fragments'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with source.path.open("r+b") as file:
        file.seek((page - 1) * size + 8)
        file.write(b"\xff" * 64)
    found = of_source(source.path)
    assert {"integrity", "readable"} & {name for name, state in ill(found).items() if state}


def test_an_index_that_does_not_fit_its_table_is_found(source: SourceFile) -> None:
    source.run("PRAGMA journal_mode = WAL")
    source.add_family(contents=1)
    source.run("CREATE INDEX by_title ON learning_content (title)")
    with closing(sqlite3.connect(source.path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'title)', 'language)')"
            " WHERE name = 'by_title'"
        )
    found = of_source(source.path)
    assert ill(found) == {"integrity": "error"}
    assert "by_title" in found["integrity"].detail


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\x00 and no more", b"%PDF-1.4"])
def test_what_is_no_database_is_not_readable(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "source.db"
    if content is not None:
        path.write_bytes(content)
    found = of_source(path)
    assert list(found) == ["library", "readable"]
    assert ill(found) == {"readable": "error"}


def test_an_empty_target_is_well_and_stays_empty(database: URL) -> None:
    found = of_target(database)
    assert list(found) == IN_TARGET
    assert ill(found) == {}
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT LIKE 'pg%'"
    assert query(libpq(database), f"{tables} AND schemaname <> 'information_schema'") == [(0,)]


def test_a_target_that_was_moved_to_is_well(database: URL, source: SourceFile) -> None:
    source.add_family(contents=1)
    move_all(source.path, libpq(database))
    found = of_target(database)
    assert ill(found) == {}
    assert found["contents"].detail == "target of earlier moves"


def test_a_database_of_somebody_else_is_warned_of(database: URL) -> None:
    query(libpq(database), "CREATE TABLE invoices (id int)")
    found = of_target(database)
    assert ill(found) == {"contents": "warning"}
    assert found["contents"].detail == "other tables (invoices), but no ledger of a move"


def test_rights_that_lack_are_named(database: URL) -> None:
    name = f"visitor_{database.database}"
    url = libpq(database)
    query(url, f"CREATE ROLE {name} LOGIN")
    try:
        query(url, "CREATE TABLE rankings (id int)")
        query(url, f"REVOKE TEMPORARY ON DATABASE {database.database} FROM public")
        found = of_target(database.set(username=name))
        assert found["rights"].state == "error"
        assert found["rights"].detail == (
            f"{name} lacks CREATE on the database (for the schemas migration and dagster),"
            " TEMPORARY on the database (for staging), CREATE on schema public (for the tables),"
            " ownership of rankings"
        )
    finally:
        query(url, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    url = make_url("postgresql://somebody:s3cret-word@127.0.0.1:9/nowhere")
    found = of_target(url)
    assert ill(found) == {"reachable": "error"}
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    ("host", "port", "state"),
    [
        ("aws-0-eu-central-1.pooler.supabase.com", 6543, "error"),
        ("db.abcdefgh.supabase.co", 6543, "error"),
        ("aws-0-eu-central-1.pooler.supabase.com", 5432, "ok"),
        ("db.abcdefgh.supabase.co", 5432, "ok"),
    ],
)
def test_connections_of_supabase_are_told_apart(host: str, port: int, state: str) -> None:
    url = make_url(f"postgresql://postgres:x@{host}:{port}/postgres")
    # Names are not resolved here, so what comes after is that nobody answers.
    kind = next(iter(target_doctor.examine(url, tables=TABLES, bytes_needed=1)))
    assert (kind.name, kind.state) == ("connection", state)
    found = Server(url)
    if state == "ok":
        require_session(found)
    else:
        with pytest.raises(SettingsError, match=r"a transaction pooler \(port 6543\)"):
            require_session(found)


def test_a_move_over_a_transaction_pooler_is_refused(tmp_path: Path) -> None:
    ran = pipeline(
        "migrate",
        PIPELINE_HOME=tmp_path,
        DATABASE_URL="postgresql://postgres:s3cret@db.abcdefgh.supabase.co:6543/postgres",
    )
    assert ran.code == 2
    assert re.match(r"DATABASE_URL names a transaction pooler \(port 6543\)", ran.err)
    assert "s3cret" not in ran.err + ran.out


def test_the_command_prints_what_it_found_and_fails_on_an_error(
    target_url: str, source: SourceFile, tmp_path: Path
) -> None:
    named = {
        "SQLITE_DATABASE_URL": f"sqlite:///{source.path}",
        "DATABASE_URL": target_url,
        "PIPELINE_HOME": tmp_path / "home",
    }
    well = pipeline("doctor", **named)
    assert well.code == 0
    assert well.row("source", "journal")[0] == "warning"
    assert well.row("target", "rights")[0] == "ok"
    source.run("DROP TABLE rankings")
    ailing = pipeline("doctor", **named)
    assert ailing.code == 1
    assert ailing.row("source", "tables")[:2] == ["error", "no table rankings"]
    with closing(psycopg2.connect(target_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('dagster')")
        assert cursor.fetchone() == (None,)
