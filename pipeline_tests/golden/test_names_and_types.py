"""Columns that the source names or declares otherwise than the declaration, or alone."""

import random
import sqlite3
import string
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SettingsError, SourceError
from pipeline.core.findings import Drift
from pipeline.core.policies import Policies
from pipeline.doctor import source as doctor
from pipeline.migrations.content import metadata
from pipeline.move.run.scope import ChangesOnly
from pipeline.sqlite import tracking
from pipeline_tests.support import collated
from pipeline_tests.support.collated import Kennel
from pipeline_tests.support.cutover_world import World, made_world, set_up
from pipeline_tests.support.moves import move_all, move_in, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.spaces_world import TABLES as SPACES
from pipeline_tests.support.spaces_world import add, ddl, fill, move
from pipeline_tests.support.targets import query

TABLES = metadata.sorted_tables[:1]


def _renamed(path: Path, *names: tuple[str, str, str]) -> SourceFile:
    """A sound source with columns of other names: table, old, new."""
    source = fill(SourceFile.make(path / "spaces.db", ddl()))
    for table, old, new in names:
        source.run(f'ALTER TABLE "{table}" RENAME COLUMN "{old}" TO "{new}"')
    return source


CAMEL = (
    ("user", "email_verified", "emailVerified"),
    ("user", "created_at", "createdAt"),
    ("user", "updated_at", "updatedAt"),
    ("session", "expires_at", "expiresAt"),
    ("session", "user_id", "userId"),
    ("session", "ip_address", "ipAddress"),
    ("account", "account_id", "accountId"),
    ("account", "user_id", "userId"),
)


_ASSIGNED_ONCE = "TABLE Rankings (id INTEGER PRIMARY KEY AUTOINCREMENT"
_LOGGING = """
CREATE TABLE log (id);
CREATE TRIGGER logging AFTER UPDATE ON Rankings BEGIN INSERT INTO log VALUES (new.id); END;
"""

# Names.


def test_names_are_matched_without_case(target_url: str, tmp_path: Path) -> None:
    schema = CONTENT_DDL.replace("created_at DATETIME, updated", "Created_At DATETIME, UPDATED")
    schema = schema.replace("tags JSON", '"Tags" JSON').replace("(id INTEGER", '("ID" INTEGER')
    schema = schema.replace("TABLE learning_content", "TABLE Learning_Content")
    source = SourceFile.make(tmp_path / "case.db", schema)
    source.add_family()
    moved = move_all(source.path, target_url)["learning_content"]
    found = {f.column for c in moved.checks for f in c.findings if isinstance(f, Drift)}
    assert found == {"last_review_at"}
    sql = "SELECT tags::text, created_at::text, count(*) OVER () FROM learning_content LIMIT 1"
    assert query(target_url, sql) == [('["food"]', "2025-08-06 03:07:13.716509+00", 3)]
    source.run("UPDATE learning_content SET tags = '[]', updated_at = '2025-09-01' WHERE id = 2")
    assert sync_all(source.path, target_url)["learning_content"].written_rows == 1
    assert move_all(source.path, target_url)["learning_content"].strategy == "unchanged"


@pytest.mark.parametrize(("encoding", "collation"), [("UTF-8", "NOCASE"), ("UTF-16le", "BINARY")])
def test_tables_are_matched_without_case(
    encoding: str, collation: str, target_url: str, tmp_path: Path
) -> None:
    schema = collated.ddl(f"COLLATE {collation}").replace("TABLE owners", "TABLE Owners")
    schema = schema.replace("TABLE pets", "TABLE PETS")
    made = SourceFile.make(tmp_path / "source.db", f"PRAGMA encoding = '{encoding}';{schema}")
    kennel = Kennel(made.path, target_url)
    kennel.own("a", "B")
    kennel.keep(("p1", "a"), ("p2", "b"))
    found = {
        each.name: each
        for each in doctor.examine(made.path, snapshots=tmp_path, tables=collated.TABLES)
    }
    assert found["tables"].state == "ok"
    assert found["foreign keys"].detail == "parents missing: 1 row (pets to owners)"
    assert ("collations of keys" in found) == (collation == "NOCASE")
    kennel.track()
    kennel.move()
    assert (kennel.ids("owners"), kennel.ids("pets")) == (["B", "a"], ["p1"])
    kennel.own("C")
    assert kennel.sync()["owners"].written_rows == 1
    assert kennel.verified(tmp_path) == set()


