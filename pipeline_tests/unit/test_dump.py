"""A dump becomes the database that it was made of, or nothing, and can do nothing else."""

import math
import os
import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.cli.commands import backups
from pipeline.config import settings
from pipeline.core.errors import SettingsError, SourceError
from pipeline.cutover import freezing
from pipeline.migrations.content import metadata
from pipeline.sqlite import sql_dump, tracking
from pipeline.sqlite.dump import statements
from pipeline.sqlite.dump.statements import Unfinished
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump, File, Remote, parse
from pipeline_tests.support.dumps import HEAD, SCHEMA, TABLE, TAIL, VALUES, large, rich, text


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """PIPELINE_HOME of a test."""
    return tmp_path / "home"


def refused(path: Path, home: Path) -> str:
    """What is said of a dump, of which nothing is left."""
    with pytest.raises(SourceError) as caught:
        fetch(Dump(path), home=home)
    assert not list(home.rglob("*.db"))
    return caught.value.problem


def by_python(database: Path) -> bytes:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump()).encode()


def test_a_dump_of_python_becomes_it_as_well(tmp_path: Path, home: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "p.db")) as made:
        made.executescript(TABLE)
        made.executemany("INSERT INTO t (v) VALUES (?)", [(value,) for value in VALUES])
        made.commit()
    (tmp_path / "x.sql").write_bytes(by_python(tmp_path / "p.db"))
    made_file = fetch(Dump(tmp_path / "x.sql"), home=home)
    with closing(sqlite3.connect(made_file)) as connection:
        found = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY id")]
    assert found == VALUES


