"""What the feed's triggers tell of a change, to whom, and when they keep quiet."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.backup import restore
from pipeline.config.settings import libpq
from pipeline.core.errors import TargetError
from pipeline.declared import feed
from pipeline.declared.events import PublishedChanges
from pipeline.declared.rules import TableRules
from pipeline.migrations import content, spaces
from pipeline.orchestration.assets.realtime import prune
from pipeline.postgres.target import Target
from pipeline.realtime import feed_objects
from pipeline_tests.support.backups import Place
from pipeline_tests.support.feeds import TABLES, changes, listening, switch_on
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database, query

FLEETING = "SELECT topic, event, payload FROM feed.fleeting ORDER BY id"


@pytest.fixture
def url(server: URL, feed_template: str) -> Iterator[str]:
    """A target with people, spaces and an empty feed."""
    with new_database(server, "feed_test", template=feed_template) as made:
        yield libpq(made)


def test_a_new_row_is_told_to_its_space_with_its_event(url: str) -> None:
    query(url, "INSERT INTO messages (id, space_id, user_id, content) VALUES (7, 1, 1, 'hi')")
    assert changes(url) == [("space:1", "messages", "INSERT", "7", "message:new")]


def test_rows_of_one_statement_are_told_in_the_order_of_their_keys(url: str) -> None:
    query(
        url,
        "INSERT INTO messages (id, space_id, user_id, content)"
        " SELECT 50 - n, 1 + n % 2, 1, 'x' FROM generate_series(1, 40) AS n",
    )
    keys = [int(key) for *_, key, _ in changes(url)]
    assert keys == sorted(keys)
    assert {topic for topic, *_ in changes(url)} == {"space:1", "space:2"}


def test_a_note_is_published_once(url: str) -> None:
    query(url, "UPDATE notes SET title = 'draft still' WHERE id = 1")
    query(url, "UPDATE notes SET status = 'published' WHERE id = 1")
    query(url, "UPDATE notes SET title = 'mended' WHERE id = 1")
    query(
        url,
        "INSERT INTO notes (id, space_id, author_id, title, status)"
        " VALUES (2, 1, 1, 'x', 'published')",
    )
    assert [(operation, event) for _, _, operation, _, event in changes(url)] == [
        ("UPDATE", None),
        ("UPDATE", "note:published"),
        ("UPDATE", None),
        ("INSERT", "note:published"),
    ]


def test_members_and_progress_are_told_with_their_events(url: str) -> None:
    query(url, "UPDATE space_members SET status = 'active' WHERE id = 2")
    query(url, "DELETE FROM space_members WHERE id = 2")
    query(url, "INSERT INTO progress (id, user_id, lesson_id) VALUES (1, 1, 1)")
    query(url, "DELETE FROM progress")
    assert changes(url) == [
        ("space:1", "space_members", "UPDATE", "2", "member:changed"),
        ("space:1", "space_members", "DELETE", "2", "member:changed"),
        ("space:1", "progress", "INSERT", "1", "progress:updated"),
        ("space:1", "progress", "DELETE", "1", None),
    ]


def test_a_notification_is_told_to_its_user_alone(url: str) -> None:
    query(url, "INSERT INTO notifications (id, user_id, type) VALUES (1, 2, 'x')")
    query(url, "UPDATE notifications SET read = true")
    assert changes(url) == [
        ("user:2", "notifications", "INSERT", "1", None),
        ("user:2", "notifications", "UPDATE", "1", None),
    ]


def test_an_update_that_changes_nothing_is_not_told(url: str) -> None:
    query(url, "UPDATE notes SET title = title")
    assert changes(url) == []


def test_a_changed_key_is_a_row_that_went_and_one_that_came(url: str) -> None:
    query(url, "UPDATE notes SET id = 9")
    assert changes(url) == [
        ("space:1", "notes", "DELETE", "1", None),
        ("space:1", "notes", "INSERT", "9", None),
    ]


def test_a_row_that_moves_to_another_space_is_told_to_both(url: str) -> None:
    query(url, "UPDATE space_members SET space_id = 2 WHERE id = 1")
    assert changes(url) == [
        ("space:1", "space_members", "DELETE", "1", "member:changed"),
        ("space:2", "space_members", "INSERT", "1", "member:changed"),
    ]


def test_a_row_that_moves_to_a_mute_space_is_gone_for_the_old_one(url: str) -> None:
    query(url, "UPDATE notes SET space_id = 3, status = 'published' WHERE id = 1")
    assert changes(url) == [("space:1", "notes", "DELETE", "1", None)]


def test_blocks_are_told_by_their_note_and_also_when_they_go_with_it(url: str) -> None:
    query(url, "INSERT INTO note_blocks (id, note_id, type) VALUES (1, 1, 'text')")
    query(url, "DELETE FROM notes")
    assert changes(url) == [
        ("space:1", "note_blocks", "INSERT", "1", None),
        ("space:1", "notes", "DELETE", "1", None),
        ("space:1", "note_blocks", "DELETE", "1", None),
    ]


def test_a_space_that_goes_takes_its_rows_along_and_tells_so(url: str) -> None:
    query(url, "DELETE FROM spaces WHERE id = 2")
    assert changes(url) == [("space:2", "space_members", "DELETE", "3", "member:changed")]


def test_a_row_that_is_there_already_is_told_as_updated(url: str) -> None:
    query(
        url,
        "INSERT INTO notes (id, space_id, author_id, title) VALUES (1, 1, 1, 'x'), (2, 1, 1, 'y')"
        " ON CONFLICT (id) DO UPDATE SET title = EXCLUDED.title",
    )
    assert sorted(changes(url)) == [
        ("space:1", "notes", "INSERT", "2", None),
        ("space:1", "notes", "UPDATE", "1", None),
    ]


def test_nothing_is_told_of_a_mute_space(url: str) -> None:
    query(url, "INSERT INTO messages (space_id, user_id, content) VALUES (3, 1, 'x')")
    assert changes(url) == []


def test_nothing_is_told_of_what_a_move_writes(url: str) -> None:
    with Target.connect(url, shown="the target") as target, target.transaction():
        target.mark_as_move()
        target.run("UPDATE notes SET title = 'moved'", "DELETE FROM space_members")
    query(url, "UPDATE notes SET title = 'by the application'")
    assert changes(url) == [("space:1", "notes", "UPDATE", "1", None)]


def test_tables_that_are_not_told_make_no_change(url: str) -> None:
    query(url, "UPDATE users SET name = 'x'")
    query(url, "UPDATE lessons SET title = 'x'")
    assert changes(url) == []


def test_a_rolled_back_change_is_not_told(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, listening(url) as listener:
        connection.cursor().execute("UPDATE notes SET title = 'x'")
        connection.rollback()
        assert changes(url) == []
        assert listener.heard() == []


def test_a_truncated_table_gives_the_feed_a_new_epoch(url: str) -> None:
    before = query(url, "SELECT epoch FROM feed.horizon")
    query(url, "TRUNCATE messages")
    assert query(url, "SELECT epoch FROM feed.horizon") != before


def test_listeners_are_notified_once_per_transaction_and_not_of_what(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, listening(url) as listener:
        cursor = connection.cursor()
        for n in range(3):
            cursor.execute(
                "INSERT INTO messages (space_id, user_id, content) VALUES (1, 1, %s), (2, 1, %s)",
                (str(n), str(n)),
            )
        connection.commit()
        assert listener.heard(at_least=1) == [feed.CHANGED_HINT]
        cursor.execute("UPDATE messages SET content = content")
        connection.commit()
        assert listener.heard() == []


def test_a_queue_that_fills_up_fails_no_write_and_is_not_filled_further(url: str) -> None:
    # The share from which on nothing is notified is lowered, rather than gigabytes queued.
    query(
        url,
        "DO $do$ BEGIN EXECUTE (SELECT replace(pg_get_functiondef('feed.tell()'::regprocedure),"
        " 'pg_notification_queue_usage() <= 0.5', 'pg_notification_queue_usage() < 0')); END $do$",
    )
    with listening(url) as listener:
        query(url, "INSERT INTO messages (id, space_id, user_id, content) VALUES (7, 1, 1, 'hi')")
        assert listener.heard() == []
    assert [key for *_, key, _ in changes(url)] == ["7"]


def test_whoever_may_write_a_table_is_told_of_without_a_right_on_the_feed(url: str) -> None:
    query(url, "CREATE ROLE feed_writer NOLOGIN")
    try:
        query(
            url,
            "GRANT INSERT ON messages TO feed_writer; GRANT USAGE ON SCHEMA public"
            " TO feed_writer; GRANT USAGE ON SEQUENCE messages_id_seq TO feed_writer",
        )
        query(
            url,
            "SET ROLE feed_writer; SET search_path = pg_temp;"
            " INSERT INTO public.messages (space_id, user_id, content) VALUES (1, 1, 'x')",
        )
        assert len(changes(url)) == 1
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(url, "SET ROLE feed_writer; SELECT * FROM feed.changes")
    finally:
        query(url, "DROP OWNED BY feed_writer; DROP ROLE feed_writer")


def test_two_writers_of_one_row_are_told_in_the_order_of_their_changes(url: str) -> None:
    with closing(psycopg2.connect(url)) as one, closing(psycopg2.connect(url)) as two:
        one.cursor().execute("UPDATE notes SET title = 'first'")
        two.autocommit = False
        two.cursor().execute("INSERT INTO messages (space_id, user_id, content) VALUES (1, 1, 'x')")
        one.commit()
        two.cursor().execute("UPDATE notes SET title = 'second'")
        two.commit()
    told = [table for _, table, *_ in changes(url)]
    assert told == ["notes", "messages", "notes"]


@pytest.mark.parametrize("text", ["x", "ก" * 8000])
def test_a_fleeting_event_is_kept_for_a_moment_and_notified_without_its_content(
    url: str, text: str
) -> None:
    with listening(url) as listener:
        query(
            url,
            "SELECT feed.send('space:1', 'typing:changed', jsonb_build_object('t', %s::text))",
            (text,),
        )
        assert listener.heard(at_least=1) == [feed.FLEETING_HINT]
    assert changes(url) == []
    assert query(url, FLEETING) == [("space:1", "typing:changed", {"t": text})]
    query(url, "SELECT feed.prune('1 hour', 100)")
    assert len(query(url, FLEETING)) == 1
    query(url, "UPDATE feed.fleeting SET at = at - interval '31 seconds'")
    query(url, "SELECT feed.prune('1 hour', 100)")
    assert query(url, FLEETING) == []


@pytest.mark.parametrize(
    ("topic", "event"),
    [("all", "typing:changed"), ("space:1", "message:new"), (None, None), ("space:1 ", None)],
)
def test_feed_send_takes_only_fleeting_events_for_topics(url: str, topic: str, event: str) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="takes a topic like space:1"):
        query(url, "SELECT feed.send(%s, %s, '{}')", (topic, event))


def test_a_mute_space_has_no_fleeting_events(url: str) -> None:
    with listening(url) as listener:
        query(url, "SELECT feed.send('space:3', 'typing:changed', '{}')")
        assert listener.heard() == []


def test_old_changes_are_pruned_and_the_horizon_moves_behind_them(url: str) -> None:
    for n in (1, 2, 3):
        query(url, f"UPDATE notes SET title = 'title {n}'")
    query(url, "UPDATE feed.changes SET at = at - interval '49 hours' WHERE id < 3")
    xids = [int(xid) for (xid,) in query(url, "SELECT xid FROM feed.changes ORDER BY id")]
    assert query(url, "SELECT feed.prune('48 hours', 1)") == [(1,)]
    assert query(url, "SELECT pruned::text::bigint FROM feed.horizon") == [(xids[0] + 1,)]
    with Target.connect(url, shown="the target") as target:
        assert prune(target, hours=48) == 1
        assert prune(target, hours=48) == 0
    assert query(url, "SELECT pruned::text::bigint FROM feed.horizon") == [(xids[1] + 1,)]
    assert len(changes(url)) == 1


def test_a_target_without_a_feed_has_nothing_to_prune(target_url: str) -> None:
    with Target.connect(target_url, shown="the target") as target:
        assert prune(target, hours=1) == 0


def test_a_feed_cannot_be_made_before_the_tables_are_there(target_url: str) -> None:
    with (
        Target.connect(target_url, shown="the target") as target,
        pytest.raises(TargetError, match="no table user, users, ") as failed,
        target.transaction(),
    ):
        feed_objects.apply(target, TABLES)
    said = str(failed.value.for_migration(spaces.SPACES.address))
    assert said.endswith("Run pipeline migrate spaces first.")


def test_a_feed_that_is_made_again_stays_as_it_is(url: str) -> None:
    query(url, "UPDATE notes SET title = 'x'")
    before = query(url, "SELECT oid FROM pg_trigger ORDER BY 1"), changes(url)
    epoch = query(url, "SELECT epoch FROM feed.horizon")
    assert switch_on(url) == []
    assert (query(url, "SELECT oid FROM pg_trigger ORDER BY 1"), changes(url)) == before
    assert query(url, "SELECT epoch FROM feed.horizon") == epoch


def test_triggers_of_a_table_that_is_told_no_more_go(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = replace(TableRules.of(spaces.messages), published=None)
    monkeypatch.setattr(spaces.messages, "info", quiet.info)
    switch_on(url)
    query(url, "INSERT INTO messages (space_id, user_id, content) VALUES (1, 1, 'x')")
    assert changes(url) == []


def test_a_restore_tells_nothing_but_that_readers_begin_anew(
    tmp_path: Path, server: URL, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SourceFile.make(tmp_path / "source.db")
    source.add_family(contents=2)
    move_all(source.path, target_url)
    table = content.learning_content
    published = PublishedChanges(("id", "title"), user="r.id")
    monkeypatch.setattr(table, "info", replace(TableRules.of(table), published=published).info)
    with Target.connect(target_url, shown="the target") as target, target.transaction():
        feed_objects.apply(target, [table])
    kept = Place.at(source.path, target_url, tmp_path)
    made = kept.back_up()
    assert made.target.fault is None
    query(target_url, "UPDATE learning_content SET title = 'changed' WHERE id = 1")
    before = query(target_url, "SELECT epoch FROM feed.horizon")

    def put_back(url: str) -> None:
        tables, folder = made.manifest.target_tables, kept.folder(made.manifest)
        restore.restore(url, shown="the target", tables=tables, folder=folder)

    put_back(target_url)
    assert query(target_url, "SELECT title FROM learning_content WHERE id = 1") == [("word 1",)]
    assert len(changes(target_url)) == 1
    assert query(target_url, "SELECT epoch FROM feed.horizon") != before
    query(target_url, "UPDATE learning_content SET title = 'again' WHERE id = 1")
    assert changes(target_url)[-1] == ("user:1", "learning_content", "UPDATE", "1", None)
    with new_database(server, "without_a_feed") as other:
        put_back(libpq(other))
        assert query(libpq(other), "SELECT count(*) FROM learning_content") == [(2,)]
