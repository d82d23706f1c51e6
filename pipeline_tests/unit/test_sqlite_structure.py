"""The structure of any SQLite database, read from its catalog."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SourceError
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.structure.model import (
    Check,
    Column,
    ForeignKey,
    Index,
    IndexPart,
    Schema,
    Table,
    Unique,
    View,
)
from pipeline.sqlite.structure.reading import read


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        opening.guard(connection)
        yield connection


def of(sql: str) -> Schema:
    with closing(sqlite3.connect(":memory:")) as connection:
        for name in ("unicase", 'No"Case'):
            connection.create_collation(name, collations.compare_exactly)
        connection.executescript(sql)
        return read(connection)


def only(sql: str) -> Table:
    (table,) = of(sql).tables
    return table


def names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def test_names_in_any_quotation_and_of_any_characters() -> None:
    table = only(
        """CREATE TABLE "a.""b;\n'😀" (plain, "two words", `back``tick`, [in ] , 'text''s', "",
        "line\nbreak", é, "emoji 😀", 日本, a$b, "check", [default], `key`, 'constraint', generated,
        "(", ")", ",", "--", "/*", _1, \xa0nbsp\u3000, \ufeff marked, aſ INT)"""
    )
    assert table.name == "a.\"b;\n'😀"
    assert names(table) == [
        *("plain", "two words", "back`tick", "in ", "text's", "", "line\nbreak", "é", "emoji 😀"),
        *("日本", "a$b", "check", "default", "key", "constraint", "generated"),
        *("(", ")", ",", "--", "/*", "_1", "\xa0nbsp\u3000", "marked", "aſ"),
    ]
    assert (table.checks, table.uniques, table.foreign_keys) == ((), (), ())


def test_types_and_defaults() -> None:
    table = only(
        """CREATE TABLE t (none, a DOUBLE\n PRECISION, b BLOB SUB_TYPE TEXT NOT NULL,
        c DECIMAL(10, 2) DEFAULT (1 + 2), d VARCHAR(255) , e "VARCHAR(3)" DEFAULT 'it''s',
        f int default -1 NOT NULL, g DEFAULT "x y", h DEFAULT CURRENT_TIMESTAMP, i DEFAULT NULL,
        j DEFAULT (1 -- one, or
        +1), k DEFAULT (')' || '--'), l timestamp DEFAULT (datetime('now', 'localtime')),
        m bool DEFAULT true, n UNSIGNED BIG INT DEFAULT +5)"""
    )
    assert [(column.declared, column.not_null, column.default) for column in table.columns] == [
        ("", False, None),
        ("DOUBLE PRECISION", False, None),
        ("BLOB SUB_TYPE TEXT", True, None),
        ("DECIMAL(10, 2)", False, "1 + 2"),
        ("VARCHAR(255)", False, None),
        ("VARCHAR(3)", False, "'it''s'"),
        ("INT", True, "-1"),
        ("", False, '"x y"'),
        ("", False, "CURRENT_TIMESTAMP"),
        ("", False, "NULL"),
        ("", False, "1  \n        +1"),
        ("", False, "')' || '--'"),
        ("timestamp", False, "datetime('now', 'localtime')"),
        ("bool", False, "true"),
        ("UNSIGNED BIG INT", False, "+5"),
    ]


def test_the_rowid_is_the_key_only_of_an_integer_primary_key() -> None:
    forms = {
        "id INTEGER PRIMARY KEY": True,
        "id integer NOT NULL PRIMARY KEY AUTOINCREMENT": True,
        "id INTEGER, PRIMARY KEY (id DESC)": True,
        "id INTEGER, PRIMARY KEY ('ID' COLLATE NOCASE AUTOINCREMENT)": True,
        "id 'INTEGER' PRIMARY KEY": True,
        "id INTEGER PRIMARY KEY DESC": False,
        "id INT PRIMARY KEY": False,
        "id BIGINT PRIMARY KEY": False,
        "id INTEGER, b, PRIMARY KEY (id, b)": False,
        "id INTEGER UNIQUE": False,
    }
    for sql, expected in forms.items():
        table = only(f"CREATE TABLE t ({sql})")
        assert table.is_row_id is expected, sql
        assert table.autoincrement is ("AUTOINCREMENT" in sql), sql
    table = only("CREATE TABLE t (id INTEGER PRIMARY KEY) WITHOUT ROWID")
    assert (table.is_row_id, table.without_rowid, table.primary_key) == (False, True, ("id",))
    assert not only("CREATE TABLE t (x DEFAULT 'AUTOINCREMENT' /* AUTOINCREMENT */)").autoincrement


def test_keys_of_several_columns_and_options() -> None:
    table = only(
        'CREATE TABLE t (a TEXT COLLATE nocase, b "x" COLLATE [RTRIM], c, PRIMARY KEY (B, a, "c"))'
    )
    assert table.primary_key == ("b", "a", "c")
    assert table.key_collations == ("RTRIM", "NOCASE", "BINARY")
    assert [column.not_null for column in table.columns] == [False] * 3
    strict = only(
        "CREATE TABLE t (a TEXT, b ANY, PRIMARY KEY (a COLLATE nocase, b)) WITHOUT ROWID, STRICT"
    )
    assert strict.key_collations == ("NOCASE", "BINARY")
    assert (strict.without_rowid, strict.strict) == (True, True)
    assert [column.not_null for column in strict.columns] == [True, True]
    assert strict.columns[0].collation == "BINARY"


def test_collations_of_columns() -> None:
    table = only(
        """CREATE TABLE t (a COLLATE unicase, b TEXT DEFAULT 'x' COLLATE "No""Case" NOT NULL,
        c CHECK (c COLLATE NOCASE <> 'x'), d DEFAULT ('x' COLLATE NOCASE), e COLLATE nocase COLLATE
        /* ours */ rtrim, f AS (a COLLATE NOCASE), "COLLATE" unicase)"""
    )
    assert [column.collation for column in table.columns] == [
        *("UNICASE", 'NO"CASE', "BINARY", "BINARY", "RTRIM", "BINARY", "BINARY")
    ]


def test_generated_columns() -> None:
    table = only(
        """CREATE TABLE t (a, b INT GENERATED ALWAYS AS (a + 1) STORED NOT NULL,
        c AS (json_extract(a, '$.x)') -- what
        ), d TEXT AS (upper(a)) VIRTUAL UNIQUE, generated, always INT)"""
    )
    assert [
        (each.name, each.declared, each.generated, each.expression) for each in table.columns
    ] == [
        ("a", "", None, None),
        ("b", "INT", "stored", "a + 1"),
        ("c", "", "virtual", "json_extract(a, '$.x)')"),
        ("d", "TEXT", "virtual", "upper(a)"),
        ("generated", "", None, None),
        ("always", "INT", None, None),
    ]
    assert table.uniques == (Unique(("d",), ("BINARY",)),)


def test_checks_of_columns_and_of_the_table() -> None:
    table = only(
        """CREATE TABLE t (a CHECK (a IN ('(', ')', ',', 'CHECK (x)')), b CONSTRAINT lost CONSTRAINT
        [b's] CHECK (b > 0) NOT NULL CHECK(b<10), c CONSTRAINT n NOT NULL CHECK (/* c */ c),
        CONSTRAINT "of ""t" CHECK ((a) > (b) -- larger )
        ) CHECK (json_valid(c) OR c IS NULL), CHECK ([c] = 1))"""
    )
    assert table.checks == (
        Check("a IN ('(', ')', ',', 'CHECK (x)')"),
        Check("b > 0", "b's"),
        Check("b<10"),
        Check("c"),
        Check("(a) > (b)", 'of "t'),
        Check("json_valid(c) OR c IS NULL"),
        Check("[c] = 1"),
    )


def test_unique_constraints_and_indexes() -> None:
    table = only(
        """CREATE TABLE t (a TEXT CONSTRAINT one UNIQUE COLLATE NOCASE,
        b UNIQUE ON CONFLICT REPLACE, c INTEGER PRIMARY KEY UNIQUE,
        CONSTRAINT two UNIQUE (B COLLATE nocase, 'a' DESC),
        UNIQUE (a), CONSTRAINT again UNIQUE (b), CONSTRAINT three UNIQUE (a COLLATE BINARY));
        CREATE UNIQUE INDEX "i 1" ON t (a, b);
        CREATE UNIQUE INDEX i2 ON t (b) WHERE b IS NOT NULL -- only those
        ;
        CREATE INDEX i3 ON t (b COLLATE nocase DESC, a || '(,' COLLATE rtrim, (c),
            lower(a) COLLATE rtrim ASC, a COLLATE nocase || b DESC, [b] /* b */ ASC)
            WHERE a > 'where' AND (c) > 0;"""
    )
    assert table.uniques == (
        Unique(("a",), ("NOCASE",), "one"),
        Unique(("b",), ("BINARY",)),
        Unique(("c",), ("BINARY",)),
        Unique(("b", "a"), ("NOCASE", "NOCASE"), "two"),
        Unique(("a",), ("BINARY",), "three"),
    )
    nocase = IndexPart("a", collation="NOCASE")
    assert table.indexes == (
        Index("i 1", (nocase, IndexPart("b")), unique=True),
        Index("i2", (IndexPart("b"),), unique=True, where="b IS NOT NULL"),
        Index(
            "i3",
            (
                IndexPart("b", collation="NOCASE", descending=True),
                IndexPart(None, "a || '(,' COLLATE rtrim"),
                IndexPart("c"),
                IndexPart(None, "lower(a)", "RTRIM"),
                IndexPart(None, "a COLLATE nocase || b", descending=True),
                IndexPart("b"),
            ),
            where="a > 'where' AND (c) > 0",
        ),
    )
    text = only("CREATE TABLE t (k TEXT UNIQUE PRIMARY KEY, CONSTRAINT n UNIQUE (k))")
    assert (text.primary_key, text.uniques, text.indexes) == (("k",), (), ())


def test_foreign_keys() -> None:
    tables = of(
        """CREATE TABLE Parent (Id INTEGER PRIMARY KEY, Code TEXT UNIQUE);
        CREATE TABLE pair (a, b, PRIMARY KEY (b, a)); CREATE TABLE keyless (x);
        CREATE VIEW v AS SELECT 1 AS x;
        CREATE TABLE t (
            p CONSTRAINT one REFERENCES PARENT ON DELETE CASCADE ON UPDATE SET NULL
              DEFERRABLE INITIALLY DEFERRED REFERENCES "parent" (CODE) NOT DEFERRABLE
              INITIALLY DEFERRED,
            q REFERENCES t (q) MATCH FULL DEFERRABLE, r INT REFERENCES gone,
            s REFERENCES gone (Id) DEFERRABLE INITIALLY IMMEDIATE, w REFERENCES v (x),
            CONSTRAINT "two's" FOREIGN KEY (q, 'r') REFERENCES pair DEFERRABLE INITIALLY DEFERRED,
            FOREIGN KEY (q, r) REFERENCES pair (a, b), FOREIGN KEY (q) REFERENCES pair
            CONSTRAINT last FOREIGN KEY (r) REFERENCES keyless ON DELETE RESTRICT)"""
    )
    assert tables.table("T").foreign_keys == (
        ForeignKey(("p",), "Parent", ("Id",), "CASCADE", "SET NULL", deferred=True, name="one"),
        ForeignKey(("p",), "Parent", ("Code",)),
        ForeignKey(("q",), "t", ("q",)),
        ForeignKey(("r",), "gone", ()),
        ForeignKey(("s",), "gone", ("Id",)),
        ForeignKey(("w",), "v", ("x",)),
        ForeignKey(("q", "r"), "pair", ("b", "a"), deferred=True, name="two's"),
        ForeignKey(("q", "r"), "pair", ("a", "b")),
        ForeignKey(("q",), "pair", ()),
        ForeignKey(("r",), "keyless", (), "RESTRICT", name="last"),
    )


def test_altered_tables_and_tables_of_queries() -> None:
    tables = of(
        """CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE old (a UNIQUE, CHECK (a > 0));
        CREATE INDEX i ON old (lower(a)) WHERE a > 1;
        ALTER TABLE old ADD COLUMN b TEXT DEFAULT 'x' COLLATE nocase CONSTRAINT c CHECK (b <> ')')
            REFERENCES parent DEFERRABLE INITIALLY DEFERRED;
        ALTER TABLE old RENAME TO "new one"; ALTER TABLE "new one" RENAME COLUMN a TO "select";
        ALTER TABLE parent RENAME TO parents;
        CREATE TABLE copied AS SELECT "select" AS "check", b AS 'a,b', 1 FROM "new one";"""
    )
    altered = Table(
        "new one",
        (Column("select"), Column("b", "TEXT", default="'x'", collation="NOCASE")),
        uniques=(Unique(("select",), ("BINARY",)),),
        checks=(Check("b <> ')'", "c"), Check('"select" > 0')),
        foreign_keys=(ForeignKey(("b",), "parents", ("id",), deferred=True),),
        indexes=(Index("i", (IndexPart(None, 'lower("select")'),), where='"select" > 1'),),
    )
    assert [table.name for table in tables.tables] == ["parents", "new one", "copied"]
    assert tables.table("new one") == altered
    assert tables.table("copied").columns == (Column("check"), Column("a,b", "TEXT"), Column("1"))


def test_virtual_tables_and_the_tables_of_their_modules() -> None:
    schema = of(
        """CREATE VIRTUAL TABLE docs USING FTS5(a, b, content='');
        CREATE VIRTUAL TABLE docs_old USING "fts4" (a); CREATE TABLE docs_new (x INTEGER PRIMARY KEY
        AUTOINCREMENT); CREATE VIRTUAL TABLE IF NOT EXISTS "using" USING rtree(id, a, b);
        CREATE VIRTUAL TABLE three USING fts3(); CREATE INDEX i ON docs_new (x); ANALYZE;"""
    )
    assert [table.name for table in schema.tables] == ["docs_new"]
    assert {each.name: (each.module, sorted(each.shadows)) for each in schema.virtual} == {
        "docs": ("fts5", ["docs_config", "docs_data", "docs_docsize", "docs_idx"]),
        "docs_old": (
            "fts4",
            [f"docs_old_{end}" for end in ("content", "docsize", "segdir", "segments", "stat")],
        ),
        "using": ("rtree", ["using_node", "using_parent", "using_rowid"]),
        "three": ("fts3", [f"three_{end}" for end in ("content", "segdir", "segments")]),
    }
    assert schema.virtual[0].sql.startswith("CREATE VIRTUAL TABLE docs USING FTS5(")


def test_a_virtual_table_whose_module_this_process_lacks(database: sqlite3.Connection) -> None:
    stores = ("chunks", "rowids", "info", "vector_chunks00", "metadatatext02")
    for name in (*stores, "more"):
        database.execute(f"CREATE TABLE items_{name} (x)")
    database.execute("CREATE TABLE x (y)")
    database.executescript(
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_master VALUES"
        " ('table', 'Items', 'Items', 0, 'CREATE VIRTUAL TABLE Items USING vec0(e float[4])'),"
        " ('table', 'x2', 'x2', 0, 'CREATE VIRTUAL TABLE x2 USING ours');"
        "PRAGMA writable_schema = RESET"
    )
    schema = read(database)
    assert [table.name for table in schema.tables] == ["items_more", "x"]
    assert [each.module for each in schema.virtual] == ["vec0", "ours"]
    assert schema.virtual[0].shadows == tuple(f"items_{name}" for name in stores)


def test_views_and_triggers() -> None:
    schema = of(
        """CREATE TABLE T (a, b); CREATE VIEW "v 1" (p, "q r") AS SELECT a, b FROM t;
        CREATE VIEW "{v}" AS SELECT * FROM t; CREATE VIEW broken AS SELECT x FROM nowhere;
        CREATE VIEW calls AS SELECT shout(a) FROM t; CREATE TRIGGER tr AFTER INSERT ON t BEGIN
        SELECT 'END;'; END; CREATE TRIGGER on_view INSTEAD OF DELETE ON "V 1" BEGIN SELECT 1; END"""
    )
    assert schema.views == (
        View("v 1", 'CREATE VIEW "v 1" (p, "q r") AS SELECT a, b FROM t', ("p", "q r")),
        View("{v}", 'CREATE VIEW "{v}" AS SELECT * FROM t', ("a", "b")),
        View("broken", "CREATE VIEW broken AS SELECT x FROM nowhere"),
        View("calls", "CREATE VIEW calls AS SELECT shout(a) FROM t"),
    )
    assert schema.unreadable == {
        "broken": "no such table: main.nowhere",
        "calls": "no such function: shout",
    }
    assert [(trigger.name, trigger.table) for trigger in schema.triggers] == [
        ("tr", "T"),
        ("on_view", "v 1"),
    ]
    assert schema.triggers[0].sql.endswith("SELECT 'END;'; END")


OF_AN_APPLICATION = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT COLLATE unicase UNIQUE,
    loud TEXT AS (shout(name)) STORED, CHECK (shout(name) > ''));
CREATE INDEX i ON t (shout(name) COLLATE unicase DESC) WHERE shout(name) <> 'x';
CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT shout(NEW.name); END;
CREATE TABLE u (name COLLATE unicase PRIMARY KEY) WITHOUT ROWID;
"""