@hypothesis_settings(max_examples=40)
@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(-(2**63), 2**63 - 1), st.none())))
def test_whatever_the_values_are_statements_are_told_apart(values: list[object]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        spelled = [
            connection.execute("SELECT quote(?)", (value,)).fetchone()[0]
            for value in values
            if not isinstance(value, str) or "\0" not in value
        ]
    lines = [f"INSERT INTO t VALUES({each});" for each in spelled]
    found = list(statements.statements(BytesIO("\n".join(lines).encode())))
    assert [each.sql.decode() for each in found] == lines
    starts = [1 + "\n".join(lines[:at]).count("\n") + bool(at) for at in range(len(lines))]
    assert [each.line for each in found] == starts


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
def test_statements_are_the_same_however_the_text_is_cut(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SCHEMA.encode() + b"-- last; 'words"
    expected = list(statements.statements(BytesIO(whole)))
    assert [each.sql.split()[1] for each in expected] == [
        *(b"TABLE", b"TABLE", b"INDEX", b"TRIGGER", b"VIEW")
    ]
    monkeypatch.setattr(statements, "_PIECE", piece)
    assert [(each.sql, each.line) for each in statements.statements(BytesIO(whole))] == [
        (each.sql, each.line) for each in expected
    ]


def test_no_more_of_a_text_than_a_statement_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "STATEMENT_BYTES", 3 * 2**20)

    class Endless(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return b"x'" * ((size or 0) // 2)

    with pytest.raises(Unfinished) as caught:
        list(statements.statements(Endless()))
    assert caught.value.long


def test_what_newer_shells_write_is_understood(tmp_path: Path, home: Path) -> None:
    path = text(
        tmp_path / "x.sql",
        TABLE,
        r"INSERT INTO t VALUES(1,unistr('a\u000ab\\c\+01f600\U00000e01'));" + "\n",
        r"INSERT INTO t VALUES(2,replace(replace('a\r\n','\r',char(13)),'\n',char(10)));" + "\n",
        "INSERT INTO t VALUES(3,-1e999);\n",
        "ANALYZE sqlite_schema;\nINSERT INTO sqlite_stat1 VALUES('t',NULL,'3');\n",
    )
    with closing(sqlite3.connect(fetch(Dump(path), home=home))) as connection:
        found = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY id")]
    assert found == ["a\nb\\c😀ก", "a\r\n", -math.inf]


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        ([HEAD, TABLE, "INSERT INTO t VALUES(1,2);\n"], "it ends after line 4"),
        ([HEAD, TABLE, "INSERT INTO t VALUES(1,\n'x"], "the statement that begins in line 4"),
        ([HEAD, TABLE, "ROLLBACK; -- due to errors\n"], "ends with ROLLBACK in line 4"),
        ([HEAD, TABLE, "INSERT INTO t VALUES(1;\n", TAIL], "Line 4 of the dump"),
        ([HEAD, TABLE, TAIL, TABLE], "Line 5 of the dump"),
        ([TABLE, TAIL], "line 2 ends a transaction that the dump does not begin"),
        (["Error: database is locked\n"], "begins a statement that never ends"),
        ([""], "is not a dump: it is empty"),
        (["-- nothing\n"], "is not a dump: it contains no statement"),
        ([".open /tmp/other.db\n", HEAD, TABLE, TAIL], "has .open, a command of the sqlite3"),
    ],
)
def test_what_is_no_whole_dump_is_refused_with_its_line(
    lines: list[str], detail: str, tmp_path: Path, home: Path
) -> None:
    path = text(tmp_path / "x.sql", *lines, whole=False)
    assert detail in refused(path, home)


def test_a_database_or_noise_is_no_dump(tmp_path: Path, home: Path) -> None:
    noise = random.Random(7).randbytes(300_000)
    for data in (rich(tmp_path / "rich.db").read_bytes(), noise):
        (tmp_path / "x.sql").write_bytes(data)
        assert "not a dump" in refused(tmp_path / "x.sql", home)


def test_a_dump_that_is_not_there_is_named(tmp_path: Path, home: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.sql", home)


@pytest.mark.parametrize(
    "line",
    [
        "ATTACH '{other}' AS o;",
        "VACUUM INTO '{other}';",
        "DETACH main;",
        "SELECT load_extension('{other}');",
        "SELECT writefile('{other}', 'x');",
        "INSERT INTO t VALUES(1, readfile('{other}'));",
        "INSERT INTO t VALUES(1, randomblob(200000000));",
        # Small, so that they are refused for what they call and not for want of room.
        "INSERT INTO t VALUES(1, randomblob(20));",
        "INSERT INTO t VALUES(1, zeroblob(20));",
        "INSERT INTO t VALUES(1, printf('%20d', 1));",
        "INSERT INTO t SELECT 1, 2;",
        "INSERT INTO t VALUES(1, (SELECT sql FROM sqlite_master));",
        "WITH RECURSIVE r(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM r) SELECT x FROM r;",
        "CREATE TABLE u AS SELECT 1;",
        "CREATE TEMP TABLE u (id);",
        "DELETE FROM t;",
        "UPDATE t SET v = 1;",
        "DROP TABLE t;",
        "ALTER TABLE t RENAME TO u;",
        "INSERT INTO sqlite_schema VALUES('table','x','x',2,'CREATE TABLE x (y)');",
        ".system touch {other}\n;",
        "EXPLAIN ATTACH '{other}' AS o;",
        "SAVEPOINT s;",
    ],
)
def test_a_hostile_dump_reaches_nothing(line: str, tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other"
    path = text(tmp_path / "x.sql", TABLE, line.replace("{other}", str(other)) + "\n")
    assert "ine 4" in refused(path, home)
    assert not other.exists()


def test_a_small_dump_makes_no_large_file(tmp_path: Path, home: Path) -> None:
    fill = "replace('" + "x" * 4000 + "','x','" + "y" * 4000 + "')"
    lines = [f"INSERT INTO t VALUES(NULL,{fill});\n" for _ in range(8)]
    full = refused(text(tmp_path / "x.sql", TABLE, *lines), home)
    assert "There is no space for the copy of the dump" in full and "(line " in full


def test_a_name_that_is_no_text_is_refused_by_its_line(tmp_path: Path, home: Path) -> None:
    path = text(tmp_path / "x.sql", TABLE)
    path.write_bytes(path.read_bytes().replace(b"COMMIT", b'CREATE TABLE "\xff" (x);\nCOMMIT'))
    assert "Line 4" in refused(path, home) and "not UTF-8" in refused(path, home)


def test_a_dump_is_read_anew_only_when_its_bytes_changed(tmp_path: Path, home: Path) -> None:
    path = text(tmp_path / "x.sql", TABLE)
    first = fetch(Dump(path), home=home).stat().st_ino
    assert fetch(Dump(path), home=home).stat().st_ino == first
    os.utime(path)
    assert fetch(Dump(path), home=home).stat().st_ino == first
    text(path, TABLE, "INSERT INTO t VALUES(1,2);\n")
    made = fetch(Dump(path), home=home)
    with closing(sqlite3.connect(made)) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == [(1, 2)]
    path.write_text(HEAD)
    with pytest.raises(SourceError):
        fetch(Dump(path), home=home)
    with closing(sqlite3.connect(made)) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == [(1, 2)]
    with pytest.raises(SourceError, match="is incomplete"):
        fetch(Dump(path), home=home)


def test_a_dump_that_is_still_written_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = text(tmp_path / "x.sql", *[TABLE])
    made = sql_dump._build

    def slowly(*args: Path, **kwargs: object) -> None:
        made(*args, **kwargs)  # type: ignore[arg-type]
        text(path, TABLE, "INSERT INTO t VALUES(1,2);\n")

    monkeypatch.setattr(sql_dump, "_build", slowly)
    with pytest.raises(SourceError, match="changed while it was read"):
        fetch(Dump(path), home=home)
    monkeypatch.undo()
    with closing(sqlite3.connect(fetch(Dump(path), home=home))) as connection:
        assert connection.execute("SELECT * FROM t").fetchall() == [(1, 2)]


def test_a_large_dump_says_how_far_it_is(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_dump, "_REPORT_BYTES", 2**20)
    said: list[str] = []
    fetch(Dump(large(tmp_path / "x.sql", 1000, each=4000)), home=home, log=said.append)
    assert [each.split(": ")[1] for each in said] == [f"{n} of 4 MiB read" for n in (1, 2, 3)]


def test_a_dump_is_not_written(tmp_path: Path, home: Path) -> None:
    made = fetch(Dump(text(tmp_path / "x.sql", TABLE)), home=home)
    before = made.read_bytes()
    tables = metadata.sorted_tables
    writers: Iterable[object] = (
        lambda: freezing.freeze(made, tables),
        lambda: freezing.unfreeze(made),
        lambda: tracking.switch_on(made, tables),
        lambda: tracking.switch_off(made),
    )
    for write in writers:
        with pytest.raises(SourceError, match=r"The source, the dump .*, cannot be written, which"):
            write()  # type: ignore[operator]
    assert made.read_bytes() == before


def test_a_backup_is_not_put_over_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_DATABASE_URL", f"dump:///{tmp_path / 'x.sql'}")
    with pytest.raises(SettingsError, match=r"cannot be restored over the dump .* --to PATH"):
        backups.restore_source(yes=True)


def test_urls_of_sources_are_read_in_one_place(tmp_path: Path) -> None:
    def read(url: str) -> object:
        return parse(url, token=None, name="SOURCE")

    assert read("sqlite:////a/b.db") == File(Path("/a/b.db"))
    assert read("sqlite:///b.db") == File(settings.PROJECT / "b.db")
    assert read("dump:////a/b.sql") == Dump(Path("/a/b.sql"))
    assert read("dump:///b.sql") == Dump(settings.PROJECT / "b.sql")
    assert read("libsql://db.turso.io") == Remote("https://db.turso.io")
    assert read("https://DB.turso.io/") == Remote("https://db.turso.io")
    assert read("http://127.0.0.1:8080") == Remote("http://127.0.0.1:8080")
    assert Remote("https://db.turso.io").shown == "libsql://db.turso.io"


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///:memory:", "dump://", "mysql://h/d", "nonsense", "libsql://"),
        *("libsql://user:s3cret@h", "https://h?authToken=s3cret", "https://h/s3cret"),
        *("http://h:s3cret", "libsql://h#s3cret", "http://[s3cret"),
    ],
)
def test_a_url_of_another_form_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="SOURCE") as caught:
        parse(url, token=None, name="SOURCE")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_relative_path_starts_at_the_given_folder(tmp_path: Path) -> None:
    found = parse("sqlite:///data/app.db", token=None, name="SOURCE", folder=tmp_path)
    absolute = parse("dump:////data/app.sql", token=None, name="SOURCE", folder=tmp_path)
    assert (found, absolute) == (File(tmp_path / "data/app.db"), Dump(Path("/data/app.sql")))
