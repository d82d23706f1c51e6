"""Keys are compared byte by byte on both sides, whatever the source's collation."""

import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.migrations.declaration import NAMES
from pipeline.sqlite import tracking
from pipeline_tests.support import spaces_world
from pipeline_tests.support.collated import Kennel, ddl
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query

OWNERS = ("a", "B", "C", "ä", "Ab", "aC", "É", "E\N{COMBINING ACUTE ACCENT}", "", "z ", " z", "1")
ORDERED = sorted(OWNERS, key=str.encode)
OPTIONS = {"rowid": "", "without rowid": "WITHOUT ROWID", "strict": "STRICT"}
REASON = (
    "refers to a row of owners only under NOCASE, which equates its key with 'A2'; PostgreSQL"
    " compares exactly"
)


def made(path: Path, url: str, script: str) -> Kennel:
    return Kennel(SourceFile.make(path, script).path, url)


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_keys_with_a_collation_move_sync_and_verify(
    collation: str, options: str, mode: str, target_url: str, tmp_path: Path
) -> None:
    kennel = made(tmp_path / "source.db", target_url, ddl(f"COLLATE {collation}", options=options))
    kennel.own(*OWNERS)
    kennel.keep(*((f"p{number}", key) for number, key in enumerate(OWNERS)))
    if mode == "tracked":
        kennel.track()
    assert kennel.planned(tmp_path, "pets") == {}
    assert [move.strategy for move in kennel.move().values()] == ["filled", "filled"]
    assert kennel.ids("owners") == ORDERED
    assert len(kennel.ids("pets")) == len(OWNERS)
    assert kennel.verified(tmp_path) == set()
    # The other case of a key is another key: one row goes, another comes.
    kennel.run(
        "UPDATE owners SET id = 'b', name = 'new' WHERE id = 'B' COLLATE BINARY;"
        "UPDATE pets SET owner_id = 'b' WHERE owner_id = 'B' COLLATE BINARY;"
        "DELETE FROM pets WHERE owner_id = 'a' COLLATE BINARY;"
        "DELETE FROM owners WHERE id = 'a' COLLATE BINARY"
    )
    kennel.own("d", "Y")
    kennel.sync()
    expected = sorted({*OWNERS, "b", "d", "Y"} - {"a", "B"}, key=str.encode)
    assert kennel.ids("owners") == expected
    assert kennel.quarantined("pets") == {}
    assert kennel.verified(tmp_path) == set()
    assert all(not move.written_rows for move in kennel.sync().values())
    assert all(not move.written_rows for move in kennel.move().values())


def test_what_a_collation_made_equal_is_foreseen_quarantined_and_returns(
    mode: str, target_url: str, tmp_path: Path
) -> None:
    kennel = made(tmp_path / "source.db", target_url, ddl("COLLATE NOCASE"))
    kennel.own("A2", "b")
    kennel.keep(("p1", "a2"), ("p2", "b"), ("p3", "B"), ("p4", "none"), ("p5", None))
    if mode == "tracked":
        kennel.track()
    other = REASON.replace("'A2'", "'b'")
    missing = "refers to a row of owners that is not in the source"
    assert kennel.planned(tmp_path, "pets") == {REASON: ("p1",), other: ("p3",), missing: ("p4",)}
    kennel.move()
    waiting = {"p1": [REASON], "p3": [other], "p4": [missing]}
    assert kennel.quarantined("pets") == waiting
    kennel.keep(("p6", "B"))
    kennel.sync(retry_rejected=True)
    assert kennel.quarantined("pets") == waiting | {"p6": [other]}
    assert kennel.verified(tmp_path) == set()
    kennel.run("UPDATE owners SET id = 'a2' WHERE id = 'A2'")
    moves = kennel.sync()
    assert all(not move.checks.failed for move in moves.values())
    assert kennel.ids("owners") == ["a2", "b"]
    assert kennel.ids("pets") == ["p1", "p2", "p5"]
    assert kennel.verified(tmp_path) == set()


def test_a_trailing_space_under_rtrim_is_named(target_url: str, tmp_path: Path) -> None:
    kennel = made(tmp_path / "source.db", target_url, ddl("COLLATE RTRIM"))
    kennel.own("a ")
    kennel.keep(("p1", "a"))
    (reason,) = kennel.planned(tmp_path, "pets")
    assert "only under RTRIM, which equates its key with 'a '" in reason
    kennel.move()
    assert kennel.quarantined("pets") == {"p1": [reason]}


def test_a_rule_of_the_target_sees_the_exact_text(target_url: str, tmp_path: Path) -> None:
    kennel = made(tmp_path / "source.db", target_url, ddl("COLLATE NOCASE"))
    kennel.own("a", "b")
    kennel.run("UPDATE owners SET kind = 'CAT' WHERE id = 'b'")
    (reason,) = kennel.planned(tmp_path, "owners")
    kennel.move()
    assert kennel.quarantined("owners") == {"b": [reason]}


