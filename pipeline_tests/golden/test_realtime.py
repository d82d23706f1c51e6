"""Which topics hear of a row when its space is off, gone or another, directly or by its parents."""

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.postgres.target import Target
from pipeline.realtime import checks
from pipeline_tests.support.feeds import TABLES, switch_on
from pipeline_tests.support.targets import new_database, query

_FAMILY = """
INSERT INTO messages (id, space_id, user_id, content) VALUES (1, 1, 1, 'a'), (2, 3, 1, 'b');
INSERT INTO space_members (id, space_id, user_id) VALUES (4, 3, 1);
INSERT INTO notes (id, space_id, author_id, title) VALUES (2, 3, 1, 'mute'), (3, 2, 2, 'of bob');
INSERT INTO note_blocks (id, note_id, type) VALUES (1, 1, 'text'), (2, 1, 'todo'), (3, 2, 'text'),
  (4, 3, 'text');
INSERT INTO lessons (id, space_id, title) VALUES (2, 3, 'mute');
INSERT INTO lesson_topics (id, lesson_id, title) VALUES (1, 1, 't'), (2, 2, 't');
INSERT INTO progress (id, user_id, lesson_id, topic_id) VALUES (1, 2, 1, 1), (2, 1, 1, NULL),
  (3, 2, 2, 2);
"""
"""Space 1 is on and space 3 off; both have messages, members, notes with blocks, and progress."""


@pytest.fixture(scope="module")
def url(server: URL, feed_template: str) -> Iterator[str]:
    """A target with rows of every table in spaces that are on or off, and an empty feed."""
    with new_database(server, "feed_family", template=feed_template) as made:
        with Target.connect(libpq(made), shown="the target") as target, target.transaction():
            target.mark_as_move()
            target.run(_FAMILY)
        yield libpq(made)


