"""Dumps as programs write them: what holds rows is read, and each refusal names line and remedy."""

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump
from pipeline_tests.support.dumps import HEAD, TABLE, TAIL

ROWS = "INSERT INTO t VALUES(1,'กิน; it''s');\nINSERT INTO t VALUES(2,X'00FF');\n"
WHOLE = HEAD + TABLE + ROWS + TAIL
EXPECTED = [(1, "กิน; it's"), (2, b"\x00\xff")]


class Read:
    """A dump that was read: its file and what was said."""

    def __init__(self, folder: Path, data: bytes | str) -> None:
        """Build the file."""
        dump = folder / "x.sql"
        dump.write_bytes(data if isinstance(data, bytes) else data.encode())
        self.said: list[str] = []
        self.path = fetch(Dump(dump), home=folder / "home", log=self.said.append)

    def rows(self, sql: str = "SELECT * FROM t ORDER BY 1") -> list[tuple[object, ...]]:
        """What the file holds."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    "data",
    {
        "UTF-8 with a byte order mark": WHOLE.encode("utf-8-sig"),
        "UTF-16, little endian": b"\xff\xfe" + WHOLE.encode("utf-16-le"),
        "UTF-16, big endian": b"\xfe\xff" + WHOLE.encode("utf-16-be"),
        "CRLF": WHOLE.replace("\n", "\r\n").encode(),
        "gzip": gzip.compress(WHOLE.encode()),
        "gzip with a byte order mark": gzip.compress(WHOLE.encode("utf-8-sig")),
        "comments": f"-- it's; a\n/* comment; */{WHOLE}-- end".encode(),
        "no last semicolon": WHOLE.encode().rstrip(b";\n"),
        "no BEGIN": (TABLE + ROWS).encode(),
        "several rows": (
            HEAD + TABLE + "INSERT INTO t VALUES (1,'กิน; it''s'),\n (2,X'00FF');\n" + TAIL
        ).encode(),
        "column lists": (
            HEAD
            + 'CREATE TABLE IF NOT EXISTS "t" ("id" INTEGER, [v] TEXT);\n'
            + "INSERT OR IGNORE INTO `t` (v, id) VALUES ('กิน; it''s',1);\n"
            + "REPLACE INTO main.t ('id','v') VALUES (2,x'00ff');\n"
            + TAIL
        ).encode(),
        "pragmas": (
            "PRAGMA foreign_keys = off;\nPRAGMA encoding='UTF-8';\nPRAGMA user_version(3);\n"
            "PRAGMA defer_foreign_keys=TRUE;\nPRAGMA journal_mode=WAL;\nPRAGMA temp_store=2;\n"
            "PRAGMA writable_schema=RESET;\nDROP TABLE IF EXISTS t;\n"
            f"{WHOLE}PRAGMA foreign_keys = on;\n"
        ).encode(),
        "an index and a trigger before their table": (
            HEAD
            + "CREATE INDEX i ON t (v);\n"
            + "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO t VALUES (9, 9); END;\n"
            + TABLE
            + ROWS
            + TAIL
        ).encode(),
        "a trigger before the rows": (
            HEAD
            + TABLE
            + "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END;\n"
            + ROWS
            + TAIL
        ).encode(),
        "a vector index": (
            HEAD
            + TABLE
            + "CREATE INDEX vec ON t (libsql_vector_idx(v, 'metric=cosine'));\n"
            + ROWS
            + TAIL
        ).encode(),
        "a collation of the application": (
            HEAD
            + "CREATE TABLE t (id INTEGER, v TEXT COLLATE unicase UNIQUE);\n"
            + ROWS
            + "CREATE INDEX i ON t (v COLLATE unicase);\n"
            + TAIL
        ).encode(),
        "a CHECK with a function of the application": (
            HEAD
            + "CREATE TABLE t (id INTEGER, v CHECK (regexp('x', v) AND is_ok(v)));\n"
            + ROWS
            + TAIL
        ).encode(),
        "counters without a table with AUTOINCREMENT": (
            HEAD
            + "DELETE FROM sqlite_sequence;\nINSERT INTO \"sqlite_sequence\" VALUES('t',9);\n"
            + TABLE
            + ROWS
            + TAIL
        ).encode(),
        "a virtual table and its rows": (
            HEAD
            + "CREATE VIRTUAL TABLE IF NOT EXISTS 'words' USING fts5(w);\n"
            + "INSERT INTO \"words\" VALUES ('x');\n"
            + TABLE
            + ROWS
            + TAIL
        ).encode(),
        "statistics": (
            HEAD
            + TABLE
            + "CREATE TABLE sqlite_stat1(tbl,idx,stat);\nANALYZE;\n"
            + "INSERT INTO \"sqlite_stat1\" VALUES('t',NULL,'3');\n"
            + ROWS
            + TAIL
        ).encode(),
        "of .recover": (".dbconfig defensive off\n" + WHOLE).encode(),
        "two dumps, one after the other": f"{HEAD}CREATE TABLE u (x);\n{TAIL}{WHOLE}".encode(),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_what_can_be_read_safely_is_read(data: tuple[str, bytes], tmp_path: Path) -> None:
    read = Read(tmp_path, data[1])
    assert read.rows() == EXPECTED
    if b"unicase" not in data[1] and b"is_ok" not in data[1]:
        assert read.rows("PRAGMA integrity_check") == [("ok",)]


def test_counters_are_those_of_the_dump(tmp_path: Path) -> None:
    counter = "DELETE FROM sqlite_sequence;\nINSERT INTO sqlite_sequence VALUES('t',40);\n"
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v);\n"
    for number, text in enumerate((counter + table + ROWS, table + ROWS + counter)):
        (folder := tmp_path / str(number)).mkdir()
        read = Read(folder, HEAD + text + TAIL)
        assert read.rows("SELECT * FROM sqlite_sequence") == [("t", 40)]


def test_many_rows_in_one_statement_are_read(tmp_path: Path) -> None:
    rows = ",".join(f"({n},'x'||{n})" for n in range(100_000))
    read = Read(tmp_path, f"{HEAD}{TABLE}INSERT INTO t VALUES {rows};\n{TAIL}")
    assert read.rows("SELECT count(*), max(v) FROM t") == [(100_000, "x99999")]


def test_what_is_skipped_is_said(tmp_path: Path) -> None:
    text = TABLE + 'CREATE INDEX "vec" ON t (libsql_vector_idx(v));\n' + ROWS
    assert [line.partition(": ")[2] for line in Read(tmp_path, text).said] == [
        "index vec was skipped, because it needs function libsql_vector_idx; it contains no rows",
        "the dump has no BEGIN and COMMIT, so a missing end would not be noticed; compare the"
        " numbers of rows with the database",
    ]


@pytest.mark.parametrize(
    ("data", "problem", "remedy"),
    [
        (b"", "x.sql is not a dump: it is empty", "Use a file that sqlite3 FILE .dump"),
        (b"\xef\xbb\xbf", "x.sql is not a dump: it contains no statement", "Use a file"),
        (
            gzip.compress(WHOLE.encode())[:-30],
            "cannot be decompressed (Compressed file ended before",
            "Copy or create it again",
        ),
        (b"\xff\xfe" + WHOLE.encode("utf-16-le")[:-3], "is not valid UTF-16", "Create it again"),
        (b"PK\x03\x04rest", "x.sql is a ZIP archive", "Unpack it first"),
        (b"\xfd7zXZ\x00rest", "x.sql is compressed with xz", "Decompress it first: xz -dk /"),
        (b"SQLite format 3\x00", "is an SQLite database, not a dump", "sqlite:////"),
        (
            b"--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\n",
            "x.sql is a dump of PostgreSQL, not of SQLite",
            "Use a dump that sqlite3",
        ),
        (b"PGDMP\x01\x0e", "x.sql is a dump of PostgreSQL, not of SQLite", "Use a dump"),
        (
            b"-- MySQL dump 10.13\n/*!40101 SET NAMES utf8 */;\nCREATE TABLE `t` (`id` int"
            b" AUTO_INCREMENT) ENGINE=InnoDB;\n",
            "x.sql is a dump of MySQL or MariaDB, not of SQLite",
            "Use a dump",
        ),
        (
            HEAD + TABLE + ROWS,
            "is incomplete: it ends after line 5 without the COMMIT of its BEGIN in line 2",
            "Create it again",
        ),
        (HEAD + TABLE + ROWS[:-9], "the statement that begins in line 5", "Create it again"),
        (TABLE + ROWS[:-9], "the statement that begins in line 3", "Create it again"),
        (TABLE + ROWS + TAIL, "its beginning is missing", "Create the dump again"),
        (
            HEAD + TABLE + "/**** ERROR: (11) damaged *****/\nROLLBACK; -- due to errors\n",
            "ends with ROLLBACK in line 5",
            "create the dump again",
        ),
        (
            HEAD + TABLE + "INSERT INTO t SELECT 3, v FROM t;\n" + TAIL,
            "Line 4 of the dump {} (INSERT INTO t SELECT 3, v FROM t) runs a query",
            "execute it with sqlite3 and use the database as the source: sqlite3 NEW.db < {}",
        ),
        (
            HEAD + TABLE + ROWS + "DELETE FROM t WHERE id = 1;\n" + TAIL,
            "Line 6 of the dump {} (DELETE FROM t WHERE id) deletes rows of t; a dump may only"
            " create and fill tables",
            "sqlite3 NEW.db < {}",
        ),
        (
            HEAD + TABLE + ROWS + "DROP TABLE t;\n" + TAIL,
            "(DROP TABLE t) drops a part of the schema",
            "sqlite3 NEW.db < {}",
        ),
        (
            HEAD + TABLE + "INSERT INTO t VALUES (1, readfile('/etc/passwd'));\n" + TAIL,
            "(INSERT INTO t) calls readfile()",
            "sqlite3 NEW.db < {}",
        ),
        (
            HEAD + "CREATE TABLE t (id, v AS (secret_of(id)) STORED);\n" + ROWS[:14] + "(id)"
            " VALUES (1);\n" + TAIL,
            "Line 4 of the dump {} (INSERT INTO t) cannot be executed",
            "Create the dump again",
        ),
        (".mode insert\n" + WHOLE, "Line 1 of the dump {} has .mode, a command of the", "remove"),
        (
            HEAD + TABLE + "INSERT INTO other VALUES (1);\n" + TAIL,
            "Line 4 of the dump {} (INSERT INTO other) cannot be executed (no such table: other)",
            "Create the dump again",
        ),
    ],
)
def test_each_refusal_names_the_line_what_is_there_and_what_to_do(
    data: bytes | str, problem: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        Read(tmp_path, data)
    place = str(tmp_path / "x.sql")
    assert problem.replace("{}", place) in caught.value.problem
    assert remedy.replace("{}", place) in caught.value.remedy
    assert not {"..", ";.", ",.", ". ."} & {str(caught.value)[n : n + 2] for n in range(400)}
    assert not list(tmp_path.rglob("*.db"))
