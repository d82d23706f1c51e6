"""What Supabase's Realtime can read of the target, and what a check finds wrong with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.core.findings import CheckResult, describe
from pipeline.declared.events import PublishedChanges
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.migrations import content, registry, spaces
from pipeline.postgres.target import Target
from pipeline.realtime import checks, publication
from pipeline_tests.support.feeds import PEOPLE, TABLES, make_tables, switch_on
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

TOLD = {
    "space_members": None,
    "messages": ["id", "space_id", "user_id", "content", "attachments", "created_at", "updated_at"],
    "notes": None,
    "note_blocks": ["id", "note_id", "type", "content", "position", "created_at", "updated_at"],
    "progress": ["id", "user_id", "lesson_id", "topic_id", "status", "updated_at"],
    "notifications": ["id", "user_id", "type", "payload", "read", "created_at"],
}


@pytest.fixture(scope="module")
def template(server: URL) -> Iterator[str]:
    with new_database(server, "publication_template") as made:
        make_tables(libpq(made))
        query(libpq(made), PEOPLE)
        switch_on(libpq(made))
        yield "publication_template"


@pytest.fixture
def url(server: URL, template: str) -> Iterator[str]:
    with new_database(server, "publication_test", template=template) as made:
        yield libpq(made)


def check(url: str, name: str) -> CheckResult:
    with Target.connect(url, shown="the target") as target, target.read_only():
        found = checks.verify(target, TABLES, known=registry.find().tables)
        return next(result for result in found if result.name == name)


def said(url: str, name: str = checks.PUBLISHED) -> list[str]:
    return [describe(finding) for finding in check(url, name).findings]


def published(url: str) -> dict[str, list[str]]:
    return dict(
        query(
            url,
            "SELECT tablename::text, attnames::text[] FROM pg_publication_tables"
            " WHERE pubname = 'supabase_realtime'",
        )
    )


def test_declared_tables_are_published_with_their_columns(url: str) -> None:
    assert published(url) == {
        name: columns or [c.name for c in spaces.metadata.tables[name].columns]
        for name, columns in TOLD.items()
    }
    found = check(url, checks.PUBLISHED)
    assert (found.passed, found.figures["tables"], found.figures["columns"]) == (True, 6, 43)
    assert check(url, checks.SECRETS).passed


@pytest.mark.parametrize("table", TOLD)
def test_every_published_table_takes_updates_and_deletes(url: str, table: str) -> None:
    query(
        url,
        "INSERT INTO messages (id, space_id, user_id, content) VALUES (1, 1, 1, 'x');"
        " INSERT INTO note_blocks (id, note_id, type) VALUES (1, 1, 'text');"
        " INSERT INTO progress (id, user_id, lesson_id) VALUES (1, 1, 1);"
        " INSERT INTO notifications (id, user_id, type) VALUES (1, 1, 'x')",
    )
    if table == "notes":
        query(url, "DELETE FROM note_blocks")
    query(url, f"UPDATE {table} SET id = 100 WHERE id = 1")
    query(url, f"DELETE FROM {table} WHERE id = 100")
    assert query(url, f"SELECT FROM {table} WHERE id IN (1, 100)") == []


def test_whole_old_rows_are_told_where_declared_and_keys_elsewhere(url: str) -> None:
    found = query(
        url,
        "SELECT relname::text, relreplident::text FROM pg_class WHERE relname = ANY(%s)",
        (list(TOLD),),
    )
    assert dict(found) == {name: "d" if columns else "f" for name, columns in TOLD.items()}


def test_a_publication_that_is_as_declared_is_not_touched(url: str) -> None:
    before = query(url, "SELECT oid FROM pg_publication_rel ORDER BY 1")
    assert switch_on(url) == []
    assert query(url, "SELECT oid FROM pg_publication_rel ORDER BY 1") == before


def test_a_column_that_is_not_declared_is_not_published_even_at_the_price_of_old_rows(
    url: str,
) -> None:
    query(url, "ALTER TABLE notes ADD COLUMN carried text")
    assert said(url)[0].startswith("notes is published with all columns and full old rows instead")
    assert not check(url, checks.PUBLISHED).passed
    assert switch_on(url) == ["notes is published"]
    assert "carried" not in published(url)["notes"]
    found = check(url, checks.PUBLISHED)
    assert (found.passed, found.blocking) == (False, False)
    assert said(url) == [
        "notes: old rows are not published, because of undeclared columns (carried)"
    ]
    query(url, "UPDATE notes SET carried = 'x'")


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (
            "ALTER PUBLICATION supabase_realtime DROP TABLE messages",
            "messages is not published",
        ),
        (
            "ALTER PUBLICATION supabase_realtime ADD TABLE lessons",
            "lessons is published, but not declared as published",
        ),
        (
            "ALTER PUBLICATION supabase_realtime SET (publish = 'insert')",
            "publication supabase_realtime: it publishes only insert",
        ),
        ("DROP PUBLICATION supabase_realtime", "publication supabase_realtime: it does not exist"),
        (
            "ALTER TABLE notes REPLICA IDENTITY NOTHING",
            "notes is published with all columns and keys of old rows instead of all columns and"
            " full old rows",
        ),
        (
            "ALTER PUBLICATION supabase_realtime DROP TABLE progress;"
            " ALTER PUBLICATION supabase_realtime ADD TABLE progress (id, user_id, lesson_id,"
            " topic_id, status, updated_at) WHERE (id > 5)",
            "progress is published with id, lesson_id, status, topic_id, updated_at, user_id and"
            " keys of old rows, of selected rows instead of id, lesson_id, status, topic_id,"
            " updated_at, user_id and keys of old rows",
        ),
    ],
)
def test_a_publication_that_differs_is_found_and_mended(url: str, fault: str, finding: str) -> None:
    query(url, fault)
    assert said(url)[0] == finding
    assert check(url, checks.PUBLISHED).blocking
    switch_on(url)
    assert check(url, checks.PUBLISHED).passed


def test_tables_of_somebody_else_stay_and_are_told(url: str) -> None:
    query(
        url,
        "CREATE TABLE theirs (id int PRIMARY KEY); CREATE SCHEMA far; CREATE TABLE far.off (id int"
        " PRIMARY KEY); ALTER PUBLICATION supabase_realtime ADD TABLE theirs, far.off",
    )
    assert switch_on(url) == []
    assert {"theirs", "off"} <= set(published(url))
    assert said(url) == [
        "theirs is also published, but no migration declares it",
        "far.off is also published, but no migration declares it",
    ]
    assert not check(url, checks.PUBLISHED).blocking


def test_tables_of_a_migration_that_are_not_told_are_taken_out(url: str) -> None:
    query(
        url,
        "CREATE TABLE rankings (id int PRIMARY KEY);"
        ' ALTER PUBLICATION supabase_realtime ADD TABLE rankings, "session"',
    )
    assert switch_on(url) == [
        "rankings is no longer published",
        "session is no longer published",
    ]


def test_a_publication_of_everything_is_refused(url: str) -> None:
    query(
        url,
        "DROP PUBLICATION supabase_realtime; CREATE PUBLICATION supabase_realtime FOR ALL TABLES",
    )
    with pytest.raises(TargetError, match="publishes all tables, including secrets"):
        switch_on(url)
    assert said(url)[0].endswith("it publishes all tables, present and future")
    assert "session is published, although it holds sign-in data" in said(url, checks.SECRETS)


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (
            'ALTER PUBLICATION supabase_realtime ADD TABLE "verification" (id)',
            "verification is published, although it holds sign-in data",
        ),
        (
            "CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);"
            " ALTER PUBLICATION supabase_realtime ADD TABLE auth.users",
            "users is published, although it holds sign-in data",
        ),
        (
            "CREATE TABLE theirs (id int PRIMARY KEY, sound bytea);"
            " ALTER PUBLICATION supabase_realtime ADD TABLE theirs",
            "theirs.sound is published, although it is a BLOB",
        ),
        (
            "ALTER TABLE notes ADD COLUMN carried bytea",
            "notes.carried is published, although it is a BLOB",
        ),
    ],
)
def test_a_published_secret_is_found(url: str, fault: str, finding: str) -> None:
    query(url, fault)
    assert said(url, checks.SECRETS) == [finding]
    assert check(url, checks.SECRETS).blocking


def test_a_secret_column_that_is_declared_as_told_is_found(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces.users.c.bio, "info", ColumnRules(secret=True).info)
    monkeypatch.setattr(
        spaces.users,
        "info",
        replace(TableRules.of(spaces.users), published=PublishedChanges(("id", "bio"))).info,
    )
    switch_on(url)
    assert said(url, checks.SECRETS) == ["users.bio is published, although it is a secret"]


def test_no_declared_table_tells_a_secret_or_a_blob() -> None:
    for table in (*TABLES, *content.metadata.sorted_tables):
        rules = TableRules.of(table).published
        for name in rules.columns if rules else ():
            assert not ColumnRules.of(table.c[name]).secret
            assert not isinstance(table.c[name].type, sa.LargeBinary)


def test_a_table_that_is_published_while_empty_is_filled_and_followed(
    tmp_path: Path, target_url: str
) -> None:
    source = SourceFile.make(tmp_path / "s.db")
    move_all(source.path, target_url)
    query(target_url, "CREATE PUBLICATION other FOR TABLE content_fragments, rankings")
    source.add_family(contents=1)
    source.add("content_fragments", {"id": 9, "learning_content_id": 77})
    moved = move_all(source.path, target_url)["content_fragments"]
    assert (moved.strategy, moved.quarantined_rows) == ("filled", 1)
    source.run("UPDATE content_fragments SET ipa = 'x' WHERE id = 1")
    source.run("DELETE FROM rankings WHERE id = 1")
    moves = move_all(source.path, target_url, delete_share=1)
    assert (moves["content_fragments"].written_rows, moves["rankings"].deleted_rows) == (1, 1)


def test_the_server_says_whether_it_streams(url: str) -> None:
    with Target.connect(url, shown="the target") as target:
        assert not publication.streamed(target)
