"""Who is signed in sees exactly what is his: rights with a condition on rows, tried as users."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.findings import describe
from pipeline.declared.rules import ColumnRules
from pipeline.mapping.matching import SourceColumn, match
from pipeline.mapping.table_mapping import TableMapping
from pipeline.migrations.spaces import metadata
from pipeline.postgres import access, catalog
from pipeline.postgres.target import Target
from pipeline.reporting import ddl
from pipeline_tests.support import spaces_world
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import NAMES, NOTHING, SEEN, TABLES, ids_seen, seen
from pipeline_tests.support.supabase import project
from pipeline_tests.support.targets import query


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceFile:
    made = spaces_world.make(tmp_path_factory.mktemp("rows") / "source.db")
    spaces_world.add_two_spaces(made)
    return made


@pytest.fixture(scope="module")
def moved(supabase_server: URL, source: SourceFile) -> Iterator[URL]:
    """One target for all tests; each leaves it as it was."""
    with project(supabase_server, "spaces") as url:
        move_all(source.path, libpq(url), tables=TABLES)
        yield url


def mapping_of(table: str) -> TableMapping:
    declared = metadata.tables[table]
    columns = [SourceColumn(c.name, "") for c in declared.columns if not ColumnRules.of(c).added]
    return match(declared, columns)


def checked(url: URL, table: str, *changes: str) -> list[str]:
    """What the checks of rights and of the schema find after some changes, which are undone."""
    with Target.connect(libpq(url), shown="the target") as target, target.read_only():
        target.run(*changes)
        checks = (access.check(target, mapping_of(table)), catalog.check(target, mapping_of(table)))
        return [describe(finding) for found, _ in checks for finding in found]


@pytest.mark.parametrize("who", SEEN)
def test_each_sees_exactly_what_is_his(moved: URL, who: str) -> None:
    assert seen(moved, who) == SEEN[who]


def test_without_claims_nobody_sees_anything(moved: URL) -> None:
    assert seen(moved, None) == NOTHING
    with closing(psycopg2.connect(libpq(moved.set(username="authenticator")))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('request.jwt.claims', '{\"sub\": \"auth1\"}', true)")
        connection.commit()
        cursor.execute("SET ROLE authenticated")
        # The setting is empty now, which is no JSON.
        assert ids_seen(cursor, "users") == set()


def test_anon_is_refused_and_the_service_sees_all(moved: URL) -> None:
    assert set(seen(moved, "auth1", "anon").values()) == {None}
    everything = seen(moved, "auth1", "service_role")
    assert everything["notes"] == {1, 2, 3, 4}
    assert everything["session"] == {"s1", "s2", "s3", "s4"}


def test_who_leaves_a_space_sees_it_no_more(moved: URL) -> None:
    query(libpq(moved), "UPDATE space_members SET status = 'left' WHERE id = 3")
    try:
        assert seen(moved, "auth2")["messages"] == {1}
    finally:
        query(libpq(moved), "UPDATE space_members SET status = 'active' WHERE id = 3")


def test_conditions_ask_once_and_find_rows_by_an_index(supabase: URL, source: SourceFile) -> None:
    move_all(source.path, libpq(supabase), tables=TABLES)
    query(
        libpq(supabase),
        "INSERT INTO spaces (id, owner_id, name, slug) SELECT n, 4, 'x', 'x' || n"
        " FROM generate_series(10, 2000) n;"
        "INSERT INTO messages (space_id, user_id, content, attachments) SELECT n, 4, 'x', '[]'"
        " FROM generate_series(10, 2000) n, generate_series(1, 10);"
        "INSERT INTO notes (space_id, author_id, title) SELECT n, 4, 'x'"
        " FROM generate_series(10, 2000) n, generate_series(1, 5);"
        "INSERT INTO note_blocks (note_id, type, content) SELECT id, 'text', '{}' FROM notes;"
        "ANALYZE",
    )
    for table in ("spaces", "messages", "notes", "note_blocks"):
        with closing(psycopg2.connect(libpq(supabase.set(username="authenticator")))) as connection:
            cursor = connection.cursor()
            cursor.execute("SET ROLE authenticated")
            cursor.execute("SELECT set_config('request.jwt.claims', '{\"sub\": \"auth1\"}', true)")
            cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM {table}")
            plan = "\n".join(line for (line,) in cursor)
        assert "Seq Scan" not in plan, plan
        assert "InitPlan" in plan
        assert "actual rows=2000" not in plan


def test_the_checks_find_nothing_in_what_a_move_made(moved: URL) -> None:
    assert not [said for name in NAMES for said in checked(moved, name)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            'ALTER POLICY "authenticated may read" ON notes USING (true)',
            "policy authenticated may read (SELECT TO authenticated: true) is not declared",
        ),
        (
            'ALTER POLICY "authenticated may read" ON notes USING (author_id = 1)',
            "policy authenticated may read (SELECT TO authenticated: (author_id = 1)) is not decl",
        ),
        ('DROP POLICY "authenticated may read" ON notes', "is missing or different"),
        (
            "CREATE OR REPLACE FUNCTION pipeline_functions.spaces_of_me() RETURNS integer[]"
            " LANGUAGE sql AS 'SELECT ARRAY[1, 2]'",
            "notes: function pipeline_functions.spaces_of_me() is another"
            " instead of the declared one",
        ),
        (
            "ALTER FUNCTION pipeline_functions.me() RESET search_path",
            "notes: function pipeline_functions.me() is another instead of the declared one",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pipeline_functions.me() TO anon",
            "notes: function pipeline_functions.me() is another instead of the declared one",
        ),
        (
            "DROP FUNCTION pipeline_functions.me() CASCADE",
            "notes: function pipeline_functions.me() is missing instead of the declared one",
        ),
    ],
)
def test_what_lets_in_others_is_found(moved: URL, change: str, words: str) -> None:
    assert words in "\n".join(checked(moved, "notes", change))


def test_the_next_move_mends_conditions_and_functions(supabase: URL, source: SourceFile) -> None:
    move_all(source.path, libpq(supabase), tables=TABLES)
    query(
        libpq(supabase),
        'ALTER POLICY "authenticated may read" ON messages USING (true);'
        "DROP FUNCTION pipeline_functions.me() CASCADE;"
        "ALTER FUNCTION pipeline_functions.spaces_of_me() VOLATILE;"
        "GRANT EXECUTE ON FUNCTION pipeline_functions.people_of_me() TO PUBLIC",
    )
    assert seen(supabase, "auth4")["messages"] == {1, 2}
    move_all(source.path, libpq(supabase), tables=TABLES)
    assert seen(supabase, "auth2") == SEEN["auth2"]
    assert seen(supabase, "auth4") == SEEN["auth4"]
    assert not [said for name in NAMES for said in checked(supabase, name)]


def test_a_second_move_makes_no_policy_or_function_again(moved: URL, source: SourceFile) -> None:
    made = "SELECT oid, xmin::text FROM pg_policy UNION ALL SELECT oid, xmin::text FROM pg_proc"
    made += " UNION ALL SELECT oid, xmin::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    before = query(libpq(moved), made)
    move_all(source.path, libpq(moved), tables=TABLES)
    assert query(libpq(moved), made) == before


def test_nobody_calls_the_functions_by_name(moved: URL) -> None:
    for role in ("anon", "authenticated", "service_role"):
        with closing(psycopg2.connect(libpq(moved.set(username="authenticator")))) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SET ROLE {role}")
            with pytest.raises(
                psycopg2.errors.InsufficientPrivilege, match="schema pipeline_functions"
            ):
                cursor.execute("SELECT pipeline_functions.me()")


def test_a_schema_of_functions_that_requests_may_reach_is_found(moved: URL) -> None:
    with Target.connect(libpq(moved), shown="the target") as target, target.read_only():
        assert access.exposed(target) == []
        target.run("GRANT USAGE ON SCHEMA pipeline_functions TO authenticated")
        assert [describe(f) for f in access.exposed(target)] == [
            "schema pipeline_functions: authenticated may use it"
        ]


def test_the_printed_schema_makes_what_a_move_makes(
    supabase: URL, source: SourceFile, moved: URL
) -> None:
    query(libpq(supabase), ddl.script(map(mapping_of, NAMES), searched=False))
    what = (
        "SELECT proname::text, proacl::text, prosrc, prosecdef FROM pg_proc"
        " WHERE pronamespace = 'pipeline_functions'::regnamespace ORDER BY 1",
        "SELECT polrelid::regclass::text, polname::text, pg_get_expr(polqual, polrelid)"
        " FROM pg_policy ORDER BY 1, 2",
        "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE NOT tgisinternal ORDER BY 1, 2",
        "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'pipeline_functions'",
    )
    for sql in what:
        assert query(libpq(supabase), sql) == query(libpq(moved), sql)
    assert not [said for name in NAMES for said in checked(supabase, name)]
    moves = move_all(source.path, libpq(supabase), tables=TABLES)
    assert {move.strategy for move in moves.values()} == {"filled"}
    assert seen(supabase, "auth1") == SEEN["auth1"]
