"""Text keys, a table named ``user``, truth values and unique pairs, through the whole engine."""

import string
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.core.findings import Drift
from pipeline.core.policies import Policies
from pipeline.cutover import reverse
from pipeline.migrations.spaces import metadata
from pipeline.move.ledger import overrides
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.moves import sync_all
from pipeline_tests.support.plans import found_by, planned
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.spaces_world import (
    LATER,
    MOMENT,
    TABLES,
    add,
    double_encoded,
    fill,
    make,
    move,
)
from pipeline_tests.support.subsets import move_subset
from pipeline_tests.support.targets import query, reasons
from pipeline_tests.support.verification import broken, opened, standing

AUTH = [table for table in TABLES if table.name in ("user", "session", "account", "verification")]
_PLAIN = ("users", "spaces", "space_members", "messages", "notifications")
SOME = [table for table in TABLES if table in AUTH or table.name in _PLAIN]
"""Tables of both kinds of keys; moving all of them takes its time."""
SPACES = metadata.tables["spaces"]
SOME_NAMES = [table.name for table in SOME]
OF_SPACES = [metadata.tables["users"], SPACES]


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    """A sound row of every table."""
    return fill(make(tmp_path / "spaces.db"))


def rows(url: str, table: str, columns: str = "id") -> list[tuple[Any, ...]]:
    return query(url, f'SELECT {columns} FROM "{table}" ORDER BY id')


def assert_sound(
    source: SourceFile, url: str, folder: Path, tables: Sequence[sa.Table] = TABLES
) -> None:
    """Every standing check that blocks passes for every table."""
    copy = opened(source.path, folder, tables)
    with Target.connect(url, shown="the target") as target:
        found = {table.name: broken(standing(target, copy, table)) for table in tables}
    assert found == {table.name: set() for table in tables}


