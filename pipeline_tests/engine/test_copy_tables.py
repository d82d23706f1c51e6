"""Tables of every kind and name, and what of them is not carried, with the true reason."""

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.errors import SettingsError
from pipeline.reporting.copies import grids
from pipeline.sqlite.catalog import change_log
from pipeline_tests.support.copies import (
    assert_same,
    constraints,
    copied,
    database,
    left,
    outcomes,
    rows_of,
    stored,
    table,
)
from pipeline_tests.support.targets import query

LONG = "n" * 200
NAMES = (
    *("", LONG, 'q"q', "do.t", "100%", "$1", "new\nline", "emoji😀", "select", "A" * 63 + "x"),
    *("A" * 63 + "y", "migration", "watermarks", "pg_x", " sp ", "back\\slash", "café"),
    *("cafe\u0301", "CaSe", "{0}", ":x", "a;b", "--c", "pipeline_stage", "evidence", 'x"."y'),
)
COLUMNS = (
    *("", LONG, 'q"q', "do.t", "100%", "$1", "new\nline", "emoji😀", "select", "B" * 63 + "x"),
    *("B" * 63 + "y", "ctid", "xmin", "oid", "rowid", "_rowid_", "tableoid", "c0", "id", "at"),
    *("hash", "n", "t", "r", "{0}", "a'b", ":x", "back\\slash", "%s", "ctid_", "number", "row id"),
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_tables_of_every_kind_arrive_and_stay(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "kinds.db",
        "CREATE TABLE comp (a INT, b TEXT COLLATE NOCASE, c INT, PRIMARY KEY (a, b))",
        "INSERT INTO comp VALUES (1, 'x', 1), (1, 'y', NULL), (2, 'X', 3)",
        "CREATE TABLE nokey (a INT, b INT)",
        "INSERT INTO nokey VALUES (1, 1), (1, 1), (1, 1), (NULL, NULL), (NULL, NULL)",
        "CREATE TABLE trimmed (k TEXT COLLATE RTRIM PRIMARY KEY, v INT) WITHOUT ROWID",
        "INSERT INTO trimmed VALUES ('b ', 1), ('a', 2)",
        "CREATE TABLE st (k INTEGER PRIMARY KEY, v REAL, t TEXT) STRICT",
        "INSERT INTO st VALUES (1, 0.5, 'y'), (2, 3, NULL)",
        "CREATE TABLE nulls (k TEXT PRIMARY KEY, v INT)",
        "INSERT INTO nulls VALUES (NULL, 1), (NULL, 2), ('a', 3)",
        "CREATE TABLE c1 (id INTEGER PRIMARY KEY, o INT REFERENCES c2)",
        "CREATE TABLE c2 (id INTEGER PRIMARY KEY, o INT REFERENCES c3)",
        "CREATE TABLE c3 (id INTEGER PRIMARY KEY, o INT REFERENCES c1)",
        *("INSERT INTO c1 VALUES (1, 2)", "INSERT INTO c2 VALUES (2, 3)"),
        "INSERT INTO c3 VALUES (3, 1)",
        "CREATE TABLE me (id INTEGER PRIMARY KEY AUTOINCREMENT, p INT REFERENCES me)",
        "INSERT INTO me VALUES (1, 2), (2, 1), (3, NULL)",
        "CREATE TABLE many (a INT, b TEXT, x INT, FOREIGN KEY (a, b) REFERENCES comp (a, b),"
        " FOREIGN KEY (x) REFERENCES nowhere (id), FOREIGN KEY (a) REFERENCES nokey (a))",
        "INSERT INTO many VALUES (1, 'x', 1)",
        "CREATE TABLE gen (a INT, v INT AS (a * 2) VIRTUAL, z TEXT AS (substr('abc', a - 3)))",
        "INSERT INTO gen (a) VALUES (1), (2), (5), (NULL)",
        "CREATE TABLE refers (u TEXT REFERENCES up (u) ON DELETE CASCADE)",
        "CREATE TABLE up (id INTEGER PRIMARY KEY, u TEXT UNIQUE)",
        *("INSERT INTO up VALUES (1, 'a')", "INSERT INTO refers VALUES ('a'), (NULL)"),
    )
    names = (
        *("comp", "nokey", "trimmed", "st", "nulls", "c1", "c2", "c3"),
        *("me", "many", "gen", "refers", "up"),
    )

    first, second = copied(path, target_url), copied(path, target_url)

    assert first.proven
    assert_same(path, target_url, *names)
    assert left(first) == [
        "nulls, primary key (k): 2 values of it are NULL, which PostgreSQL does not allow; it"
        " became a UNIQUE constraint",
        "many, foreign key (x) to nowhere: the source has no such table, or it is excluded",
        "many, foreign key (a) to nokey: the referenced columns of nokey are not declared unique",
        "gen, generated column z: PostgreSQL computes other values; it holds those of the source",
    ]
    assert set(outcomes(second).values()) == {"unchanged"}
    assert left(second) == left(first)
    assert constraints(target_url, "c1")["c1_o_fkey"] == "FOREIGN KEY (o) REFERENCES c2(id)"
    assert constraints(target_url, "many") == {
        "many_a_b_fkey": "FOREIGN KEY (a, b) REFERENCES comp(a, b)"
    }
    assert constraints(target_url, "nulls") == {"nulls_pkey": "UNIQUE (k)"}
    generated = "SELECT attname FROM pg_attribute WHERE attrelid = 'gen'::regclass"
    assert query(target_url, f"{generated} AND attgenerated <> ''") == [("v",)]


def test_any_name_is_a_name(tmp_path: Path, target_url: str) -> None:
    columns = ", ".join(map(quoted, COLUMNS))
    path = database(
        tmp_path / "names.db",
        f"CREATE TABLE wide ({columns}, UNIQUE ({quoted(COLUMNS[6])}), PRIMARY KEY (ctid))",
        f"CREATE INDEX {quoted('100% idx')} ON wide ({quoted(COLUMNS[2])})",
        f"INSERT INTO wide VALUES ({', '.join(map(str, range(len(COLUMNS))))})",
        *(f"CREATE TABLE {quoted(name)} (id INTEGER PRIMARY KEY, v TEXT)" for name in NAMES),
        *(f"INSERT INTO {quoted(name)} VALUES ({at}, 'x')" for at, name in enumerate(NAMES)),
    )

    first = copied(path, target_url)
    # A label is quoted if it has a dot or a quotation mark.
    labels = [
        label[1:-1].replace('""', '"') if label[:1] == '"' else label
        for label in (each.table for each in first.tables)
    ]
    database(path, *(f"UPDATE {quoted(name)} SET v = '%s $1 {{0}}'" for name in NAMES))
    database(path, "UPDATE wide SET ctid = 99")
    second = copied(path, target_url)

    assert first.proven
    assert {each.kind for each in first.all_left} == {"name"}
    cannot = "PostgreSQL cannot use this name; in the target it is"
    assert f"wide, name column ctid: {cannot} ctid_" in left(first)
    assert len(set(labels)) == len(NAMES) + 1
    assert all(len(label.encode()) <= 63 for label in labels)
    assert set(outcomes(second).values()) == {"updated"}
    for name, label in zip(["wide", *NAMES], labels, strict=True):
        assert stored(target_url, label) == rows_of(path, name)
    assert {"ctid_", "ctid__", "xmin_", "tableoid_", "oid", "rowid", "_rowid_"} <= {
        name
        for (name,) in query(
            target_url, "SELECT attname FROM pg_attribute WHERE attrelid = 'wide'::regclass"
        )
    }


def test_a_thousand_columns_arrive_and_too_many_fail_alone(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "wide.db",
        f"CREATE TABLE wide ({', '.join(f'c{n} INT' for n in range(1000))})",
        f"INSERT INTO wide VALUES ({', '.join(map(str, range(1000)))})",
        f"CREATE TABLE wider (id PRIMARY KEY, {', '.join(f'c{n} INT' for n in range(1700))})",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, p INT REFERENCES wider (id))",
        "INSERT INTO child VALUES (1, 1)",
    )

    found = copied(path, target_url)

    assert_same(path, target_url, "wide", "child")
    assert outcomes(found) == {"wide": "copied", "wider": "failed", "child": "copied"}
    assert left(found) == ["child, foreign key (p) to wider: wider was not copied"]
    assert "tables can have at most 1600 columns" in str(table(found, "wider").error)