def test_tables_in_another_case_come_back(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = made_world(tmp_path, target_url, monkeypatch)
    source = world.source
    schema = CONTENT_DDL.replace("TABLE rankings (id INTEGER NOT NULL PRIMARY KEY", _ASSIGNED_ONCE)
    with closing(sqlite3.connect(source.path)) as connection:
        connection.executescript(
            f"DROP TABLE rankings; {schema[schema.index(_ASSIGNED_ONCE) - 7 :]}"
        )
        connection.executescript(_LOGGING)
    source.add("rankings", {"id": 1, "fragment_id": 1, "asset_id": 1}, {"id": 2})
    move_all(source.path, target_url)
    assert world.live().state == "live"
    world.do("UPDATE rankings SET rank_score = 2 WHERE id = 1; DELETE FROM rankings WHERE id = 2")
    world.do("INSERT INTO rankings (assessed_by) VALUES ('x'), ('y')")
    world.do("DELETE FROM rankings WHERE id = 4")
    world.delete_share = 1
    (returned,) = [each for each in world.rollback() if each.table == "rankings"]
    assert returned.notes == ("trigger logging ran",)
    assert source.run("SELECT id FROM log") == [(1,)]
    assert source.run("SELECT seq FROM sqlite_sequence") == [(4,)]


def test_camel_case_of_better_auth_is_read_and_written_back(shadow: World, tmp_path: Path) -> None:
    source = shadow.source = _renamed(tmp_path, *CAMEL)
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    shadow.tables = SPACES
    moved = move(source, shadow.url)
    assert {
        name: each.quarantined_rows for name, each in moved.items() if each.quarantined_rows
    } == {}
    sql = 'SELECT email_verified, created_at IS NOT NULL FROM "user"'
    assert query(shadow.url, sql) == [(True, True)]
    source.run("UPDATE user SET emailVerified = 0, updatedAt = '2024-02-02T08:00:00.000Z'")
    assert sync_all(source.path, shadow.url, tables=SPACES)["user"].written_rows == 1
    assert query(shadow.url, 'SELECT email_verified FROM "user"') == [(False,)]
    assert shadow.live().state == "live"
    shadow.do("""UPDATE "user" SET email_verified = true""")
    shadow.do("""INSERT INTO session (id, token, user_id) VALUES ('s9', 't9', 'Ab1')""")
    shadow.rollback()
    assert source.run("SELECT emailVerified FROM user") == [(1,)]
    assert source.run("SELECT userId FROM session ORDER BY id") == [("Ab1",), ("Ab1",)]


def test_another_name_can_be_given_by_a_setting(target_url: str, tmp_path: Path) -> None:
    source = _renamed(tmp_path, ("messages", "content", "body"), ("messages", "space_id", "space"))
    policies = Policies(source_names={"messages.content": "body", "messages.space_id": "space"})
    move(source, target_url, policies=policies)
    assert query(target_url, "SELECT content, space_id FROM messages") == [("สวัสดี", 1)]
    add_renamed = (
        "INSERT INTO messages (space, user_id, body, created_at, updated_at) VALUES (1, 1, ?, ?, ?)"
    )
    source.run(add_renamed, ("hello", "2024-05-05", "2024-05-05"))
    assert (
        sync_all(source.path, target_url, policies=policies, tables=SPACES)["messages"].written_rows
        == 1
    )


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ("attachments", "messages.content and messages.attachments would both be read from"),
        ("body", "messages.content is read from the column body of the source, which also has a"),
    ],
)
def test_another_name_that_is_ambiguous_is_refused(
    other: str, problem: str, target_url: str, tmp_path: Path
) -> None:
    source = fill(SourceFile.make(tmp_path / "spaces.db", ddl()))
    source.run("ALTER TABLE messages ADD COLUMN body TEXT")
    policies = Policies(source_names={"messages.content": other})
    with pytest.raises(SettingsError, match=problem):
        move(source, target_url, policies=policies)


def test_a_missing_column_stops_the_move_and_names_a_similar_one(
    target_url: str, tmp_path: Path
) -> None:
    source = _renamed(tmp_path, ("messages", "attachments", "Attach_Ments"))
    with pytest.raises(SourceError) as error:
        move(source, target_url)
    assert str(error.value) == (
        "Table messages of the source has no column attachments. Check that SQLITE_DATABASE_URL"
        ' names the right file and version. If names differ, set POLICY_SOURCE_NAMES={"messages'
        '.attachments": "Attach_Ments"}. To give the rows their default, set'
        " POLICY_MISSING_COLUMNS=default."
    )


