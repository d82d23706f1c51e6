"""Dumps of SQLite databases as text."""

import sqlite3
from contextlib import closing
from pathlib import Path

HEAD, TAIL = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", "COMMIT;\n"


TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v);\n"


SCHEMA = """
CREATE TABLE "it's" (id INTEGER PRIMARY KEY AUTOINCREMENT, "a;b" TEXT CHECK ("a;b" <> ';'),
  r REAL, b BLOB, n, up TEXT AS (upper("a;b")) STORED); -- a comment; with 'quotes
CREATE TABLE kept (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE INDEX by_lower ON "it's" (lower("a;b")) WHERE r > 0;
CREATE TRIGGER told AFTER INSERT ON "it's" WHEN NEW.id > 5 BEGIN
  INSERT OR REPLACE INTO kept VALUES ('last; END;', CASE NEW.n WHEN 1 THEN 'one' END);
  UPDATE kept SET v = 'x;' WHERE k = ''; END;
CREATE VIEW seen AS SELECT 'a;' AS c FROM "it's";
"""


VALUES = [
    "it's; -- no /* comment",
    "two\nlines\r\nand \\n",
    "ไก่ 🐔 ก้ำ",
    "\x01\x1f\ttab",
    "",
    None,
    b"",
    bytes(range(256)),
    "'" * 9 + ";" * 3,
    '[x] `y` "z',
]


def rich(path: Path) -> Path:
    """A database with all that a dump has to spell out."""
    with closing(sqlite3.connect(path)) as made:
        made.executescript(SCHEMA)
        for value in VALUES:
            made.execute(
                'INSERT INTO "it\'s" ("a;b", r, b, n) VALUES (?, ?, ?, ?)',
                (value if isinstance(value, str) else None, 0.1, value, 2**63 - 1),
            )
        made.execute("""INSERT INTO "it's" (id, r, n) VALUES (90, 9e999, -1e-300)""")
        made.execute("""DELETE FROM "it's" WHERE id = 90""")
        made.execute("""INSERT INTO "it's" (id, r) VALUES (80, -9e999)""")
        made.commit()
    return path


def text(path: Path, *lines: str, whole: bool = True) -> Path:
    """A dump of a test's own."""
    path.write_text((HEAD + "".join(lines) + TAIL) if whole else "".join(lines))
    return path


def large(path: Path, rows: int, *, each: int = 1) -> Path:
    value = "x" * each
    return text(path, TABLE, *(f"INSERT INTO t VALUES({n},'{value}');\n" for n in range(rows)))
