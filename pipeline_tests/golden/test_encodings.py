"""A source whose texts are in UTF-16 behaves like one in UTF-8, in every command."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline_tests.support import cutover_world
from pipeline_tests.support.collated import Kennel, ddl
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.syncs import assert_sides_agree
from pipeline_tests.support.targets import query

UTF16 = ["UTF-16le", "UTF-16be"]
# In the order of UTF-16's bytes they would be sorted otherwise.
KEYS = ("a", "b", "Ā", "ÿ", "ก", "\N{FULLWIDTH LATIN SMALL LETTER A}", "🙏", "", "\x01")


def utf16(path: Path, encoding: str, script: str) -> SourceFile:
    return SourceFile.make(path, f"PRAGMA encoding = '{encoding}';{script}")


@pytest.mark.parametrize("encoding", UTF16)
@pytest.mark.parametrize("options", ["", "WITHOUT ROWID", "STRICT"])
def test_text_keys_in_utf_16_move_sync_and_verify(
    encoding: str, options: str, mode: str, target_url: str, tmp_path: Path
) -> None:
    made = utf16(tmp_path / "source.db", encoding, ddl("COLLATE NOCASE", options=options))
    kennel = Kennel(made.path, target_url)
    kennel.own(*KEYS)
    kennel.keep(*((key, key) for key in KEYS), ("lost", "A"))
    if mode == "tracked":
        kennel.track()
    (reason,) = kennel.planned(tmp_path, "pets")
    assert "equates its key with 'a'" in reason
    kennel.move()
    assert kennel.ids("owners") == kennel.ids("pets") == sorted(KEYS, key=str.encode)
    assert kennel.quarantined("pets") == {"lost": [reason]}
    assert kennel.verified(tmp_path) == set()
    kennel.own("A\u0301", "😀")
    kennel.run("DELETE FROM pets WHERE id = 'ก'; UPDATE pets SET id = 'new' WHERE id = 'Ā'")
    moves = kennel.sync()
    assert moves["pets"].strategy == "synced"
    assert len(kennel.ids("owners")) == len(KEYS) + 2
    assert set(kennel.ids("pets")) == {*KEYS, "new"} - {"ก", "Ā"}
    assert kennel.verified(tmp_path) == set()
    assert all(not move.written_rows for move in kennel.sync().values())


def test_half_a_surrogate_pair_is_quarantined_and_nothing_else_is(
    mode: str, target_url: str, tmp_path: Path
) -> None:
    made = utf16(tmp_path / "source.db", "UTF-16le", ddl())
    kennel = Kennel(made.path, target_url)
    kennel.own("a", "b", "c")
    with closing(sqlite3.connect(made.path)) as connection, connection:
        half = "CAST(x'61003dd86200' AS TEXT)"
        connection.execute(f"UPDATE owners SET name = {half} WHERE id = 'b'")
        connection.execute(f"INSERT INTO pets VALUES ({half}, 'a')")
        connection.execute("UPDATE owners SET name = CAST(x'610000006200' AS TEXT) WHERE id = 'c'")
    if mode == "tracked":
        kennel.track()
    kennel.move()
    assert kennel.quarantined("owners") == {
        "b": ["is not valid UTF-8"],
        "c": ["holds a NUL character"],
    }
    assert list(kennel.quarantined("pets").values()) == [["is not valid UTF-8"]]
    kennel.run("UPDATE owners SET name = 'whole' WHERE id = 'b'")
    kennel.sync(retry_rejected=True)
    assert kennel.ids("owners") == ["a", "b"]
    assert kennel.verified(tmp_path) == set()


def test_every_command_takes_a_source_in_utf_16(target_url: str, tmp_path: Path) -> None:
    source = utf16(tmp_path / "source.db", "UTF-16le", CONTENT_DDL)
    source.add_family(contents=3)
    source.add("rankings", {"id": 91, "asset_id": 77})
    settings = usable(source, target_url, tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        ran = pipeline(*arguments, **settings)
        assert ran.code == code, ran.out + ran.err
        return " ".join((ran.out + ran.err).split())

    assert "UTF-16-LE" in run("doctor")
    assert "missing" not in run("plan", "--json")
    run("migrate")
    source.run(
        "UPDATE learning_content SET title = 'กิน 🙏', updated_at = '2025-09-01 00:00:00'"
        " WHERE id = 1"
    )
    run("sync")
    assert query(target_url, "SELECT title FROM learning_content WHERE id = 1") == [("กิน 🙏",)]
    run("track", "on")
    run("sync")
    source.run("DELETE FROM rankings WHERE id = 91")
    run("sync")
    run("verify")
    run("backup")
    assert_sides_agree(source, target_url)


def test_a_source_in_utf_16_is_cut_over_and_gets_its_rows_back(
    target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = utf16(tmp_path / "source.db", "UTF-16be", CONTENT_DDL)
    source.add_family(contents=3)
    cutover_world.set_up(source.path, target_url, monkeypatch)
    world = cutover_world.World(source, target_url, tmp_path)
    outcome = world.live()
    assert outcome.open, [a for a in outcome.answers if not a.yes]
    with pytest.raises(sqlite3.IntegrityError, match="has moved to PostgreSQL"):
        source.run("DELETE FROM rankings")
    world.do("UPDATE learning_content SET title = 'ไป 🙏' WHERE id = 2")
    world.do("DELETE FROM rankings WHERE id = 1")
    world.rollback()
    assert world.state == "shadow"
    assert source.run("SELECT title FROM learning_content WHERE id = 2") == [("ไป 🙏",)]
    assert source.run("SELECT count(*) FROM rankings WHERE id = 1") == [(0,)]
    assert source.run("PRAGMA encoding") == [("UTF-16be",)]
    assert_sides_agree(source, target_url)
