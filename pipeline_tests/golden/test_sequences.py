"""Ids that the source has assigned before are not assigned again, on either side.

SQLite remembers in ``sqlite_sequence`` the largest id that a table with AUTOINCREMENT ever had.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import PipelineError
from pipeline.declared.rules import TableRules
from pipeline.move.run.scope import Subset
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres.findings import IdsReused
from pipeline.sqlite import tracking
from pipeline_tests.support.cutover_world import TABLES, World, set_up
from pipeline_tests.support.first_moves import first_move
from pipeline_tests.support.moves import move_all, move_in, sync_all
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile
from pipeline_tests.support.syncs import check
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import opened, standing

DDL = CONTENT_DDL.replace("NOT NULL PRIMARY KEY", "NOT NULL PRIMARY KEY AUTOINCREMENT")
NEXT = "SELECT nextval('learning_content_id_seq')"


@pytest.fixture
def counted(tmp_path: Path) -> SourceFile:
    """Five contents were added, and the last two deleted: the next id is 6."""
    source = SourceFile.make(tmp_path / "counted.db", DDL)
    source.add("learning_content", *({"id": n, "title": f"word {n}"} for n in range(1, 6)))
    source.run("DELETE FROM learning_content WHERE id > 3")
    return source


def advance(source: SourceFile, last: int) -> None:
    """Let the source assign ids up to a number, whose rows are gone again."""
    source.run("UPDATE sqlite_sequence SET seq = ? WHERE name = 'learning_content'", (last,))


def next_id(url: str) -> int:
    return int(query(url, NEXT)[0][0])


def test_a_first_move_goes_on_where_the_source_stopped(
    counted: SourceFile, target_url: str
) -> None:
    moves = move_all(counted.path, target_url)
    assert check(moves["learning_content"], "sequences").figures == {
        "next": 6,
        "largest": 3,
        "assigned": 5,
    }
    assert next_id(target_url) == 6


def test_an_emptied_table_does_not_begin_anew(counted: SourceFile, target_url: str) -> None:
    counted.run("DELETE FROM learning_content")
    move_all(counted.path, target_url)
    assert next_id(target_url) == 6


def _whole(source: SourceFile, url: str) -> dict[str, MoveResult]:
    return move_all(source.path, url)


def _sync(source: SourceFile, url: str) -> dict[str, MoveResult]:
    return sync_all(source.path, url)


def _subset(source: SourceFile, url: str) -> dict[str, MoveResult]:
    return move_in(Subset(keys=(1,)), source.path, url)


@pytest.mark.parametrize("again", [_whole, _sync, _subset])
@pytest.mark.parametrize("tracked", [False, True])
def test_later_moves_follow_the_counter_alone(
    counted: SourceFile,
    target_url: str,
    again: Callable[[SourceFile, str], dict[str, MoveResult]],
    tracked: bool,
) -> None:
    first_move(counted, target_url, tracked=tracked)
    advance(counted, 40)
    assert check(again(counted, target_url)["learning_content"], "sequences").passed
    assert next_id(target_url) == 41
    # What the target has assigned stays assigned.
    advance(counted, 20)
    again(counted, target_url)
    assert next_id(target_url) == 42


def test_a_sequence_that_would_assign_deleted_ids_fails_its_check(
    counted: SourceFile, target_url: str, tmp_path: Path
) -> None:
    move_all(counted.path, target_url)
    source = opened(counted.path, tmp_path)
    assert standing(target_url, source, "learning_content", only={"sequences"})["sequences"].passed
    query(target_url, "SELECT setval('learning_content_id_seq', 3)")
    found = standing(target_url, source, "learning_content", only={"sequences"})["sequences"]
    assert found.findings == (
        IdsReused("learning_content", "public.learning_content_id_seq", 4, 5),
    )
    assert sync_all(counted.path, target_url)["learning_content"].strategy == "synced"
    assert next_id(target_url) == 6


def test_the_last_of_all_ids_moves(tmp_path: Path, database: URL) -> None:
    """``id`` 2^63 - 1 of a key of that type; its sequence has no further id."""
    source = SourceFile.make(tmp_path / "s.db", "CREATE TABLE big (id INTEGER PRIMARY KEY, v)")
    source.run("INSERT INTO big VALUES (9223372036854775807, 1)")
    table = sa.Table(
        "big",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("v", sa.Integer),
        info=TableRules("Large ids.").info,
    )
    for _ in range(2):
        moves = move_all(source.path, libpq(database), tables=[table])
        assert check(moves["big"], "sequences").passed
        assert moves["big"].moved_rows == 1


def test_ids_that_the_target_cannot_hold_are_named(counted: SourceFile, target_url: str) -> None:
    advance(counted, 2**31)
    with pytest.raises(PipelineError, match=r"ids up to 2147483648 .* only up to 2147483647"):
        move_all(counted.path, target_url)
    advance(counted, 2**31 - 1)
    assert check(move_all(counted.path, target_url)["learning_content"], "sequences").passed


def test_the_way_back_leaves_the_counter_ahead(
    counted: SourceFile, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that only the target had, and has deleted; one table never had a row in the source."""
    set_up(counted.path, target_url, monkeypatch)
    world = World(counted, target_url, tmp_path)
    tracking.switch_on(counted.path, TABLES)
    assert world.live().state == "live"
    insert = (
        "INSERT INTO learning_content (title, content_type, language, native_text,"
        " translation, ipa) VALUES ('w', 'v', 't', 'n', 't', 'i') RETURNING id"
    )
    assert query(world.url, insert) == [(6,)]
    query(world.url, "DELETE FROM learning_content WHERE id = 6")
    fragment = (
        "INSERT INTO content_fragments (native_text, body_text, fragment_type, learning_content_id)"
        " VALUES ('n', 'b', 'f', 1) RETURNING id"
    )
    assert query(world.url, fragment) == [(1,)]
    query(world.url, "DELETE FROM content_fragments")
    world.rollback()
    counters = dict(counted.run("SELECT name, seq FROM sqlite_sequence"))
    assert (counters["learning_content"], counters["content_fragments"]) == (6, 1)


def test_a_sync_of_nothing_advances_a_sequence_that_is_behind(
    source: SourceFile, target_url: str
) -> None:
    source.add_family()
    tracking.switch_on(source.path, TABLES)
    move_all(source.path, target_url)
    query(target_url, "SELECT setval('learning_content_id_seq', 1)")
    assert not sync_all(source.path, target_url)["learning_content"].checks.failed
    assert query(target_url, NEXT) == [(4,)]
