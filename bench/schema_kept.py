"""What programs keep of a schema: each copies one SQLite file, and PostgreSQL's catalog is counted.

Run it with ``python -m bench.schema_kept [--dlt PYTHON] [--sling PROGRAM]``. It prints a table in
Markdown for each of two files. The second file lacks what made a program fail on the first: the
expression index, and BLOBs that are not valid texts. ``pipeline`` and pgloader are taken from the
path; dlt needs an interpreter that has dlt, psycopg2 and SQLAlchemy, Sling its program. Each runs
with its defaults. A program that is not there has no column.
"""

import argparse
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from bench.proxy import relay
from bench.server import Fresh, bench_server
from pipeline.config.settings import libpq

SCHEMA = """
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE team (
  id INTEGER PRIMARY KEY, name VARCHAR(40) NOT NULL, lead INTEGER REFERENCES person (id)
);
CREATE TABLE person (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  email TEXT NOT NULL COLLATE NOCASE UNIQUE,
  country TEXT REFERENCES country (code) ON UPDATE CASCADE ON DELETE SET NULL,
  boss INTEGER REFERENCES person (id),
  team INTEGER REFERENCES team (id),
  active BOOLEAN NOT NULL DEFAULT 1,
  born DATE,
  joined DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  salary DECIMAL(10,2) CHECK (salary >= 0),
  settings JSON,
  photo BLOB
);
CREATE TABLE membership (
  person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  team INTEGER NOT NULL REFERENCES team (id),
  role TEXT NOT NULL DEFAULT 'member' CHECK (role IN ('member', 'lead')),
  PRIMARY KEY (person, team)
);
CREATE TABLE badge (
  id INTEGER PRIMARY KEY, person INTEGER, team INTEGER, label TEXT,
  UNIQUE (person, label),
  FOREIGN KEY (person, team) REFERENCES membership (person, team) ON DELETE CASCADE
);
CREATE TABLE invoice (
  id INTEGER PRIMARY KEY, net INTEGER, tax INTEGER, paid INTEGER,
  gross INTEGER GENERATED ALWAYS AS (net + tax) STORED,
  CHECK (net > 0 OR tax = 0)
);
CREATE TABLE log (at DATETIME, message TEXT);
CREATE TABLE setting (name TEXT PRIMARY KEY, value);
CREATE INDEX person_place ON person (country, team);
CREATE INDEX person_born ON person (born DESC);
CREATE INDEX person_lower ON person (lower(email));
CREATE INDEX unpaid ON invoice (net) WHERE paid = 0;
CREATE UNIQUE INDEX one_lead ON membership (team) WHERE role = 'lead';
CREATE VIEW team_size AS SELECT team, count(*) AS people FROM membership GROUP BY team;
CREATE VIEW rich AS SELECT id, email FROM person WHERE salary > 1000;
"""
_PERSON = "INSERT INTO person VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
TABLES = ("country", "team", "person", "membership", "badge", "invoice", "log", "setting")


def make(path: Path, *, simple: bool = False) -> None:
    """Write the file: every constraint holds, and ``setting`` has NULLs in its primary key.

    Args:
        simple: without the expression index, and with BLOBs that are valid texts.
    """
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        many = connection.executemany
        many("INSERT INTO country VALUES (?, ?)", [("TH", "Thailand"), ("IS", "Iceland")])
        many("INSERT INTO team VALUES (?, ?, ?)", [(n, f"team {n}", n) for n in (1, 2)])
        if simple:
            connection.execute("DROP INDEX person_lower")
        blob = b"ab" if simple else b"\0\xff"
        joined, settings = "2024-05-06 07:08:09", '{"tags": ["a", "b"]}'
        many(
            _PERSON,
            [
                (
                    *(n, f"P{n}@example.org", ("TH", "IS")[n % 2], None if n == 1 else 1),
                    *(1 + n % 2, n % 2, f"19{n:02}-01-02", joined, n * 12.5, settings),
                    blob,
                )
                for n in range(1, 51)
            ],
        )
        members = [(n, 1 + n % 2, "lead" if n < 3 else "member") for n in range(1, 51)]
        many("INSERT INTO membership VALUES (?, ?, ?)", members)
        many(
            "INSERT INTO badge VALUES (?, ?, ?, ?)", [(n, n, 1 + n % 2, "b") for n in range(1, 51)]
        )
        many(
            "INSERT INTO invoice VALUES (?, ?, ?, ?)", [(n, n, n % 7, n % 2) for n in range(1, 51)]
        )
        many("INSERT INTO log VALUES (?, ?)", [(joined, "started")] * 3)
        values = [
            ("n", 1),
            ("r", 2.5),
            ("t", "text"),
            ("b", blob),
            (None, None),
            (None, "x"),
        ]
        many("INSERT INTO setting VALUES (?, ?)", values)