def test_keys_of_several_storage_classes_and_large_ids(target_url: str, tmp_path: Path) -> None:
    """Only texts are keys of a text column; the others are named and kept."""
    script = ddl().replace("id TEXT  PRIMARY KEY, name", "id PRIMARY KEY, name")
    kennel = made(tmp_path / "source.db", target_url, script)
    kennel.own("1", "", "é", "e\N{COMBINING ACUTE ACCENT}", "x ")
    kennel.run(
        "INSERT INTO owners VALUES (1, 'n1', 'cat'), (x'31', 'n2', 'cat'),"
        " (9223372036854775807, 'n3', 'cat'), (1.0e300, 'n4', 'cat')"
    )
    kennel.keep(("p1", "1"), ("p2", "x"), ("p3", "x "))
    assert set(kennel.planned(tmp_path, "pets").values()) == {("p2",)}
    kennel.move()
    assert kennel.ids("owners") == sorted(["1", "", "é", "e\u0301", "x "], key=str.encode)
    waiting = "SELECT count(*) FROM migration.quarantine WHERE table_name = 'owners'"
    assert query(target_url, waiting) == [(4,)]
    assert list(kennel.quarantined("pets")) == ["p2"]
    kennel.own("y")
    kennel.sync()
    assert kennel.verified(tmp_path) == set()


def test_a_file_whose_tables_were_renamed_by_old_rules_moves(
    target_url: str, tmp_path: Path
) -> None:
    """Such a rename leaves views, triggers and references to a table that is gone."""
    kennel = made(tmp_path / "source.db", target_url, ddl("COLLATE NOCASE"))
    kennel.run(
        "CREATE VIEW old_view AS SELECT * FROM ancient;"
        "CREATE TABLE notes (owner TEXT REFERENCES old_owners(id));"
        "CREATE TABLE old_owners (id TEXT); CREATE TRIGGER t AFTER INSERT ON pets BEGIN"
        " INSERT INTO ancient VALUES (1); END;"
    )
    kennel.own("a", "B")
    with sqlite3.connect(kennel.path) as application:
        application.execute("PRAGMA legacy_alter_table = ON")
        application.execute("ALTER TABLE old_owners RENAME TO older_owners")
    kennel.move()
    assert kennel.ids("owners") == ["B", "a"]
    kennel.sync()
    assert kennel.verified(tmp_path) == set()


def test_keys_with_a_collation_come_back_from_the_target(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = spaces_world.ddl().replace("TEXT", "TEXT COLLATE NOCASE")
    source = SourceFile.make(tmp_path / "source.db", script)
    spaces_world.fill(source)
    spaces_world.add(source, "session", {"id": "B", "token": "t2"}, {"id": "c", "token": "t3"})
    spaces_world.move(source, target_url)
    set_up(source.path, target_url, monkeypatch)
    world = World(source, target_url, tmp_path)
    world.tables, world.delete_share = spaces_world.TABLES, 1.0
    outcome = world.live()
    assert outcome.open, [answer for answer in outcome.answers if not answer.yes]
    world.do("UPDATE session SET id = 'S1' WHERE id = 's1'")
    world.do("UPDATE session SET token = 'T2', user_agent = 'x' WHERE id = 'B'")
    world.do("DELETE FROM session WHERE id = 'c'")
    world.do(
        "INSERT INTO session SELECT 'D', expires_at, 't4', NULL, NULL, user_id, created_at,"
        " updated_at FROM session WHERE id = 'B'"
    )
    world.rollback()
    assert world.state == "shadow"
    assert source.run("SELECT id, token FROM session ORDER BY id COLLATE BINARY") == [
        ("B", "T2"),
        ("D", "t4"),
        ("S1", "t1"),
    ]
    assert source.run("PRAGMA integrity_check") == [("ok",)]
    moved = spaces_world.move(source, target_url)
    assert moved["session"].strategy == "unchanged"


def test_the_smallest_and_the_largest_integer_are_keys(
    mode: str, target_url: str, tmp_path: Path
) -> None:
    metadata = sa.MetaData(naming_convention=NAMES)
    table = sa.Table("t", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
    source = SourceFile.make(tmp_path / "source.db", "CREATE TABLE t (id INTEGER PRIMARY KEY);")
    ends = [-(2**63), -1, 0, 2**53 + 1, 2**63 - 2, 2**63 - 1]
    source.run("INSERT INTO t SELECT value FROM json_each(?)", (json.dumps(ends[:-1]),))
    if mode == "tracked":
        tracking.switch_on(source.path, [table])
    move_all(source.path, target_url, tables=[table])
    source.run("INSERT INTO t VALUES (9223372036854775807)")
    source.run("DELETE FROM t WHERE id = 0")
    sync_all(source.path, target_url, tables=[table], delete_share=1.0)
    expected = [(key,) for key in ends if key]
    assert query(target_url, "SELECT id FROM t ORDER BY id") == expected
    move_all(source.path, target_url, tables=[table])
    assert query(target_url, "SELECT id FROM t ORDER BY id") == expected
