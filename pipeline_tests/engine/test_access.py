"""Supabase's roles: what each may do with the tables, tried as that role; what a check finds."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.application.manager import HybridDatabaseManager
from pipeline.application.services import search
from pipeline.config.settings import libpq
from pipeline.core.findings import describe
from pipeline.core.policies import DEFAULT
from pipeline.declared.rules import SharedRules, TableRules
from pipeline.mapping.matching import SourceColumn, match
from pipeline.migrations.content import CONTENT, metadata
from pipeline.postgres import access
from pipeline.postgres.findings import Exposed
from pipeline.postgres.target import Target
from pipeline.reporting import ddl
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.supabase import project
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
INSERTS = {
    "learning_content": "INSERT INTO learning_content (title, content_type, native_text,"
    " translation, ipa) VALUES ('x', 'x', 'x', 'x', 'x')",
    "content_fragments": "INSERT INTO content_fragments (native_text, body_text, fragment_type)"
    " VALUES ('x', 'x', 'x')",
    "fragment_assets": "INSERT INTO fragment_assets (asset_type, asset_data) VALUES ('audio', 'x')",
    "rankings": "INSERT INTO rankings (assessed_by) VALUES ('x')",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceFile:
    made = SourceFile.make(tmp_path_factory.mktemp("access") / "source.db")
    made.add_family()
    return made


@pytest.fixture(scope="module")
def moved(supabase_server: URL, source: SourceFile) -> Iterator[URL]:
    """One target for all tests; each leaves it as it was."""
    with project(supabase_server, "moved") as url:
        move_all(source.path, libpq(url))
        yield url


def as_role(url: URL, role: str, sql: str) -> int:
    """Rows that a request of this role gets or changes; it is undone."""
    own = libpq(url.set(username="authenticator"))
    with closing(psycopg2.connect(own)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
        cursor.execute(sql)
        return cursor.rowcount


def refused(url: URL, role: str, sql: str) -> bool:
    try:
        as_role(url, role, sql)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    return False


def checked(url: URL, table: str = "rankings") -> list[str]:
    mapping = mapping_of(table)
    with Target.connect(libpq(url), shown="the target") as target, target.read_only():
        return [describe(finding) for finding in access.check(target, mapping)[0]]


def mapping_of(table: str, *, more: tuple[str, ...] = ()):
    declared = metadata.tables[table]
    columns = [SourceColumn(column.name, "") for column in declared.columns]
    return match(declared, [*columns, *(SourceColumn(name, "TEXT") for name in more)])


@pytest.mark.parametrize("table", NAMES)
def test_nobody_without_a_session_reads_or_writes(moved: URL, table: str) -> None:
    assert refused(moved, "anon", f"SELECT * FROM {table}")
    assert refused(moved, "anon", INSERTS[table])
    assert refused(moved, "anon", f"DELETE FROM {table}")
    assert refused(moved, "anon", f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", NAMES)
def test_who_is_signed_in_reads_all_and_writes_nothing(moved: URL, table: str) -> None:
    ((rows,),) = query(libpq(moved), f"SELECT count(*) FROM {table}")
    assert as_role(moved, "authenticated", f"SELECT * FROM {table}") == rows > 0
    for sql in (INSERTS[table], f"UPDATE {table} SET id = id", f"DELETE FROM {table}"):
        assert refused(moved, "authenticated", sql)
    assert refused(moved, "authenticated", f"SELECT nextval('{table}_id_seq')")


@pytest.mark.parametrize("table", NAMES)
def test_the_service_reads_and_writes_with_ids_of_the_sequence(moved: URL, table: str) -> None:
    ((rows,),) = query(libpq(moved), f"SELECT count(*) FROM {table}")
    assert as_role(moved, "service_role", f"SELECT * FROM {table}") == rows
    assert as_role(moved, "service_role", INSERTS[table]) == 1
    assert as_role(moved, "service_role", f"UPDATE {table} SET id = id") == rows
    assert as_role(moved, "service_role", f"DELETE FROM {table}") == rows


def test_the_service_writes_even_where_row_level_security_binds_it(moved: URL) -> None:
    admin = libpq(moved.set(username="postgres"))
    query(admin, "ALTER ROLE service_role NOBYPASSRLS")
    try:
        assert as_role(moved, "service_role", INSERTS["rankings"]) == 1
    finally:
        query(admin, "ALTER ROLE service_role BYPASSRLS")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_the_ledger_and_dagsters_tables_are_nobodys(
    moved: URL, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, {"DATABASE_URL": libpq(moved)})
    assert refused(moved, role, "SELECT * FROM migration.quarantine_values")
    assert refused(moved, role, "SELECT * FROM dagster.runs")
    with Target.connect(libpq(moved), shown="the target") as target:
        assert access.exposed(target) == []


def test_a_schema_of_the_pipeline_that_can_be_reached_is_found(moved: URL) -> None:
    query(libpq(moved), "GRANT USAGE ON SCHEMA migration TO authenticated")
    query(
        libpq(moved.set(username="postgres")),
        "ALTER ROLE authenticator SET pgrst.db_schemas = 'public, migration'",
    )
    try:
        with Target.connect(libpq(moved), shown="the target") as target:
            assert access.exposed(target) == [
                Exposed("migration", "authenticated may use it"),
                Exposed("migration", "the API serves it"),
            ]
    finally:
        query(libpq(moved), "REVOKE USAGE ON SCHEMA migration FROM authenticated")
        query(
            libpq(moved.set(username="postgres")), "ALTER ROLE authenticator RESET pgrst.db_schemas"
        )


@pytest.mark.parametrize("table", NAMES)
def test_after_a_move_rights_are_as_declared(moved: URL, table: str) -> None:
    assert checked(moved, table) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (
            "GRANT SELECT ON rankings TO anon",
            [
                "rankings: anon has SELECT, which is not declared",
                "rankings: anon can SELECT when tested",
            ],
        ),
        (
            "GRANT DELETE ON rankings TO PUBLIC",
            [
                "rankings: PUBLIC has DELETE, which is not declared",
                "rankings: anon can DELETE when tested",
                "rankings: authenticated can DELETE when tested",
            ],
        ),
        (
            "REVOKE SELECT ON rankings FROM authenticated",
            [
                "rankings: authenticated lacks SELECT",
                "rankings: authenticated cannot SELECT when tested",
            ],
        ),
        (
            "GRANT TRUNCATE ON rankings TO authenticated",
            ["rankings: authenticated has TRUNCATE, which is not declared"],
        ),
        (
            "GRANT UPDATE ON SEQUENCE rankings_id_seq TO anon",
            ["rankings: anon has UPDATE of its sequence"],
        ),
        (
            "REVOKE USAGE ON SEQUENCE rankings_id_seq FROM service_role",
            ["rankings: service_role lacks USAGE of its sequence"],
        ),
        (
            "ALTER TABLE rankings DISABLE ROW LEVEL SECURITY",
            ["rankings: row level security is off"],
        ),
        (
            'DROP POLICY "authenticated may read" ON rankings',
            [
                "rankings: policy authenticated may read (SELECT TO authenticated: true) is missing"
                " or different"
            ],
        ),
        (
            "CREATE POLICY more ON rankings TO anon USING (true)",
            ["rankings: policy more (ALL TO anon: true) is not declared"],
        ),
        (
            'ALTER POLICY "authenticated may read" ON rankings USING (id > 1)',
            [
                "rankings: policy authenticated may read (SELECT TO authenticated: (id > 1)) is not"
                " declared",
                "rankings: policy authenticated may read (SELECT TO authenticated: true) is missing"
                " or different",
            ],
        ),
        (
            "GRANT INSERT (assessed_by) ON rankings TO anon",
            ["rankings: anon has INSERT, which is not declared"],
        ),
        (
            'ALTER POLICY "authenticated may read" ON rankings TO PUBLIC',
            [
                "rankings: policy authenticated may read (SELECT TO authenticated: true) is missing"
                " or different",
                "rankings: policy authenticated may read (SELECT TO public: true) is not declared",
            ],
        ),
        (
            "CREATE POLICY none ON rankings AS RESTRICTIVE TO authenticated USING (false)",
            [
                "rankings: policy none (RESTRICTIVE ALL TO authenticated: false) is not declared",
            ],
        ),
        (
            "GRANT service_role TO anon; ALTER ROLE anon INHERIT;"
            " GRANT service_role TO anon WITH INHERIT TRUE",
            [
                f"rankings: anon can {what} when tested"
                for what in ("SELECT", "INSERT", "UPDATE", "DELETE")
            ],
        ),
    ],
)
def test_a_right_that_is_not_as_declared_is_found_and_mended_by_the_next_move(
    moved: URL, source: SourceFile, planted: str, found: list[str]
) -> None:
    admin = libpq(moved.set(username="postgres"))
    query(admin, planted)
    try:
        assert checked(moved) == found
        if "service_role TO anon" not in planted:
            source.run("UPDATE rankings SET updated_at = datetime(updated_at, '1 day')")
            sync_all(source.path, libpq(moved))
            assert checked(moved) == []
    finally:
        query(admin, "REVOKE service_role FROM anon; ALTER ROLE anon NOINHERIT")


def test_a_right_that_a_trigger_takes_back_is_found(moved: URL) -> None:
    query(
        libpq(moved),
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no' USING ERRCODE = '42501'; END $$;"
        " CREATE TRIGGER no BEFORE INSERT ON rankings FOR EACH STATEMENT EXECUTE FUNCTION no()",
    )
    found = checked(moved)
    query(libpq(moved), "DROP FUNCTION no() CASCADE")
    assert found == ["rankings: service_role cannot INSERT when tested"]


def test_a_server_without_these_roles_is_left_as_it_is(target_url: str, source: SourceFile) -> None:
    move_all(source.path, target_url)
    with Target.connect(target_url, shown="the target") as target, target.read_only():
        findings, figures = access.check(target, mapping_of("rankings"))
    assert (list(findings), figures) == ([], {"roles": 0})
    assert query(
        target_url, "SELECT relrowsecurity, relacl FROM pg_class WHERE relname='rankings'"
    )[0] == (False, None)


def test_a_table_may_declare_its_own_rights() -> None:
    import sqlalchemy as sa

    from pipeline.declared.access import DEFAULT as ALL_MAY
    from pipeline.declared.access import Access, of_table

    own = sa.MetaData(info=SharedRules(access=ALL_MAY).info)
    secret = sa.Table(
        "secret",
        own,
        sa.Column("id", sa.Integer, primary_key=True),
        info=TableRules(access=(Access("service_role", ("SELECT",)),)).info,
    )
    told = access.statements(secret)
    assert of_table(secret) == (Access("service_role", ("SELECT",)),)
    assert not any("TO authenticated" in statement for statement in told)
    assert 'GRANT SELECT ON TABLE "secret" TO "service_role"' in told


EVERYTHING = """
SELECT 'relation', n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relpersistence::text,
  (SELECT array_agg(acl::text ORDER BY acl::text) FROM unnest(c.relacl) AS acl)::text,
  CASE WHEN c.relkind = 'i' THEN pg_get_indexdef(c.oid) END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('public', 'migration')