def test_every_table_moves_is_proven_and_moves_again_without_a_change(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    plans = planned(source, target_url, tmp_path, tables=TABLES)
    assert {(plan.rejected_rows, plan.drift) for plan in plans.values()} == {(0, ())}
    assert {move_.strategy for move_ in move(source, target_url).values()} == {"filled"}
    assert_sound(source, target_url, tmp_path)
    assert {move_.strategy for move_ in move(source, target_url).values()} == {"unchanged"}
    nine = datetime(2024, 1, 15, 9, 30, tzinfo=UTC)
    assert rows(target_url, "user", "id, email_verified, created_at") == [("Ab1", True, nine)]
    assert rows(target_url, "notifications", "id, read, payload") == [(1, False, {})]


def _write(source: SourceFile) -> None:
    """Change, add and delete rows in tables of both kinds of keys."""
    source.run(f"UPDATE \"user\" SET email_verified = 0, updated_at = '{LATER}'")
    source.run(f"UPDATE notifications SET read = 1, created_at = '{LATER}'")
    source.run(f"UPDATE space_members SET role = 'admin', updated_at = '{LATER}'")
    source.run(f"UPDATE verification SET value = 'c2', updated_at = '{LATER}'")
    source.run(
        f"UPDATE messages SET attachments = ?, updated_at = '{LATER}'", (double_encoded([1]),)
    )
    add(source, "user", {"id": "123", "email": "b@example.org", "email_verified": 0})
    add(source, "session", {"id": "s'2\"é", "token": "t2", "user_id": "123"})
    add(source, "verification", {"id": "v2", "value": "v2"})
    source.run("DELETE FROM session WHERE id = 's1'")
    source.run("DELETE FROM account")


def test_a_sync_follows_rows_with_text_keys(
    source: SourceFile, mode: str, target_url: str, tmp_path: Path
) -> None:
    if mode == "tracked":
        tracking.switch_on(source.path, SOME)
    move(source, target_url, tables=SOME)
    _write(source)
    moves = sync_all(source.path, target_url, tables=SOME, delete_share=1)
    found = {name: (m.written_rows, m.deleted_rows) for name, m in moves.items()}
    assert {name: counts for name, counts in found.items() if any(counts)} == {
        "user": (2, 0),
        "session": (1, 1),
        "account": (0, 1),
        "verification": (2, 0),
        "notifications": (1, 0),
        "space_members": (1, 0),
        "messages": (1, 0),
    }
    assert rows(target_url, "user", "id, email_verified") == [("123", False), ("Ab1", False)]
    assert rows(target_url, "session", "id, token") == [("s'2\"é", "t2")]
    assert rows(target_url, "messages", "id, attachments") == [(1, [1])]
    assert rows(target_url, "verification", "id, value") == [("v1", "c2"), ("v2", "v2")]
    # No date changes when a notification is read.
    source.run("UPDATE notifications SET read = 1 - read")
    read = sync_all(source.path, target_url, tables=SOME)
    assert [(read["notifications"].written_rows,)] == source.run(
        "SELECT count(*) FROM notifications"
    )
    # SQLite's lists have a column of this name, too.
    source.run("DELETE FROM verification WHERE id = 'v1'")
    gone = sync_all(source.path, target_url, tables=SOME, delete_share=1)
    assert gone["verification"].deleted_rows == 1
    again = sync_all(source.path, target_url, tables=SOME)
    assert [m.written_rows + m.deleted_rows for m in again.values()] == [0] * len(SOME)
    assert_sound(source, target_url, tmp_path, SOME)


def test_a_parent_that_goes_takes_its_sessions_along_and_they_come_back_with_it(
    source: SourceFile, mode: str, target_url: str, tmp_path: Path
) -> None:
    if mode == "tracked":
        tracking.switch_on(source.path, AUTH)
    move(source, target_url, tables=AUTH)
    source.run("PRAGMA foreign_keys = OFF")
    source.run('DELETE FROM "user"')
    moves = sync_all(source.path, target_url, tables=AUTH, delete_share=1)
    assert (moves["session"].cascaded_rows, moves["account"].cascaded_rows) == (1, 1)
    assert reasons(target_url, "session") == {"s1": {"orphan"}}
    add(source, "user")
    sync_all(source.path, target_url, tables=AUTH, delete_share=1)
    assert rows(target_url, "session") == [("s1",)]
    assert_sound(source, target_url, tmp_path, AUTH)


def test_rejected_rows_with_text_keys_are_kept_held_mended_and_redriven(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    add(source, "user", {"id": "77", "email": "c@example.org", "email_verified": 2})
    add(source, "session", {"id": "s2", "token": "t2", "user_id": "77"})
    add(source, "session", {"id": "s3", "token": "t3", "user_id": "nobody"})
    moves = move(source, target_url, tables=AUTH)
    assert reasons(target_url, "user") == {"77": {"range"}}
    assert reasons(target_url, "session") == {"s2": {"held"}, "s3": {"orphan"}}
    assert moves["session"].quarantined_rows == 2
    assert_sound(source, target_url, tmp_path, AUTH)
    with Target.connect(target_url, shown="the target") as target:
        (record,) = (
            {**each, "storage": "integer", "value": "1"}
            for each in overrides.export(target, AUTH)
            if (each["table"], each["column"]) == ("user", "email_verified")
        )
        with target.transaction():
            assert overrides.import_overrides(target, [record], AUTH) == 1
    moves = sync_all(source.path, target_url, tables=AUTH)
    assert moves["user"].written_rows == moves["session"].written_rows == 1
    assert rows(target_url, "user", "id, email_verified") == [("77", True), ("Ab1", True)]
    assert reasons(target_url, "session") == {"s3": {"orphan"}}


def test_a_text_key_that_is_null_or_no_text_is_kept_aside(target_url: str, tmp_path: Path) -> None:
    ddl = f'CREATE TABLE "user" ({", ".join(AUTH[0].columns.keys())}, PRIMARY KEY (id));'
    source = SourceFile.make(tmp_path / "s.db", ddl)
    for at, key in enumerate(["a", "A", "z", None, None, 5, b"x", "é", "10", "9"]):
        add(source, "user", {"id": key, "email": f"{at}@example.org"})
    (move_,) = move(source, target_url, tables=AUTH[:1]).values()
    assert (move_.moved_rows, move_.quarantined_rows) == (6, 4)
    assert sorted(rows(target_url, "user")) == [("10",), ("9",), ("A",), ("a",), ("z",), ("é",)]
    assert move(source, target_url, tables=AUTH[:1])["user"].strategy == "unchanged"


def test_a_subset_of_text_keys_moves_and_is_completed(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    for key in ("b", "c"):
        add(source, "user", {"id": key, "email": f"{key}@example.org"})
        add(source, "session", {"id": key, "token": f"t{key}", "user_id": key})
    some = [table for table in AUTH if table.name != "verification"]
    moves = move_subset(source, target_url, "b", tables=some)
    assert rows(target_url, "user") == [("b",)]
    assert rows(target_url, "session") == [("b",)]
    assert (moves["account"].moved_rows, moves["account"].excluded_rows) == (0, 1)
    moves = move_subset(source, target_url, limit=2, tables=some)
    assert sorted(rows(target_url, "user")) == [("Ab1",), ("b",)]
    move(source, target_url, tables=AUTH)
    assert_sound(source, target_url, tmp_path, AUTH)


def test_a_subset_unwraps_what_belongs_to_it(source: SourceFile, target_url: str) -> None:
    add(source, "users", {"auth_provider_id": "u2", "email": "b@example.org"})
    add(source, "messages", {"attachments": double_encoded([1])})
    add(source, "messages", {"attachments": double_encoded([2]), "user_id": 2})
    some = [metadata.tables[name] for name in ("users", "spaces", "messages")]
    assert move_subset(source, target_url, 1, tables=some)["messages"].moved_rows == 2
    assert rows(target_url, "messages", "attachments") == [(None,), ([1],)]
    assert query(target_url, "SELECT source_key FROM migration.conversions") == [("2",)]


def test_a_text_too_long_for_a_unique_index_is_kept_aside_in_either_way(
    source: SourceFile, target_url: str
) -> None:
    long = "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(3000))
    add(source, "session", {"id": "long", "token": long})
    move(source, target_url, tables=AUTH)
    assert reasons(target_url, "session") == {"long": {"refused"}}
    source.run("UPDATE session SET token = 'short' WHERE id = 'long'")
    move(source, target_url, tables=AUTH)
    source.run("UPDATE session SET token = ? WHERE id = 'long'", (long,))
    move(source, target_url, tables=AUTH)
    assert reasons(target_url, "session") == {"long": {"refused"}}
    assert rows(target_url, "session") == [("s1",)]


def test_a_pair_that_another_row_has_is_kept_aside_by_a_merge(
    tmp_path: Path, target_url: str
) -> None:
    source = fill(make(tmp_path / "s.db", unique=False))
    move(source, target_url, tables=SOME)
    add(source, "users", {"auth_provider_id": "u2", "email": "b@example.org"})
    add(source, "space_members", {"user_id": 1}, {"user_id": 2})
    move(source, target_url, tables=SOME)
    assert rows(target_url, "space_members", "id, user_id") == [(1, 1), (3, 2)]
    assert reasons(target_url, "space_members") == {"2": {"unique"}}


_KEYS = st.text(st.sampled_from(string.ascii_letters + "09-_é ก'\"\\%"), min_size=1, max_size=4)


@hypothesis_settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.sets(_KEYS, min_size=5, max_size=30), then=st.sets(_KEYS, min_size=5, max_size=30))
def test_random_text_keys_come_and_go(
    first: set[str], then: set[str], mode: str, target_url: str, tmp_path_factory: Any
) -> None:
    query(target_url, "DROP TABLE IF EXISTS verification; DROP SCHEMA IF EXISTS migration CASCADE")
    (table,) = (table for table in AUTH if table.name == "verification")
    source = make(tmp_path_factory.mktemp("keys") / "s.db", tables=[table])
    add(source, "verification", *({"id": key, "value": key} for key in sorted(first)))
    if mode == "tracked":
        tracking.switch_on(source.path, [table])
    move(source, target_url, tables=[table])
    source.run("DELETE FROM verification")
    add(
        source,
        "verification",
        *({"id": key, "value": key * 2, "updated_at": LATER} for key in sorted(then)),
    )
    sync_all(source.path, target_url, tables=[table], delete_share=1)
    assert dict(rows(target_url, "verification", "id, value")) == {key: key * 2 for key in then}


# A column that only the target has


def test_what_only_the_target_has_on_purpose_is_no_drift_and_the_schema_wants_it(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    moves = move(source, target_url, tables=OF_SPACES)
    assert found_by(moves["spaces"], Drift) == []
    assert rows(target_url, "spaces", "enable_realtime") == [(True,)]
    copy = opened(source.path, tmp_path, OF_SPACES)
    planted = "ALTER TABLE spaces ALTER enable_realtime DROP DEFAULT"
    assert broken(standing(target_url, copy, SPACES, planted=planted)) == {"schema"}
    planted = "ALTER TABLE spaces DROP enable_realtime"
    assert "schema" in broken(standing(target_url, copy, SPACES, planted=planted))
    planted = "SET LOCAL pipeline.moving = 'on'; UPDATE spaces SET enable_realtime = false"
    assert broken(standing(target_url, copy, SPACES, planted=planted)) == set()


def test_another_column_that_the_source_lacks_gets_its_default_by_policy(
    target_url: str, tmp_path: Path
) -> None:
    source = fill(make(tmp_path / "s.db"))
    source.run("ALTER TABLE spaces DROP COLUMN description")
    policies = Policies(missing_columns="default")
    (found,) = found_by(
        move(source, target_url, tables=OF_SPACES, policies=policies)["spaces"], Drift
    )
    assert (found.column, found.kind) == ("description", "missing")


def test_no_move_touches_what_only_the_target_has(source: SourceFile, target_url: str) -> None:
    move(source, target_url, tables=OF_SPACES)
    # As nobody's change of the row, which would be stamped.
    quietly = "SET pipeline.moving = 'on'; UPDATE spaces SET enable_realtime = false"
    query(target_url, quietly)
    source.run(f"UPDATE spaces SET name = 'Lao', updated_at = '{LATER}'")
    add(source, "spaces", {"slug": "new"})
    expected = [("Lao", False), ("Thai", True)]
    assert sync_all(source.path, target_url, tables=OF_SPACES)["spaces"].written_rows == 2
    assert rows(target_url, "spaces", "name, enable_realtime") == expected
    source.run("UPDATE spaces SET name = 'Isan' WHERE id = 1")
    assert move(source, target_url, tables=OF_SPACES)["spaces"].strategy == "merged"
    assert rows(target_url, "spaces", "name, enable_realtime") == [("Isan", False), expected[1]]


# The way back


@pytest.fixture
def world(source: SourceFile, target_url: str, tmp_path: Path, monkeypatch: Any) -> World:
    """The application's source, before anything has moved."""
    source.run("PRAGMA journal_mode = WAL")
    set_up(source.path, target_url, monkeypatch)
    monkeypatch.setenv("SPACES_DATABASE_URL", f"sqlite:///{source.path}")
    made = World(source, target_url, tmp_path)
    made.tables, made.delete_share = SOME, 1
    return made


def everything(source: SourceFile) -> dict[str, list[tuple[Any, ...]]]:
    return {
        name: source.run(f'SELECT * FROM "{name}" ORDER BY id') for name in (t.name for t in SOME)
    }


def test_there_and_back_without_a_write_every_letter_is_as_it_was(world: World) -> None:
    world.source.run("UPDATE messages SET attachments = ?", (double_encoded({"a": 1}, 3),))
    before = everything(world.source)
    world.live()
    returned = world.rollback()
    assert all(check.passed for r in returned for check in r.checks)
    assert [(r.inserted, r.updated, r.deleted, r.left) for r in returned] == [(0, 0, 0, {})] * len(
        SOME
    )
    assert everything(world.source) == before


def test_what_was_written_goes_back_in_the_form_that_javascript_reads(world: World) -> None:
    for at in (2, 3, 4):
        add(world.source, "messages", {"id": at, "attachments": double_encoded([at])})
    world.live()
    world.do(
        "UPDATE \"user\" SET email_verified = false, updated_at = '2026-01-02 03:04:05.678+07';"
        "INSERT INTO session (id, token, user_id, expires_at, created_at, updated_at) VALUES"
        " ('12', 'new', 'Ab1', '2026-05-01', '2026-05-01 10:00:00.1+00', '2026-05-01 1:2:3.000004')"
    )
    world.do("UPDATE spaces SET enable_realtime = false, name = 'Lao'")
    world.do("DELETE FROM verification; UPDATE notifications SET read = true")
    world.do("UPDATE messages SET content = 'changed' WHERE id = 2")
    world.do("UPDATE messages SET attachments = '{\"new\": [1]}' WHERE id = 3")
    # The application still stringifies twice.
    wrapped = double_encoded({"b": 2}).replace("'", "''")
    world.do(f"UPDATE messages SET attachments = '{wrapped}' WHERE id = 4")
    returned = {r.table: r for r in world.rollback()}
    assert {name for name, r in returned.items() if r.inserted or r.updated or r.deleted} == {
        *("user", "session", "spaces", "verification", "notifications", "messages")
    }
    assert all(r.left == {} for r in returned.values())
    run = world.source.run
    assert run('SELECT email_verified, created_at, updated_at FROM "user"') == [
        (0, MOMENT, "2026-01-01T20:04:05.678Z")
    ]
    assert run("SELECT expires_at, created_at, updated_at FROM session WHERE id = '12'") == [
        ("2026-05-01T00:00:00.000Z", "2026-05-01T10:00:00.100Z", "2026-05-01T01:02:03.000004Z")
    ]
    assert run("SELECT name, created_at FROM spaces") == [("Lao", MOMENT)]
    assert run("SELECT typeof(read), read FROM notifications") == [("integer", 1)]
    assert run("SELECT id, attachments FROM messages ORDER BY id") == [
        (1, None),
        (2, double_encoded([2])),
        (3, '{"new": [1]}'),
        (4, double_encoded({"b": 2})),
    ]
    assert rows(world.url, "spaces", "enable_realtime") == [(False,)]
    kept = query(world.url, "SELECT source_key FROM migration.conversions ORDER BY 1")
    assert kept == [("2",)]
    # From here on the source leads again, and what was written as a string is unwrapped.
    anew = query(world.url, "SELECT table_name FROM migration.watermarks WHERE rules = ''")
    assert sorted(anew) == [("messages",), ("notifications",)]
    world.source.run(f"UPDATE spaces SET name = 'Isan', updated_at = '{LATER}'")
    move(world.source, world.url, tables=SOME)
    assert rows(world.url, "messages", "attachments")[3] == ({"b": 2},)
    again = move(world.source, world.url, tables=SOME)
    assert [m.written_rows + m.deleted_rows for m in again.values()] == [0] * len(SOME)


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        ("2024-01-15 09:30:00+00", "2024-01-15T09:30:00.000Z"),
        ("2024-01-15 09:30:59.999+00", "2024-01-15T09:30:59.999Z"),
        ("2024-01-15 09:30:59.999001+00", "2024-01-15T09:30:59.999001Z"),
        ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000Z"),
        ("2024-06-15 01:00:00+07", "2024-06-14T18:00:00.000Z"),
    ],
)
def test_a_date_is_written_as_javascript_writes_it(
    target_url: str, moment: str, written: str
) -> None:
    column = sa.Column("at", sa.DateTime(timezone=True))
    sql = reverse.expression(column, zone="Europe/Berlin", moments=reverse.ISO)
    assert query(target_url, f"SELECT {sql} FROM (SELECT timestamptz '{moment}' AS at) AS t") == [
        (written,)
    ]


def test_a_conflict_on_a_text_key_keeps_the_targets_row(
    source: SourceFile, target_url: str
) -> None:
    move(source, target_url, tables=AUTH)
    query(target_url, "UPDATE \"user\" SET name = 'there', updated_at = '2099-01-01'")
    source.run(f"UPDATE \"user\" SET name = 'here', updated_at = '{LATER}'")
    assert sync_all(source.path, target_url, tables=AUTH)["user"].written_rows == 0
    assert rows(target_url, "user", "name") == [("there",)]
    assert sync_all(source.path, target_url, tables=AUTH)["user"].written_rows == 0
