"""Who may join which channel of Supabase's Realtime, tried as that person."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from pipeline.application.realtime.reader import Reader
from pipeline.application.realtime.transports.session import Session
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.core.findings import describe
from pipeline.migrations import registry
from pipeline.migrations.spaces import metadata
from pipeline.postgres import access
from pipeline.postgres.findings import Exposed
from pipeline.postgres.target import Target
from pipeline.realtime import checks
from pipeline_tests.support.feeds import (
    PEOPLE,
    TABLES,
    add_realtime,
    changes,
    make_tables,
    sent,
    switch_on,
)
from pipeline_tests.support.supabase import project
from pipeline_tests.support.targets import query


@pytest.fixture(scope="module")
def admin(supabase_server: URL) -> Iterator[URL]:
    """One project for all tests, reached as the superuser; each leaves it as it was."""
    with project(supabase_server, "channels") as url:
        whole = url.set(username="postgres")
        add_realtime(whole)
        make_tables(libpq(url))
        query(libpq(whole), PEOPLE)
        switch_on(libpq(url))
        yield whole


@pytest.fixture
def url(admin: URL) -> Iterator[str]:
    """The same as its owner, with an empty feed and nothing broadcast."""
    owner = libpq(admin.set(username="owner"))
    yield owner
    query(libpq(admin), "TRUNCATE realtime.messages; TRUNCATE feed.changes, feed.fleeting")
    switch_on(owner)


def joins(url: str, who: str | None, topic: str) -> set[str]:
    """What somebody may do in a channel, asked as Realtime does when it is joined."""
    found = set()
    with closing(psycopg2.connect(visitor(url))) as connection, connection.cursor() as cursor:
        for extension in ("broadcast", "presence"):
            with closing(psycopg2.connect(url)) as own, own, own.cursor() as mine:
                mine.execute(
                    "INSERT INTO realtime.messages (topic, extension) VALUES (%s, %s)",
                    (topic, extension),
                )
            _be(cursor, who, topic)
            cursor.execute("SELECT FROM realtime.messages WHERE extension = %s", (extension,))
            if cursor.rowcount:
                found.add(f"hears {extension}")
            try:
                cursor.execute(
                    "INSERT INTO realtime.messages (topic, extension) VALUES (%s, %s)",
                    (topic, extension),
                )
                found.add(f"speaks {extension}")
            except psycopg2.errors.InsufficientPrivilege:
                pass
            connection.rollback()
    return found


def visitor(url: str) -> str:
    """The same database, reached as Supabase's API does."""
    return libpq(make_url(url).set(username="authenticator"))


def _be(cursor, who: str | None, topic: str) -> None:
    cursor.execute(
        "SELECT set_config('role', %s, true), set_config('realtime.topic', %s, true),"
        " set_config('request.jwt.claims', %s, true)",
        (
            "anon" if who is None else "authenticated",
            topic,
            json.dumps({"sub": who, "role": "authenticated"}),
        ),
    )


EVERYTHING = {"hears broadcast", "hears presence", "speaks broadcast", "speaks presence"}
HEARS = {"hears broadcast", "hears presence"}


@pytest.mark.parametrize(
    ("who", "topic", "may"),
    [
        ("ann", "space:1", EVERYTHING),
        ("bob", "space:2", EVERYTHING),
        ("ann", "space:2", set()),
        ("bob", "space:1", set()),  # only invited
        ("cid", "space:1", set()),
        (None, "space:1", set()),
        ("ann", "user:1", HEARS),
        ("bob", "user:1", set()),
        (None, "user:1", set()),
        ("ann", "space:1; DROP TABLE users", set()),
        ("ann", "space:9999999999999999999999", set()),
        ("ann", "anything", set()),
    ],
)
def test_a_person_joins_only_what_is_theirs(
    url: str, who: str | None, topic: str, may: set[str]
) -> None:
    assert joins(url, who, topic) == may


def test_who_left_a_space_joins_it_no_more(url: str) -> None:
    query(url, "UPDATE space_members SET status = 'left' WHERE id = 1")
    try:
        assert joins(url, "ann", "space:1") == set()
    finally:
        query(url, "UPDATE space_members SET status = 'active' WHERE id = 1")