def test_only_letters_of_ascii_have_no_case(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "letters.db",
        "CREATE TABLE Ü (É INTEGER, é INTEGER PRIMARY KEY)",
        "INSERT INTO Ü VALUES (7, 1), (7, 2)",
        "CREATE TABLE ü (x INTEGER REFERENCES Ü (é))",
        "INSERT INTO ü VALUES (1), (2)",
    )

    found = copied(path, target_url)

    assert (found.proven, left(found)) == (True, [])
    assert_same(path, target_url, "Ü", "ü")
    assert 'REFERENCES "Ü"("é")' in "".join(constraints(target_url, "ü").values())


def test_a_real_is_json_however_many_digits_it_has(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "json.db",
        "CREATE TABLE only (j JSON)",
        "INSERT INTO only VALUES (0.5)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, j JSON, other TEXT)",
        "INSERT INTO t (j, other) VALUES ('{}', 'a'), (-4.516275384346224e145, 'b'), (0.1, 'c'),"
        " (-1.401298464324817e-45, 'd'), (1e-31, 'e'), (NULL, 'f'), ('[1.50]', 'g')",
    )

    first, second = copied(path, target_url), copied(path, target_url)

    assert first.proven
    assert set(outcomes(second).values()) == {"unchanged"}
    numbers = "SELECT (j #>> '{}')::float8 FROM t WHERE jsonb_typeof(j) = 'number' ORDER BY id"
    found = [number for (number,) in query(target_url, numbers)]
    assert found == [-4.516275384346224e145, 0.1, -1.401298464324817e-45, 1e-31]