@pytest.mark.parametrize("texts", [str, bytes])
def test_collations_and_functions_of_the_application(texts: Any, tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(path)) as application:
        application.create_collation("unicase", collations.compare_exactly)
        application.create_function("shout", 1, str, deterministic=True)
        application.executescript(OF_AN_APPLICATION)
    with closing(opening.connect(path, "immutable")) as connection:
        connection.text_factory, connection.row_factory = texts, sqlite3.Row
        plain = read(connection)
        assert (connection.text_factory, connection.row_factory) == (texts, sqlite3.Row)
        collations.stand_in(connection)
        assert read(connection) == plain
    table, other = plain.tables
    assert table.uniques == (Unique(("name",), ("UNICASE",)),)
    assert table.checks == (Check("shout(name) > ''"),)
    assert table.column("LOUD").expression == "shout(name)"
    part = IndexPart(None, "shout(name)", "UNICASE", descending=True)
    assert table.indexes == (Index("i", (part,), where="shout(name) <> 'x'"),)
    assert other.key_collations == ("UNICASE",)
    assert (len(plain.triggers), plain.unreadable) == (1, {})


def test_other_schemas(database: sqlite3.Connection) -> None:
    database.executescript(
        """ATTACH ':memory:' AS "o'ther"; CREATE TABLE t (a); CREATE TABLE "o'ther".t (b UNIQUE);
        CREATE VIEW "o'ther".v AS SELECT b FROM t; CREATE TEMP TABLE u (c);
        CREATE INDEX i ON t (a);"""
    )
    other = read(database, schema="o'ther")
    assert other.tables == (Table("t", (Column("b"),), uniques=(Unique(("b",), ("BINARY",)),)),)
    assert other.views[0].columns == ("b",)
    assert [table.name for table in read(database, schema="temp").tables] == ["u"]
    assert [names(table) for table in read(database).tables] == [["a"]]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """CREATE TABLE bad_1 (x); CREATE TABLE t (bad_2); CREATE VIEW bad_3 AS SELECT 1;
            CREATE TABLE good (x DEFAULT 'bad_4' REFERENCES bad_5);
            CREATE INDEX bad_6 ON good (x); CREATE VIEW v AS SELECT 1 AS bad_7;
            CREATE VIEW w AS SELECT bad_8 FROM good;
            CREATE TRIGGER tr AFTER INSERT ON bad_1 BEGIN SELECT 'bad_9'; END"""
        )
    path.write_bytes(path.read_bytes().replace(b"bad", b"b\xe4d"))
    with closing(opening.connect(path, "ro")) as connection:
        schema = read(connection)
    assert schema.tables == (
        Table(
            "good",
            (Column("x", default="'b\ufffdd_4'"),),
            foreign_keys=(ForeignKey(("x",), "b\ufffdd_5", ()),),
        ),
    )
    assert [(view.name, view.columns) for view in schema.views] == [("v", ()), ("w", ())]
    assert [(trigger.name, trigger.table) for trigger in schema.triggers] == [("tr", "b\ufffdd_1")]
    assert schema.unreadable == {
        **dict.fromkeys(("b\ufffdd_1", "b\ufffdd_3", "b\ufffdd_6"), "its name is not UTF-8"),
        **dict.fromkeys(("t", "v", "w"), "the name of a column is not UTF-8"),
    }


def test_texts_in_utf_16(database: sqlite3.Connection) -> None:
    database.executescript(
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE é (ü DEFAULT 'ß' CHECK (ü <> 'ß'))"
    )
    (table,) = read(database).tables
    assert table == Table("é", (Column("ü", default="'ß'"),), checks=(Check("ü <> 'ß'"),))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("UPDATE sqlite_master SET sql = 'CREATE TABLE t (a,, b)'", "the definition of t"),
        ("UPDATE sqlite_master SET rootpage = 77", "the definition of t"),
    ],
)
def test_a_catalog_that_sqlite_cannot_read(spoil: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE t (a); PRAGMA writable_schema = ON; {spoil}")
    with closing(opening.connect(path, "ro")) as connection:
        with pytest.raises(opening.UNREADABLE) as caught:
            read(connection)
        assert connection.text_factory is str
    error = unreadable(path, caught.value)
    assert isinstance(error, SourceError)
    assert message in str(error)


def test_an_empty_database(database: sqlite3.Connection) -> None:
    assert read(database) == Schema()