def _told(url: str, *statements: str) -> list[str]:
    """Topic, table, operation and key of the changes of a transaction, which is rolled back."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("SELECT topic, table_name, operation, key FROM feed.changes ORDER BY id")
        return [" ".join(row) for row in cursor.fetchall()]


SPACE_ONE_GONE = [
    "space:1 messages DELETE 1",
    "space:1 note_blocks DELETE 1",
    "space:1 note_blocks DELETE 2",
    "space:1 notes DELETE 1",
    "space:1 progress DELETE 1",
    "space:1 progress DELETE 2",
    "space:1 space_members DELETE 1",
    "space:1 space_members DELETE 2",
]
BLOCKS_MOVED = [
    "space:1 note_blocks DELETE 1",
    "space:1 note_blocks DELETE 2",
    "space:1 notes DELETE 1",
    "space:2 note_blocks INSERT 1",
    "space:2 note_blocks INSERT 2",
    "space:2 notes INSERT 1",
]
OF_NOTE_ONE = BLOCKS_MOVED[:3]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        # Off when its deletion began.
        (["DELETE FROM spaces WHERE id = 3"], []),
        (
            [
                "UPDATE spaces SET enable_realtime = false WHERE id = 1",
                "DELETE FROM spaces WHERE id = 1",
            ],
            [],
        ),
        (["DELETE FROM notes WHERE space_id = 3", "DELETE FROM lessons WHERE id = 2"], []),
        (["DELETE FROM spaces WHERE id IN (1, 3)"], SPACE_ONE_GONE),
        # On again: only what happens afterwards is published.
        (
            [
                "UPDATE spaces SET enable_realtime = false WHERE id = 1",
                "DELETE FROM note_blocks WHERE id = 1",
                "UPDATE spaces SET enable_realtime = true WHERE id = 1",
                "DELETE FROM note_blocks WHERE id = 2",
            ],
            ["space:1 note_blocks DELETE 2"],
        ),
        (
            [
                "UPDATE spaces SET enable_realtime = true WHERE id = 3",
                "DELETE FROM spaces WHERE id = 3",
            ],
            [
                "space:3 messages DELETE 2",
                "space:3 note_blocks DELETE 3",
                "space:3 notes DELETE 2",
                "space:3 progress DELETE 3",
                "space:3 space_members DELETE 4",
            ],
        ),
        # Two and three levels deep.
        (["DELETE FROM spaces WHERE id = 1"], SPACE_ONE_GONE),
        (["DELETE FROM notes WHERE id = 1"], OF_NOTE_ONE),
        (
            ["DELETE FROM lessons WHERE id = 1"],
            ["space:1 progress DELETE 1", "space:1 progress DELETE 2"],
        ),
        (["DELETE FROM lesson_topics WHERE id = 1"], ["space:1 progress DELETE 1"]),
        (
            ["DELETE FROM users WHERE id = 2"],
            [
                "space:1 progress DELETE 1",
                "space:1 space_members DELETE 2",
                "space:2 note_blocks DELETE 4",
                "space:2 notes DELETE 3",
                "space:2 space_members DELETE 3",
            ],
        ),
        # The owner of all spaces: rows go by several paths at once, each is published once.
        (
            ["DELETE FROM users WHERE id = 1"],
            sorted(
                [
                    *SPACE_ONE_GONE,
                    "space:2 note_blocks DELETE 4",
                    "space:2 notes DELETE 3",
                    "space:2 space_members DELETE 3",
                ]
            ),
        ),
        # Parent and child in one statement.
        (
            ["WITH b AS (DELETE FROM note_blocks WHERE id = 1) DELETE FROM notes WHERE id = 1"],
            OF_NOTE_ONE,
        ),
        (
            [
                "WITH n AS (DELETE FROM notes WHERE id = 1)"
                " DELETE FROM note_blocks WHERE note_id = 1"
            ],
            OF_NOTE_ONE,
        ),
        (
            [
                "WITH s AS (DELETE FROM spaces WHERE id = 1), n AS (DELETE FROM notes WHERE id = 1)"
                " DELETE FROM note_blocks WHERE note_id = 1"
            ],
            SPACE_ONE_GONE,
        ),
        # Moved to another space, with all that belongs to it.
        (["UPDATE notes SET space_id = 2 WHERE id = 1"], BLOCKS_MOVED),
        (["UPDATE notes SET space_id = 3 WHERE id = 1"], OF_NOTE_ONE),
        (
            ["UPDATE notes SET space_id = 1 WHERE id = 2"],
            ["space:1 note_blocks INSERT 3", "space:1 notes INSERT 2"],
        ),
        (
            ["UPDATE lessons SET space_id = 2"],
            [
                "space:1 progress DELETE 1",
                "space:1 progress DELETE 2",
                "space:2 progress INSERT 1",
                "space:2 progress INSERT 2",
                "space:2 progress INSERT 3",
            ],
        ),
        (["UPDATE notes SET space_id = 3 WHERE id = 2", "UPDATE lessons SET title = 'x'"], []),
        (
            ["UPDATE note_blocks SET note_id = 3 WHERE id = 1"],
            ["space:1 note_blocks DELETE 1", "space:2 note_blocks INSERT 1"],
        ),
        (
            ["UPDATE note_blocks SET note_id = 1 WHERE id = 3"],
            ["space:1 note_blocks INSERT 3"],
        ),
        # A changed key of the parent, which its children follow.
        (
            [
                "WITH n AS (UPDATE notes SET id = 9 WHERE id = 1)"
                " UPDATE note_blocks SET note_id = 9 WHERE note_id = 1"
            ],
            [
                "space:1 note_blocks UPDATE 1",
                "space:1 note_blocks UPDATE 2",
                "space:1 notes DELETE 1",
                "space:1 notes INSERT 9",
            ],
        ),
        (
            [
                "ALTER TABLE messages DROP CONSTRAINT messages_space_id_fkey,"
                " ADD FOREIGN KEY (space_id) REFERENCES spaces ON UPDATE CASCADE",
                "WITH m AS (DELETE FROM space_members WHERE space_id = 3),"
                " n AS (DELETE FROM notes WHERE space_id = 3),"
                " l AS (DELETE FROM lessons WHERE space_id = 3)"
                " UPDATE spaces SET id = 30 WHERE id = 3",
            ],
            [],
        ),
        # References that become NULL.
        (
            [
                "UPDATE notes SET assigned_to = 3 WHERE id IN (1, 2)",
                "DELETE FROM users WHERE id = 3",
            ],
            ["space:1 notes UPDATE 1", "space:1 notes UPDATE 1"],
        ),
        # Several statements, each of which sees what the ones before it left.
        (
            [
                "DELETE FROM notes WHERE id = 1",
                "INSERT INTO notes (id, space_id, author_id, title) VALUES (1, 2, 1, 'again')",
                "INSERT INTO note_blocks (id, note_id, type) VALUES (1, 1, 'text')",
                "DELETE FROM notes WHERE id = 1",
            ],
            sorted(
                [
                    *OF_NOTE_ONE,
                    "space:2 note_blocks DELETE 1",
                    "space:2 note_blocks INSERT 1",
                    "space:2 notes DELETE 1",
                    "space:2 notes INSERT 1",
                ]
            ),
        ),
        (
            ["UPDATE notes SET space_id = 2 WHERE id = 1", "DELETE FROM note_blocks WHERE id = 1"],
            sorted([*BLOCKS_MOVED, "space:2 note_blocks DELETE 1"]),
        ),
        (
            [
                "SAVEPOINT s",
                "DELETE FROM spaces WHERE id = 1",
                "ROLLBACK TO s",
                "UPDATE spaces SET enable_realtime = false WHERE id = 1",
                "DELETE FROM spaces WHERE id = 1",
            ],
            [],
        ),
        (
            [
                "SAVEPOINT s",
                "UPDATE notes SET space_id = 2 WHERE id = 1",
                "ROLLBACK TO s",
                "DELETE FROM notes WHERE id = 1",
            ],
            OF_NOTE_ONE,
        ),
        # Merges.
        (
            [
                "INSERT INTO notes (id, space_id, author_id, title) VALUES (1, 2, 1, 'n')"
                " ON CONFLICT (id) DO UPDATE SET space_id = EXCLUDED.space_id"
            ],
            BLOCKS_MOVED,
        ),
        (
            [
                "MERGE INTO notes USING (VALUES (1)) AS v (id) ON v.id = notes.id"
                " WHEN MATCHED THEN DELETE"
            ],
            OF_NOTE_ONE,
        ),
    ],
)
def test_every_row_is_published_once_where_it_was_and_where_it_is(
    url: str, statements: list[str], expected: list[str]
) -> None:
    assert sorted(_told(url, *statements)) == expected


def test_the_deletion_is_published_before_the_deletions_that_it_causes(url: str) -> None:
    assert _told(url, "DELETE FROM notes WHERE id = 1") == [
        OF_NOTE_ONE[2],
        *OF_NOTE_ONE[:2],
    ]


def test_a_cascading_truncation_makes_readers_begin_anew(url: str) -> None:
    epoch = "SELECT epoch FROM feed.horizon"
    for table in ("lessons", "spaces"):
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {table} CASCADE")
            cursor.execute(epoch)
            assert cursor.fetchall() != query(url, epoch)


def test_former_places_are_pruned_but_not_those_of_open_transactions(url: str) -> None:
    query(
        url,
        "INSERT INTO notes (id, space_id, author_id, title) VALUES (7, 1, 1, ''), (8, 1, 1, '')",
    )
    query(url, "DELETE FROM notes WHERE id = 7")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM notes WHERE id = 8")
        query(url, "SELECT feed.prune('1 hour', 100)")
        connection.commit()
    assert query(url, "SELECT table_name, key FROM feed.former") == [("notes", "8")]
    query(url, "SELECT feed.prune('1 hour', 100)")
    assert query(url, "SELECT table_name, key FROM feed.former") == []
    query(url, "DELETE FROM feed.changes")


def test_a_role_whose_triggers_do_not_fire_is_reported(url: str) -> None:
    with Target.connect(url, shown="the target") as target, target.transaction():
        assert checks.triggers(target, TABLES).passed
    query(url, "CREATE ROLE loader; ALTER ROLE loader SET session_replication_role = replica")
    try:
        with Target.connect(url, shown="the target") as target, target.transaction():
            check = checks.triggers(target, TABLES)
    finally:
        query(url, "DROP ROLE loader")
    assert (check.passed, check.blocking) == (False, False)
    assert [finding.sentence for finding in check.findings] == [
        "writes of role loader are not published: session_replication_role = replica is set for it,"
        " so triggers do not fire"
    ]


def test_a_feed_of_an_earlier_version_is_updated(url: str) -> None:
    query(
        url,
        "DROP FUNCTION feed.leave_notes() CASCADE; DROP TABLE feed.former;"
        " CREATE OR REPLACE FUNCTION feed.note_note_blocks() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NULL; END'",
    )
    switch_on(url)
    assert sorted(_told(url, "DELETE FROM spaces WHERE id = 1")) == SPACE_ONE_GONE
