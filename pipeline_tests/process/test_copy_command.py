"""``pipeline copy`` as a user runs it: what it prints, its exit codes, and its evidence."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.cli.commands import display
from pipeline.config.settings import libpq
from pipeline.core.progress import Progress, waiting, watched_by
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.terminals import on_terminal, text

SHOP = """
CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, added_at INTEGER);
CREATE TABLE "order" (
  id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer (id), total DECIMAL(9,2)
);
CREATE TABLE "ตาราง" (note TEXT);
CREATE VIEW spent AS
  SELECT customer, sum(total) AS total FROM "order" GROUP BY customer;
CREATE VIEW recent AS SELECT id FROM customer WHERE added_at > unixepoch('now', '-1 day');
CREATE TRIGGER a AFTER DELETE ON customer BEGIN SELECT 1; END;
CREATE TRIGGER b AFTER UPDATE ON customer BEGIN SELECT 1; END;
INSERT INTO customer (name, added_at) VALUES ('Ada', 1700000000), ('Bob', 1700000060);
INSERT INTO "order" VALUES (1, 1, 12.5), (2, 1, 0.07), (3, 9, 20);
INSERT INTO "ตาราง" VALUES ('ก'), ('a' || char(0));
"""
FIRST = """\
source  SHOP
target  TARGET
  customer  copied     2 rows  54 B
  order     copied     3 rows  72 B
  ตาราง     copied     2 rows  21 B  1 row in quarantine
In quarantine
table  rows  why                         row ids
ตาราง     1  note holds a NUL character  2

Not carried
table     what                                why
order     foreign key (customer) to customer  1 row does not meet it
customer  trigger a, b                        PostgreSQL needs a function instead, which has to be \
written by hand
          view recent                         it calls unixepoch with modifiers

Proposals
option                            why
--cast customer.added_at=seconds  the values look like seconds since 1970, so 1700000000 is \
2023-11-14 22:13:20 UTC
--cast 'ตาราง.note=bytea'         1 text has a NUL or is not valid UTF-8, so only bytea can hold it

evidence EVIDENCE
3 tables (3 copied), 7 rows: 1 row in quarantine
"""


def made(path: Path, statements: str) -> Path:
    """An SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    return path


def copied(path: Path, target: str, home: Path, *options: str) -> Ran:
    return pipeline("copy", f"sqlite:///{path}", target, *options, PIPELINE_HOME=home)


def evidence_of(ran: Ran) -> Path:
    (line,) = (each for each in ran.out.splitlines() if each.startswith("evidence "))
    return Path(line.removeprefix("evidence "))


def test_a_copy_prints_each_table_what_is_not_carried_and_the_outcome(
    target_url: str, tmp_path: Path
) -> None:
    shop, home = made(tmp_path / "shop.db", SHOP), tmp_path / "home"
    ran = copied(shop, target_url, home)
    printed = ran.out.replace(str(shop), "SHOP").replace(str(evidence_of(ran)), "EVIDENCE")
    head, _, rest = printed.partition("\n  ")
    tables, _, end = f"  {rest}".partition("In quarantine")
    # Two sessions copy; the tables are printed as they end.
    expected_tables, _, expected_end = FIRST.partition("In quarantine")
    assert sorted(tables.splitlines()) == sorted(expected_tables.splitlines()[2:])
    assert end == expected_end
    assert head.splitlines()[0] == "source  SHOP"
    assert (ran.code, ran.err) == (1, "")
    with closing(sqlite3.connect(shop)) as connection, connection:
        connection.execute("DELETE FROM \"ตาราง\" WHERE note LIKE 'a%'")
        connection.execute("UPDATE customer SET name = 'Eve' WHERE id = 2")
    verified = copied(shop, target_url, home, "--verify")
    wanted = "a copy would write 1 row and delete 1"
    assert verified.row("customer") == ["differs", "2 rows", "54 B", wanted]
    assert verified.out.splitlines()[-1].endswith("6 rows: 1 not proven")
    assert "Proposals" not in verified.out
    again = copied(shop, target_url, home)
    assert again.row("customer") == ["updated", "2 rows", "54 B", "1 row written, 1 deleted"]
    assert again.row("order")[0] == "unchanged"
    assert again.out.splitlines()[-1].startswith("3 tables (")
    assert ": every value proven in " in again.out.splitlines()[-1]
    assert again.code == 0


