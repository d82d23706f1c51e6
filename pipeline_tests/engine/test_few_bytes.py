"""A proof hardly reads the target: digests are compared, and only columns that differ are read."""

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from bench.proxy import Counts, Proxy, relay
from pipeline.config.settings import libpq
from pipeline.core.findings import RowExtra, RowMissing, ValueDiffers
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import new_database, query
from pipeline_tests.support.verification import broken, findings, opened, standing

ROWS = 4_000
WORDS = ("ข้าว", "ตลาด", "rice", "market", "หนังสือ", "🍚")
NOTES = sa.Table(
    "notes",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.String(200)),
    sa.Column("body", sa.Text),
    sa.Column("by_browser", JSONB),
    sa.Column("by_python", JSONB),
    sa.Column("by_hand", JSONB),
    sa.Column("inside", JSONB, info=ColumnRules(double_encoded=True).info),
    sa.Column("score", sa.Numeric(5, 2)),
    sa.Column("weight", sa.Double),
    sa.Column("done", sa.Boolean),
    sa.Column("picture", sa.LargeBinary),
    sa.Column("updated_at", sa.DateTime(timezone=True)),
    info=TableRules(changed_by="updated_at").info,
)


def rows() -> Iterator[tuple[object, ...]]:
    rng = random.Random(7)
    for n in range(1, ROWS + 1):
        words = rng.choices(WORDS, k=24)
        value = {"tags": words[:3], "id": n, "p": n / 7, "small": n * 1e-9, "deep": {"n": None}}
        yield (
            n,
            " ".join(words[:4]),
            " ".join(words) if n % 5 else None,
            json.dumps(value, separators=(",", ":"), ensure_ascii=False),
            json.dumps(value) if n % 3 else None,
            json.dumps(value, indent=2, ensure_ascii=False),
            json.dumps(json.dumps(value)),
            round(n / 100, 2),
            n / 3,
            n % 2,
            rng.randbytes(400) if n % 4 else None,
            f"2025-08-06 03:07:13.{n:06}",
        )


@dataclass(frozen=True)
class World:
    """A moved source, and a relay in front of its target."""

    path: Path
    proxy: Proxy
    server_url: str
    bytes: int
    first: Counts

    @property
    def url(self) -> str:
        """The target, behind the relay."""
        return libpq(self.proxy.url)

    def share(self) -> float:
        """How much of the data came from the server since the last call."""
        return self.proxy.taken().received / self.bytes

    def plant(self, sql: str) -> None:
        """Change the target, past the relay."""
        query(self.server_url, sql)


