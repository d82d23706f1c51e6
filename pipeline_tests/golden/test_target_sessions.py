"""Sessions with the target: what they rely on, poolers in between, and waits for another run."""

import os
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import LockedError, TargetError
from pipeline.doctor.target import examine
from pipeline.migrations.content import metadata
from pipeline.postgres import session
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.hostile_settings import (
    HOSTILE,
    assert_same,
    cleanly,
    dotted,
    fill,
    valued,
)
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.pgbouncer import PROGRAM, pgbouncer
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

needs_pgbouncer = pytest.mark.skipif(
    not Path(PROGRAM).exists() and "REQUIRE_POOLER" not in os.environ,
    reason="pgbouncer is not installed",
)
MODE = "a connection pooler in transaction mode answers"


def test_settings_of_a_role_in_one_database_are_overridden(
    server: URL, source: SourceFile, lowly: None
) -> None:
    """``ALTER ROLE ... IN DATABASE``, which comes before those of the role and of the database."""
    fill(source)
    with new_database(server, "of_role") as database:
        query(
            libpq(database),
            "CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler",
        )
        role = database.username
        with closing(psycopg2.connect(libpq(server))) as connection, connection:
            for name, value in HOSTILE.items():
                statement = psycopg2.sql.SQL("ALTER ROLE {} IN DATABASE of_role SET {} = {}")
                connection.cursor().execute(
                    statement.format(
                        psycopg2.sql.Identifier(role), dotted(name), valued(name, value)
                    )
                )
        try:
            move_all(source.path, libpq(database))
            source.run(
                "UPDATE rankings SET rank_score = 0.3, updated_at = '2026-01-01 00:00:00'"
                " WHERE id = 1"
            )
            sync_all(source.path, libpq(database))
            assert_same(source.path, cleanly(database))
        finally:
            query(libpq(server), f"ALTER ROLE {role} IN DATABASE of_role RESET ALL")


@needs_pgbouncer
def test_a_transaction_pooler_is_recognized_by_what_it_does(
    database: URL, source: SourceFile, tmp_path: Path
) -> None:
    source.add_family(contents=1)
    with pgbouncer(database, "transaction") as url:
        with pytest.raises(TargetError, match=MODE):
            move_all(source.path, libpq(url))
        with pytest.raises(TargetError, match=MODE):
            session.connect(libpq(url), shown="the target")
        ran = pipeline("migrate", **usable(source, libpq(url), tmp_path))
        assert ran.code in (1, 2) and MODE in ran.err, ran
        assert "Traceback" not in ran.out + ran.err
        (found,) = [
            each
            for each in examine(url, tables=metadata.sorted_tables, bytes_needed=1)
            if each.state == "error"
        ]
        assert MODE in found.detail
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert query(libpq(database), locks) == [(0,)]
    relations = "SELECT relname FROM pg_class WHERE oid >= 16384"
    assert query(libpq(database), relations) == []


@needs_pgbouncer
def test_a_session_pooler_is_used_and_keeps_no_lock(database: URL, source: SourceFile) -> None:
    source.add_family(contents=1)
    with pgbouncer(database, "session") as url:
        move_all(source.path, libpq(url))
        with Target.connect(libpq(url), shown="it", mark=7) as target, target.lock():
            assert target.value("SELECT current_setting('search_path')") == "public, pg_temp"
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert query(libpq(database), locks) == [(0,)]


@needs_pgbouncer
def test_a_pooler_that_rejects_settings_is_named(database: URL) -> None:
    with (
        pgbouncer(database, "session", ignored="extra_float_digits") as url,
        pytest.raises(TargetError, match="a connection pooler rejects the settings"),
        Target.connect(libpq(url), shown="it"),
    ):
        pass


def test_a_wait_names_the_other_run_and_ends(target_url: str) -> None:
    with (
        Target.connect(target_url, shown="it", application_name="night run") as first,
        first.lock(),
        Target.connect(target_url, shown="it") as second,
    ):
        pid = first.value("SELECT pg_backend_pid()")
        with pytest.raises(LockedError) as caught, second.lock(seconds=0.3):
            pass
    assert f"server process {pid}" in caught.value.problem
    assert "application night run, connected since 20" in caught.value.problem
    assert "pg_terminate_backend" in caught.value.remedy
