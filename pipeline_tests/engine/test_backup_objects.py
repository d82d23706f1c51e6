"""What hangs on tables comes back with them: triggers, functions, policies, publications."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.backup import store
from pipeline.backup.create import make
from pipeline.backup.errors import BackupError
from pipeline.backup.manifest import TargetTable
from pipeline.backup.restore import Unpublished, restore, verify_restore
from pipeline.config.environment import Databases
from pipeline.config.settings import libpq
from pipeline.migrations.spaces import SPACES, metadata
from pipeline_tests.support import spaces_world
from pipeline_tests.support.backups import everything
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.spaces_world import SEEN, seen
from pipeline_tests.support.supabase import project
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
LISTED = (
    "ALTER TABLE notes REPLICA IDENTITY FULL;"
    "CREATE PUBLICATION supabase_realtime FOR TABLE messages (id, space_id, content),"
    " notes WHERE (status <> 'draft'), note_blocks"
)
HANGING = """
SELECT 'function', proname::text, proacl::text, pg_get_functiondef(oid)
  FROM pg_proc WHERE pronamespace = to_regnamespace('pipeline_functions')
UNION ALL SELECT 'published', pubname || tablename, attnames::text, rowfilter
  FROM pg_publication_tables
UNION ALL SELECT 'identity', relname, relreplident::text, NULL FROM pg_class
  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def taken(
    supabase_server: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[TargetTable], Path]]:
    """A backup of the database ``hanging``, and its folder."""
    folder = tmp_path_factory.mktemp("objects")
    source = spaces_world.make(folder / "source.db")
    spaces_world.add_two_spaces(source)
    with project(supabase_server, "hanging") as url:
        move_all(source.path, libpq(url), tables=TABLES)
        query(libpq(url), LISTED)
        found = Databases(url, source.path, folder / "snapshots")
        made = make(folder / "home", found, SPACES, keep=1)
        assert (made.source.fault, made.target.fault) == (None, None)
        yield list(made.manifest.target_tables), store.place(folder / "home", made.manifest.name)


@pytest.fixture
def target(supabase_server: URL, taken: tuple[list[TargetTable], Path]) -> Iterator[URL]:
    """A copy of the database that the backup was taken of, reached as its owner."""
    name = "hanging_now"
    with closing(psycopg2.connect(libpq(supabase_server))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE hanging OWNER owner")
        yield supabase_server.set(database=name, username="owner")
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def put_back(url: URL, taken: tuple[list[TargetTable], Path]) -> list[Unpublished]:
    tables, folder = taken
    return restore(libpq(url), shown="the target", tables=tables, folder=folder)


def whole(url: URL) -> tuple[object, object]:
    return everything(libpq(url)), query(libpq(url), HANGING)


def works(url: URL) -> None:
    """Who is signed in sees what is his, and an update is stamped."""
    assert {who: seen(url, who) for who in ("auth2", "auth4")} == {
        who: SEEN[who] for who in ("auth2", "auth4")
    }
    stamped = "UPDATE users SET bio = 'x' RETURNING updated_at > now() - interval '1 day'"
    assert set(query(libpq(url), stamped)) == {(True,)}


def test_rows_are_put_back_into_tables_that_stay(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    before = whole(target)
    oids = query(libpq(target), "SELECT 'notes'::regclass::oid, 'messages'::regclass::oid")
    query(libpq(target), "UPDATE users SET bio = 'x'; DELETE FROM notes")
    assert put_back(target, taken) == []
    assert whole(target) == before
    assert query(libpq(target), "SELECT 'notes'::regclass::oid, 'messages'::regclass::oid") == oids
    works(target)


def test_everything_comes_back_where_nothing_is_left(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    before = whole(target)
    names = ", ".join(f'"{table.name}"' for table in TABLES)
    query(libpq(target), f"DROP TABLE {names}; DROP SCHEMA pipeline_functions CASCADE")
    assert put_back(target, taken) == []
    assert whole(target) == before
    works(target)


def test_functions_that_were_altered_come_back(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    before = whole(target)
    query(
        libpq(target),
        "CREATE OR REPLACE FUNCTION pipeline_functions.me() RETURNS integer LANGUAGE sql"
        " AS 'SELECT 1';"
        "GRANT EXECUTE ON FUNCTION pipeline_functions.me() TO PUBLIC;"
        "GRANT EXECUTE ON FUNCTION pipeline_functions.spaces_of_me() TO anon;"
        "ALTER TABLE users DISABLE TRIGGER stamp_updated_at;"
        "DROP TRIGGER stamp_updated_at ON notes;"
        'DROP POLICY "authenticated may read" ON messages',
    )
    assert put_back(target, taken) == []
    assert whole(target) == before
    works(target)


def test_a_table_that_is_made_again_is_published_as_it_was(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    before = whole(target)
    query(
        libpq(target),
        "ALTER TABLE notes ADD COLUMN more text; ALTER TABLE messages ADD COLUMN more text;"
        "ALTER PUBLICATION supabase_realtime SET TABLE messages (id, more), notes, note_blocks;"
        "CREATE PUBLICATION of_mine FOR TABLE notes (id, title)",
    )
    assert put_back(target, taken) == []
    assert query(
        libpq(target),
        "SELECT tablename::text, attnames::text FROM pg_publication_tables"
        " WHERE pubname = 'of_mine'",
    ) == [("notes", "{id,title}")]
    query(libpq(target), "DROP PUBLICATION of_mine")
    assert whole(target) == before
    works(target)


def test_a_publication_that_is_gone_is_told(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    query(libpq(target), "DROP PUBLICATION supabase_realtime; DROP TABLE messages")
    assert put_back(target, taken) == [
        Unpublished(
            "messages", "supabase_realtime", 'publication "supabase_realtime" does not exist'
        )
    ]
    works(target)


def test_a_function_that_differs_is_found_by_the_proof(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    tables, folder = taken
    before = whole(target)
    wrong = [
        replace(t, definition=t.definition | {"functions": ()}) if t.name == "users" else t
        for t in tables
    ]
    for put in (restore, verify_restore):
        with pytest.raises(BackupError, match=r"users has a different definition \(functions"):
            put(libpq(target), shown="the target", tables=wrong, folder=folder)
    assert whole(target) == before


def test_a_backup_from_before_there_were_functions_is_restored(
    target: URL, taken: tuple[list[TargetTable], Path]
) -> None:
    tables, folder = taken
    old = [
        replace(
            table,
            definition={p: s for p, s in table.definition.items() if p != "functions"}
            | {"triggers": (), "rights": ()},
        )
        for table in tables
    ]
    restore(libpq(target), shown="the target", tables=old, folder=folder)
    assert query(libpq(target), "SELECT count(*) FROM pg_policy") == [(0,)]