@pytest.mark.parametrize(("encoding", "collation"), [("UTF-8", "COLLATE NOCASE"), ("UTF-16le", "")])
def test_a_table_that_is_copied_as_a_plain_one_keeps_names_and_truth_values(
    encoding: str, collation: str, target_url: str, tmp_path: Path
) -> None:
    schema = CONTENT_DDL.replace("TABLE learning_content", "TABLE Learning_Content")
    schema = schema.replace("last_review_at DATETIME", "last_review_at, ok INTEGER DEFAULT false")
    schema = schema.replace("title VARCHAR(200)", f"title VARCHAR(200) {collation}", 1)
    source = SourceFile.make(tmp_path / "s.db", f"PRAGMA encoding = '{encoding}'; {schema}")
    source.add_family()
    source.run("UPDATE learning_content SET ok = 1")
    moved = move_all(source.path, target_url)["learning_content"]
    assert (moved.moved_rows, moved.quarantined_rows) == (3, 0)
    assert query(target_url, "SELECT ok FROM learning_content LIMIT 1") == [(True,)]


def test_a_table_of_another_case_with_collated_keys_and_a_counter_moves_and_comes_back(
    shadow: World, tmp_path: Path
) -> None:
    schema = ddl().replace('TABLE "user" ("id" TEXT', 'TABLE "User" ("id" TEXT COLLATE NOCASE')
    schema = schema.replace('TABLE "messages"', 'TABLE "Messages"')
    source = shadow.source = fill(SourceFile.make(tmp_path / "case.db", schema))
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    for key in ("b", "C", "a", "D"):
        add(source, "user", {"id": key, "email": f"{key}@example.com"})
    add(source, "session", {"id": "s2", "token": "t2", "user_id": "A"})
    shadow.tables = SPACES
    moved = move(source, shadow.url)
    assert (moved["user"].moved_rows, moved["session"].quarantined_rows) == (5, 1)
    source.run("DELETE FROM session WHERE id = 's2'")
    assert shadow.live().state == "live"
    shadow.do("INSERT INTO messages (id, space_id, user_id, content) VALUES (70, 1, 1, 'x')")
    shadow.do("DELETE FROM messages WHERE id = 70")
    shadow.do("""INSERT INTO "user" (id, name, email) VALUES ('e', 'E', 'e@example.org')""")
    shadow.do("SELECT setval('messages_id_seq', 80)")
    shadow.rollback()
    assert source.run("SELECT seq FROM sqlite_sequence WHERE name = 'Messages'") == [(80,)]


# Types of columns that only the source has.


def _fill_extra(path: Path, declared: str, *values: Any) -> SourceFile:
    """A source whose column ``extra`` has a declared type and these values."""
    schema = CONTENT_DDL.replace(", last_review_at DATETIME", f", extra {declared}")
    source = SourceFile.make(path / "extra.db", schema)
    for key, value in enumerate(values, 1):
        _add_extra(source, key, value)
    return source


def _add_extra(source: SourceFile, key: int, value: Any) -> None:
    source.run(
        "INSERT INTO learning_content (id, title, content_type, language, native_text, translation,"
        " ipa, created_at, updated_at, extra) VALUES (?, 'a', 'b', 'thai', 'c', 'd', 'e',"
        " '2025-01-01', '2025-01-01', ?)",
        (key, value),
    )


def _extra(url: str) -> tuple[str, list[str | None]]:
    """The type of the column in the target, and its values as text."""
    ((kind, values),) = query(
        url,
        "SELECT min(pg_typeof(extra)::text), array_agg(extra::text ORDER BY id)"
        " FROM learning_content",
    )
    return kind, values