def test_extras_that_the_rows_do_not_meet_are_left_out_and_made_once_they_do(
    tmp_path: Path, target_url: str
) -> None:
    path = database(
        tmp_path / "broken.db",
        "CREATE TABLE par (id INTEGER PRIMARY KEY)",
        "INSERT INTO par VALUES (1)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT COLLATE NOCASE UNIQUE, m TEXT,"
        " c INT CHECK (c > 0), p INT REFERENCES par (id))",
        "CREATE INDEX long ON par (id)",
        "CREATE UNIQUE INDEX partial ON t (m COLLATE NOCASE DESC) WHERE c = 1",
        "CREATE TABLE big (v TEXT)",
        "CREATE INDEX big_v ON big (v)",
        "INSERT INTO big VALUES (hex(randomblob(8000)))",
        "PRAGMA ignore_check_constraints = 1",
        "INSERT INTO t VALUES (1, 'É', 'É', 1, 1), (2, 'é', 'é', 1, 1), (3, 'x', 'é', 2, 1),"
        " (4, 'z', 'e', 0, 99), (5, 'w', 'f', -1, 98)",
    )

    first = copied(path, target_url)
    database(
        path,
        "UPDATE t SET c = 5 WHERE c < 1",
        "UPDATE t SET p = 1",
        "UPDATE t SET n = 'y' WHERE id = 2",
        "UPDATE t SET m = 'y' WHERE id = 2",
    )
    second = copied(path, target_url)

    assert first.proven
    assert second.proven
    assert_same(path, target_url, "t", "big")
    long = "big, index big_v: a value is too long for an index; PostgreSQL refuses it"
    assert left(first)[:-1] == [
        "t, check (c > 0): 2 rows of the source break it",
        "t, unique (n): 2 rows do not meet it",
        "t, index partial: 2 rows do not meet it",
        "t, foreign key (p) to par: 2 rows do not meet it",
    ]
    assert left(first)[-1].startswith(long)
    assert len(left(second)) == 1
    assert left(second)[0].startswith(long)
    assert {"t_check", "t_n_key", "partial", "t_p_fkey"} <= set(constraints(target_url, "t"))


