"""Databases of other programs: copied, verified, copied again, and compared with their source."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.copy.interface.results import CopyResult
from pipeline_tests.support import copy_databases as made
from pipeline_tests.support.copies import copied, left
from pipeline_tests.support.copy_comparison import differences
from pipeline_tests.support.targets import query


@dataclass(frozen=True)
class Example:
    """A database.

    Attributes:
        make: writes it into a folder.
        lost: how much of each kind is not carried.
        collations: those that only its application has.
    """

    make: Callable[[Path], Path]
    lost: dict[str, int] = field(default_factory=dict)
    collations: tuple[str, ...] = ()


EXAMPLES = {
    "proj": Example(made.part_of_proj, {"primary key": 1, "trigger": 36}),
    "anki": Example(made.anki, {"index": 4, "unique": 1}, ("unicase",)),
    "flights": Example(made.flights(3_000)),
    # Django's names of indexes are longer than PostgreSQL's names can be.
    "oscar": Example(made.committed("oscar"), {"name": 16}),
    # Rows of ``tagxref`` refer to the row 0, which is not there; ``title`` is Fossil's function.
    "fossil": Example(made.committed("fossil"), {"foreign key": 1, "virtual table": 1, "view": 1}),
    # ``vfile`` refers to a table of another file.
    "fossil_checkout": Example(made.committed("fossil_checkout"), {"foreign key": 1, "trigger": 1}),
    "svn": Example(made.committed("svn"), {"trigger": 3}),
    "mlflow": Example(made.committed("mlflow"), {"trigger": 1}),
    "trac": Example(made.committed("trac")),
    "geopackage": Example(made.committed("geopackage"), {"trigger": 28, "virtual table": 2}),
}
LARGE = {
    "proj": Example(made.proj, {"primary key": 1, "trigger": 36}),
    "flights": Example(made.flights(30_000)),
    "calibre": Example(made.calibre, {"trigger": 39, "virtual table": 2, "view": 7}),
}


def prove(example: Example, folder: Path, target: str) -> None:
    """Copy, compare, verify, and copy again."""
    path = example.make(folder)
    first = copied(path, target)
    assert first.proven, first
    assert {each.outcome for each in first.tables} == {"copied"}
    assert _kinds(first) == example.lost, "\n".join(left(first))
    before = _state(target)
    verified, second = copied(path, target, verify=True), copied(path, target)
    for again in (verified, second):
        assert again.proven
        assert {each.outcome for each in again.tables} == {"unchanged"}
    assert left(second) == left(first)
    assert _state(target) == before
    found = differences(path, target, named=first.all_left, collations=example.collations)
    assert not found, "\n".join(found)


def _kinds(result: CopyResult) -> dict[str, int]:
    return dict(Counter(each.kind for each in result.all_left))


def _state(target: str) -> list[tuple[object, ...]]:
    """What changes when anything is made or written again."""
    tables = query(
        target,
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = 'public'::regnamespace",
    )
    rows = " UNION ALL ".join(
        f"SELECT tableoid, count(*), sum(xmin::text::bigint) FROM {name} GROUP BY 1"
        for (name,) in tables
    )
    relations = "SELECT oid, relname, relfilenode FROM pg_class WHERE relname !~ '^pg_toast' AND"
    own = "relnamespace = 'public'::regnamespace ORDER BY 1"
    return [*query(target, f"{relations} {own}"), *query(target, f"{rows} ORDER BY 1")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_database_of_another_program_arrives_whole(
    name: str, tmp_path: Path, target_url: str
) -> None:
    prove(EXAMPLES[name], tmp_path, target_url)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_database_of_another_program_arrives_whole(
    name: str, tmp_path: Path, target_url: str
) -> None:
    if name == "calibre" and not made.CALIBRE.exists():
        pytest.skip("calibre is not installed")
    prove(LARGE[name], tmp_path, target_url)


EVERYTHING = """
CREATE TABLE codes (
  code TEXT COLLATE NOCASE CHECK (code <> 'zz'), number TEXT CHECK (number > 5), PRIMARY KEY (code)
) WITHOUT ROWID;
INSERT INTO codes VALUES ('a', '7'), ('B', '9');
CREATE TABLE named (code TEXT PRIMARY KEY COLLATE NOCASE, v);
INSERT INTO named VALUES ('a', 1), ('B', 'x'), ('c', 2.5);
CREATE TABLE defaults (
  id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT NOT NULL DEFAULT 'q', y DEFAULT 5, z TEXT DEFAULT 5,
  w INTEGER DEFAULT '7', d DATETIME DEFAULT CURRENT_TIMESTAMP, e TEXT DEFAULT (datetime('now')),
  f REAL DEFAULT 1, g BOOLEAN DEFAULT 0, i NUMERIC DEFAULT 1.50, j DECIMAL(10,2) DEFAULT '0.00',
  k BLOB DEFAULT x'00ff', l TEXT DEFAULT "dq", m INT DEFAULT -1, n INT DEFAULT (1 + 2),
  o INT DEFAULT TRUE, p TEXT DEFAULT NULL, r JSON DEFAULT '{}', s DATE DEFAULT CURRENT_DATE,
  t TIME DEFAULT CURRENT_TIME, u INT DEFAULT 1e3, v TEXT DEFAULT 1.0,
  h TEXT DEFAULT (lower(hex(randomblob(16))))
);
INSERT INTO defaults (id) VALUES (1), (100);
DELETE FROM defaults WHERE id = 100;
CREATE TABLE computed (
  id INTEGER PRIMARY KEY, a INT, b TEXT, next AS (a + 1),
  shown TEXT GENERATED ALWAYS AS (upper(b) || a) STORED
);
INSERT INTO computed (a, b) VALUES (1, 'x'), (2, 'ü'), (NULL, NULL);
CREATE TABLE one (id INTEGER PRIMARY KEY, o INT REFERENCES two (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE two (
  id INTEGER PRIMARY KEY, o INT REFERENCES one ON DELETE SET NULL ON UPDATE CASCADE
);
INSERT INTO two VALUES (1, 1);
INSERT INTO one VALUES (1, 1);
CREATE TABLE itself (
  a INT, b INT, pa INT, pb INT, PRIMARY KEY (a, b), FOREIGN KEY (pa, pb) REFERENCES itself
);
INSERT INTO itself VALUES (1, 1, 1, 1), (1, 2, 1, 1), (NULL, 1, NULL, NULL), (NULL, 1, NULL, 1);
CREATE TABLE "Order" ("group" INT, "Select" TEXT, "a""b" TEXT, "ctid" INT, "ü 漢" TEXT,
  UNIQUE ("group", "Select"));
INSERT INTO "Order" VALUES
  (1, 'a', 'b', 1, 'c'), (NULL, 'a', 'b', 2, 'c'), (NULL, 'a', 'b', 3, 'c');
CREATE TABLE no_key (a, b, c);
INSERT INTO no_key VALUES (1, 'x', x'00'), (1, 'x', x'00'), (NULL, NULL, NULL), (2.5, 'y', NULL);
CREATE TABLE empty (a INT, b TEXT);
CREATE TABLE only_id (id INTEGER PRIMARY KEY);
INSERT INTO only_id VALUES (5);
CREATE TABLE texts (id INTEGER PRIMARY KEY, a TEXT);
INSERT INTO texts VALUES (1, NULL), (2, 'x');
CREATE UNIQUE INDEX texts_partial ON texts (a) WHERE a IS NOT NULL;
CREATE INDEX texts_expression ON texts (lower(a), id DESC);
CREATE UNIQUE INDEX texts_nocase ON texts (a COLLATE NOCASE);
CREATE TABLE reals (x REAL, y REAL);
INSERT INTO reals VALUES (9e999, -9e999), (1e308, 5e-324), (-0.0, 0.1);
CREATE TABLE lies (x INTEGER, t TEXT, d DATETIME, b BOOLEAN, v VARCHAR(3), dt DATE, tm TIME);
INSERT INTO lies VALUES
  (9223372036854775807, '1', '2020-01-01 00:00:00', 1, 'abcd', '2020-02-29', '12:00'),
  (-9223372036854775808, 2, '2020-01-01T00:00:00Z', 0, 'äöü', '2020-02-30', '25:00'),
  (3, 4.5, 1577836800000, NULL, NULL, NULL, NULL);
CREATE TABLE sorted (id INTEGER PRIMARY KEY, t TEXT COLLATE mine UNIQUE, u TEXT);
CREATE INDEX sorted_u ON sorted (u COLLATE mine);
INSERT INTO sorted VALUES (1000000, 'a', 'b'), (2000000, 'A', 'c');
CREATE VIRTUAL TABLE pages USING fts5 (a, b);
INSERT INTO pages VALUES ('hello', 'world');
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
INSERT INTO boxes VALUES (1, 0, 1);
CREATE TABLE strictly (id INT PRIMARY KEY, a ANY, b TEXT, c BLOB, d REAL) STRICT;
INSERT INTO strictly VALUES
  (1, '1', '2', x'01', 3), (2, 1, 'x', NULL, 2.5), (3, x'61', '', NULL, 0);
CREATE TABLE last_id (id INTEGER PRIMARY KEY, x);
INSERT INTO last_id VALUES (9223372036854775807, 1);
CREATE TABLE emptied (id INTEGER PRIMARY KEY, a TEXT);
INSERT INTO emptied VALUES (1, NULL), (2, 'x');
CREATE VIEW greater AS SELECT id, a, next FROM computed WHERE a > 1;
CREATE VIEW mixture (x, y) AS SELECT NULL, 1 UNION ALL SELECT NULL, 'a' UNION ALL SELECT 5, 3;
CREATE VIEW numbers AS SELECT count(*) AS n, max(x) AS m FROM lies;
CREATE VIEW of_view AS SELECT * FROM greater LEFT JOIN texts USING (id);
"""
LOST = (
    ("generated column", "shown: PostgreSQL computes other values"),
    ("primary key", "(a, b): 2 values of it are NULL"),
    ("unique", "(t): it uses the collation MINE"),
    ("index", "sorted_u: it uses the collation MINE"),
    ("name", "column ctid: PostgreSQL cannot use this name; in the target it is ctid_"),
    ("identity", "id: the largest id is the last one"),
    ("not null", "a: 1 of its values is NULL"),
    ("virtual table", "pages: PostgreSQL has no module fts5"),
    ("virtual table", "boxes: PostgreSQL has no module rtree"),
)


def everything(folder: Path) -> Path:
    """All that SQLite allows, in few rows."""
    path = folder / "everything.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("mine", made.exactly)
        connection.executescript(EVERYTHING)
        # SQLite has no statement for it, but programs do it.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'a TEXT', 'a TEXT NOT NULL')"
            " WHERE name = 'emptied'"
        )
        connection.commit()
    return path


def test_all_that_sqlite_allows_arrives_whole(tmp_path: Path, target_url: str) -> None:
    counted = Counter(kind for kind, _ in LOST)
    prove(Example(everything, dict(counted), ("mine",)), tmp_path, target_url)
    sentences = left(copied(tmp_path / "everything.db", target_url))
    for kind, rest in LOST:
        assert any(f", {kind} {rest}" in each for each in sentences), sentences


def test_a_key_without_case_is_kept_as_one(tmp_path: Path, target_url: str) -> None:
    copied(everything(tmp_path), target_url)
    for table in ("codes", "named"):
        with pytest.raises(Exception, match="duplicate key"):
            query(target_url, f"INSERT INTO {table} (code) VALUES ('b')")


def test_rows_that_no_longer_meet_a_constraint_arrive_and_it_is_named(
    tmp_path: Path, target_url: str
) -> None:
    path = tmp_path / "changed.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE p (id INTEGER PRIMARY KEY, u TEXT);"
            "CREATE TABLE c (id INT PRIMARY KEY, p INT REFERENCES p, q INT REFERENCES p"
            " DEFERRABLE INITIALLY DEFERRED, n INT CHECK (n > 0), CHECK (id > 0));"
            "INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO c VALUES (1, 1, 1, 1);"
        )
        assert not left(copied(path, target_url))
        connection.executescript(
            "PRAGMA ignore_check_constraints = ON; INSERT INTO c VALUES (2, 7, 7, 0)"
        )
    second = copied(path, target_url)
    assert second.proven
    assert _kinds(second) == {"foreign key": 2, "check": 1}
    assert not differences(path, target_url, named=second.all_left)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM c WHERE id = 2")
    assert not left(copied(path, target_url))
    assert not differences(path, target_url, named=[])


def test_a_second_copy_leaves_the_views_of_others_alone(tmp_path: Path, target_url: str) -> None:
    path = everything(tmp_path)
    copied(path, target_url)
    query(target_url, "CREATE VIEW own AS SELECT * FROM of_view")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO computed (a, b) VALUES (5, 'z')")
        connection.commit()
    assert copied(path, target_url).proven
    assert query(target_url, "SELECT a FROM own WHERE a = 5") == [(5,)]