UNION ALL
SELECT 'column', n.nspname, c.relname, a.attname, a.attnotnull, a.attstorage::text,
  format_type(atttypid, atttypmod), pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
WHERE n.nspname IN ('public', 'migration') AND attnum > 0 AND c.relkind = 'r'
UNION ALL
SELECT 'constraint', '', conrelid::regclass::text, conname, convalidated, contype::text,
  pg_get_constraintdef(oid), NULL
FROM pg_constraint WHERE connamespace IN ('public'::regnamespace, 'migration'::regnamespace)
UNION ALL
SELECT 'policy', schemaname, tablename, policyname, true, cmd, roles::text,
  qual || coalesce(with_check, '')
FROM pg_policies
UNION ALL
SELECT 'schema', '', '', nspname, true, nspacl::text, NULL, NULL
FROM pg_namespace WHERE nspname IN ('public', 'migration')
UNION ALL
SELECT 'extension', '', '', extname, true, extnamespace::regnamespace::text, NULL, NULL
FROM pg_extension
ORDER BY 1, 2, 3, 4
"""


def test_the_printed_schema_makes_what_a_move_makes(
    moved: URL, source: SourceFile, supabase_server: URL
) -> None:
    manager = HybridDatabaseManager(source.path, libpq(moved))
    with manager.get_postgres_session() as session:
        search.install(session)
    manager.close()
    with project(supabase_server, "printed") as printed:
        query(libpq(printed), ddl.of_source(source.path, CONTENT, DEFAULT))
        made = query(libpq(printed), EVERYTHING)
        assert made == query(libpq(moved), EVERYTHING)
        assert len(made) > 100
        # A move then fills these tables, and changes nothing of what they are.
        move_all(source.path, libpq(printed))
        assert query(libpq(printed), EVERYTHING) == made
        assert query(libpq(printed), "SELECT count(*) FROM rankings") == [(12,)]
