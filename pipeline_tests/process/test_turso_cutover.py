"""Cutting over on Turso itself, and the way back: the application writes at the primary."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import environment, settings
from pipeline.core.errors import SourceError, Transient
from pipeline.cutover import freezing
from pipeline.migrations.content import CONTENT
from pipeline.sqlite import copy_markers, primary, tracking
from pipeline.sqlite.snapshot import writing
from pipeline_tests.support.cutover_world import TABLES, World, content, equal
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import query
from pipeline_tests.support.turso import TOKEN, Gate, Server, application

MOVED = "this table has moved to PostgreSQL"


@pytest.fixture
def world(
    turso: Server, gate: Gate, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world whose application writes at the primary."""
    monkeypatch.setenv("SQLITE_DATABASE_URL", gate.url)
    monkeypatch.setenv("TURSO_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("DATABASE_URL", target_url)
    app = application(turso, settings.load().source_path(CONTENT))
    app.add_family()
    environment.source_file(settings.load(), CONTENT)
    yield World(app, target_url, tmp_path)
    copy_markers.PRIMARIES.clear()


def triggers(world: World) -> list[str]:
    """Those of the primary."""
    return [
        name for (name,) in world.source.run("SELECT name FROM sqlite_master WHERE type='trigger'")
    ]


def at_primary(world: World) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table.name: world.source.run(f"SELECT * FROM {table.name} ORDER BY id") for table in TABLES
    }


def test_the_whole_way_there_and_back_with_an_application_at_the_primary(
    world: World, gate: Gate
) -> None:
    world.delete_share = 1
    before = at_primary(world)
    stop, written, refused = threading.Event(), [], []

    def write() -> None:
        for n in range(100, 10_000):
            if stop.is_set():
                return
            try:
                world.source.add("learning_content", {"id": n, "title": f"late {n}"})
                written.append(n)
            except RuntimeError as error:
                refused.append(str(error))
            time.sleep(0.02)

    app = threading.Thread(target=write)
    app.start()
    gate.asked.clear()
    outcome = world.live()
    # However many rows there are: views are pulled; tracking and the freeze are one request each.
    assert Counter(gate.asked) == {"/pull-updates": 9, "/v2/pipeline": 2}
    until = time.monotonic() + 10
    while not refused and time.monotonic() < until:
        time.sleep(0.05)
    stop.set()
    app.join()
    assert outcome.state == "live" and outcome.open
    assert written and refused and all(MOVED in each for each in refused)
    ids = [key for (key,) in query(world.url, "SELECT id FROM learning_content WHERE id >= 100")]
    assert sorted(ids) == written
    with pytest.raises(RuntimeError, match=MOVED):
        world.source.run("DELETE FROM rankings")
    with pytest.raises(RuntimeError, match=MOVED):
        world.source.run("UPDATE content_fragments SET body_text = 'x'")

    world.do(
        "INSERT INTO learning_content (title, content_type, language, native_text, translation,"
        " ipa) VALUES ('ใหม่', 'word', 'thai', 'ใหม่', 'new', 'mai')"
    )
    world.do("UPDATE fragment_assets SET asset_data = '\\x00ff10' WHERE id = 2")
    world.do("UPDATE learning_content SET title = 'it''s; new' WHERE id = 1")
    world.do("DELETE FROM learning_content WHERE id = 3")
    gate.asked.clear()
    returned = {each.table: each for each in world.rollback()}
    assert Counter(gate.asked) == {"/pull-updates": 4, "/v2/pipeline": 2}
    assert world.state == "shadow"
    counted = returned["learning_content"]
    assert (counted.inserted, counted.updated, counted.deleted) == (1, 1, 1)
    after = at_primary(world)
    assert len(after["rankings"]) == len(before["rankings"]) - 4
    assert after["fragment_assets"][1][3] == b"\x00\xff\x10"
    assert after["learning_content"][0][1] == "it's; new"
    assert after["learning_content"][-1][1] == "ใหม่"
    assert after["rankings"][0] == before["rankings"][0]
    assert not [name for name in triggers(world) if "frozen" in name]
    environment.source_file(settings.load(), CONTENT)
    assert content(world.source.path) == after
    equal(world)
    (newest,) = [row[0] for row in after["learning_content"] if row[1] == "ใหม่"]
    counter = "SELECT seq FROM sqlite_sequence WHERE name = 'learning_content'"
    assert newest > max(written) and world.source.run(counter) == [(newest,)]
    world.source.add("learning_content", {})
    assert len(at_primary(world)["learning_content"]) == len(after["learning_content"]) + 1


def test_a_freeze_keeps_the_primary_from_being_written_and_a_thaw_gives_it_back(
    world: World,
) -> None:
    freezing.freeze(world.source.path, TABLES)
    assert freezing.is_frozen_file(world.source.path, TABLES)
    with pytest.raises(RuntimeError, match=MOVED):
        world.source.add("learning_content", {"id": 77})
    assert freezing.unfreeze(world.source.path)
    assert not freezing.is_frozen_file(world.source.path, TABLES)
    world.source.add("learning_content", {"id": 77})
    assert triggers(world) == []
    assert not freezing.unfreeze(world.source.path)


