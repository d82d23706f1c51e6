"""What only the application has: collations and functions that no other program knows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.backup import source as backup
from pipeline.core.errors import PipelineError, SourceError
from pipeline.doctor import source as doctor
from pipeline.move.run.scope import Subset
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.fetch import fetch
from pipeline.sqlite.origin import Dump
from pipeline_tests.support import collated
from pipeline_tests.support.collated import TABLES, Kennel, ddl
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.moves import move_in
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.targets import query

FIRST = """
    first TEXT GENERATED ALWAYS AS (json_extract(tags, '$[0]')) VIRTUAL,"""
OWNER = """, upper TEXT GENERATED ALWAYS AS (shout(name)) STORED,
    tags TEXT DEFAULT '["x", 1]' CHECK (json_valid(tags)),
    loud TEXT DEFAULT (shout('q')), CHECK (shout(name) IS NOT NULL)"""
MORE = """
CREATE INDEX by_kind ON owners (kind COLLATE unicase);
CREATE INDEX by_shout ON owners (shout(name));
CREATE INDEX some ON pets (owner_id) WHERE shout(id) <> 'x';
CREATE VIEW loud AS SELECT shout(name) FROM owners ORDER BY name COLLATE unicase;
CREATE TRIGGER heard AFTER INSERT ON pets BEGIN SELECT shout(NEW.id); END;
"""
WITH_FIRST = OWNER.replace("(json_valid(tags)),", f"(json_valid(tags)),{FIRST}")
FORMS = {
    "every column": ("COLLATE unicase", ""),
    "rows in its order": ("COLLATE unicase", "WITHOUT ROWID"),
    "strict": ('COLLATE "UniCase"', "STRICT"),
    "other columns": ("", ""),
    "with comments": ("COLLATE /* ours */ [unicase]", ""),
}


def kennel(path: Path, url: str, collation: str, options: str = "", **more: str) -> Kennel:
    with closing(collated.connect(path)) as application:
        application.executescript(ddl(collation, options=options, **more))
    return Kennel(path, url)


@pytest.mark.parametrize(("collation", "options"), FORMS.values(), ids=FORMS)
def test_a_source_of_an_application_with_its_own_collation_and_function(
    collation: str, options: str, mode: str, target_url: str, tmp_path: Path
) -> None:
    # In a table whose rows are in an unknown order, values cannot be computed.
    owner = OWNER if "ROWID" in options else WITH_FIRST
    made = kennel(tmp_path / "source.db", target_url, collation, options, owner=owner, more=MORE)
    made.own("a", "B", "c", "Z", "é")
    made.keep(("p1", "a"), ("p2", "B"), ("p3", "A"))
    if mode == "tracked":
        made.track()
    if collation:
        (reason,) = made.planned(tmp_path, "pets")
        assert "keys use the collation UNICASE, which only the application has" in reason
    else:
        (reason,) = made.planned(tmp_path, "pets")
    made.move()
    assert made.quarantined("pets") == {"p3": [reason]}
    assert made.ids("owners") == ["B", "Z", "a", "c", "é"]
    (found,) = query(target_url, "SELECT to_jsonb(o) FROM owners AS o WHERE id = 'a'")
    computed = {} if owner is OWNER else {"first": "x"}
    assert {"upper": "name of 'a'!", **computed}.items() <= found[0].items()
    assert made.verified(tmp_path) == set()
    made.own("D", "\N{COMBINING ACUTE ACCENT}")
    made.run("DELETE FROM pets WHERE id = 'p2'; UPDATE owners SET id = 'b' WHERE id = 'B'")
    made.keep(("p4", "D"))
    made.sync(retry_rejected=True)
    assert made.ids("pets") == ["p1", "p4"]
    assert sorted({"a", "b", "c", "Z", "é", "D", "\u0301"}, key=str.encode) == made.ids("owners")
    assert made.verified(tmp_path) == set()
    move_in(Subset(keys=("a",)), made.path, target_url, tables=TABLES, delete_share=1.0)
    assert made.verified(tmp_path) == set()


@pytest.mark.parametrize(("collation", "options"), FORMS.values(), ids=FORMS)
def test_doctor_and_backup_take_it(collation: str, options: str, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    made = kennel(source, "", collation, options, owner=OWNER, more=MORE)
    made.own("a", "B")
    made.keep(("p1", "a"), ("p2", "b"))
    found = {each.name: each for each in doctor.examine(source, snapshots=tmp_path, tables=TABLES)}
    assert found["readable"].state == "ok"
    assert found["integrity"].state == "ok"
    assert "owners" in found["integrity"].detail
    assert "UNICASE" in found["collations"].detail
    assert found["foreign keys"].detail == "parents missing: 1 row (pets to owners)"
    copy = tmp_path / "copy.db"
    tables = backup.back_up(source, copy)
    assert {table.name: table.rows for table in tables} == {"owners": 2, "pets": 2}
    made.run("DELETE FROM pets")
    backup.restore(copy, source, kept=tmp_path / "kept.db", expected=tables)
    with closing(collated.connect(source)) as application:
        assert application.execute("SELECT count(*) FROM pets").fetchone() == (2,)
        assert application.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_doctor_says_which_keys_are_compared_by_a_collation(tmp_path: Path) -> None:
    source = SourceFile.make(tmp_path / "source.db", ddl("COLLATE NOCASE"))
    made = Kennel(source.path, "")
    made.own("A2")
    made.keep(("p1", "a2"))
    found = {
        each.name: each for each in doctor.examine(made.path, snapshots=tmp_path, tables=TABLES)
    }
    assert found["collations of keys"].state == "warning"
    assert "pets.owner_id (NOCASE)" in found["collations of keys"].detail
    assert found["foreign keys"].detail == "parents missing: 1 row (pets to owners)"


def test_damage_is_found_beside_what_cannot_be_checked(tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    made = kennel(source, "", "", owner=", other TEXT COLLATE unicase")
    made.own("a", "b")
    made.keep(*((f"p{number}", "a") for number in range(50)))
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        (sql,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'pets_of'"
        ).fetchone()
        connection.execute(
            "UPDATE sqlite_master SET sql = ? WHERE name = 'pets_of'",
            (sql.replace("owner_id", "id"),),
        )
    found = {each.name: each for each in doctor.examine(source, snapshots=tmp_path, tables=TABLES)}
    assert found["integrity"].state == "error"
    assert "pets_of" in found["integrity"].detail


@pytest.mark.parametrize("sync", [False, True])
def test_what_only_the_application_can_compute_is_named(
    sync: bool, target_url: str, tmp_path: Path
) -> None:
    made = kennel(tmp_path / "source.db", target_url, "")
    made.own("a")
    made.move()
    made.run("ALTER TABLE owners ADD COLUMN loud TEXT GENERATED ALWAYS AS (shout(name)) VIRTUAL")
    with pytest.raises(SourceError) as raised:
        _ = made.sync() if sync else made.move()
    assert "Table owners of the source" in str(raised.value)
    assert "computes loud with the function shout, which only the application has" in str(
        raised.value
    )


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        (
            "CREATE TABLE t (a TEXT COLLATE NOCASE, b, c DEFAULT ',' COLLATE x)",
            {"a": "NOCASE", "c": "X"},
        ),
        (
            'CREATE TABLE "a(b" ("x ""y" TEXT COLLATE [my own], z CHECK (z COLLATE q = 1))',
            {'x "y': "MY OWN"},
        ),
        ("CREATE TABLE t (a -- , b COLLATE n\n, b /* COLLATE m */ COLLATE BINARY)", {}),
        (
            "CREATE TABLE t (a CHECK (a = b COLLATE n), b COLLATE rtrim, UNIQUE (a COLLATE u))",
            {"b": "RTRIM"},
        ),
    ],
)
def test_collations_of_columns_are_read_from_the_schema(sql: str, named: dict[str, str]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for name in ("x", "my own", "q", "n", "u"):
            connection.create_collation(name, lambda a, b: (a > b) - (a < b))
        connection.execute(sql)
        (table,) = connection.execute("SELECT name FROM sqlite_master").fetchone()
        assert collations.of_columns(connection, table) == named


def test_a_check_with_a_json_function_is_kept_on_the_way_back(tmp_path: Path) -> None:
    """A connection that writes the source still obeys its CHECKs, and calls nothing else."""
    source = SourceFile.make(
        tmp_path / "source.db", "CREATE TABLE t (x TEXT CHECK (json_valid(x)));"
    )
    with closing(opening.connect(source.path, "rw")) as connection:
        connection.execute("INSERT INTO t VALUES ('{}')")
        with pytest.raises(sqlite3.IntegrityError, match="json_valid"):
            connection.execute("INSERT INTO t VALUES ('{')")
    made = SourceFile.make(tmp_path / "other.db", "CREATE TABLE t (x);")
    made.run("CREATE TRIGGER w AFTER INSERT ON t BEGIN SELECT load_extension('x'); END")
    with closing(opening.connect(made.path, "rw")) as connection, pytest.raises(sqlite3.Error):
        connection.execute("INSERT INTO t VALUES (1)")


def test_a_dump_of_such_a_file_is_read(target_url: str, tmp_path: Path) -> None:
    made = kennel(tmp_path / "source.db", target_url, "COLLATE unicase")
    made.run("CREATE INDEX kinds ON owners (kind COLLATE [uniCase])")
    made.own("a", "B")
    made.keep(("p1", "B"))
    dump = tmp_path / "source.sql"
    with closing(collated.connect(made.path)) as application:
        dump.write_text("\n".join(application.iterdump()))
    copy = Kennel(fetch(Dump(dump), home=tmp_path / "home"), target_url)
    copy.move()
    assert (copy.ids("owners"), copy.ids("pets")) == (["B", "a"], ["p1"])
    copy.sync()
    assert copy.verified(tmp_path) == set()


def test_the_way_back_obeys_checks_and_needs_no_collation_of_the_application(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = CONTENT_DDL.replace("title VARCHAR(200)", "title VARCHAR(200) COLLATE unicase")
    script = script.replace("tags JSON", "tags JSON CHECK (json_valid(tags))")
    script += "CREATE TABLE other (x TEXT COLLATE unicase PRIMARY KEY);"
    with closing(collated.connect(tmp_path / "source.db")) as application:
        application.executescript(script)
    source = SourceFile(tmp_path / "source.db")
    source.add_family(contents=2)
    set_up(source.path, target_url, monkeypatch)
    world = World(source, target_url, tmp_path)
    outcome = world.live()
    assert outcome.open, [answer for answer in outcome.answers if not answer.yes]
    world.do("UPDATE learning_content SET title = 'new', tags = '[1]' WHERE id = 1")
    world.rollback()
    assert source.run("SELECT title, tags FROM learning_content WHERE id = 1") == [("new", "[1]")]
    world.live()
    world.do("UPDATE learning_content SET tags = NULL WHERE id = 1")
    with pytest.raises(PipelineError, match="CHECK constraint failed: json_valid"):
        world.rollback()
    assert world.state == "live"