@dataclass(frozen=True)
class Kept:
    """Something that can be kept.

    Attributes:
        title: what it is.
        there: how often the file has it.
        sql: counts it in the schema of the search path.
    """

    title: str
    there: int
    sql: str


_OF = "FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace AND n.nspname = %(s)s"
_COLUMNS = f"""
SELECT count(*) {_OF} JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0
  LEFT JOIN pg_attrdef AS d ON (d.adrelid, d.adnum) = (r.oid, a.attnum)
WHERE r.relkind = 'r' AND r.relname IN %(t)s
"""
_INDEXES = f"""
SELECT count(*) {_OF} JOIN pg_index AS i ON i.indrelid = r.oid WHERE r.relname IN %(t)s
"""
_CONSTRAINTS = f"""
SELECT count(*) {_OF} JOIN pg_constraint AS c ON c.conrelid = r.oid WHERE r.relname IN %(t)s
"""


def _type(table: str, column: str, *types: str) -> str:
    listed = ", ".join(f"'{each}'" for each in types)
    return (
        f"{_COLUMNS} AND (r.relname, a.attname) = ('{table}', '{column}')"
        f" AND format_type(a.atttypid, a.atttypmod) IN ({listed})"
    )


_REQUIRED = (
    "(('country','name'),('team','name'),('person','email'),('person','active'),"
    "('person','joined'),('membership','role'))"
)
_DEFAULTS = "(('person','active'),('person','joined'),('membership','role'))"
_IDENTITIES = "(('team','id'),('person','id'),('badge','id'),('invoice','id'))"
_NAMED = " AND (r.relname, a.attname) IN "
KEPT = (
    Kept("tables", 8, f"SELECT count(*) {_OF} WHERE r.relkind = 'r' AND r.relname IN %(t)s"),
    Kept("primary keys", 7, f"{_CONSTRAINTS} AND contype = 'p'"),
    Kept("composite primary keys", 1, f"{_CONSTRAINTS} AND contype = 'p' AND conkey[2] > 0"),
    Kept("NOT NULL columns", 6, f"{_COLUMNS}{_NAMED}{_REQUIRED} AND attnotnull"),
    Kept(
        "unique keys without a condition",
        2,
        f"{_INDEXES} AND indisunique AND NOT indisprimary AND indpred IS NULL"
        " AND r.relname <> 'setting' AND i.indexrelid::regclass::text NOT LIKE '%%_dlt_%%'",
    ),
    Kept(
        "unique without case (NOCASE)",
        1,
        f"{_INDEXES} AND indisunique AND r.relname = 'person' AND NOT indisprimary"
        " AND pg_get_indexdef(indexrelid) ~ 'lower|COLLATE'",
    ),
    Kept("CHECK constraints", 3, f"{_CONSTRAINTS} AND contype = 'c'"),
    Kept(
        "defaults",
        3,
        f"{_COLUMNS}{_NAMED}{_DEFAULTS} AND d.oid IS NOT NULL",
    ),
    Kept(
        "ids assigned by the server",
        4,
        f"{_COLUMNS}{_NAMED}{_IDENTITIES}"
        " AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval%%')",
    ),
    Kept("generated columns", 1, f"{_COLUMNS} AND attgenerated <> ''"),
    Kept("foreign keys", 7, f"{_CONSTRAINTS} AND contype = 'f'"),
    Kept("composite foreign keys", 1, f"{_CONSTRAINTS} AND contype = 'f' AND conkey[2] > 0"),
    Kept(
        "foreign keys with their actions",
        3,
        f"{_CONSTRAINTS} AND contype = 'f' AND (confdeltype IN ('c', 'n') OR confupdtype = 'c')",
    ),
    Kept(
        "other indexes",
        2,
        f"{_INDEXES} AND NOT indisunique AND indpred IS NULL AND indexprs IS NULL"
        " AND r.relname = 'person'",
    ),
    Kept("expression indexes", 1, f"{_INDEXES} AND indexprs IS NOT NULL AND NOT indisunique"),
    Kept("partial indexes", 2, f"{_INDEXES} AND indpred IS NOT NULL"),
    Kept("views", 2, f"SELECT count(*) {_OF} WHERE r.relkind = 'v'"),
    Kept("BOOLEAN as boolean", 1, _type("person", "active", "boolean")),
    Kept("DECIMAL(10,2) as numeric(10,2)", 1, _type("person", "salary", "numeric(10,2)")),
    Kept("DATE as date", 1, _type("person", "born", "date")),
    Kept(
        "DATETIME as a timestamp",
        1,
        _type("person", "joined", "timestamp without time zone", "timestamp with time zone"),
    ),
    Kept("BLOB as bytea", 1, _type("person", "photo", "bytea")),
    Kept("JSON as json or jsonb", 1, _type("person", "settings", "json", "jsonb")),
    Kept("VARCHAR(40) as varchar(40)", 1, _type("team", "name", "character varying(40)")),
)
"""``setting`` may have no primary key: NULLs are in it."""


