"""A schema that nobody here has seen: moved and synced while random writes change it.

SOAK_SEEDS (default 3) says how many seeds the slow test takes; a seed decides every write. Both
sides are compared row by row, by code of this module.
"""

import os
import random
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.copy import plan
from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.source.prepare import prepared
from pipeline.scaffold import module
from pipeline.sqlite import tracking
from pipeline.sqlite.origin import File
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import query

DDL = """
CREATE TABLE sites (
  code TEXT PRIMARY KEY, title TEXT NOT NULL UNIQUE, size INTEGER AS (length(title)) STORED
);
CREATE TABLE categories (
  id INTEGER PRIMARY KEY, name TEXT, parent INTEGER REFERENCES categories, n INTEGER
);
CREATE TABLE folders (
  id INTEGER PRIMARY KEY, site TEXT NOT NULL REFERENCES sites ON UPDATE CASCADE,
  inside INTEGER NOT NULL REFERENCES folders ON DELETE CASCADE
);
CREATE TABLE staff (
  id INTEGER PRIMARY KEY, name TEXT, boss INTEGER REFERENCES staff ON DELETE SET NULL,
  site TEXT REFERENCES sites ON UPDATE CASCADE ON DELETE SET NULL
);
CREATE TABLE items (
  id INTEGER PRIMARY KEY AUTOINCREMENT, category INTEGER REFERENCES categories,
  keeper INTEGER NOT NULL REFERENCES staff, price DECIMAL(10, 2), photo BLOB, active BOOLEAN,
  label TEXT AS (id || '/' || ifnull(category, '')), UNIQUE (category, keeper, price)
);
CREATE TABLE moves (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items, amount INTEGER,
  CHECK (amount > 0)
);
"""
Row = tuple[object, ...]


def declared(path: Path) -> list[sa.Table]:
    """The tables of a file as ``pipeline new`` declares them."""
    with prepared(File(path), home=path.parent) as source:
        planned = plan.plan(source, CopyOptions(run_id=""))
        naming = module.Naming("shop", "SHOP_URL", f"sqlite:///{path}", "a test")
        text = module.write(planned, naming).text
    made: dict[str, Any] = {}
    exec(compile(text, "shop", "exec"), made)
    tables: list[sa.Table] = made["MIGRATION"].tables
    return tables


