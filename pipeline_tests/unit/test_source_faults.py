"""SQLite's errors about a source become sentences that are true, and say what to do."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.sqlite import opening
from pipeline.sqlite.catalog.faults import unreadable

Spoil = Callable[[Path], None]


def script(sql: str) -> Spoil:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path)) as application:
            application.create_collation("unicase", lambda a, b: (a > b) - (a < b))
            application.create_function("shout", 1, str, deterministic=True)
            application.executescript(sql)

    return run


def patch(position: int, data: bytes) -> Spoil:
    def run(path: Path) -> None:
        script("CREATE TABLE t (x)")(path)
        with path.open("r+b") as file:
            file.seek(position)
            file.write(data)

    return run


FAULTS: dict[str, tuple[Spoil, str, str]] = {
    "collation": (
        script("CREATE TABLE t (x COLLATE unicase); INSERT INTO t VALUES (1), (2)"),
        "SELECT x FROM t ORDER BY x",
        "uses the collation unicase, which only the application has",
    ),
    "function": (
        script("CREATE TABLE t (x, y AS (shout(x)))"),
        "SELECT y FROM t",
        "calls shout(), which only the application has",
    ),
    "function of a view": (
        script("CREATE VIEW v AS SELECT shout(1)"),
        "SELECT * FROM v",
        "calls shout(), which only the application has",
    ),
    "unsafe function": (
        script("CREATE VIEW v AS SELECT load_extension('x')"),
        "SELECT * FROM v",
        "uses load_extension, which a file from elsewhere may not use",
    ),
    "definition": (
        script(
            "CREATE TABLE t (x); PRAGMA writable_schema = ON;"
            " UPDATE sqlite_master SET sql = 'CREATE TABLE t (x AS JSONB NEW SYNTAX)'"
        ),
        "SELECT * FROM t",
        "cannot read the definition of t in the source",
    ),
    "reference": (
        script(
            "CREATE TABLE p (x); CREATE TABLE c (y REFERENCES p(x)); INSERT INTO p VALUES (1);"
            " INSERT INTO c VALUES (1)"
        ),
        "PRAGMA foreign_key_check",
        "declares a foreign key to columns that are not unique",
    ),
    "table": (
        script("CREATE VIEW v AS SELECT * FROM gone"),
        "SELECT * FROM v",
        "refers to what it does not have (no such table: main.gone)",
    ),
    "value": (
        script("CREATE TABLE t (x)"),
        f"SELECT zeroblob({opening.VALUE_BYTES + 1})",
        "has a value larger than PostgreSQL can store",
    ),
    "format": (
        patch(44, (9).to_bytes(4, "big")),
        "SELECT * FROM t",
        "has a file format that SQLite",
    ),
    "encrypted": (
        patch(16, b"\xff" * 60),
        "SELECT * FROM t",
        "is encrypted or not an SQLite database",
    ),
    "damaged": (patch(4096, b"\xff" * 4096), "SELECT * FROM t", "is damaged or truncated"),
}


@pytest.mark.parametrize(("spoil", "query", "sentence"), FAULTS.values(), ids=FAULTS)
def test_an_error_of_sqlite_is_a_sentence_with_a_remedy(
    spoil: Spoil, query: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "source.db"
    spoil(path)
    with (
        pytest.raises(opening.UNREADABLE) as raised,
        closing(opening.connect(path, "ro")) as connection,
    ):
        connection.execute(query).fetchall()
    said = str(unreadable(path, raised.value))
    assert sentence in said
    assert str(path) in said
    # A problem, and a remedy.
    assert re.search(r"\. [A-Z].+\.$", said)
    assert "permissions" not in said


def test_a_locked_file_is_said_to_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    script("CREATE TABLE t (x)")(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(sqlite3.OperationalError) as raised,
            closing(opening.connect(path, "ro", timeout=0)) as connection,
        ):
            connection.execute("SELECT * FROM t")
    assert "is locked by another program" in str(unreadable(path, raised.value))


def test_a_reading_that_was_interrupted_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    script("CREATE TABLE t (x)")(path)
    with closing(opening.connect(path, "ro")) as connection:
        connection.set_progress_handler(lambda: 1, 1)
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("SELECT * FROM t").fetchall()
    assert str(unreadable(path, raised.value)).endswith("was interrupted. Run again.")


def test_a_full_disk_names_the_folder_of_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with closing(opening.connect(path, "rwc")) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("CREATE TABLE t (x)")
    said = str(unreadable(path, raised.value, copy=tmp_path / "runs" / "copy.db"))
    assert f"no space for the copy of {path} in {tmp_path / 'runs'}" in said