HELD = [
    ("STRING", ["hello", None], ("text", ["hello", None])),
    ("STRING", ["hello", 12, 1.5], ("text", ["hello", "12", "1.5"])),
    ("STRING", [None], ("text", [None])),
    ("UUID", ["0b2c", "x"], ("text", ["0b2c", "x"])),
    ("TIME", ["09:30"], ("text", ["09:30"])),
    ("ENUM", ["on", "off"], ("text", ["on", "off"])),
    ("STRING", [5, 7], ("bigint", ["5", "7"])),
    ("DECIMAL(10,2)", [1, 2.5], ("double precision", ["1", "2.5"])),
    ("INTEGER", [1, "many"], ("text", ["1", "many"])),
    ("INTEGER", [1, 2.5], ("double precision", ["1", "2.5"])),
    ("INTEGER", [1, b"\xff"], ("bytea", [r"\x31", r"\xff"])),
    ("REAL", [1.5, "n/a"], ("text", ["1.5", "n/a"])),
    ("BOOLEAN", [1, 0], ("boolean", ["true", "false"])),
    ("BOOLEAN", [1, 2], ("bigint", ["1", "2"])),
    ("BOOLEAN", ["t", "f"], ("text", ["t", "f"])),
    ("INTEGER DEFAULT false", [1, 0], ("boolean", ["true", "false"])),
    ("DATETIME", ["2025-01-01 10:00"], ("timestamp with time zone", ["2025-01-01 10:00:00+00"])),
    ("DATETIME", ["soon", "2025-01-01"], ("text", ["soon", "2025-01-01"])),
    ("DATETIME", [1705311000], ("bigint", ["1705311000"])),
    ("DATE", ["2025-01-01"], ("text", ["2025-01-01"])),
    ("JSON", ['{"a": 1}'], ("jsonb", ['{"a": 1}'])),
    ("JSON", ["{a", '{"a": 1}'], ("text", ["{a", '{"a": 1}'])),
    ("JSON", ['"\\u0000"'], ("text", ['"\\u0000"'])),
    ("TEXT", ["a", b"\x00"], ("bytea", [r"\x61", r"\x00"])),
    ("TEXT", ["a\x00b"], ("bytea", [r"\x610062"])),
    ("BLOB", ["a", 1, b"\x01"], ("bytea", [r"\x61", r"\x31", r"\x01"])),
    ("", ["a", 1, 2.5], ("text", ["a", "1", "2.5"])),
    ("", [2**62, 2.5], ("text", [str(2**62), "2.5"])),
    ("REAL", [9e999, -1.5], ("double precision", ["Infinity", "-1.5"])),
]


@pytest.mark.parametrize(("declared", "values", "expected"), HELD, ids=lambda v: str(v)[:30])
def test_what_a_carried_column_holds_decides_its_type(
    declared: str,
    values: list[Any],
    expected: tuple[str, list[str | None]],
    target_url: str,
    tmp_path: Path,
) -> None:
    source = _fill_extra(tmp_path, declared, *values)
    moved = move_all(source.path, target_url, tables=TABLES)["learning_content"]
    assert (moved.moved_rows, moved.quarantined_rows) == (len(values), 0)
    assert _extra(target_url) == expected
    source.run("UPDATE learning_content SET title = 'z', updated_at = '2025-02-02' WHERE id = 1")
    synced = sync_all(source.path, target_url, tables=TABLES)["learning_content"]
    assert (synced.written_rows, synced.quarantined_rows) == (1, 0)
    assert move_all(source.path, target_url, tables=TABLES)["learning_content"].written_rows == 0


def test_values_whose_class_is_not_in_the_target_keep_it_in_the_ledger(
    target_url: str, tmp_path: Path
) -> None:
    source = _fill_extra(tmp_path, "", "12", 12, 1.5)
    move_all(source.path, target_url, tables=TABLES)
    sql = "SELECT source_key, storage, original FROM migration.conversions ORDER BY 1"
    assert query(target_url, sql) == [("2", "integer", "12"), ("3", "real", "1.5")]


@pytest.mark.parametrize("tracked", [False, True])
def test_a_carried_column_widens_when_a_later_value_does_not_fit(
    tracked: bool, target_url: str, tmp_path: Path
) -> None:
    source = _fill_extra(tmp_path, "STRING", 5, 7)
    if tracked:
        tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url, tables=TABLES)
    assert _extra(target_url) == ("bigint", ["5", "7"])
    _add_extra(source, 3, "hello")
    scope = ChangesOnly(retry_rejected=False, or_everything=True)
    moved = move_in(scope, source.path, target_url, tables=TABLES, run_id="2")["learning_content"]
    assert (moved.target_rows, moved.quarantined_rows) == (3, 0)
    assert _extra(target_url) == ("text", ["5", "7", "hello"])


