"""Databases that do not answer, refuse, or have no connection left."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.application.errors import Refused
from pipeline.application.manager import HybridDatabaseManager
from pipeline.config.settings import libpq
from pipeline.core.errors import SourceError, TargetError, Transient
from pipeline_tests.support.services import Door

SECRET = "hunter-two"


def test_a_pool_without_a_free_connection_is_told(tmp_path: Path, target_url: str) -> None:
    path = tmp_path / "cards.db"
    path.touch()
    with HybridDatabaseManager(path, target_url, pool_size=1, pool_seconds=0.1) as databases:
        for open_one, kind in (
            (databases.get_postgres_session, TargetError),
            (databases.get_sqlite_session, SourceError),
        ):
            with open_one() as session:
                session.execute(sa.text("SELECT 1"))
                with (
                    pytest.raises(kind, match=r"no connection of the pool .* a larger pool"),
                    open_one() as second,
                ):
                    second.execute(sa.text("SELECT 1"))
            with open_one() as session:
                assert session.scalar(sa.text("SELECT 1")) == 1


def test_a_server_that_is_down_is_told_without_the_password(door: Door) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"postgresql://app:{SECRET}@127.0.0.1:{port}/app"
        with (
            HybridDatabaseManager(door.databases.sqlite_path, url) as databases,
            pytest.raises(Transient, match="the server does not respond") as raised,
        ):
            Door.over(databases).contents.list()
    assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r}"


@pytest.fixture
def guarded(server: URL, door: Door, database: URL) -> Iterator[URL]:
    """The database of the test for a user whose password the server asks for."""
    user = f"guarded_{database.database}"
    ((rules,),) = door.postgres("SHOW hba_file")
    before = Path(rules).read_text()
    door.postgres(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
    Path(rules).write_text(f"local all {user} scram-sha-256\n{before}")
    door.postgres("SELECT pg_reload_conf()")
    yield database.set(username=user, password="wrong-secret")
    Path(rules).write_text(before)
    door.postgres("SELECT pg_reload_conf()")
    door.postgres(f"DROP ROLE {user}")


def test_a_wrong_password_is_told_without_it(door: Door, guarded: URL) -> None:
    with (
        HybridDatabaseManager(door.databases.sqlite_path, libpq(guarded)) as databases,
        pytest.raises(TargetError, match="rejected the user or password") as raised,
    ):
        Door.over(databases).contents.list()
    assert "wrong-secret" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_connection_that_was_cut_is_made_anew(door: Door, target_url: str) -> None:
    number = door.add_content()
    with closing(psycopg2.connect(target_url)) as other, other.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pipeline services' AND datname = current_database()"
        )
    assert door.contents.get(number).id == number


def test_a_connection_that_is_cut_amid_a_session_undoes_it(door: Door) -> None:
    with (
        pytest.raises(Transient, match="the connection to the server was lost"),
        door.databases.get_postgres_session() as session,
    ):
        session.execute(sa.text("CREATE TABLE lost (id integer)"))
        session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert door.postgres("SELECT to_regclass('lost')") == [(None,)]


def test_tables_that_are_missing_are_named(tmp_path: Path, target_url: str) -> None:
    path = tmp_path / "cards.db"
    path.touch()
    with HybridDatabaseManager(path, target_url) as databases:
        with pytest.raises(TargetError, match='"learning_content" does not exist'):
            Door.over(databases).contents.list()
        with pytest.raises(SourceError, match=r"a table is missing .no such table: anki_cards"):
            Door.over(databases).cards.list()


def test_a_file_that_is_no_database_or_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cards.db"
    with HybridDatabaseManager(path, "postgresql://") as databases:
        with pytest.raises(SourceError, match="There is no SQLite file"):
            Door.over(databases).cards.list()
        assert not path.exists()
        path.write_bytes(b"not a database, but long enough" * 100)
        with pytest.raises(SourceError, match="it is not an SQLite database"):
            Door.over(databases).cards.list()


def test_a_snapshot_sees_nothing_of_what_comes_after_it(door: Door) -> None:
    door.sqlite("PRAGMA journal_mode = wal")
    for open_one, write, table in (
        (door.databases.get_postgres_session, door.postgres, "rankings"),
        (door.databases.get_sqlite_session, door.sqlite, "anki_cards"),
    ):
        count = sa.text(f"SELECT count(*) FROM {table}")
        with open_one(snapshot=True) as session:
            before = session.scalar(count)
            columns = "assessed_by" if table == "rankings" else "deck_name"
            write(f"INSERT INTO {table} ({columns}) VALUES ('x')")
            assert session.scalar(count) == before == 0
        assert write(f"SELECT count(*) FROM {table}") == [(1,)]


def test_what_the_driver_cannot_send_is_refused_not_a_traceback(door: Door) -> None:
    with pytest.raises(Refused, match=r"PostgreSQL rejected the change: .*NUL"):
        door.fragments.list(fragment_type="a\0b")
    with pytest.raises(Refused, match=r"cards.db rejected the change: .*too large"):
        door.sqlite("SELECT :value", value=2**63)


def test_vectors_can_be_measured_in_every_connection(door: Door) -> None:
    assert door.sqlite("SELECT vec_distance_cosine('[1, 0]', '[1, 0]')") == [(0.0,)]