@pytest.fixture(scope="module")
def world(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A table of texts, numbers, dates, BLOBs, NULLs and JSON in several spellings, moved."""
    path = tmp_path_factory.mktemp("few bytes") / "source.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = (
            "id INTEGER PRIMARY KEY, title VARCHAR(200), body TEXT, by_browser JSON,"
            " by_python JSON, by_hand JSON, inside JSON, score FLOAT, weight REAL,"
            " done BOOLEAN, picture BLOB, updated_at DATETIME"
        )
        connection.execute(f"CREATE TABLE notes ({columns})")
        connection.executemany(f"INSERT INTO notes VALUES ({', '.join('?' * 12)})", rows())
    with new_database(server, "few_bytes") as made, relay(made) as proxy:
        move_all(path, libpq(proxy.url), tables=[NOTES])
        yield World(path, proxy, libpq(made), path.stat().st_size, proxy.taken())


def asked_for_digests(counts: Counts) -> int:
    return sum("array_send" in statement for statement in counts.statements)


def test_a_move_proves_its_rows_without_reading_them(world: World) -> None:
    assert world.bytes > 4_000_000
    assert world.first.received < world.bytes * 0.05
    assert asked_for_digests(world.first) == 1


def test_a_second_move_a_check_and_a_sync_hardly_read_the_target(
    world: World, tmp_path: Path
) -> None:
    world.share()
    moved = move_all(world.path, world.url, tables=[NOTES])["notes"]
    assert (moved.strategy, world.share() < 0.03) == ("unchanged", True)
    found = standing(world.url, opened(world.path, tmp_path, [NOTES]), NOTES)
    assert (broken(found), world.share() < 0.03) == (set(), True)
    copy = tmp_path / "written.db"
    shutil.copy(world.path, copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE notes SET title = title WHERE id = 1")
    synced = sync_all(copy, world.url, tables=[NOTES])["notes"]
    counts = world.proxy.taken()
    assert (synced.strategy, synced.written_rows, synced.source_rows) == ("synced", 0, ROWS)
    assert counts.received < world.bytes * 0.03
    assert asked_for_digests(counts) == 1


PLANTED = {
    "a number": ("UPDATE notes SET score = score + 1 WHERE id = 7", "score", 0.05),
    "a text": ("UPDATE notes SET body = 'x' WHERE id = 5", "body", 0.3),
    "a member of JSON": (
        "UPDATE notes SET by_hand = jsonb_set(by_hand, '{deep}', '1') WHERE id = 8",
        "by_hand",
        0.35,
    ),
    "JSON in a string": ("UPDATE notes SET inside = '[]' WHERE id = 9", "inside", 0.35),
    "a BLOB": ("UPDATE notes SET picture = '\\x00' WHERE id = 4000", "picture", 0.12),
}


@pytest.mark.parametrize("name", PLANTED)
def test_only_a_column_that_differs_is_read(world: World, name: str, tmp_path: Path) -> None:
    planted, column, share = PLANTED[name]
    source = opened(world.path, tmp_path, [NOTES])
    world.share()
    found = standing(world.url, source, NOTES, planted=planted, only={"digests"})
    named = [f for f in findings(found) if isinstance(f, ValueDiffers)]
    assert [f.column for f in named] == [column]
    assert world.share() < share


def test_missing_and_extra_rows_are_named(world: World, tmp_path: Path) -> None:
    source = opened(world.path, tmp_path, [NOTES])
    planted = (
        "DELETE FROM notes WHERE id = 3; UPDATE notes SET id = 4001 WHERE id = 4000;"
        " INSERT INTO notes (id) VALUES (-1)"
    )
    found = standing(world.url, source, NOTES, planted=planted, only={"keys"})
    assert set(found["keys"].findings) == {
        RowMissing("notes", 3),
        RowMissing("notes", 4000),
        RowExtra("notes", 4001),
        RowExtra("notes", -1),
    }


def test_numbers_of_equal_value_are_equal_though_their_digests_differ(
    world: World, tmp_path: Path
) -> None:
    source = opened(world.path, tmp_path, [NOTES])
    planted = "UPDATE notes SET by_python = jsonb_set(by_python, '{id}', '1.0') WHERE id = 1"
    world.share()
    found = standing(world.url, source, NOTES, planted=planted, only={"digests"})
    assert (broken(found), world.share() > 0.05) == (set(), True)


def test_values_too_large_to_be_hashed_together_are_read(target_url: str, tmp_path: Path) -> None:
    wide = sa.Table(
        "wide",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text),
    )
    wide.primary_key.name = "wide_pkey"
    path, rows = tmp_path / "wide.db", 1_200
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE wide (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO wide VALUES (?, ?)", ((n, str(n)) for n in range(rows)))
    move_all(path, target_url, tables=[wide])
    # Compressed, a megabyte of one letter takes little room.
    query(target_url, "UPDATE wide SET text = repeat('x', 950000)")
    source = opened(path, tmp_path, [wide])
    found = standing(target_url, source, wide, only=("keys", "digests"))
    assert found["digests"].figures["values_differing"] == rows
    moved = move_all(path, target_url, tables=[wide], run_id="again")
    assert moved["wide"].written_rows == rows
