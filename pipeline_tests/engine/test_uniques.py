"""Unique values that rows hand on to each other, and such that come twice, in every way to move."""

import itertools
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError, TooManyDeletes
from pipeline.cutover.replay import NotReversible
from pipeline.migrations.spaces import metadata
from pipeline.move.run.transaction import MoveResult
from pipeline.sqlite import tracking
from pipeline_tests.support import spaces_world
from pipeline_tests.support.cutover_world import World, content, equal, made_world
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.subsets import move_subset
from pipeline_tests.support.targets import new_database, query, reasons

TABLES = [metadata.tables[name] for name in ("users", "spaces", "space_members")]
OTHERS = [metadata.tables[name] for name in ("user", "session")]
NAMES = [table.name for table in (*TABLES, *OTHERS)]
COLUMNS = {
    "users": "id, auth_provider_id, email",
    "spaces": "id, owner_id, slug",
    "space_members": "id, space_id, user_id",
    "user": "id, email",
    "session": "id, token, user_id",
}
LATER = "2024-02-01T00:00:00.000Z"
WAYS = ("filled", "merged", "synced", "tracked", "redriven", "subset")
_numbers = itertools.count()

HAND_ON = (
    # Two swap, three go in a circle, one takes what another has left, and two columns at once.
    "users SET email = (CASE id WHEN 1 THEN 2 ELSE 1 END) || '@example.org' WHERE id IN (1, 2)",
    "users SET email = (id - 2) % 3 + 3 || '@example.org' WHERE id IN (3, 4, 5)",
    "users SET email = 'new@example.org' WHERE id = 6",
    "users SET email = '6@example.org' WHERE id = 7",
    "users SET auth_provider_id = 'auth' || (15 - id) WHERE id IN (7, 8)",
    "spaces SET slug = 's' || (3 - id)",
    "space_members SET user_id = 3 - user_id WHERE id IN (1, 2)",
    "session SET token = (CASE id WHEN 's1' THEN 't2' ELSE 't1' END) WHERE id IN ('s1', 's2')",
)
"""What the application does; its source has no UNIQUE here, so it may do it in one statement."""