def test_uniqueness_of_a_carried_column_is_carried(target_url: str, tmp_path: Path) -> None:
    source = _fill_extra(tmp_path, "TEXT UNIQUE", "a", "b", None)
    move_all(source.path, target_url, tables=TABLES)
    of_table = "conrelid = 'learning_content'::regclass AND contype = 'u'"
    sql = f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE {of_table}"
    assert query(target_url, sql) == [("UNIQUE (extra)",)]
    assert sync_all(source.path, target_url, tables=TABLES)["learning_content"].written_rows == 0


def _rows_now(source: SourceFile, url: str) -> tuple[int, int, int]:
    """Rows moved, in quarantine, and written, by a sync as a schedule starts it."""
    scope = ChangesOnly(retry_rejected=False, or_everything=True)
    moved = move_in(scope, source.path, url, tables=TABLES, run_id="2")["learning_content"]
    return moved.target_rows, moved.quarantined_rows, moved.written_rows


_LONG = "".join(random.Random(1).choices(string.ascii_letters, k=9_000))
"""A text that stays long when it is compressed."""
_NO_LONGER_UNIQUE = (
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_master SET sql = replace(sql, 'TEXT UNIQUE', 'TEXT')"
    " WHERE name = 'learning_content'",
    "DELETE FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_learning_content%'",
)


@pytest.mark.parametrize(
    ("declared", "before", "after", "left_out"),
    [
        ("TEXT UNIQUE", "a", "a", True),
        ("TEXT UNIQUE", "a", _LONG, True),
        ("TEXT UNIQUE", _LONG, "a", True),
        ("UNIQUE", 5, "5", True),
        ("TEXT UNIQUE", "a", "A", False),
    ],
    ids=["no longer unique", "too long for an index", "too long at first", "equal as text", "kept"],
)
def test_uniqueness_of_a_carried_column_never_costs_a_row(
    declared: str, before: Any, after: Any, left_out: bool, target_url: str, tmp_path: Path
) -> None:
    source = _fill_extra(tmp_path, declared, before, None)
    moved = move_all(source.path, target_url, tables=TABLES)["learning_content"]
    assert (moved.moved_rows, moved.quarantined_rows) == (2, 0)
    if before == after:
        with closing(sqlite3.connect(source.path)) as file, file:
            for sql in _NO_LONGER_UNIQUE:
                file.execute(sql)
    _add_extra(source, 3, after)
    assert _rows_now(source, target_url)[:2] == (3, 0)
    assert _rows_now(source, target_url) == (3, 0, 0)
    sql = "SELECT count(*) FROM pg_constraint WHERE conname = 'learning_content_extra_key'"
    assert query(target_url, sql) == [(0 if left_out else 1,)]


@pytest.mark.parametrize("changed", ["numeric", "integer", "timestamptz"])
def test_a_carried_column_whose_type_was_changed_in_the_target_keeps_its_values(
    changed: str, target_url: str, tmp_path: Path
) -> None:
    source = _fill_extra(tmp_path, "INTEGER", 5, 7)
    move_all(source.path, target_url, tables=TABLES)
    using = "to_timestamp(extra)" if changed == "timestamptz" else f"extra::{changed}"
    query(target_url, f"ALTER TABLE learning_content ALTER extra TYPE {changed} USING {using}")
    source.run("UPDATE learning_content SET title = 'z', updated_at = '2025-02-02' WHERE id = 1")
    assert _rows_now(source, target_url)[:2] == (2, 0)
    assert _extra(target_url) == ("bigint", ["5", "7"])


def test_a_carried_column_is_written_back(shadow: World, tmp_path: Path) -> None:
    source = shadow.source = _fill_extra(tmp_path, "STRING", "hello", 12, 1.5)
    set_up(source.path, shadow.url, pytest.MonkeyPatch())
    assert shadow.live().state == "live"
    shadow.do("UPDATE learning_content SET extra = '77' WHERE id = 1")
    shadow.do("UPDATE learning_content SET extra = 'seven' WHERE id = 2")
    shadow.rollback()
    with closing(sqlite3.connect(source.path)) as file:
        rows = file.execute("SELECT extra, typeof(extra) FROM learning_content").fetchall()
    assert rows == [(77, "integer"), ("seven", "text"), (1.5, "real")]
