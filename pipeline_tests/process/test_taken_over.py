"""Tables that ``pipeline copy`` wrote, and those that a migration makes of the same file."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.targets import new_database, query

WAREHOUSE = """
CREATE TABLE units (code TEXT PRIMARY KEY COLLATE NOCASE, title TEXT DEFAULT 'none: yet');
CREATE TABLE places (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE UNIQUE,
  inside INTEGER REFERENCES places(id) ON DELETE SET NULL ON UPDATE CASCADE,
  UNIQUE (inside, name), CONSTRAINT not_inside_itself CHECK (inside <> id)
);
CREATE TABLE makers (id TEXT PRIMARY KEY NOT NULL, uid UUID UNIQUE, size SMALLINT, rate REAL
    DEFAULT 0.5);
CREATE TABLE goods (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sku VARCHAR(20) NOT NULL CHECK (length(sku) > 1),
  unit TEXT REFERENCES units ON UPDATE CASCADE,
  maker TEXT CONSTRAINT made_by REFERENCES makers(id) ON DELETE CASCADE DEFERRABLE INITIALLY
    DEFERRED,
  place INTEGER NOT NULL DEFAULT 1 REFERENCES places ON DELETE RESTRICT,
  second INTEGER DEFAULT NULL REFERENCES places ON DELETE SET DEFAULT,
  price DECIMAL(10,2) NOT NULL DEFAULT 0 CHECK (price >= 0),
  weight NUMERIC DEFAULT -1.5, active BOOLEAN NOT NULL DEFAULT TRUE, odd BOOLEAN DEFAULT 0,
  bought DATE DEFAULT CURRENT_DATE, at DATETIME DEFAULT CURRENT_TIMESTAMP, hour TIME,
  info JSON DEFAULT '{"a": 1}', photo BLOB DEFAULT x'00ff', level SMALLINT, anything,
  cents INTEGER GENERATED ALWAYS AS (CAST(price * 100 AS INTEGER)) STORED,
  label TEXT AS (sku || ': ' || ifnull(maker, '')) VIRTUAL,
  UNIQUE (sku, maker), CHECK (active OR price = 0 OR price > 0)
);
CREATE INDEX goods_lower ON goods (lower(sku), price DESC);
CREATE INDEX goods_active ON goods (place) WHERE active = 1;
CREATE UNIQUE INDEX goods_one ON goods (sku COLLATE NOCASE, bought) WHERE maker IS NOT NULL;
CREATE UNIQUE INDEX goods_level ON goods (level, second);
CREATE INDEX goods_sum ON goods (price * 2);
CREATE INDEX "odd Name" ON goods (at DESC, hour);
CREATE TABLE parts (
  id INT PRIMARY KEY, good INTEGER NOT NULL REFERENCES goods ON DELETE CASCADE,
  of INTEGER REFERENCES goods(id), note TEXT NOT NULL DEFAULT '', "select" INTEGER DEFAULT (1 + 1)
);
CREATE INDEX parts_good ON parts (good, of);
INSERT INTO units VALUES ('kg', 'Kilo'), ('Pcs', NULL);
INSERT INTO places VALUES (1, 'Hall', NULL), (2, 'Rack', 1), (3, 'Shelf', 2), (9, 'Yard', NULL);
INSERT INTO makers VALUES ('A', 'c9f0f895-fb98-4b91-8d2c-1b2a4c5d6e7f', 7, 1.25), ('B', NULL,
    NULL, NULL);
INSERT INTO goods (sku, unit, maker, place, second, price, bought, hour, info, photo, level,
    anything) VALUES
  ('B-1', 'kg', 'A', 3, 1, 1.25, '2024-01-02', '10:11:12', '["x"]', x'0102', 5, 'text'),
  ('B-2', 'Pcs', NULL, 1, NULL, 0, NULL, NULL, NULL, NULL, NULL, 12),
  ('b-3', NULL, 'B', 2, 9, 99999999.99, '1999-12-31', '23:59:59', '{"k": null}', x'', -3, NULL);
INSERT INTO goods (id, sku, active) VALUES (40, 'gone', 0); DELETE FROM goods WHERE id = 40;
INSERT INTO parts VALUES (1, 1, 2, 'n', 3), (2, 3, NULL, '', 2);
"""

ODD = r"""
CREATE TABLE Left (Id INTEGER PRIMARY KEY AUTOINCREMENT, "50% off" TEXT DEFAULT '100%'
    CHECK ("50% off" LIKE '%0\%:x'  OR "50% off" <> 'a%%b'));
CREATE TABLE right_ (id INTEGER PRIMARY KEY, name TEXT DEFAULT 'a\:b %s %(x)s', t TEXT
    DEFAULT 'it''s :q:s: \n');