def test_a_table_with_names_that_are_not_utf8_counts_as_left_behind(
    tmp_path: Path, target_url: str
) -> None:
    path = database(
        tmp_path / "bad.db",
        "CREATE TABLE good (a INT)",
        "CREATE TABLE bad (a INT, other INT)",
        "INSERT INTO bad VALUES (1, 2)",
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql ="
        " CAST(replace(CAST(sql AS BLOB), CAST('other' AS BLOB), x'ff') AS TEXT)"
        " WHERE name = 'bad'",
    )

    found = copied(path, target_url)

    assert not found.proven
    assert found.behind == {"bad": "the name of a column is not UTF-8"}
    assert outcomes(found) == {"good": "copied"}
    assert copied(path, target_url, exclude=["BAD"]).proven


def test_the_change_log_of_the_pipeline_stays_in_the_source(
    tmp_path: Path, target_url: str
) -> None:
    log = change_log.LOG
    path = database(
        tmp_path / "tracked.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY)",
        change_log.LOG_DDL,
        f"CREATE TRIGGER {log}_t_after_insert AFTER INSERT ON t BEGIN"
        f" INSERT INTO {log} (table_name, key) SELECT 't', NEW.id; END",
        "CREATE TRIGGER pipeline_frozen_t_delete BEFORE DELETE ON t BEGIN"
        " SELECT RAISE(ABORT, 'frozen'); END",
        "CREATE TRIGGER own AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TABLE pipeline_runs (id INTEGER PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
    )

    found = copied(path, target_url)

    assert outcomes(found) == {"t": "copied", "pipeline_runs": "copied"}
    assert [each.name for each in found.left] == ["own"]
    with pytest.raises(SettingsError):
        copied(path, target_url, exclude=[log])


def test_rows_of_virtual_tables_arrive_as_plain_rows(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "virtual.db",
        "CREATE VIRTUAL TABLE texts USING fts5 (a, b)",
        "INSERT INTO texts VALUES ('hello', 'x'), ('there', NULL)",
        "CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1)",
        "INSERT INTO boxes VALUES (1, 0, 1)",
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, t TEXT)",
        "INSERT INTO docs VALUES (7, 'w')",
        "CREATE VIRTUAL TABLE seen USING fts5 (t, content = 'docs', content_rowid = 'id')",
    )

    found = copied(path, target_url)

    assert found.proven
    assert outcomes(found) == dict.fromkeys(("docs", "texts", "boxes"), "copied")
    assert stored(target_url, "texts") == {(1, "hello", "x"): 1, (2, "there", None): 1}
    assert [(each.kind, each.name) for each in found.left] == [
        ("virtual table", "texts"),
        ("virtual table", "boxes"),
        ("virtual table", "seen"),
    ]


def test_a_file_in_utf16_arrives_with_its_views_and_the_next_id(
    tmp_path: Path, target_url: str
) -> None:
    path = database(
        tmp_path / "wide.db",
        "PRAGMA encoding = 'UTF-16le'",
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT COLLATE NOCASE UNIQUE)",
        "CREATE VIEW seen AS SELECT v FROM t WHERE id > 1",
        "INSERT INTO t (v) VALUES ('é😀'), ('b')",
        "INSERT INTO t VALUES (50, 'z')",
        "DELETE FROM t WHERE id = 50",
        "CREATE TABLE w (k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID",
        "INSERT INTO w VALUES ('ü', x'00')",
    )

    found = copied(path, target_url)

    assert found.proven
    assert left(found) == []
    assert_same(path, target_url, "t", "w", "seen")
    assert query(target_url, "INSERT INTO t (v) VALUES ('n') RETURNING id") == [(51,)]