@pytest.fixture(scope="module")
def first(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A source, and the database ``uniques`` into which it was moved."""
    made = spaces_world.make(tmp_path_factory.mktemp("uniques") / "spaces.db", unique=False)
    spaces_world.add_two_spaces(made)
    spaces_world.add_users(made, 5, 6, 7, 8, 9, 10, 11)
    spaces_world.add(made, "spaces", {"id": 3, "owner_id": 9, "name": "s", "slug": "s3"})
    spaces_world.add(made, "spaces", {"id": 4, "owner_id": 9, "name": "s", "slug": "s4"})
    with new_database(server, "uniques") as url:
        move_all(made.path, libpq(url), tables=[*TABLES, *OTHERS])
        yield made.path


@pytest.fixture
def source(first: Path, tmp_path: Path) -> SourceFile:
    return SourceFile(Path(shutil.copy(first, tmp_path / "spaces.db")))


@pytest.fixture
def moved(server: URL, first: Path) -> Iterator[str]:
    with new_database(server, f"uniques_{next(_numbers)}", template="uniques") as url:
        yield libpq(url)


def update(source: SourceFile, sql: str) -> None:
    """An update that touches the date, as the application makes it."""
    table, rest = sql.split(" SET ", 1)
    source.run(f"UPDATE {table} SET updated_at = '{LATER}', {rest}")


def move(strategy: str, source: SourceFile, url: str) -> dict[str, MoveResult]:
    """Move everything that changed, in a way."""
    both = [*TABLES, *OTHERS]
    match strategy:
        case "filled":
            query(url, 'TRUNCATE users, "user" CASCADE')
            return move_all(source.path, url, tables=both)
        case "merged":
            return move_all(source.path, url, tables=both, delete_share=1.0)
        case "redriven":
            return redrive(source, url)
        case "subset":
            keys = [key for (key,) in source.run("SELECT id FROM users")]
            moves = move_subset(source, url, *keys, tables=TABLES)
            return moves | move_all(source.path, url, tables=OTHERS, delete_share=1.0)
        case _:
            return sync_all(source.path, url, tables=both, delete_share=1.0)


def redrive(source: SourceFile, url: str) -> dict[str, MoveResult]:
    both = [*TABLES, *OTHERS]
    return sync_all(source.path, url, tables=both, delete_share=1.0, retry_rejected=True)


def ours(source: SourceFile, table: str) -> list[tuple[object, ...]]:
    return source.run(f'SELECT {COLUMNS[table]} FROM "{table}" ORDER BY id')


def theirs(url: str, table: str) -> list[tuple[object, ...]]:
    return query(url, f'SELECT {COLUMNS[table]} FROM "{table}" ORDER BY id')


def uniques(url: str) -> int:
    kept = "SELECT count(*) FROM pg_constraint WHERE contype = 'u' AND conrelid >= 16384"
    ((count,),) = query(url, kept)
    return int(count)


def told(url: str, table: str) -> dict[str, str]:
    found = query(
        url,
        "SELECT coalesce(source_key, row_id), string_agg(concat_ws(' ', r->>'column',"
        " r->>'message'), '; ') FROM migration.quarantine, jsonb_array_elements(reasons) AS r"
        f" WHERE table_name = '{table}' GROUP BY 1",
    )
    return dict(found)


@pytest.mark.parametrize("strategy", WAYS[1:])
def test_values_are_handed_on(source: SourceFile, moved: str, strategy: str) -> None:
    if strategy == "tracked":
        tracking.switch_on(source.path, [*TABLES, *OTHERS])
        move_all(source.path, moved, tables=[*TABLES, *OTHERS])
    for sql in HAND_ON:
        update(source, sql)
    moves = move(strategy, source, moved)
    for table in NAMES:
        assert theirs(moved, table) == ours(source, table), table
        assert (moves[table].quarantined_rows, moves[table].deleted_rows) == (0, 0)
    assert uniques(moved) == 6


def test_values_are_handed_on_where_work_is_deferred(source: SourceFile, moved: str) -> None:
    query(
        moved,
        "ALTER TABLE users DROP CONSTRAINT users_email_key, ADD CONSTRAINT users_email_key"
        " UNIQUE (email) DEFERRABLE INITIALLY DEFERRED;"
        " ALTER TABLE spaces ALTER CONSTRAINT spaces_owner_id_fkey DEFERRABLE INITIALLY DEFERRED;"
        " CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE OR DELETE ON users"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()",
    )
    source.run("DELETE FROM users WHERE id = 11")
    for sql in HAND_ON:
        update(source, sql)
    move("synced", source, moved)
    for table in NAMES:
        assert theirs(moved, table) == ours(source, table), table


@pytest.mark.parametrize("strategy", ["filled", "merged", "synced", "subset"])
def test_rows_take_what_rows_had_that_are_gone_or_rejected(
    source: SourceFile, moved: str, strategy: str
) -> None:
    source.run("DELETE FROM users WHERE id = 11")
    taken = {"id": 12, "auth_provider_id": "auth11", "email": "11@example.org"}
    spaces_world.add(source, "users", taken)
    source.run("DELETE FROM session WHERE id = 's4'")
    spaces_world.add(source, "session", {"id": "s5", "token": "t4", "user_id": "auth4"})
    update(source, "spaces SET owner_id = 99, slug = 's9' WHERE id = 4")
    update(source, "spaces SET slug = 's4' WHERE id = 3")
    move(strategy, source, moved)
    assert reasons(moved, "spaces") == {"4": {"orphan"}}
    if strategy == "subset":
        # A row that the source has no more belongs to no subset; it goes with the next whole move.
        assert told(moved, "users")["12"].endswith("is the same as in row 11")
        move_all(source.path, moved, tables=TABLES)
    assert reasons(moved, "users") == reasons(moved, "session") == {}
    for table in NAMES:
        rows = [row for row in ours(source, table) if (table, row[0]) != ("spaces", 4)]
        assert theirs(moved, table) == rows, table


@pytest.mark.parametrize("strategy", ["filled", "merged", "synced", "subset"])
def test_what_comes_twice_is_rejected_and_redriven(
    source: SourceFile, moved: str, strategy: str
) -> None:
    spaces_world.add(
        source,
        "users",
        {"id": 12, "auth_provider_id": "auth12", "email": "1@example.org"},
        {"id": 13, "auth_provider_id": "auth2", "email": "1@example.org"},
    )
    spaces_world.add(source, "space_members", {"id": 7, "space_id": 2, "user_id": 2})
    spaces_world.add(source, "space_members", {"id": 8, "space_id": 2, "user_id": 12})
    spaces_world.add(source, "session", {"id": "s9", "token": "t1", "user_id": "auth2"})
    moves = move(strategy, source, moved)
    assert told(moved, "users")["12"] == "email is the same as in row 1"
    assert told(moved, "users")["13"] in (
        "auth_provider_id is the same as in row 2",
        "email is the same as in row 1",
    )
    assert told(moved, "space_members") == {
        "7": "space_id and user_id are the same as in row 3",
        "8": "user_id refers to a row of users that is in quarantine",
    }
    # A token is a secret: only its row is named.
    assert told(moved, "session") == {"s9": "token is the same as in row s1"}
    assert [key for key, *_ in theirs(moved, "users")] == [*range(1, 12)]
    assert all(check.passed for m in moves.values() for check in m.checks if check.blocking)
    if strategy == "subset":
        move_all(source.path, moved, tables=TABLES, delete_share=1.0)
    update(source, "users SET email = id || '@example.org', auth_provider_id = 'auth' || id"
           " WHERE id > 11")  # fmt: skip
    source.run("DELETE FROM space_members WHERE id = 7")
    update(source, "session SET token = 't9' WHERE id = 's9'")
    redrive(source, moved)
    assert query(moved, "SELECT count(*) FROM migration.quarantine") == [(0,)]
    for table in NAMES:
        assert theirs(moved, table) == ours(source, table), table


def test_moving_twice_what_comes_twice_changes_nothing(source: SourceFile, moved: str) -> None:
    spaces_world.add(source, "users", {"id": 12, "auth_provider_id": "x", "email": "1@example.org"})
    for strategy in ("merged", "synced", "redriven", "filled", "merged"):
        moves = move(strategy, source, moved)
        assert moves["users"].quarantined_rows == 1
        if strategy != "filled":
            assert (moves["users"].written_rows, moves["users"].deleted_rows) == (0, 0)
        assert theirs(moved, "users") == ours(source, "users")[:11]


def test_a_row_that_takes_anothers_value_gives_way_with_its_old_version(
    source: SourceFile, moved: str
) -> None:
    update(source, "users SET email = '1@example.org' WHERE id = 4")
    with pytest.raises(TooManyDeletes, match="users: at least 1 of 11 rows"):
        move_all(source.path, moved, tables=TABLES, delete_share=0.05)
    moves = move_all(source.path, moved, tables=TABLES, delete_share=1.0)
    assert (moves["users"].deleted_rows, moves["users"].quarantined_rows) == (1, 1)
    assert moves["space_members"].cascaded_rows == 2
    assert told(moved, "users") == {"4": "email is the same as in row 1"}


def test_a_value_that_goes_on_from_a_row_that_is_rejected_for_another_column(
    source: SourceFile, moved: str
) -> None:
    # 4 takes the account of 1, which it may not; 3 takes the address that 4 has left.
    update(source, "users SET auth_provider_id = 'auth1', email = 'x' WHERE id = 4")
    update(source, "users SET email = '4@example.org' WHERE id = 3")
    move_all(source.path, moved, tables=TABLES, delete_share=1.0)
    assert told(moved, "users") == {"4": "auth_provider_id is the same as in row 1"}
    assert theirs(moved, "users")[2] == (3, "auth3", "4@example.org")


def test_a_value_that_no_index_has_room_for_is_one_rows_trouble(
    source: SourceFile, moved: str
) -> None:
    letters = random.Random(1).randbytes(9000).hex()
    spaces_world.add(source, "users", {"id": 12, "auth_provider_id": "long", "email": letters})
    for strategy in ("filled", "merged"):
        move(strategy, source, moved)
        assert reasons(moved, "users") == {"12": {"refused"}}
        assert theirs(moved, "users") == ours(source, "users")[:11]


def test_letters_that_only_sqlite_takes_for_the_same_stay_apart(
    tmp_path: Path, target_url: str
) -> None:
    source = spaces_world.make(tmp_path / "s.db")
    spaces_world.add_users(source, 1)
    spaces_world.add(source, "users", {"id": 2, "auth_provider_id": "AUTH1", "email": "É"})
    spaces_world.add(source, "users", {"id": 3, "auth_provider_id": "auth1 ", "email": "E\u0301"})
    moves = move_all(source.path, target_url, tables=TABLES[:1])
    assert moves["users"].moved_rows == 3


def test_what_needs_a_constraint_keeps_it_and_rows_wait(source: SourceFile, moved: str) -> None:
    query(moved, "CREATE TABLE mine (email text REFERENCES users (email))")
    update(source, HAND_ON[0])
    move_all(source.path, moved, tables=TABLES, delete_share=1.0)
    assert set(reasons(moved, "users")) == {"1", "2"}
    assert uniques(moved) == 6


# The way back: SQLite holds each row against the others, too.


@pytest.fixture
def world(target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An application whose source keeps titles unique, and pairs of two columns."""
    made = made_world(tmp_path, target_url, monkeypatch)
    made.source.run("CREATE UNIQUE INDEX titles ON learning_content (title)")
    made.source.run("CREATE UNIQUE INDEX pairs ON rankings (fragment_id, asset_id)")
    assert made.live().state == "live"
    return made


def test_the_way_back_hands_values_on(world: World) -> None:
    world.do(
        "UPDATE learning_content SET title = 'word ' || (id % 3 + 1);"
        "UPDATE rankings SET asset_id = CASE fragment_id WHEN 1 THEN 2 ELSE 1 END,"
        " fragment_id = CASE fragment_id WHEN 1 THEN 2 ELSE 1 END WHERE id IN (2, 4)"
    )
    before = content(world.source.path)
    world.rollback()
    assert world.state == "shadow"
    found = world.source.run("SELECT id, title FROM learning_content ORDER BY id")
    assert found == [(1, "word 2"), (2, "word 3"), (3, "word 1")]
    assert world.source.run("SELECT fragment_id, asset_id FROM rankings WHERE id = 2") == [(2, 2)]
    assert content(world.source.path)["fragment_assets"] == before["fragment_assets"]
    equal(world)


def test_the_way_back_gives_what_a_row_that_is_gone_had_to_a_new_one(world: World) -> None:
    world.delete_share = 1.0
    world.do(
        "DELETE FROM learning_content WHERE id = 3;"
        "INSERT INTO learning_content (title, content_type, native_text, translation, ipa)"
        " VALUES ('word 3', 'x', 'x', 'x', 'x')"
    )
    world.rollback()
    equal(world)


def test_what_comes_twice_has_no_way_back(world: World) -> None:
    world.do("UPDATE learning_content SET title = 'word 1' WHERE id = 2")
    before = content(world.source.path)
    with pytest.raises(NotReversible, match="learning_content 2 cannot be written to the source"):
        world.rollback()
    assert content(world.source.path) == before
    with closing(sqlite3.connect(world.source.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_deferred_trigger_that_refuses_a_delete_is_named(source: SourceFile, moved: str) -> None:
    query(
        moved,
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'users are never deleted'; END $$;"
        " CREATE CONSTRAINT TRIGGER look AFTER DELETE ON users"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()",
    )
    source.run("DELETE FROM users WHERE id = 11")
    update(source, "users SET email = (3 - id) || '@example.org' WHERE id IN (1, 2)")
    with pytest.raises(TargetError, match=r"trigger look of users .* never deleted"):
        move_all(source.path, moved, tables=[*TABLES, *OTHERS], delete_share=1.0)
