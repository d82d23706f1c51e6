"""The date of change that a trigger sets, and that moves leave as the source has it."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.findings import describe
from pipeline.declared.functions import stamp_column
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.matching import SourceColumn, match
from pipeline.migrations.spaces import metadata
from pipeline.postgres import catalog
from pipeline.postgres.target import Target
from pipeline_tests.support import spaces_world
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import MOMENT, TABLES
from pipeline_tests.support.targets import new_database, query

FIRST = datetime.fromisoformat(MOMENT)
LATER = "2024-02-01T00:00:00.000Z"


FEW = [
    metadata.tables[name] for name in ("users", "spaces", "space_members", "notes", "note_blocks")
]
STAMPED = [table.name for table in FEW]


@pytest.fixture(scope="module")
def first(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A source, and beside it a database into which it was moved."""
    made = spaces_world.make(tmp_path_factory.mktemp("stamps") / "spaces.db")
    spaces_world.add_two_spaces(made)
    with new_database(server, "stamps") as url:
        move_all(made.path, libpq(url), tables=FEW)
        yield made.path


@pytest.fixture
def spaces(first: Path, tmp_path: Path) -> SourceFile:
    return SourceFile(Path(shutil.copy(first, tmp_path / "spaces.db")))


@pytest.fixture
def moved(server: URL, first: Path) -> Iterator[str]:
    with new_database(server, "stamps_now", template="stamps") as url:
        yield libpq(url)


def stamp(url: str, table: str = "users", key: int = 1) -> datetime:
    ((found,),) = query(url, f"SELECT updated_at FROM {table} WHERE id = {key}")
    return found


def dates(url: str) -> dict[str, set[datetime]]:
    return {
        name: {date for (date,) in query(url, f"SELECT updated_at FROM {name}")} for name in STAMPED
    }


def checked(url: str, table: str, *changes: str) -> list[str]:
    declared = metadata.tables[table]
    columns = [SourceColumn(c.name, "") for c in declared.columns if not ColumnRules.of(c).added]
    with Target.connect(url, shown="the target") as target, target.read_only():
        target.run(*changes)
        return [describe(found) for found in catalog.check(target, match(declared, columns))[0]]


def test_every_table_with_the_column_is_stamped() -> None:
    dated = {table.name for table in TABLES if "updated_at" in table.columns}
    assert {table.name for table in TABLES if stamp_column(table)} == dated


def test_an_update_that_changes_the_row_sets_it(moved: str) -> None:
    before = datetime.now(UTC)
    query(moved, "UPDATE users SET bio = 'new' WHERE id = 1")
    assert before - timedelta(seconds=1) < stamp(moved) < datetime.now(UTC) + timedelta(seconds=1)
    assert stamp(moved, key=2) == FIRST


def test_an_update_that_changes_nothing_leaves_it(moved: str) -> None:
    query(
        moved,
        "UPDATE users SET bio = bio;UPDATE note_blocks SET content = (content::text || ' ')::jsonb",
    )
    assert stamp(moved) == stamp(moved, "note_blocks") == FIRST


def test_a_date_that_the_statement_sets_stands(moved: str) -> None:
    query(moved, f"UPDATE users SET bio = 'new', updated_at = '{LATER}' WHERE id = 1")
    assert stamp(moved) == datetime.fromisoformat(LATER)


def test_an_upsert_of_the_application_sets_it(moved: str) -> None:
    query(
        moved,
        "INSERT INTO users (auth_provider_id, email) VALUES ('auth1', 'x') ON CONFLICT"
        " (auth_provider_id) DO UPDATE SET email = EXCLUDED.email",
    )
    assert stamp(moved) > FIRST


def test_it_never_goes_back_and_grows_with_each_update_of_a_transaction(moved: str) -> None:
    future = datetime(2999, 1, 1, tzinfo=UTC)
    query(moved, f"UPDATE users SET updated_at = '{future}' WHERE id = 1")
    query(moved, "UPDATE users SET bio = 'a' WHERE id = 1")
    assert stamp(moved) == future + timedelta(microseconds=1)
    found = query(
        moved,
        "UPDATE users SET bio = 'a' WHERE id = 2; CREATE TEMP TABLE t AS SELECT updated_at"
        " FROM users WHERE id = 2; UPDATE users SET bio = 'b' WHERE id = 2;"
        "SELECT u.updated_at > t.updated_at FROM users u, t WHERE id = 2",
    )
    assert found == [(True,)]