CREATE TABLE child (
  id INTEGER PRIMARY KEY, both INTEGER REFERENCES Left REFERENCES right_ ON DELETE CASCADE,
  "a(b)" INTEGER REFERENCES right_(id) ON DELETE CASCADE ON UPDATE SET NULL,
  twice INTEGER REFERENCES right_ ON DELETE CASCADE,
  "Gen %" TEXT AS ("a(b)" || '%:y'),
  long_long_long_long_long_long_long_long_long_long_long_long_long_long_name TEXT UNIQUE,
  "q""t" TEXT,
  n INTEGER CHECK (n % 2 = 0), big INTEGER DEFAULT 9223372036854775807, neg INTEGER
    DEFAULT (-9223372036854775807 - 1),
  e REAL DEFAULT 1e300, f DECIMAL(5,2) DEFAULT '1.10', g DATETIME DEFAULT '2020-01-01 00:00:00',
    h DATE DEFAULT '2020-01-01',
  d TIME DEFAULT CURRENT_TIME, u UUID DEFAULT 'c9f0f895-fb98-4b91-8d2c-1b2a4c5d6e7f',
    vc VARCHAR(3) DEFAULT 'abcdef', b BOOLEAN DEFAULT 'yes',
  UNIQUE ("q""t", "a(b)"), CHECK ("q""t" <> ':z' AND "q""t" NOT LIKE '10%'),
  FOREIGN KEY (twice) REFERENCES right_ (id) ON DELETE SET NULL
);
CREATE INDEX "i%" ON child ("a(b)" DESC, "q""t" COLLATE NOCASE DESC)
    WHERE "q""t" LIKE 'a%' AND n % 2 = 0;
CREATE INDEX i2 ON child (n % 3, "Gen %");
CREATE UNIQUE INDEX i3 ON child (n, id DESC);
CREATE INDEX i4 ON child (both) WHERE both IS NOT NULL;
INSERT INTO Left VALUES (5, 'x');
INSERT INTO right_ (id) VALUES (5);
INSERT INTO child (id, both, "a(b)", twice, n, g, h, d, u, vc, b) VALUES (1, 5, 5, 5, 4,
    '2020-01-01 00:00:00', '2020-01-01', '10:00:00', 'c9f0f895-fb98-4b91-8d2c-1b2a4c5d6e7f',
    'abc', 1);
"""

CATALOG = {
    "columns": """
        SELECT c.relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
          attgenerated, pg_get_expr(adbin, adrelid), attstorage, attcompression, attoptions,
          collname
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid AND c.relkind = 'r'
          AND relnamespace = 'public'::regnamespace
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        LEFT JOIN pg_collation AS l ON l.oid = attcollation
        WHERE attnum > 0 AND NOT attisdropped ORDER BY 1, attnum""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        ORDER BY 1, 2""",
    "sequences": """
        SELECT c.relname, seqtypid::regtype::text, seqincrement, seqmin, seqmax, seqcache, seqcycle,
          coalesce(pg_sequence_last_value(seqrelid) + seqincrement, seqstart)
        FROM pg_sequence JOIN pg_class AS c ON c.oid = seqrelid
          AND relnamespace = 'public'::regnamespace ORDER BY 1""",
    "comments": """
        SELECT c.relname, objsubid, description FROM pg_description JOIN pg_class AS c
          ON c.oid = objoid AND relnamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname FROM pg_trigger JOIN pg_class AS c ON c.oid = tgrelid
          AND relnamespace = 'public'::regnamespace WHERE NOT tgisinternal ORDER BY 1, 2""",
}


def catalog(url: str) -> dict[str, set[tuple[object, ...]]]:
    """What PostgreSQL's catalog says of the tables of schema ``public``."""
    return {
        kind: {tuple(map(str, row)) for row in query(url, sql)} for kind, sql in CATALOG.items()
    }


class Warehouse:
    """A file and the migration that ``pipeline new`` writes from it."""

    def __init__(self, folder: Path, url: URL, script: str = WAREHOUSE) -> None:
        """Create the file."""
        self.file, self.module = folder / "wares.db", folder / "migrations" / "wares.py"
        self.module.parent.mkdir()
        self.url, self.source = libpq(url), f"sqlite:///{self.file}"
        self.execute(script)
        self.settings = {
            "MIGRATIONS_FOLDER": str(self.module.parent),
            "PIPELINE_HOME": str(folder / "home"),
            "DATABASE_URL": self.url,
            "MAX_DELETE_SHARE": "1",
        }

    def execute(self, script: str) -> None:
        """Change the file."""
        with closing(sqlite3.connect(self.file)) as source, source:
            source.executescript(script)

    def new(self, *options: str) -> Ran:
        """Write the module."""
        ran = self("new", "wares", "--from", self.source, *options)
        self.settings["MIGRATIONS"] = "wares"
        return ran

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> Ran:
        """Run a command that ends so."""
        ran = pipeline(*arguments, **{**self.settings, **more})
        assert ran.code == code, ran.out + ran.err
        return ran


@pytest.fixture
def wares(
    server: URL, dagster_tables: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Warehouse]:
    """A file with all that a declaration can say."""
    with new_database(server, "wares", template=dagster_tables) as url:
        yield Warehouse(tmp_path, url, getattr(request, "param", WAREHOUSE))