def test_the_evidence_of_a_copy_has_its_census_and_what_stayed_behind(
    target_url: str, tmp_path: Path
) -> None:
    shop, home = made(tmp_path / "shop.db", SHOP), tmp_path / "home"
    page = evidence_of(copied(shop, target_url, home, "--schema", "shop"))
    data = json.loads(page.with_name("evidence.json").read_text())
    tables = {table["table"]: table for table in data["tables"]}
    assert not data["proven"]
    assert (tables["shop.order"]["proven"], tables["shop.ตาราง"]["proven"]) == (True, False)
    assert tables["shop.order"]["witnessed"] == 3
    assert set(tables["shop.order"]["digests"]) == {"id", "customer", "total"}
    assert data["census"]["shop.order"]["columns"]["total"] == {
        "declared": "DECIMAL(9,2)",
        "type": "numeric(9,2)",
        "why": "declared DECIMAL(9,2), and all values fit",
        "hint": None,
    }
    (reason,) = tables["shop.ตาราง"]["reasons"]
    assert (reason["reason"], reason["examples"]) == ("holds a NUL character", ["2"])
    assert data["views"] == ["spent"]
    html = page.read_text()
    for expected in (
        "Not proven",
        "shop.ตาราง</a>:\n        1 row in quarantine",
        "1 row does not meet it",
        "holds a NUL character",
        "numeric(9,2)",
        "--cast customer.added_at=seconds",
        tables["shop.order"]["digests"]["total"],
    ):
        assert expected in html
    # As JSON it is the same, and its path is in it.
    ran = copied(shop, target_url, home, "--schema", "shop", "--json")
    printed = json.loads(ran.out)
    assert printed["census"] == data["census"]
    assert Path(printed["evidence"]).exists()


def test_tables_that_fail_are_in_the_evidence_too(target_url: str, tmp_path: Path) -> None:
    shop, home = made(tmp_path / "shop.db", SHOP), tmp_path / "home"
    ran = copied(shop, target_url, home, "--verify")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "3 tables (3 failed), 7 rows: 3 not proven"
    html = evidence_of(ran).read_text()
    assert "order was never copied. Run the copy without --verify." in html
    assert "Rolled back: the target is as it was before." in html


def test_a_copy_that_cannot_start_says_why_in_one_sentence(
    database: URL, target_url: str, tmp_path: Path
) -> None:
    shop, home = made(tmp_path / "shop.db", SHOP), tmp_path / "home"
    (tmp_path / "text.db").write_text("this is no database")
    with closing(psycopg2.connect(target_url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute('CREATE TABLE "order" (id int)')
        cursor.execute("CREATE ROLE weak LOGIN PASSWORD 'geheim'")
        cursor.execute(f"GRANT CREATE ON DATABASE {database.database} TO weak")
    weak = libpq(database.set(username="weak", password="geheim"))
    url = f"sqlite:///{shop}"
    cases = [
        ([str(shop), target_url], "SOURCE is not a URL. Write it as sqlite:///PATH, "),
        ([f"{url}x", target_url], f"There is no source at {shop}x. Set SOURCE to sqlite:///PATH"),
        ([f"sqlite:///{tmp_path}/text.db", target_url], "Check that SOURCE names the right file."),
        ([url, "mysql://u:geheim@h/d"], "TARGET is not a PostgreSQL URL. Write it as postgresql:"),
        ([url, "postgresql://u:geheim@127.0.0.1:1/d"], "Check the host and port in TARGET "),
        ([url, target_url, "--exclude", "orders"], "--exclude names orders, which the source does"),
        ([url, target_url, "--cast", "order.x=int"], "but the table order has no such column."),
        ([url, target_url, "--cast", "order.total"], "Write it as --cast table.column=type."),
        ([url, target_url, "--schema", "migration"], "which belongs to PostgreSQL or to the"),
        ([url, target_url], "The target has a table order that was not made by a copy."),
        ([url, weak, "--exclude", "order"], 'GRANT CREATE ON SCHEMA "public" TO "weak"'),
    ]
    try:
        for arguments, expected in cases:
            ran = pipeline("copy", *arguments, PIPELINE_HOME=home)
            assert ran.code == 2, ran
            assert expected in ran.err, ran.err
            assert len(ran.err.splitlines()) == 1
            assert "geheim" not in ran.out + ran.err
            assert not list(home.glob("reports/*"))
    finally:
        with closing(psycopg2.connect(target_url)) as connection, connection:
            connection.cursor().execute("DROP OWNED BY weak; DROP ROLE weak")


def test_a_table_whose_names_cannot_be_read_is_left_behind(target_url: str, tmp_path: Path) -> None:
    path = made(tmp_path / "app.db", "CREATE TABLE t (a); CREATE TABLE abcd (a)")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET name = CAST(x'ff626364' AS TEXT),"
            " tbl_name = CAST(x'ff626364' AS TEXT),"
            " sql = CAST(CAST('CREATE TABLE \"' AS BLOB) || x'ff626364' || CAST('\" (a)' AS BLOB)"
            " AS TEXT) WHERE name = 'abcd'"
        )
    ran = copied(path, target_url, tmp_path / "home")
    assert ran.row("\ufffdbcd") == ["its name is not UTF-8"]
    assert ran.out.splitlines()[-1] == "1 table (1 copied), 0 rows: 1 left behind"
    assert ran.code == 1


def test_lines_of_tables_stay_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        on_terminal(monkeypatch) as shown,
        display.Display() as bars,
        watched_by(bars),
        waiting("copying"),
    ):
        bars(Progress("one", "load", 10, 10, 2**20, 1.0))
        bars(Progress("two", "load", 5, 10, 2**20, 1.0))
        _until(lambda: "one, load" in text(shown))
        display.say("one is copied")
        _until(lambda: "one is copied" in text(shown))
        after = len(shown)
        _until(lambda: "two, load" in text(shown[after + 1 :]))
        assert "one, load" not in text(shown[after + 1 :])


def _until(condition: "Callable[[], bool]") -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