class Shop:
    """A file that is written at random, and its tables as ``pipeline new`` declares them."""

    def __init__(self, path: Path, seed: int, *, enforced: bool) -> None:
        """Fill the file; ``enforced`` foreign keys are not SQLite's default."""
        self.path, self.random, self.enforced = path, random.Random(seed), True
        with closing(sqlite3.connect(path)) as source:
            source.executescript(DDL)
        self.write(150)
        self.tables = declared(path)
        self.enforced = enforced

    def write(self, times: int) -> None:
        """Insert, update and delete, as far as keys and constraints let it."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as source:
            source.execute(f"PRAGMA foreign_keys = {self.enforced}")
            for _ in range(times):
                sql, values = self.random.choice(self.writes)()
                source.execute("BEGIN")
                try:
                    source.execute(sql, values)
                    source.execute("COMMIT")
                except sqlite3.IntegrityError:
                    source.execute("ROLLBACK")

    @property
    def writes(self) -> list[Any]:
        """Ways to change a row; inserts are twice as likely as deletes."""
        pick, id_ = self.random.choice, lambda: self.random.randint(1, 30)
        some = lambda: pick([None, id_()])  # noqa: E731
        code = lambda: f"s{self.random.randint(1, 8)}"  # noqa: E731
        key = {"sites": code}
        return [
            lambda: ("INSERT INTO sites VALUES (?, ?)", (code(), f"site {id_()}")),
            lambda: ("UPDATE sites SET code = ? WHERE code = ?", (code(), code())),
            lambda: ("UPDATE sites SET title = ? WHERE code = ?", (f"site {id_()}", code())),
            *(2 * [lambda: (
                "INSERT INTO categories VALUES (?, ?, ?, ?)",
                (id_(), pick("abc"), some(), id_()))]),
            lambda: ("UPDATE categories SET parent = ? WHERE id = ?", (some(), id_())),
            lambda: ("UPDATE categories SET parent = 1 WHERE parent = ?", (id_(),)),
            lambda: ("UPDATE categories SET id = ? WHERE id = ?", (id_(), id_())),
            *(2 * [lambda: ("INSERT INTO folders SELECT ?1, ?2, ?1", (id_(), code()))]),
            lambda: ("INSERT INTO folders VALUES (?, ?, ?)", (id_(), code(), id_())),
            lambda: ("UPDATE folders SET inside = ? WHERE id = ?", (id_(), id_())),
            *(2 * [lambda: (
                "INSERT INTO staff VALUES (?, ?, ?, ?)", (id_(), pick("xyz"), some(), code()))]),
            lambda: ("UPDATE staff SET boss = ? WHERE id = ?", (some(), id_())),
            *(3 * [lambda: (
                "INSERT INTO items (category, keeper, price, photo, active)"
                " VALUES (?, ?, ?, randomblob(50), ?)", (some(), id_(), id_() / 4, pick([0, 1])))]),
            lambda: ("UPDATE items SET category = ? WHERE id = ?", (some(), id_())),
            lambda: ("UPDATE items SET keeper = ? WHERE keeper = ?", (id_(), id_())),
            lambda: ("UPDATE items SET photo = randomblob(50) WHERE id = ?", (id_(),)),
            *(3 * [lambda: ("INSERT INTO moves VALUES (?, ?, ?)", (id_(), id_(), id_()))]),
            lambda: ("UPDATE moves SET item = ? WHERE item = ?", (id_(), id_())),
            *(lambda table=table: (
                f"DELETE FROM {table} WHERE {'code' if table in key else 'id'} = ?",
                (key.get(table, id_)(),),
            ) for table in ("sites", "categories", "folders", "staff", "items", "moves", "moves")),
        ]  # fmt: skip

    def assert_equal(self, url: str) -> None:
        """Both sides hold the same rows, but for those without a parent."""
        kept: dict[str, set[str]] = {}
        for table in self.tables:
            names = [column.name for column in table.columns]
            listed = ", ".join(map('"{}"'.format, names))
            sql = f'SELECT {listed} FROM "{table.name}" ORDER BY 1'
            with closing(sqlite3.connect(self.path)) as source:
                ours = {_plain(row)[0]: _plain(row) for row in source.execute(sql)}
            theirs = [_plain(row) for row in query(url, sql)]
            _drop_orphans(table, ours, kept)
            kept[table.name] = {*ours}
            assert sorted(theirs) == sorted(ours.values()), table.name


def _drop_orphans(table: sa.Table, rows: dict[str, list[str]], kept: dict[str, set[str]]) -> None:
    """Remove rows whose parent is missing or was removed itself."""
    names = [column.name for column in table.columns]
    places = [(names.index(k.parent.name), k.column.table.name) for k in table.foreign_keys]
    while lonely := {
        key
        for key, row in rows.items()
        for place, parent in places
        if row[place] != repr(None)
        and row[place] not in (rows if parent == table.name else kept[parent])
    }:
        for key in lonely:
            del rows[key]


def _plain(row: Row) -> list[str]:
    return [repr(_value(value)) for value in row]


def _value(value: object) -> object:
    match value:
        case int() | Decimal() | float():
            return float(value)
        case memoryview():
            return bytes(value)
    return value


def follow(shop: Shop, url: str, mode: str, rounds: int) -> None:
    """Move, then sync after each round of writes."""
    if mode == "tracked":
        tracking.switch_on(shop.path, shop.tables)
    moved = move_all(shop.path, url, tables=shop.tables)
    assert {move.quarantined_rows for move in moved.values()} == {0}
    for _ in range(rounds):
        shop.write(shop.random.choice([1, 5, 40]))
        sync_all(shop.path, url, tables=shop.tables, delete_share=1)
        shop.assert_equal(url)
    moved = move_all(shop.path, url, tables=shop.tables)
    assert {(move.written_rows, move.deleted_rows) for move in moved.values()} == {(0, 0)}


MODES = pytest.mark.parametrize("mode", ["tracked", "compared"])
KEYS = pytest.mark.parametrize("enforced", [True, False], ids=["enforced", "orphans"])


@MODES
@KEYS
def test_a_sync_follows_keys_references_and_generated_columns(
    tmp_path: Path, target_url: str, mode: str, *, enforced: bool
) -> None:
    follow(Shop(tmp_path / "shop.db", 1, enforced=enforced), target_url, mode, 8)


@pytest.mark.slow
@MODES
@KEYS
@pytest.mark.parametrize("seed", range(2, 2 + int(os.environ.get("SOAK_SEEDS", "3"))))
def test_fifty_rounds(
    tmp_path: Path, target_url: str, mode: str, seed: int, *, enforced: bool
) -> None:
    follow(Shop(tmp_path / "shop.db", seed, enforced=enforced), target_url, mode, 50)


@pytest.mark.parametrize(
    "check", ["CHECK (inside <> id)", "CHECK (id = 1 OR inside IS NOT NULL)", "UNIQUE (inside)"]
)
@MODES
def test_a_row_moves_to_another_parent_while_its_own_is_deleted(
    tmp_path: Path, target_url: str, mode: str, check: str
) -> None:
    path = tmp_path / "places.db"
    with closing(sqlite3.connect(path)) as source, source:
        source.executescript(
            "CREATE TABLE places (id INTEGER PRIMARY KEY, inside INTEGER REFERENCES places,"
            f" {check}); INSERT INTO places VALUES (1, NULL), (2, 1), (3, 2), (4, 3)"
        )
    tables = declared(path)
    if mode == "tracked":
        tracking.switch_on(path, tables)
    move_all(path, target_url, tables=tables)
    with closing(sqlite3.connect(path)) as source, source:
        source.executescript(
            "DELETE FROM places WHERE id = 3; UPDATE places SET inside = 2 WHERE id = 4"
        )
    sync_all(path, target_url, tables=tables, delete_share=1)
    assert query(target_url, "SELECT * FROM places ORDER BY 1") == [(1, None), (2, 1), (4, 2)]
