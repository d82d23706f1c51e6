"""Backups and restores around a cut-over: nothing that the application wrote goes unasked."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.backup.errors import RestoreRefused
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.cutover import capture
from pipeline.postgres.target import Target
from pipeline_tests.support.backups import back_up
from pipeline_tests.support.commands import invoke
from pipeline_tests.support.cutover_world import TABLES, World
from pipeline_tests.support.targets import new_database, query

CHANGE = "UPDATE rankings SET rank_score = 1 WHERE id = 1"
SCORE = "SELECT rank_score::text FROM rankings WHERE id = 1"


def captured(url: str) -> dict[str, int]:
    with Target.connect(url, shown="the target") as target:
        assert all(capture.is_on(target, table) for table in TABLES)
        return capture.noted(target, TABLES)


def test_a_restore_does_not_discard_what_the_application_wrote_unless_it_is_told_to(
    live: World,
) -> None:
    back_up()
    live.do(CHANGE)
    with pytest.raises(RestoreRefused, match="would be lost"):
        invoke("restore", "target", "--yes")
    assert query(live.url, SCORE) == [("1.00",)]
    said = invoke("restore", "target", "--yes", "--discard-writes")
    assert said.strip().split("\n")[-1].startswith("the migration is live since")
    assert query(live.url, SCORE) == [("4.50",)]
    # What is written from now on is captured again, and comes back.
    assert captured(live.url) == {}
    live.do(CHANGE)
    assert captured(live.url) == {"rankings": 1}
    live.rollback()
    assert live.source.run("SELECT rank_score FROM rankings WHERE id = 1") == [(1.0,)]


def test_a_restore_to_before_the_cut_over_says_who_may_write(shadow: World) -> None:
    shadow.freeze()
    shadow.unfreeze()
    back_up()
    shadow.live()
    said = invoke("restore", "target", "--yes", "--discard-writes")
    assert "the migration is shadow since" in said
    assert said.strip().endswith("the source is frozen: run pipeline cutover unfreeze")
    shadow.unfreeze()
    shadow.source.run(CHANGE)


def test_a_backup_of_a_live_target_is_restored_into_another_or_a_closed_one(
    live: World, server: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.do(CHANGE)
    back_up()
    live.close()
    invoke("restore", "target", "--yes", "--discard-writes")
    assert (live.state, captured(live.url)) == ("live", {"rankings": 1})
    with new_database(server, "another_project") as other:
        monkeypatch.setenv("DATABASE_URL", libpq(other))
        invoke("restore", "target", "--yes", "--other")
        assert query(libpq(other), SCORE) == [("1.00",)]
        assert captured(libpq(other)) == {"rankings": 1}


def test_a_frozen_source_is_not_replaced_by_one_that_can_be_written(
    live: World, tmp_path: Path
) -> None:
    back_up()
    with pytest.raises(RestoreRefused, match="is frozen by a cut-over"):
        invoke("restore", "source", "--yes")
    with pytest.raises(sqlite3.IntegrityError):
        live.source.run(CHANGE)
    invoke("restore", "source", "--yes", "--to", str(tmp_path / "elsewhere.db"))
    invoke("restore", "source", "--yes", "--even-frozen")
    with closing(sqlite3.connect(live.source.path)) as there:
        assert there.execute("SELECT count(*) FROM rankings").fetchone() == (12,)


def test_after_the_way_back_an_application_that_was_not_stopped_is_seen(live: World) -> None:
    live.do("UPDATE rankings SET rank_score = 2")
    live.rollback()
    question = "nobody else writes the target"
    assert live.ask()[question] == "every write is captured; there were none"
    live.do(CHANGE)
    assert live.ask()[question] == "no: 1 row of rankings written"


def test_after_the_way_back_the_watermark_speaks_of_what_is_there(live: World) -> None:
    live.do("INSERT INTO rankings (assessed_by, updated_at) VALUES ('x', '2031-02-03 04:05:06+00')")
    live.rollback()
    assert query(
        live.url,
        "SELECT rows, newest::text FROM migration.watermarks WHERE table_name = 'rankings'",
    ) == [(13, "2031-02-03 04:05:06+00")]


def test_what_the_source_has_no_column_for_is_counted_and_stays(live: World) -> None:
    live.do("ALTER TABLE rankings ADD COLUMN mood text")
    live.do("UPDATE rankings SET mood = 'good' WHERE id < 4")
    found = {returned.table: returned.left for returned in live.rollback()}
    assert found["rankings"] == {"mood": 3}
    assert query(live.url, "SELECT count(mood) FROM rankings") == [(3,)]


def test_closing_asks_first() -> None:
    with pytest.raises(
        SettingsError, match="This command asks for confirmation, but standard input"
    ):
        invoke("cutover", "close")


def test_a_sign_off_can_be_taken_back(shadow: World) -> None:
    shadow.source.add("rankings", {"id": 50, "rank_score": 9.0}, {"id": 51, "rank_score": 9.0})
    shadow.live()
    signed = invoke("cutover", "sign-off", "rankings", "--by", "Ann", "--reason", "known")
    assert signed == "2 rows of rankings may remain in quarantine, signed off by Ann\n"
    undone = invoke("cutover", "sign-off", "rankings", "--undo", "--row", "51")
    assert undone == "1 sign-offs of rankings withdrawn\n"
    question = "quarantine is empty or signed off"
    assert shadow.ask()[question] == "no: 1 row of rankings (51)"
    assert invoke("cutover", "sign-off", "rankings", "--undo").startswith("1 sign-offs")
    assert shadow.ask()[question] == "no: 2 rows of rankings (50, 51)"
