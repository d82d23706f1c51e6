"""Tables that are filled before their turn: nothing of them stays when their turn never comes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import PipelineError
from pipeline.migrations.content import metadata
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.options import MoveOptions
from pipeline.move.proof.table_checks import ProofFailed
from pipeline.move.reading.source_view import SourceView
from pipeline.move.run import mover as mover_module
from pipeline.move.run.mover import FullMover
from pipeline.move.run.transaction import PendingFill, start_fill
from pipeline.postgres.target import Target
from pipeline.sqlite.snapshot import take_snapshot
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query, reasons

CONTENT, FRAGMENTS, ASSETS, RANKINGS = metadata.sorted_tables
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pipeline'"
    " AND datname = current_database()"
)


@contextmanager
def moving(source: SourceFile, url: str, folder: Path) -> Iterator[FullMover]:
    snapshot = take_snapshot(source.path, folder / "copy.db", tables=metadata.sorted_tables)
    with (
        Target.connect(url, shown="the target") as target,
        FullMover.over(SourceView(snapshot), target, MoveOptions("test")) as mover,
    ):
        yield mover


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> dict[str, PendingFill | None]:
    """What was filled ahead, by table."""
    found: dict[str, PendingFill | None] = {}

    def noted(work: MoveContext) -> PendingFill | None:
        found[work.mapping.name] = start_fill(work)
        return found[work.mapping.name]

    monkeypatch.setattr(mover_module, "start_fill", noted)
    return found


def tables_of(url: str) -> set[str]:
    return {name for (name,) in query(url, "SELECT relname FROM pg_stat_user_tables")}


def test_every_table_but_the_first_is_filled_ahead_and_none_in_the_second_run(
    source: SourceFile, target_url: str, begun: dict[str, PendingFill | None]
) -> None:
    source.add_family()
    moves = move_all(source.path, target_url)
    assert {name: each is not None for name, each in begun.items()} == {
        "content_fragments": True,
        "fragment_assets": True,
        "rankings": True,
    }
    assert [move.moved_rows for move in moves.values()] == [3, 6, 6, 12]
    begun.clear()
    again = move_all(source.path, target_url)
    assert {move.strategy for move in again.values()} == {"unchanged"}
    assert not begun


def test_what_was_begun_is_undone_when_the_parents_proof_fails(
    source: SourceFile, target_url: str, begun: dict[str, PendingFill | None], tmp_path: Path
) -> None:
    source.add_family()
    move_all(source.path, target_url, tables=[CONTENT])
    query(target_url, "DELETE FROM learning_content")
    query(
        target_url,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.title = 'spoilt'; RETURN NEW; END $$;"
        " CREATE TRIGGER spoil BEFORE INSERT ON learning_content"
        " FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    with moving(source, target_url, tmp_path) as mover:
        with pytest.raises(ProofFailed):
            mover.move(CONTENT, upcoming=[FRAGMENTS])
        assert query(target_url, SESSIONS) == [(2,)]
    assert begun["content_fragments"] is not None
    assert "content_fragments" not in tables_of(target_url)
    assert query(target_url, "SELECT count(*) FROM learning_content") == [(0,)]
    assert query(target_url, SESSIONS) == [(0,)]


def test_a_table_filled_ahead_may_wait_while_another_one_moves(
    source: SourceFile, target_url: str, begun: dict[str, PendingFill | None], tmp_path: Path
) -> None:
    source.add_family()
    with moving(source, target_url, tmp_path) as mover:
        mover.move(CONTENT, upcoming=[ASSETS, FRAGMENTS])
        mover.move(FRAGMENTS, upcoming=[ASSETS])
        assert list(begun) == ["fragment_assets"]
        assert mover.idle.value("SELECT count(*) FROM content_fragments") == 6
        moved = mover.move(ASSETS)
    assert moved.moved_rows == 6
    assert all(check.passed for check in moved.checks if check.blocking)


def test_rows_without_parents_are_held_although_they_were_set_down_first(
    source: SourceFile, target_url: str, begun: dict[str, PendingFill | None]
) -> None:
    source.add_family(contents=2)
    source.add("content_fragments", {"id": 90, "learning_content_id": 77})
    source.add("fragment_assets", {"id": 91, "fragment_id": 90})
    moves = move_all(source.path, target_url)
    assert begun["fragment_assets"] is not None
    assert moves["fragment_assets"].moved_rows == 4
    assert reasons(target_url, "content_fragments") == {"90": {"orphan"}}
    assert reasons(target_url, "fragment_assets") == {"91": {"held"}}


def test_a_fault_of_filling_ahead_is_told_at_the_tables_own_turn(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family()
    query(
        target_url,
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands()"
        " WHERE object_identity = 'public.content_fragments') THEN"
        " RAISE EXCEPTION 'no such table here'; END IF; END $$;"
        " CREATE EVENT TRIGGER forbid ON ddl_command_end EXECUTE FUNCTION forbid()",
    )
    with moving(source, target_url, tmp_path) as mover:
        assert mover.move(CONTENT, upcoming=[FRAGMENTS]).moved_rows == 3
        with pytest.raises(PipelineError, match="no such table here"):
            mover.move(FRAGMENTS)
    assert query(target_url, "SELECT count(*) FROM learning_content") == [(3,)]
    assert "content_fragments" not in tables_of(target_url)


def test_progress_of_a_table_is_told_from_its_turn_on(
    source: SourceFile, target_url: str, tmp_path: Path
) -> None:
    source.add_family()
    heard: list[Any] = []
    with moving(source, target_url, tmp_path) as mover:
        mover.move(CONTENT, upcoming=[FRAGMENTS], on_progress=heard.append)
        assert {progress.table for progress in heard} == {"learning_content"}
        mover.move(FRAGMENTS, on_progress=heard.append)
    assert [p.phase for p in heard if p.table == "content_fragments"][-1] == "prove"