def test_tracking_at_the_primary_is_followed(world: World) -> None:
    path = world.source.path
    assert tracking.switch_on(path, TABLES)
    assert not tracking.switch_on(path, TABLES)
    assert tracking.status(path, TABLES).untracked == ()
    move_all(path, world.url)
    world.source.run("UPDATE learning_content SET ipa = 'unseen by dates' WHERE id = 2")
    environment.source_file(settings.load(), CONTENT)
    moved = sync_all(path, world.url)
    assert moved["learning_content"].written_rows == 1
    assert query(world.url, "SELECT ipa FROM learning_content WHERE id = 2") == [
        ("unseen by dates",)
    ]
    assert tracking.switch_off(path)
    assert triggers(world) == []


def test_all_of_a_write_or_nothing_reaches_the_primary(world: World) -> None:
    path, before = world.source.path, at_primary(world)

    def write(last: str) -> None:
        with writing(path, why="a test") as connection:
            connection.execute("DELETE FROM rankings WHERE id = ?", (1,))
            connection.execute(last)

    # What the application did since the file last followed, only the primary knows.
    def meanwhile() -> None:
        with writing(path, why="a test") as connection:
            connection.execute("DELETE FROM rankings WHERE id = ?", (1,))
            connection.execute("UPDATE learning_content SET id = 500 WHERE id = 3")
            world.source.add("learning_content", {"id": 500})

    with pytest.raises(SourceError, match="rejected the write for a test") as caught:
        meanwhile()
    assert not isinstance(caught.value, Transient)
    assert at_primary(world)["rankings"] == before["rankings"]
    with pytest.raises(SourceError):
        write("DELETE FROM no_such_table")
    with pytest.raises(ZeroDivisionError), writing(path, why="a test") as connection:
        connection.execute("DELETE FROM rankings")
        raise ZeroDivisionError
    assert at_primary(world)["rankings"] == before["rankings"]
    environment.source_file(settings.load(), CONTENT)
    assert content(path)["rankings"] == before["rankings"]


def test_a_lost_answer_is_told_and_the_next_run_goes_on(world: World, gate: Gate) -> None:
    gate.fault, gate.of = "lose the answer", "/v2/pipeline"
    with pytest.raises(Transient, match="it is unknown whether a cut-over took effect"):
        freezing.freeze(world.source.path, TABLES)
    gate.fault = None
    freezing.freeze(world.source.path, TABLES)
    with pytest.raises(RuntimeError, match=MOVED):
        world.source.add("learning_content", {"id": 77})


def test_a_way_back_that_breaks_off_leaves_it_live_and_can_be_done_again(
    world: World, gate: Gate
) -> None:
    assert world.live().state == "live"
    world.do("UPDATE learning_content SET title = 'straight' WHERE id = 1")
    gate.of, gate.status = "/v2/pipeline", 503
    sent = "the source may have the target's rows already; another rollback completes it"
    with pytest.raises(Transient, match=sent):
        world.rollback()
    gate.status, gate.garbled = None, (b"straight", b"crooked!")
    with pytest.raises(SourceError, match=f"learning_content 1 in the source differs .*{sent}"):
        world.rollback()
    gate.garbled, gate.fault = (b"", b""), "lose the answer"
    with pytest.raises(Transient, match=f"it is unknown whether .*{sent}"):
        world.rollback()
    gate.fault = None
    assert world.state == "live"
    with pytest.raises(RuntimeError, match=MOVED):
        world.source.add("learning_content", {"id": 77})
    world.rollback()
    assert world.state == "shadow"
    assert world.source.run("SELECT title FROM learning_content WHERE id = 1") == [("straight",)]
    equal(world)


def test_a_cut_over_that_cannot_freeze_goes_back_to_shadow(world: World, gate: Gate) -> None:
    environment.source_file(settings.load(), CONTENT)
    tracking.switch_on(world.source.path, TABLES)
    gate.of, gate.status = "/v2/pipeline", 403
    with pytest.raises(SourceError, match="a token that is not read-only") as caught:
        world.live()
    assert TOKEN not in str(caught.value)
    assert world.state == "shadow"
    world.source.add("learning_content", {"id": 77})


def test_a_cut_over_whose_freeze_is_not_known_of_is_thawed_by_hand(
    world: World, gate: Gate
) -> None:
    tracking.switch_on(world.source.path, TABLES)
    gate.of, gate.fault = "/v2/pipeline", "lose the answer"
    with pytest.raises(Transient):
        world.live()
    assert "run pipeline cutover unfreeze" in world.said[-1]
    gate.fault = None
    world.unfreeze()
    assert world.state == "shadow"
    world.source.add("learning_content", {"id": 77})


def test_who_may_not_write_is_told_which_token_is_needed(world: World, gate: Gate) -> None:
    gate.of, gate.status = "/v2/pipeline", 403
    with pytest.raises(SourceError, match="a token that is not read-only"):
        freezing.freeze(world.source.path, TABLES)
    assert triggers(world) == []


def test_what_is_too_large_for_one_request_is_refused_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(primary, "REQUEST_BYTES", 2000)
    with pytest.raises(SourceError, match="more than the limit of 0 MiB per request"):
        freezing.freeze(world.source.path, TABLES)
    assert triggers(world) == []


def test_a_process_that_did_not_fetch_writes_nothing(world: World) -> None:
    before = world.source.path.read_bytes()
    copy_markers.PRIMARIES.clear()
    with pytest.raises(SourceError, match="cannot be written, which a cut-over requires"):
        freezing.freeze(world.source.path, TABLES)
    assert world.source.path.read_bytes() == before
    assert triggers(world) == []