def test_rows_that_no_type_takes_can_be_rebuilt_from_quarantine(
    tmp_path: Path, target_url: str
) -> None:
    path = tmp_path / "values.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE v (id INTEGER PRIMARY KEY, t TEXT, n INT, x)")
        connection.execute(
            "INSERT INTO v VALUES (1, 'a' || char(0) || 'b', 1, x'00'), (2, CAST(x'ff41' AS TEXT),"
            " 2, 1.5), (3, CAST(x'eda080' AS TEXT), 3, NULL), (4, '', 9223372036854775807, 'x'),"
            " (5, NULL, -9223372036854775808, ''), (6, 'ok', 3, 9e999), (7, 'no', 'seven', -0.0)"
        )
        connection.text_factory = bytes
        rows = {
            row[0]: [
                (kind.decode(), struct.pack(">d", value) if kind == b"real" else blob)
                for kind, value, blob in zip(row[1::3], row[2::3], row[3::3], strict=True)
            ]
            for row in connection.execute(
                "SELECT id, typeof(t), t, CAST(t AS BLOB), typeof(n), n, CAST(n AS BLOB),"
                " typeof(x), x, CAST(x AS BLOB) FROM v WHERE id IN (1, 2, 3, 7)"
            )
        }

    found = copied(path, target_url, casts={"v.n": "bigint"})

    assert table(found, "v").quarantined == 4
    assert not found.proven
    kept = query(
        target_url,
        "SELECT row_id::int, column_name, storage, value FROM migration.quarantine_values"
        " WHERE table_name = 'v' AND column_name <> 'id' ORDER BY 1",
    )
    by_row: dict[int, dict[str, tuple[str, bytes | None]]] = {}
    for number, name, storage, value in kept:
        by_row.setdefault(number, {})[name] = (storage, None if value is None else bytes(value))
    assert {
        number: [tuple(values[name]) for name in ("t", "n", "x")]
        for number, values in by_row.items()
    } == rows


@pytest.mark.parametrize("other", ["'x'", "x'00'", "9e999"])
def test_reals_of_a_mixed_column_become_the_shortest_texts(
    tmp_path: Path, target_url: str, other: str
) -> None:
    reals = [1 / 3, 2 / 3, 0.1 + 0.2, 1.0421052631578946, 1e23, 1e17 / 3, 5e-324, -1e-7, 2.0]
    path = tmp_path / "reals.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE r (id INTEGER PRIMARY KEY, x)")
        connection.execute(f"INSERT INTO r VALUES (0, {other}), (1, 9007199254740993), (2, -0.0)")
        connection.executemany("INSERT INTO r (x) VALUES (?)", [(real,) for real in reals])

    found, again = copied(path, target_url), copied(path, target_url)

    assert found.proven
    assert outcomes(again) == {"r": "unchanged"}
    x = "CASE WHEN id > 2 THEN convert_from(x::bytea, 'UTF8')::double precision END"
    assert [each for (each,) in query(target_url, f"SELECT {x} FROM r WHERE id > 2")] == reals
    short = "SELECT convert_from(x::bytea, 'UTF8') FROM r WHERE id IN (2, 3, 6)"
    assert query(target_url, short) == [("0.0",), ("0.3333333333333333",), ("1.0421052631578946",)]


def test_a_foreign_key_that_quarantine_breaks_says_so(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "held.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY, up INT REFERENCES p, t TEXT)",
        "INSERT INTO p VALUES (1, NULL, 'a' || char(0)), (2, 1, 'b')",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES p)",
        "INSERT INTO c VALUES (1, 1), (2, 1), (3, 2)",
    )

    first, second = copied(path, target_url), copied(path, target_url)

    assert left(first) == [
        "p, foreign key (up) to p: 1 row does not meet it, and 1 row of p is in quarantine",
        "c, foreign key (p) to p: 2 rows do not meet it, and 1 row of p is in quarantine",
    ]
    assert left(second) == left(first)
    assert len(left(copied(path, target_url, casts={"p.t": "bytea"}))) == 0


def test_proposals_that_are_not_shown_are_counted(tmp_path: Path, target_url: str) -> None:
    columns = ", ".join(f"c{number} TEXT" for number in range(7))
    path = database(
        tmp_path / "many.db",
        f"CREATE TABLE m ({columns})",
        f"INSERT INTO m VALUES ({', '.join(repr('[1]') for _ in range(7))})",
    )

    (grid,) = grids(copied(path, target_url))

    assert grid.title == "Proposals (5 of 7; --dry-run prints all)"
