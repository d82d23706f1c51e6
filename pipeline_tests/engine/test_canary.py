"""The canary: every type of event arrives, nothing stays behind, and what is broken is found."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.core.findings import CheckResult, describe
from pipeline.cutover import capture
from pipeline.declared import feed
from pipeline.declared.events import FLEETING, STORED
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.realtime import canary
from pipeline_tests.support.feeds import TABLES, changes, listening
from pipeline_tests.support.targets import new_database, query

WITH_ROWS = ("users", "spaces", "space_members", "messages", "notes", "lessons", "progress")


@pytest.fixture
def url(server: URL, feed_template: str) -> Iterator[str]:
    with new_database(server, "canary_test", template=feed_template) as made:
        yield libpq(made)


def emit(url: str) -> CheckResult:
    with Target.connect(url, shown="the target") as target, target.lock(seconds=0):
        return canary.emit(target, url=url, shown="the target")


def rows(url: str) -> list[list[tuple[int, ...]]]:
    return [query(url, f"SELECT id FROM {name} ORDER BY id") for name in WITH_ROWS]


def said(found: CheckResult) -> list[str]:
    return [describe(finding) for finding in found.findings]


def test_every_type_of_event_arrives_and_nothing_stays(url: str) -> None:
    query(url, "UPDATE notes SET title = 'x'")
    before = rows(url), changes(url)
    found = emit(url)
    assert said(found) == []
    assert found.passed
    assert found.figures.pop("events") == 6
    assert set(found.figures) == {canary.milliseconds(event) for event in (*STORED, *FLEETING)}
    assert all(0 < ms < 5000 for ms in found.figures.values())
    assert (rows(url), changes(url)) == before


def test_whoever_listens_hears_the_canary_in_a_space_of_its_own_alone(url: str) -> None:
    query(url, "CREATE TABLE told AS SELECT topic FROM feed.changes WHERE false")
    query(
        url,
        "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.told VALUES (NEW.topic); RETURN NULL; END $$",
    )
    for table in ("changes", "fleeting"):
        query(
            url,
            f"CREATE TRIGGER copy AFTER INSERT ON feed.{table} FOR EACH ROW"
            " EXECUTE FUNCTION copy()",
        )
    with listening(url) as listener:
        assert emit(url).passed
        heard = listener.heard(at_least=6)
    assert heard == [feed.CHANGED_HINT] * 4 + [feed.FLEETING_HINT] * 2
    assert query(url, "SELECT topic, count(*) FROM told GROUP BY 1") == [("space:-1", 6)]


def test_what_somebody_else_notifies_is_not_taken_for_the_canary(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "SECONDS", 0.4)
    query(url, "ALTER TABLE feed.changes DISABLE TRIGGER pipeline_feed_tell")
    stop = threading.Event()

    def forge() -> None:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            while not stop.wait(0.02):
                connection.cursor().execute("NOTIFY feed")
                connection.cursor().execute("SELECT pg_notify('feed', repeat('{\"a\":', 1400))")

    forging = threading.Thread(target=forge)
    forging.start()
    found = emit(url)
    stop.set()
    forging.join()
    assert said(found) == [f"{event}: no notification within 0 s" for event in STORED]
    assert found.figures["events"] == 2


def test_the_canary_is_no_write_of_the_application(url: str) -> None:
    with Target.connect(url, shown="the target") as target:
        with target.transaction():
            schema.make_ledger(target)
            capture.switch_on(target, TABLES)
        assert emit(url).passed
        assert capture.noted(target, TABLES) == {}
        query(url, "UPDATE notes SET title = 'written'")
        assert capture.noted(target, TABLES) == {"notes": 1}


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (
            "ALTER TABLE messages DISABLE TRIGGER pipeline_feed_insert",
            "message:new: no notification within 0 s",
        ),
        (
            "ALTER TABLE feed.changes DISABLE TRIGGER pipeline_feed_tell",
            "message:new: no notification within 0 s",
        ),
        (
            "ALTER TABLE progress ADD CONSTRAINT no CHECK (id > 0)",
            "progress:updated: the event could not be emitted (the target: new row for relation",
        ),
        (
            "ALTER FUNCTION feed.send(text, text, jsonb) RENAME TO sent",
            "presence:changed: the event could not be emitted (the target: function feed.send",
        ),
        (
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.event = NULL; RETURN NEW; END $$;"
            " CREATE TRIGGER forget BEFORE INSERT ON feed.changes FOR EACH ROW"
            " EXECUTE FUNCTION forget()",
            "message:new: the feed has no row for the event",
        ),
    ],
)
def test_an_event_that_does_not_arrive_is_found_and_nothing_stays(
    url: str, fault: str, finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "SECONDS", 0.4)
    query(url, fault)
    before = rows(url)
    found = emit(url)
    assert not found.passed
    assert found.blocking
    assert said(found)[0].startswith(finding)
    assert rows(url) == before
    assert changes(url) == []


def test_what_a_killed_canary_left_is_removed_by_the_next(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(url)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(canary, "remove", lambda _: None)
        try:
            with Target.connect(url, shown="the target") as target:
                canary._notified = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
                canary.emit(target, url=url, shown="the target")
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    deadline = time.monotonic() + 5
    while rows(url) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows(url)[0][0] == (-1,)
    assert len(changes(url)) == 1
    assert emit(url).passed
    assert (rows(url), changes(url)) == (before, [])


def test_a_canary_that_cannot_be_removed_is_no_success(url: str) -> None:
    query(
        url,
        "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'users stay'; END $$;"
        " CREATE TRIGGER stay BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION stay()",
    )
    with pytest.raises(TargetError, match="users stay"):
        emit(url)


def test_a_scene_that_cannot_be_made_leaves_nothing(url: str) -> None:
    query(url, "ALTER TABLE lessons ADD CONSTRAINT no CHECK (id > 0)")
    before = rows(url)
    with pytest.raises(TargetError, match="violates check constraint"):
        emit(url)
    assert rows(url) == before


def test_somebody_elses_row_with_that_id_is_left_alone_and_named(url: str) -> None:
    query(url, "INSERT INTO users (id, auth_provider_id, email) VALUES (-1, 'dan', 'd@x')")
    with pytest.raises(TargetError, match="users_pkey"):
        emit(url)
    assert query(url, "SELECT auth_provider_id FROM users WHERE id = -1") == [("dan",)]