@pytest.mark.parametrize(("event", "may"), [("typing:changed", True), ("message:new", False)])
def test_a_member_writes_fleeting_events_alone(url: str, event: str, may: bool) -> None:
    with closing(psycopg2.connect(visitor(url))) as connection:
        cursor = connection.cursor()
        _be(cursor, "ann", "space:1")
        row = "INSERT INTO realtime.messages (topic, extension, event) VALUES ('space:1',"
        try:
            cursor.execute(f"{row} 'broadcast', %s)", (event,))
            done = True
        except psycopg2.errors.InsufficientPrivilege:
            done = False
        connection.rollback()
    assert done == may


def test_changes_are_broadcast_once_per_topic_and_statement(url: str) -> None:
    query(
        url,
        "INSERT INTO messages (id, space_id, user_id, content) VALUES (1, 1, 1, 'a'),"
        " (2, 1, 1, 'b'), (3, 2, 1, 'c')",
    )
    one, two = sent(url)
    assert (one[0], one[1], two[0], two[1]) == ("space:1", "changes", "space:2", "changes")
    ids = [change["id"] for change in one[2]["changes"]]
    assert one[2] == {
        "version": ids[-1],
        "more": False,
        "changes": [
            {
                "id": id_,
                "table": "messages",
                "operation": "INSERT",
                "key": str(key),
                "event": "message:new",
            }
            for id_, key in zip(ids, (1, 2), strict=True)
        ],
    }
    assert query(url, "SELECT DISTINCT private, extension FROM realtime.messages") == [
        (True, "broadcast")
    ]
    query(url, "DELETE FROM messages")


def test_a_broadcast_names_fifty_changes_and_says_that_there_are_more(url: str) -> None:
    query(
        url,
        "INSERT INTO messages (space_id, user_id, content)"
        " SELECT 1, 1, 'x' FROM generate_series(1, 51)",
    )
    ((_, _, payload),) = sent(url)
    assert (len(payload["changes"]), payload["more"]) == (50, True)
    assert query(url, "SELECT max(id) FROM feed.changes") == [(payload["version"],)]
    query(url, "DELETE FROM messages")


def test_a_broadcast_that_fails_fails_no_write(url: str, admin: URL) -> None:
    query(libpq(admin), "ALTER TABLE realtime.messages ADD CONSTRAINT broken CHECK (topic = '')")
    try:
        with closing(psycopg2.connect(url)) as connection, connection:
            connection.cursor().execute("UPDATE notes SET title = title || '!'")
            connection.cursor().execute("SELECT feed.send('space:1', 'typing:changed', '{}')")
            told = [notice for notice in connection.notices if "was not broadcast" in notice]
    finally:
        query(libpq(admin), "ALTER TABLE realtime.messages DROP CONSTRAINT broken")
    assert len(told) == 2
    assert len(changes(url)) == 1
    assert sent(url) == []


def test_fleeting_events_are_broadcast_by_the_service_alone(url: str) -> None:
    send = "SELECT feed.send('space:1', 'typing:changed', '{\"who\": 1}')"
    query(visitor(url), f"SET ROLE service_role; {send}")
    assert sent(url) == [("space:1", "typing:changed", {"who": 1})]
    for role in ("anon", "authenticated"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(visitor(url), f"SET ROLE {role}; {send}")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_the_feed_can_be_read_by_nobody_who_comes_by_request(url: str, role: str) -> None:
    query(url, "SELECT feed.send('space:1', 'typing:changed', '{}')")
    tables = (f"SELECT * FROM feed.{table}" for table in ("changes", "fleeting", "horizon"))
    for sql in (*tables, "SELECT feed.prune('0', 1)"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(visitor(url), f"SET ROLE {role}; {sql}")


def test_the_service_writes_a_table_and_it_is_told(url: str) -> None:
    query(visitor(url), "SET ROLE service_role; UPDATE notes SET title = title || '.'")
    assert len(changes(url)) == 1


def said(url: str, name: str) -> list[str]:
    with Target.connect(url, shown="the target") as target, target.read_only():
        found = checks.verify(target, TABLES, known=registry.find().tables)
        return [describe(f) for result in found if result.name == name for f in result.findings]


def test_everything_is_as_declared_and_stays_so(url: str) -> None:
    before = query(url, "SELECT oid FROM pg_policy ORDER BY 1")
    switch_on(url)
    assert query(url, "SELECT oid FROM pg_policy ORDER BY 1") == before
    with Target.connect(url, shown="the target") as target, target.read_only():
        found = checks.verify(target, TABLES, known=registry.find().tables)
    assert {result.name: result.passed for result in found} == {
        "published": True,
        "no_secrets_published": True,
        "triggers": True,
        "channels": True,
    }


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (
            'DROP POLICY "feed: hear" ON realtime.messages',
            "policy feed: hear of realtime.messages: missing",
        ),
        (
            'ALTER POLICY "feed: speak" ON realtime.messages WITH CHECK (true)',
            "policy feed: speak of realtime.messages: not as declared",
        ),
        (
            'ALTER POLICY "feed: hear" ON realtime.messages TO anon, authenticated',
            "policy feed: hear of realtime.messages: not as declared",
        ),
        (
            "CREATE OR REPLACE FUNCTION feed.may_hear(topic text, extension text) RETURNS boolean"
            " LANGUAGE sql RETURN true",
            "function feed.may_hear(text,text): not as declared",
        ),
    ],
)
def test_a_channel_that_is_open_is_found_and_closed(url: str, fault: str, finding: str) -> None:
    query(url, fault)
    assert said(url, checks.CHANNELS) == [finding]
    switch_on(url)
    assert said(url, checks.CHANNELS) == []