def count(url: str, schema: str) -> dict[str, int]:
    """What the target has, by title; rows included."""
    found: dict[str, int] = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        given = {"s": schema, "t": TABLES}
        for each in KEPT:
            cursor.execute(each.sql, given)
            (found[each.title],) = cursor.fetchone() or (0,)
        rows = 0
        for table in TABLES:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f'"{schema}"."{table}"',))
            if cursor.fetchone() == (True,):
                cursor.execute(f'SELECT count(*) FROM "{schema}"."{table}"')
                rows += (cursor.fetchone() or (0,))[0]
    return {"rows": rows} | found


def rows_of(path: Path) -> int:
    """All rows of the file."""
    with closing(sqlite3.connect(path)) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES)


_DLT = """
import sys
import dlt
from dlt.sources.sql_database import sql_database
source = sql_database("sqlite:///" + sys.argv[1])
target = dlt.destinations.postgres(sys.argv[2])
made = dlt.pipeline("kept", destination=target, dataset_name="kept", pipelines_dir=sys.argv[3])
made.run(source)
"""


@dataclass(frozen=True)
class Way:
    """A program: its name, its version, the schema that it writes, and how to run it."""

    name: str
    version: str
    schema: str
    run: Callable[[Path, str, str], subprocess.CompletedProcess[str]]


def _ran(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as home:
        kept = {"PATH": "/usr/bin:/bin", "HOME": home, "PIPELINE_HOME": home}
        return subprocess.run(
            command,
            env=kept | variables,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


def _version(*command: str) -> str:
    found = re.search(r"\d+\.\d+[\w.~]*", _ran(*command).stdout)
    return found.group() if found else ""


def ways(dlt: str | None, sling: str | None) -> Iterator[Way]:
    """The programs that are there."""
    pipeline = str(Path(sys.executable).with_name("pipeline"))
    yield Way(
        "pipeline copy",
        "",
        "public",
        lambda path, url, _: _ran(pipeline, "copy", f"sqlite:///{path}", url),
    )
    pgloader = shutil.which("pgloader")
    if pgloader:
        yield Way(
            "pgloader",
            _version(pgloader, "--version"),
            "public",
            lambda path, _, tcp: _ran(pgloader, str(path), tcp),
        )
    if dlt:
        yield Way(
            "dlt",
            _version(dlt, "-c", "import dlt; print(dlt.__version__)"),
            "kept",
            lambda path, _, tcp: _ran(dlt, "-c", _DLT, str(path), tcp, f"{path}.dlt"),
        )
    if sling:
        yield Way(
            "Sling",
            _version(sling, "--version"),
            "public",
            lambda path, _, tcp: _sling(sling, path, tcp),
        )


def _sling(sling: str, path: Path, url: str) -> subprocess.CompletedProcess[str]:
    replication: dict[str, Any] = {
        "source": "FILE",
        "target": "TARGET",
        "defaults": {"mode": "full-refresh", "object": "public.{stream_table}"},
        "streams": {f"main.{table}": None for table in TABLES},
    }
    command = path.with_suffix(".json")
    command.write_text(json.dumps(replication))
    return _ran(
        sling, "run", "-r", str(command), FILE=f"sqlite://{path}", TARGET=f"{url}?sslmode=disable"
    )


def _table(programs: Sequence[Way], fresh: Fresh, *, simple: bool) -> None:
    """Run each program, and print a table; what they write goes to standard error."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.db"
        make(path, simple=simple)
        expected = {"rows": rows_of(path)} | {each.title: each.there for each in KEPT}
        if simple:
            del expected["expression indexes"]
        for way in programs:
            url = fresh()
            with relay(url) as near:
                tcp = libpq(near.url.set(password="x"))
                ran = way.run(path, url, tcp)
            name = f"{way.name} {way.version}".strip()
            output = f"{ran.stdout}{ran.stderr}"
            print(f"== {name}: exit code {ran.returncode}\n{output}", file=sys.stderr)
            found[name] = count(url, way.schema) | {"exit code": ran.returncode}
    print(f"| | in the file | {' | '.join(found)} |")
    print(f"|---|---:|{'---:|' * len(found)}")
    codes = " | ".join(str(each["exit code"]) for each in found.values())
    print(f"| exit code | | {codes} |")
    for title, there in expected.items():
        print(f"| {title} | {there} | {' | '.join(str(each[title]) for each in found.values())} |")
    print()


def main() -> int:
    """Run all programs on both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dlt", help="an interpreter that has dlt")
    parser.add_argument("--sling", help="the program of Sling")
    given = parser.parse_args()
    with bench_server() as fresh:
        for simple in (False, True):
            _table(list(ways(given.dlt, given.sling)), fresh, simple=simple)
    return 0


if __name__ == "__main__":
    sys.exit(main())