@pytest.mark.parametrize("wares", [WAREHOUSE, ODD], ids=["usual", "odd"], indirect=True)
def test_a_migration_makes_the_tables_that_a_copy_makes(wares: Warehouse, server: URL) -> None:
    with new_database(server, "copied") as url:
        wares("copy", wares.source, libpq(url))
        copied = catalog(libpq(url))
    wares.new()
    wares("migrate", "wares")
    made = catalog(wares.url)
    for kind, found in made.items():
        assert sorted(found ^ copied[kind]) == [], kind
    assert {
        len(copied[kind]) > 1 for kind in ("columns", "constraints", "indexes", "sequences")
    } == {True}


NOTES = """
CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, above INTEGER REFERENCES books);
CREATE TABLE notes (
  id INTEGER PRIMARY KEY, book INTEGER NOT NULL REFERENCES books, text TEXT, info JSON, at DATETIME,
  price DECIMAL(10,2), big TEXT, size INTEGER AS (length(text)) STORED, UNIQUE (book, at)
);
CREATE TABLE words (
  word TEXT PRIMARY KEY, note INTEGER REFERENCES notes ON DELETE CASCADE, seen DATETIME
);
INSERT INTO books VALUES (1, 'One', NULL), (2, 'Two', 1), (3, 'nul' || char(0), NULL), (4, 'F', 2);
INSERT INTO notes (id, book, text, info, at, price) VALUES
  (1, 1, 'a', '{"b":1, "b": 2.50}', '2024-01-02 03:04:05', 1.5), (2, 2, char(0), NULL, NULL, 2),
  (3, 1, 'c', '[1 ]', '2024-01-02T03:04:05.500', 3), (4, 4, 'd', NULL, '2024-01-02', NULL),
  (5, 4, CAST(x'ff61' AS TEXT), NULL, NULL, 1);
INSERT INTO words VALUES
  ('x', 1, '2024-01-01 00:00:00.1234567'), ('y', 4, NULL),
  ('w', 1, '2024-01-01 00:00:00.7654321');
"""
LATER = """
UPDATE notes SET text = 'again' WHERE id = 2; UPDATE notes SET text = char(0) WHERE id = 3;
UPDATE notes SET info = '{"k": 1, "k": 3}', price = 9.75 WHERE id = 1;
DELETE FROM words WHERE word = 'y';
UPDATE books SET title = 'cured' WHERE id = 3;
UPDATE books SET title = 'F' || char(0) WHERE id = 4;
INSERT INTO books VALUES (5, 'Under', 3);
INSERT INTO notes (id, book, at) VALUES (6, 5, '2025-01-01');
UPDATE words SET word = 'xx' WHERE word = 'x';
UPDATE words SET seen = '2024-01-01' WHERE word = 'w';
UPDATE notes SET at = '2024-01-02 00:00:00.9999999' WHERE id = 2;
"""
KEPT = {
    "books": "SELECT * FROM books",
    "notes": "SELECT * FROM notes",
    "words": "SELECT * FROM words",
    "quarantine": "SELECT table_name, row_id, source_key, reasons FROM migration.quarantine",
    "values": "SELECT table_name, row_id, column_name, position, storage, value::text"
    " FROM migration.quarantine_values",
    "conversions": "SELECT c::text FROM (SELECT to_jsonb(c) - 'run_id' - 'at' AS c"
    " FROM migration.conversions AS c) AS c",
    "marks": "SELECT table_name, rows, rules FROM migration.watermarks",
}


def kept(url: str) -> dict[str, list[str]]:
    """The rows of both schemas, without what names a run."""
    return {name: sorted(map(str, query(url, sql))) for name, sql in KEPT.items()}


@pytest.mark.parametrize("mode", ["tracked", pytest.param("compared", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wares", [NOTES], ids=["notes"], indirect=True)
def test_a_copy_with_quarantine_becomes_what_a_migration_would_have_made(
    wares: Warehouse, server: URL, mode: str
) -> None:
    casts = ("--cast", "notes.at=timestamp", "--cast", "words.seen=timestamp")
    wares("copy", wares.source, wares.url, *casts, code=1)
    assert [len(kept(wares.url)[name]) for name in ("quarantine", "conversions")] == [3, 2]
    wares.new(*casts)
    child = "INSERT INTO notes (id, book) VALUES (7, 3)"
    for number, script in enumerate(("", child, LATER)):
        wares.execute(script)
        wares("sync" if number else "migrate", "wares", QUARANTINE_SHARE="1")
        if mode == "tracked" and not number:
            wares("track", "on", "wares")
        with new_database(server, "fresh") as url:
            fresh = libpq(url)
            wares("migrate", "wares", QUARANTINE_SHARE="1", DATABASE_URL=fresh)
            assert kept(wares.url) == kept(fresh), script
    assert "proven" in wares("verify", "wares").out