def test_policies_that_are_not_asked_and_those_of_others_are_found(url: str, admin: URL) -> None:
    whole = libpq(admin)
    query(whole, "ALTER TABLE realtime.messages DISABLE ROW LEVEL SECURITY")
    query(whole, 'CREATE POLICY "all" ON realtime.messages FOR SELECT USING (true)')
    try:
        assert said(url, checks.CHANNELS) == [
            "policy (all) of realtime.messages: row level security is off, so no policy applies",
            "policy all of realtime.messages: not declared; it may grant access to other users",
        ]
    finally:
        query(whole, 'DROP POLICY "all" ON realtime.messages')
        query(whole, "ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY")


def test_a_feed_that_requests_can_reach_is_found(url: str) -> None:
    query(url, "GRANT USAGE ON SCHEMA feed TO authenticated")
    with Target.connect(url, shown="the target") as target:
        assert access.exposed(target) == [Exposed("feed", "authenticated may use it")]
    assert said(url, checks.TRIGGERS) == ["schema feed: authenticated may use it"]
    switch_on(url)
    assert said(url, checks.TRIGGERS) == []


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        (
            "ALTER TABLE notes DISABLE TRIGGER pipeline_feed_update",
            'trigger pipeline_feed_update on public."notes": disabled',
        ),
        (
            "DROP TRIGGER pipeline_feed_delete ON messages",
            'trigger pipeline_feed_delete on public."messages": missing',
        ),
        ("DROP FUNCTION feed.send", "function feed.send(text,text,jsonb): missing"),
        (
            "ALTER FUNCTION feed.note_notes() SECURITY INVOKER",
            'function feed."note_notes"(): not as declared',
        ),
        (
            "CREATE TRIGGER pipeline_feed_more AFTER INSERT ON users"
            " FOR EACH STATEMENT EXECUTE FUNCTION feed.begin_anew()",
            'trigger pipeline_feed_more on public."users": not declared',
        ),
    ],
)
def test_triggers_and_functions_that_differ_are_found_and_mended(
    url: str, fault: str, finding: str
) -> None:
    query(url, fault)
    assert said(url, checks.TRIGGERS) == [finding]
    switch_on(url)
    assert said(url, checks.TRIGGERS) == []


def test_a_target_without_realtime_has_no_channels_and_one_without_a_feed_is_told(
    supabase: URL,
) -> None:
    bare = libpq(supabase)
    make_tables(bare)
    assert said(bare, checks.CHANNELS) == []
    assert said(bare, checks.TRIGGERS) == ["schema feed: missing; run pipeline realtime on"]


def test_the_feed_is_read_by_its_owner_who_is_no_superuser_and_by_nobody_who_is_signed_in(
    url: str,
) -> None:
    async def position(address: str, role: str) -> str:
        session = Session(f"{address}&options=-crole%3D{role}")
        try:
            return (await Reader(session, metadata).now()).epoch
        finally:
            await session.close()

    assert query(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]
    assert asyncio.run(position(url, "owner"))
    for role in ("anon", "authenticated"):
        with pytest.raises(TargetError, match="permission denied"):
            asyncio.run(position(visitor(url), role))
