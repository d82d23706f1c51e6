"""From shadow to live and back: who may write, what the gate asks, what the application wrote."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from pipeline.core.errors import PipelineError, SettingsError, SourceError
from pipeline.core.policies import Policies
from pipeline.cutover import capture, freezing, reverse, rollback, sign_offs, states, steps
from pipeline.cutover.gate import Answer
from pipeline.cutover.replay import NotReversible
from pipeline.cutover.states import WrongState
from pipeline.cutover.steps import CutoverContext
from pipeline.migrations.content import CONTENT
from pipeline.move.reading.source_view import SourceView
from pipeline.orchestration.common.resources import TargetDatabase
from pipeline.postgres.target import Target
from pipeline.sqlite import tracking
from pipeline_tests.support.cutover_world import NAMES, TABLES, World, content, equal
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.targets import query

NO = [Answer("all else", False, "is not well", "mend it")]


@pytest.fixture
def world(shadow: World) -> World:
    return shadow


def test_a_first_cut_over_moves_everything_and_ends_live(world: World) -> None:
    outcome = world.live()
    assert (outcome.state, world.state, outcome.open) == ("live", "live", True)
    assert [answer.question for answer in outcome.answers if not answer.yes] == []
    assert query(world.url, "SELECT count(*) FROM rankings") == [(12,)]
    assert 0 < (outcome.blocked_seconds or 0) < 5


def test_what_was_written_while_everything_was_compared_is_moved_at_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = steps.ask

    def asked_while_writing(site: CutoverContext) -> list[Answer]:
        if states.read(site.target, "content").state == "shadow":
            world.source.run("UPDATE rankings SET rank_score = 1.5 WHERE id = 1")
            world.source.run("DELETE FROM rankings WHERE id = 2")
            world.source.add("learning_content", {"id": 77})
        return ask(site)

    monkeypatch.setattr(steps, "ask", asked_while_writing)
    outcome = world.live()
    assert (outcome.state, outcome.caught_up) == ("live", 3)
    assert query(world.url, "SELECT rank_score::text FROM rankings WHERE id < 3") == [("1.50",)]
    assert query(world.url, "SELECT count(*) FROM learning_content") == [(4,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO learning_content (id) VALUES (99)",
        "UPDATE rankings SET rank_score = 1",
        "DELETE FROM fragment_assets",
        "REPLACE INTO content_fragments (id) VALUES (1)",
    ],
)
def test_while_it_is_frozen_nobody_writes_the_source(world: World, sql: str) -> None:
    before = content(world.source.path)
    assert world.freeze().state == "frozen"
    with pytest.raises(sqlite3.IntegrityError, match="this table has moved to PostgreSQL"):
        world.source.run(sql)
    assert content(world.source.path) == before
    world.source.run("CREATE TABLE something_else (id INTEGER)")
    world.source.run("INSERT INTO something_else VALUES (1)")


def test_frozen_can_be_thawed_or_go_live(world: World) -> None:
    world.freeze()
    assert world.unfreeze().state == world.state == "shadow"
    world.source.run("UPDATE rankings SET rank_score = 2")
    world.freeze()
    outcome = world.live()
    assert outcome.state == world.state == "live"
    assert query(world.url, "SELECT DISTINCT rank_score::text FROM rankings") == [("2.00",)]


def test_once_live_nothing_is_moved_over_the_target(live: World) -> None:
    with (
        Target.connect(live.url, shown="the target") as target,
        pytest.raises(WrongState, match="so the target can neither be overwritten"),
    ):
        states.require_following(target, "content")
    with dg.build_resources({"target": TargetDatabase()}) as made, pytest.raises(WrongState):
        made.target.engine(lambda *_: None, migration=CONTENT)
    with pytest.raises(WrongState, match=r"is already live since"):
        live.live()
    with pytest.raises(WrongState):
        live.unfreeze()


def test_closed_is_the_end(live: World) -> None:
    live.do("UPDATE rankings SET rank_score = 1")
    assert live.close().state == live.state == "closed"
    assert query(live.url, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pipeline%'") == [
        (0,)
    ]
    for act in (live.rollback, live.live, live.freeze, live.close, live.unfreeze):
        with pytest.raises(WrongState):
            act()


@pytest.mark.parametrize("to", ["live", "closed", "shadow"])
def test_a_state_that_does_not_follow_is_refused(world: World, to: states.State) -> None:
    move_all(world.source.path, world.url)
    with (
        Target.connect(world.url, shown="the target") as target,
        pytest.raises(WrongState, match="The migration is shadow and cannot become"),
        target.transaction(),
    ):
        states.change(target, "content", to, run_id="x")


# The gate


def test_an_answer_from_outside_keeps_the_gate_closed_before_anything_is_frozen(
    world: World,
) -> None:
    outcome = world.live(NO)
    assert (outcome.state, outcome.open, outcome.blocked_seconds) == ("shadow", False, None)
    world.source.run("UPDATE rankings SET rank_score = 1")


def test_before_the_first_move_the_gate_says_what_is_missing(world: World) -> None:
    assert world.ask() == {
        "every value is proven": "no: the target lacks learning_content,"
        " content_fragments, fragment_assets, rankings"
    }


def test_the_gate_of_a_target_that_follows(world: World) -> None:
    move_all(world.source.path, world.url)
    assert world.ask() == {
        "every value is proven": "no: learning_content is not tracked, so later changes are"
        " unknown; content_fragments is not tracked, so later changes are unknown;"
        " fragment_assets is not tracked, so later changes are unknown; and 1 more",
        "nobody writes the source": "no: its tables can be written",
        "no value differs": "no moved row was changed in the target",
        "nobody else writes the target": "no: writes to learning_content, content_fragments,"
        " fragment_assets, rankings are not captured",
        "quarantine is empty or signed off": "empty",
        "sequences are ahead": "the next id of every table is free",
        "rights are as declared": "the server has none of Supabase's roles",
    }
    tracking.switch_on(world.source.path, TABLES)
    move_all(world.source.path, world.url)
    assert world.ask()["every value is proven"].startswith("as a whole")
    world.source.run("UPDATE rankings SET rank_score = 1")
    assert world.ask()["every value is proven"] == "no: 12 rows written since the last move"
    sync_all(world.source.path, world.url)
    assert world.ask()["every value is proven"].startswith("as a whole")
    tracking.switch_off(world.source.path)
    tracking.switch_on(world.source.path, TABLES)
    assert "no longer has the entry that was last read" in world.ask()["every value is proven"]
    query(world.url, "DELETE FROM migration.watermarks")
    assert "was never moved and proven as a whole" in world.ask()["every value is proven"]


def test_other_policies_than_those_that_were_moved_by_close_the_gate(world: World) -> None:
    tracking.switch_on(world.source.path, TABLES)
    move_all(world.source.path, world.url)
    world.policies = Policies(naive_zone="Asia/Bangkok")
    assert (
        "columns or policies of learning_content have changed since"
        in world.ask()["every value is proven"]
    )


def test_a_row_in_quarantine_closes_the_gate_until_it_is_signed_off(world: World) -> None:
    world.source.add("rankings", {"id": 50, "rank_score": 9.0}, {"id": 51, "rank_score": 9.5})
    outcome = world.live()
    assert (outcome.state, outcome.blocked_seconds) == ("shadow", None)
    question = "quarantine is empty or signed off"
    assert world.ask()[question] == "no: 2 rows of rankings (50, 51)"
    with world.site() as site, site.target.transaction():
        assert (
            sign_offs.sign(site.target, "rankings", row_ids=["50"], by="Ann", reason="a test row")
            == 1
        )
    assert world.ask()[question] == "no: 1 row of rankings (51)"
    with world.site() as site, site.target.transaction():
        assert sign_offs.sign(site.target, "rankings", row_ids=[], by="Ann", reason="known") == 2
    assert world.ask()[question] == "2 rows signed off"
    # The row changes, so what was said of it holds no more.
    world.source.run("UPDATE rankings SET rank_score = 8 WHERE id = 51")
    assert world.live().state == "shadow"
    assert world.ask()[question] == "no: 1 row of rankings (51)"
    with world.site() as site, site.target.transaction():
        sign_offs.sign(site.target, "rankings", row_ids=["51"], by="Ann", reason="known")
    assert world.live().state == "live"


@pytest.mark.parametrize(
    ("row_ids", "by", "reason", "detail"),
    [
        (["50"], " ", "x", "needs a name and a reason"),
        (["50"], "Ann", "", "needs a name and a reason"),
        (["7"], "Ann", "x", "No row 7 of rankings is in quarantine"),
    ],
)
def test_a_sign_off_needs_a_name_a_reason_and_a_row(
    world: World, row_ids: list[str], by: str, reason: str, detail: str
) -> None:
    world.source.add("rankings", {"id": 50, "rank_score": 9.0})
    move_all(world.source.path, world.url)
    with (
        world.site() as site,
        pytest.raises(SettingsError, match=detail),
        site.target.transaction(),
    ):
        sign_offs.sign(site.target, "rankings", row_ids=row_ids, by=by, reason=reason)


def test_a_row_that_goes_to_quarantine_at_the_last_moment_thaws_the_source(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = steps.ask

    def asked_while_writing(site: CutoverContext) -> list[Answer]:
        found = ask(site)
        if states.read(site.target, "content").state == "shadow":
            world.source.run("UPDATE rankings SET rank_score = 9 WHERE id = 3")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(steps, "ask", asked_while_writing)
        outcome = world.live()
    assert (outcome.state, world.state) == ("shadow", "shadow")
    assert outcome.blocked_seconds is not None
    assert [a.detail for a in outcome.answers if not a.yes] == ["1 row of rankings (3)"]
    world.source.run("UPDATE rankings SET rank_score = 3 WHERE id = 3")
    assert world.live().state == "live"


def test_who_else_writes_the_target_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = freezing.freeze

    def frozen_while_writing(*arguments: object) -> None:
        query(world.url, "UPDATE content_fragments SET extra = 'x' WHERE id IN (1, 2)")
        freeze(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(freezing, "freeze", frozen_while_writing)
        outcome = world.live()
    assert [a.detail for a in outcome.answers if not a.yes] == [
        "2 rows of content_fragments written"
    ]
    assert world.state == "shadow"
    # The next attempt compares everything anew.
    assert world.live().state == "live"
    assert query(world.url, "SELECT extra FROM content_fragments WHERE id = 1") == [(None,)]


def test_a_sequence_that_is_behind_and_a_conflict_close_the_gate(world: World) -> None:
    tracking.switch_on(world.source.path, TABLES)
    move_all(world.source.path, world.url)
    query(world.url, "SELECT setval('rankings_id_seq', 1)")
    query(
        world.url,
        "INSERT INTO migration.conflicts (table_name, source_key, column_name)"
        " VALUES ('rankings', '1', 'rank_score')",
    )
    said = world.ask()
    assert said["sequences are ahead"].startswith(
        "no: rankings: the next value of public.rankings_id_seq"
    )
    assert said["no value differs"] == "no: 1 value of rankings changed in the target"


def test_a_failure_while_it_is_frozen_thaws_the_source(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: CutoverContext) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "_catch_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.live()
    assert world.state == "shadow"
    world.source.run("UPDATE rankings SET rank_score = 1")


def test_after_a_run_that_was_killed_while_frozen_it_can_go_on_or_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "unfreeze", lambda _: None)

    def killed(_: CutoverContext) -> int:
        raise PipelineError("killed", remedy="none")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "_catch_up", killed)
        with pytest.raises(PipelineError):
            world.live()
    assert world.state == "frozen"
    outcome = world.live()
    assert (outcome.state, outcome.open) == ("live", True)


def test_two_operators_do_not_cut_over_together(world: World) -> None:
    with world.site(), pytest.raises(PipelineError, match="is in use by another run"):
        world.live()


# What is captured


@pytest.mark.parametrize(
    ("sql", "noted"),
    [
        ("UPDATE rankings SET rank_score = 1 WHERE id IN (1, 2)", {"rankings": 2}),
        ("UPDATE rankings SET id = 900 WHERE id = 1", {"rankings": 2}),
        (
            "DELETE FROM learning_content WHERE id = 1",
            {"learning_content": 1, "content_fragments": 2, "fragment_assets": 2, "rankings": 4},
        ),
        ("TRUNCATE rankings", {"rankings": 1}),
        (
            "INSERT INTO rankings (assessed_by) SELECT 'x' FROM generate_series(1, 5)",
            {"rankings": 5},
        ),
        (
            "INSERT INTO rankings (id, assessed_by) VALUES (1, 'x'), (901, 'y')"
            " ON CONFLICT (id) DO UPDATE SET assessed_by = 'z'",
            {"rankings": 2},
        ),
        ("SET session_replication_role = replica; DELETE FROM rankings", {"rankings": 12}),
        ("BEGIN; DELETE FROM rankings; ROLLBACK", {}),
    ],
)
def test_every_write_is_captured_whoever_writes(
    live: World, sql: str, noted: dict[str, int]
) -> None:
    live.do(sql)
    with Target.connect(live.url, shown="the target") as target:
        assert capture.noted(target, TABLES) == noted


def test_who_has_no_right_to_the_ledger_is_captured_too(live: World) -> None:
    live.do("CREATE ROLE writer_of_test LOGIN")
    live.do("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer_of_test")
    try:
        query(
            live.url.replace("//postgres", "//writer_of_test"),
            "UPDATE rankings SET rank_score = 1 WHERE id = 1",
        )
        with Target.connect(live.url, shown="the target") as target:
            assert capture.noted(target, TABLES) == {"rankings": 1}
    finally:
        live.do("DROP OWNED BY writer_of_test; DROP ROLE writer_of_test")


# The way back


def test_without_a_write_the_source_is_as_it_was(live: World) -> None:
    before = content(live.source.path)
    returned = live.rollback()
    assert [(r.inserted, r.updated, r.deleted) for r in returned] == [(0, 0, 0)] * 4
    assert all(check.passed for r in returned for check in r.checks)
    assert content(live.source.path) == before
    assert live.state == "shadow"
    live.source.run("UPDATE rankings SET rank_score = 2 WHERE id = 1")
    moved = sync_all(live.source.path, live.url)
    assert [moved[name].written_rows for name in NAMES] == [0, 0, 0, 1]


def test_what_the_application_wrote_comes_back_in_its_own_form(live: World) -> None:
    before = content(live.source.path)
    live.do(
        "UPDATE learning_content SET title = 'ใหม่', tags = '[\"a\", \"b\"]',"
        " difficulty_level = NULL, updated_at = '2026-01-02 03:04:05.000006+07' WHERE id = 1"
    )
    live.do("UPDATE rankings SET rank_score = 3.25 WHERE id = 2")
    live.do("UPDATE fragment_assets SET asset_data = '\\x00ff', asset_metadata = '{}' WHERE id = 3")
    live.do(
        "INSERT INTO rankings (fragment_id, assessed_by, rank_score, created_at, updated_at)"
        " VALUES (1, 'new', 5, '2026-01-01 00:00:00+00', NULL)"
    )
    live.do("DELETE FROM content_fragments WHERE id = 6")
    live.rollback()
    after = content(live.source.path)
    changed = list(before["learning_content"][0])
    changed[1], changed[7], changed[8] = "ใหม่", None, '["a", "b"]'
    changed[11] = "2026-01-01 20:04:05.000006"
    assert after["learning_content"] == [tuple(changed), *before["learning_content"][1:]]
    assert after["rankings"][1][3] == 3.25
    assert after["rankings"][-1] == (
        *(13, 1, None, 5.0, "new", None),
        *("2026-01-01 00:00:00.000000", None),
    )
    assert after["fragment_assets"][2][3:5] == (b"\x00\xff", "{}")
    assert [row[0] for row in after["content_fragments"]] == [1, 2, 3, 4, 5]
    assert [row[0] for row in after["rankings"]] == [*range(1, 11), 13]


def test_a_value_that_did_not_change_keeps_its_letters(world: World) -> None:
    world.source.run("UPDATE learning_content SET tags = '[ \"x\" ]' WHERE id = 1")
    world.source.run("UPDATE learning_content SET created_at = '2025-01-01T10:00' WHERE id = 1")
    world.live()
    world.do("UPDATE learning_content SET title = 'changed' WHERE id = 1")
    world.rollback()
    (row,) = world.source.run("SELECT title, tags, created_at FROM learning_content WHERE id = 1")
    assert row == ("changed", '[ "x" ]', "2025-01-01T10:00")


def test_dates_of_another_zone_come_back_in_it(world: World) -> None:
    world.policies = Policies(naive_zone="Europe/Berlin")
    world.live()
    world.do("UPDATE rankings SET updated_at = '2025-07-01 10:00+00' WHERE id = 1")
    # Two instants have this hour on the clock, so it is written with its offset.
    world.do("UPDATE rankings SET updated_at = '2025-10-26 01:30+00' WHERE id = 2")
    world.rollback()
    assert world.source.run("SELECT updated_at FROM rankings WHERE id < 3 ORDER BY id") == [
        ("2025-07-01 12:00:00.000000",),
        ("2025-10-26 01:30:00.000000+00:00",),
    ]


def test_a_reader_that_hides_what_the_way_back_spoils_is_caught(
    live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(live.source.path)
    live.do("UPDATE learning_content SET translation = 'right' WHERE id = 1")
    written, read = reverse.expression, SourceView.read

    def spoiled(column: sa.Column[Any], **options: Any) -> str:
        return "'wrong'" if column.name == "translation" else written(column, **options)

    def hidden(self: SourceView, *given: Any, **options: Any) -> pa.RecordBatch:
        batch = read(self, *given, **options)
        at = batch.schema.get_field_index("translation")
        if at < 0:
            return batch
        shown = pc.replace_substring(batch.column(at), "wrong", "right")
        return batch.set_column(at, "translation", shown)

    with monkeypatch.context() as patch:
        patch.setattr(reverse, "expression", spoiled)
        patch.setattr(SourceView, "read", hidden)
        with pytest.raises(rollback.NotEqual, match="translation: source 'wrong', target 'right'"):
            live.rollback()
    assert (content(live.source.path), live.state) == (before, "live")
    live.rollback()
    assert content(live.source.path)["learning_content"][0][5] == "right"


def test_everything_was_truncated_and_written_anew(live: World) -> None:
    live.delete_share = 1
    live.do("TRUNCATE rankings")
    live.do("INSERT INTO rankings (id, assessed_by, fragment_id) VALUES (5, 'again', 1)")
    live.rollback()
    assert live.source.run("SELECT id, assessed_by, rank_score FROM rankings") == [
        (5, "again", 0.0)
    ]


def test_rows_in_quarantine_stay_in_the_source(world: World) -> None:
    world.source.add("rankings", {"id": 50, "rank_score": 9.0})
    world.live()
    with world.site() as site, site.target.transaction():
        sign_offs.sign(site.target, "rankings", row_ids=[], by="Ann", reason="known")
    assert world.live().state == "live"
    world.delete_share = 1
    world.do("TRUNCATE rankings")
    world.rollback()
    assert world.source.run("SELECT id, rank_score FROM rankings") == [(50, 9.0)]


@pytest.mark.parametrize(
    ("sql", "detail"),
    [
        (
            "UPDATE rankings SET updated_at = 'infinity' WHERE id = 1",
            "rankings 1, updated_at: SQLite cannot store infinity",
        ),
        (
            "INSERT INTO rankings (id, assessed_by) VALUES (50, 'x')",
            "rankings 50: the source has a rejected row with this key",
        ),
    ],
)
def test_a_row_without_a_place_in_the_source_is_named_and_nothing_changes(
    world: World, sql: str, detail: str
) -> None:
    world.source.add("rankings", {"id": 50, "rank_score": 9.0})
    world.live()
    with world.site() as site, site.target.transaction():
        sign_offs.sign(site.target, "rankings", row_ids=[], by="Ann", reason="known")
    world.live()
    before = content(world.source.path)
    world.do("UPDATE rankings SET rank_score = 1 WHERE id = 2")
    world.do(sql)
    with pytest.raises(PipelineError, match=detail):
        world.rollback()
    assert (content(world.source.path), world.state) == (before, "live")
    world.do("DELETE FROM rankings WHERE id IN (1, 50)")
    world.rollback()
    assert world.state == "shadow"


def test_a_rule_of_the_source_alone_is_told_with_the_row(world: World) -> None:
    world.source.run("CREATE UNIQUE INDEX one_title ON learning_content (title)")
    world.live()
    world.do("UPDATE learning_content SET title = 'word 2' WHERE id = 3")
    with pytest.raises(NotReversible, match="learning_content 3 cannot be written to the source"):
        world.rollback()
    assert world.state == "live"


def test_the_applications_own_triggers_do_not_answer_to_the_way_back(world: World) -> None:
    world.source.run(
        "CREATE TRIGGER stamp AFTER UPDATE ON rankings BEGIN"
        " UPDATE rankings SET assessment_notes = 'touched' WHERE id = NEW.id; END"
    )
    world.live()
    world.do("UPDATE rankings SET rank_score = 1 WHERE id = 1")
    world.rollback()
    assert world.source.run("SELECT assessment_notes FROM rankings WHERE id = 1") == [(None,)]
    world.source.run("UPDATE rankings SET rank_score = 2 WHERE id = 1")
    assert world.source.run("SELECT assessment_notes FROM rankings WHERE id = 1") == [("touched",)]


def test_what_was_written_to_other_tables_of_the_file_stays(live: World) -> None:
    live.source.run("CREATE TABLE cards (id INTEGER PRIMARY KEY)")
    live.source.run("INSERT INTO cards VALUES (7)")
    live.do("UPDATE rankings SET rank_score = 1")
    live.rollback()
    assert live.source.run("SELECT * FROM cards") == [(7,)]


@pytest.mark.parametrize("where", ["write_back", "_update_watermarks", "unfreeze"])
def test_a_way_back_that_was_killed_is_done_again(
    live: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    live.do("UPDATE rankings SET rank_score = 1")
    live.do("DELETE FROM rankings WHERE id = 3")

    def killed(*_: object) -> None:
        raise SourceError("killed", remedy="none")

    with monkeypatch.context() as patch:
        patch.setattr(freezing if where == "unfreeze" else rollback, where, killed)
        with pytest.raises(SourceError):
            live.rollback()
    # Whatever was done before, nobody can write the source yet.
    with pytest.raises(sqlite3.IntegrityError):
        live.source.run("UPDATE rankings SET rank_score = 2")
    live.rollback()
    assert live.state == "shadow"
    assert live.source.run("SELECT DISTINCT rank_score FROM rankings") == [(1.0,)]
    live.source.run("UPDATE rankings SET rank_score = 2")
    assert len(live.source.run("SELECT * FROM rankings")) == 11


def test_there_is_nothing_to_take_back_in_shadow(world: World) -> None:
    move_all(world.source.path, world.url)
    with pytest.raises(WrongState, match="so there is nothing to roll back"):
        world.rollback()


# Both directions with random writes


WORDS = ["กิน", "to eat", "kin˧", "", " x ", "🍚", "a'b\"c", "\\", "NULL", "ก" * 300]


def in_source(world: World, random_: random.Random) -> None:
    def one() -> tuple[str, tuple[object, ...]]:
        row = random_.randint(1, 15)
        match random_.randrange(6):
            case 0:
                text = random_.choice(WORDS)
                return "UPDATE content_fragments SET body_text = ? WHERE id = ?", (text, row)
            case 1:
                return "UPDATE rankings SET rank_score = ? WHERE id = ?", (
                    random_.randint(0, 500) / 100,
                    row,
                )
            case 2:
                return "UPDATE fragment_assets SET asset_data = ? WHERE id = ?", (
                    random_.randbytes(random_.randint(0, 2000)),
                    row,
                )
            case 3:
                return "DELETE FROM rankings WHERE id = ?", (row,)
            case 4:
                return (
                    "INSERT INTO rankings (fragment_id, assessed_by, rank_score, created_at)"
                    " SELECT id, ?, 2.5, '2025-08-06 03:07:13.716509' FROM content_fragments"
                    " ORDER BY id LIMIT 1",
                    (random_.choice(WORDS),),
                )
            case _:
                return "UPDATE learning_content SET tags = ?, updated_at = ? WHERE id = ?", (
                    random_.choice(['["x"]', "null", '{"a": 1.50}', "[]"]),
                    f"2025-09-0{random_.randint(1, 9)} 03:07:13.716509",
                    row,
                )

    for _ in range(random_.randint(0, 12)):
        world.source.run(*one())


def in_target(world: World, random_: random.Random) -> None:
    statements: list[Callable[[], str]] = [
        lambda: (
            f"UPDATE rankings SET rank_score = {random_.randint(0, 500) / 100}"
            f" WHERE id % 4 = {random_.randrange(4)}"
        ),
        lambda: f"DELETE FROM rankings WHERE id = {random_.randint(1, 20)}",
        lambda: (
            "INSERT INTO rankings (assessed_by, fragment_id, created_at)"
            " SELECT 'pg', min(id), clock_timestamp() FROM content_fragments"
        ),
        lambda: (
            f"UPDATE fragment_assets SET asset_data = decode(md5('{random_.random()}'), 'hex')"
            f" WHERE id = {random_.randint(1, 6)}"
        ),
        lambda: (
            "INSERT INTO learning_content (title, content_type, native_text, translation, ipa,"
            " tags, updated_at) VALUES ('ก', 't', 'n', '', 'i', '[\"🍚\", {\"k\": 1e3}]', now())"
        ),
        lambda: f"DELETE FROM learning_content WHERE id = {random_.randint(3, 20)}",
        lambda: (
            "UPDATE learning_content SET content_metadata = 'null', difficulty_level = NULL,"
            f" updated_at = now() WHERE id = {random_.randint(1, 5)}"
        ),
    ]
    for _ in range(random_.randint(0, 12)):
        world.do(random_.choice(statements)())


@pytest.mark.parametrize("seed", range(3))
def test_there_and_back_with_random_writes_on_either_side(world: World, seed: int) -> None:
    random_ = random.Random(seed)
    world.delete_share = 1
    for _ in range(3):
        in_source(world, random_)
        assert world.live().state == "live"
        in_target(world, random_)
        world.rollback()
        equal(world)


def test_an_application_that_writes_all_the_time_loses_nothing(world: World) -> None:
    """It writes wherever it may: every write that was acknowledged is there in the end."""
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            try:
                with closing(sqlite3.connect(world.source.path, timeout=5)) as own, own:
                    own.execute(
                        "INSERT INTO rankings (id, assessed_by) VALUES (?, 'busy')", (number,)
                    )
            except sqlite3.IntegrityError:
                if world.state != "live":
                    # Frozen: it tries again, wherever it may write then.
                    number -= 1
                    continue
                query(
                    world.url,
                    "INSERT INTO rankings (id, assessed_by) VALUES (%s, 'busy')",
                    (number,),
                )
            acknowledged.append(number)
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.2)
        assert world.live().state == "live"
        time.sleep(0.2)
    finally:
        stop.set()
        writer.join()
    there = {i for (i,) in query(world.url, "SELECT id FROM rankings WHERE id > 1000")}
    assert there == set(acknowledged)