def test_a_role_without_rights_on_the_schema_sets_it(supabase: URL, spaces: SourceFile) -> None:
    move_all(spaces.path, libpq(supabase), tables=FEW)
    own = libpq(supabase.set(username="authenticator"))
    query(
        own,
        "SET ROLE service_role; SET search_path = pg_temp;"
        "UPDATE public.users SET bio = 'new' WHERE id = 1",
    )
    assert stamp(libpq(supabase)) > FIRST
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(own, "SET ROLE service_role; SELECT pipeline_functions.stamp_updated_at()")


@pytest.mark.parametrize("strategy", ["merged", "synced"])
def test_no_write_of_a_move_sets_it(spaces: SourceFile, moved: str, strategy: str) -> None:
    for table, column in (("users", "bio"), ("notes", "title"), ("space_members", "role")):
        value = "admin" if column == "role" else "x"
        spaces.run(f"UPDATE {table} SET {column} = '{value}', updated_at = '{LATER}' WHERE id = 1")
    spaces.run("DELETE FROM spaces WHERE id = 2")
    for child in ("space_members", "notes"):
        spaces.run(f"DELETE FROM {child} WHERE space_id = 2")
    spaces.run("DELETE FROM note_blocks WHERE note_id > 2")
    move = move_all if strategy == "merged" else sync_all
    moves = move(spaces.path, moved, tables=FEW, delete_share=1.0)
    assert moves["users"].strategy == strategy
    later = datetime.fromisoformat(LATER)
    assert dates(moved) == {
        name: {FIRST, later} if name in ("users", "notes", "space_members") else {FIRST}
        for name in STAMPED
    }


def test_a_reference_that_goes_with_its_row_sets_no_date(spaces: SourceFile, moved: str) -> None:
    spaces_world.add_users(spaces, 9)
    spaces.run("UPDATE notes SET assigned_to = 9 WHERE id = 1")
    move_all(spaces.path, moved, tables=FEW)
    assert query(moved, "SELECT assigned_to FROM notes WHERE id = 1") == [(9,)]
    # As the application deletes: the source's own rule sets NULL and touches no date.
    spaces.run("UPDATE notes SET assigned_to = NULL WHERE id = 1")
    spaces.run("DELETE FROM users WHERE id = 9")
    moves = sync_all(spaces.path, moved, tables=FEW)
    assert moves["users"].deleted_rows == 1
    assert (moves["notes"].target_rows, moves["notes"].cascaded_rows) == (4, 0)
    assert query(moved, "SELECT assigned_to, updated_at FROM notes WHERE id = 1") == [(None, FIRST)]


def test_references_that_become_null_are_no_deletes(spaces: SourceFile, moved: str) -> None:
    spaces_world.add_users(spaces, 9)
    spaces.run("UPDATE notes SET assigned_to = 9")
    move_all(spaces.path, moved, tables=FEW)
    spaces.run("UPDATE notes SET assigned_to = NULL")
    spaces.run("DELETE FROM users WHERE id = 9")
    # All notes referred to that user; none of them goes.
    moves = move_all(spaces.path, moved, tables=FEW, delete_share=0.25)
    assert moves["users"].deleted_rows == 1
    assert query(moved, "SELECT count(*), count(assigned_to) FROM notes") == [(4, 0)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DROP TRIGGER stamp_updated_at ON users", "users: trigger stamp_updated_at is missing"),
        (
            "ALTER TABLE users DISABLE TRIGGER stamp_updated_at",
            "users: trigger stamp_updated_at is CREATE TRIGGER stamp_updated_at",
        ),
        (
            "CREATE OR REPLACE TRIGGER stamp_updated_at BEFORE UPDATE ON users FOR EACH ROW"
            " EXECUTE FUNCTION pipeline_functions.stamp_updated_at()",
            "users: trigger stamp_updated_at is CREATE TRIGGER stamp_updated_at",
        ),
        (
            "CREATE OR REPLACE FUNCTION pipeline_functions.stamp_updated_at() RETURNS trigger"
            " LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
            "users: function pipeline_functions.stamp_updated_at() is another"
            " instead of the declared one",
        ),
        (
            "DROP FUNCTION pipeline_functions.stamp_updated_at() CASCADE",
            "users: function pipeline_functions.stamp_updated_at() is missing"
            " instead of the declared one",
        ),
    ],
)
def test_what_stamps_no_more_is_found_and_mended(
    spaces: SourceFile, moved: str, change: str, words: str
) -> None:
    assert checked(moved, "users") == []
    assert words in "\n".join(checked(moved, "users", change))
    query(moved, change)
    move_all(spaces.path, moved, tables=FEW)
    assert [said for name in STAMPED for said in checked(moved, name)] == []
    query(moved, "UPDATE users SET bio = 'new' WHERE id = 1")
    assert stamp(moved) > FIRST
