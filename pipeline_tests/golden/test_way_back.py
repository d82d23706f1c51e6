"""The way back, where the source has triggers and tables of its own that depend on moved rows."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import PipelineError
from pipeline.cutover import freezing, rollback
from pipeline.cutover.source.changed_rows import NotReversible, require_known_collations
from pipeline.sqlite import snapshot
from pipeline_tests.support.cutover_world import TABLES, World, content, equal, made_world
from pipeline_tests.support.sources import CONTENT_DDL, SourceFile

FTS = """
CREATE VIRTUAL TABLE words USING fts5(body_text, content='content_fragments', content_rowid='id');
INSERT INTO words (words) VALUES ('rebuild');
CREATE TRIGGER words_ai AFTER INSERT ON content_fragments BEGIN
  INSERT INTO words (rowid, body_text) VALUES (new.id, new.body_text); END;
CREATE TRIGGER words_ad AFTER DELETE ON content_fragments BEGIN
  INSERT INTO words (words, rowid, body_text) VALUES ('delete', old.id, old.body_text); END;
CREATE TRIGGER words_au AFTER UPDATE ON content_fragments BEGIN
  INSERT INTO words (words, rowid, body_text) VALUES ('delete', old.id, old.body_text);
  INSERT INTO words (rowid, body_text) VALUES (new.id, new.body_text); END;
"""
WRITES = """
UPDATE content_fragments SET body_text = 'updated' WHERE id = 1;
INSERT INTO content_fragments (id, native_text, body_text, fragment_type, learning_content_id)
  VALUES (70, 'n', 'inserted', 't', 1);
DELETE FROM content_fragments WHERE id = 6;
"""
"""What the application does in the target: one row each updated, inserted and deleted."""


def _script(world: World, sql: str) -> None:
    with closing(sqlite3.connect(world.source.path)) as connection:
        connection.executescript(sql)


def _found(world: World, word: str, index: str = "words") -> list[int]:
    sql = f"SELECT rowid FROM {index} WHERE {index} MATCH ? ORDER BY rowid"
    return [key for (key,) in world.source.run(sql, (word,))]


def _consistent(world: World, index: str = "words") -> None:
    world.source.run(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")


def _notes(returned: list[Any]) -> set[str]:
    return {note for each in returned for note in each.notes}


def _triggers(world: World) -> dict[str, str]:
    return dict(world.source.run("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))


def test_a_full_text_index_that_triggers_keep_finds_what_came_back(live: World) -> None:
    _script(live, FTS)
    before = _triggers(live)
    live.do(WRITES)
    returned = live.rollback()
    assert (_found(live, "updated"), _found(live, "inserted")) == ([1], [70])
    assert _found(live, "rice") == [2, 3, 4, 5]
    _consistent(live)
    assert _notes(returned) == {
        "trigger words_ai ran",
        "trigger words_ad ran",
        "trigger words_au ran",
        "full-text index words is consistent",
    }
    # Those of the freeze are gone; the application's are as they were.
    after = _triggers(live)
    frozen = {name for name in before if "frozen" in name}
    assert after == {name: sql for name, sql in before.items() if name not in frozen}
    assert any(line.startswith("content_fragments: full-text index words") for line in live.said)
    equal(live)


def test_other_tables_follow_and_moved_tables_are_as_in_the_target(live: World) -> None:
    _script(
        live,
        f"""{FTS}
        CREATE TABLE audit (entry TEXT);
        CREATE TABLE totals (name TEXT PRIMARY KEY, rows INTEGER);
        INSERT INTO totals VALUES ('content_fragments', 6);
        CREATE VIRTUAL TABLE boxes USING rtree (id, low, high);
        CREATE TRIGGER stamp_and_audit AFTER UPDATE ON content_fragments BEGIN
          UPDATE content_fragments SET updated_at = '2001-01-01 00:00:00' WHERE id = new.id;
          INSERT INTO audit VALUES (old.body_text || ' > ' || new.body_text); END;
        CREATE TRIGGER counted AFTER INSERT ON content_fragments BEGIN
          UPDATE totals SET rows = rows + 1 WHERE name = 'content_fragments';
          INSERT INTO boxes VALUES (new.id, new.id, new.id + 1);
          UPDATE learning_content SET difficulty_level = difficulty_level + 1
            WHERE id = new.learning_content_id; END;
        CREATE TRIGGER discounted AFTER DELETE ON content_fragments BEGIN
          UPDATE totals SET rows = rows - 1 WHERE name = 'content_fragments'; END;
        CREATE TRIGGER cascade AFTER DELETE ON learning_content BEGIN
          DELETE FROM content_fragments WHERE learning_content_id = old.id; END;
        CREATE TRIGGER ranked AFTER INSERT ON content_fragments BEGIN
          INSERT INTO rankings (fragment_id, rank_score) VALUES (new.id, 0); END;
        CREATE VIEW titles AS SELECT id, title FROM learning_content;
        CREATE TRIGGER titled INSTEAD OF UPDATE ON titles BEGIN
          UPDATE learning_content SET title = new.title WHERE id = new.id; END;
        """,
    )
    live.delete_share = 1
    live.do(WRITES)
    live.do("DELETE FROM learning_content WHERE id = 2")
    returned = live.rollback()
    equal(live)
    assert live.source.run("SELECT * FROM audit") == [("I eat rice > updated",)]
    assert live.source.run("SELECT rows FROM totals") == [(4,)]
    assert live.source.run("SELECT id FROM boxes") == [(70,)]
    assert live.source.run("SELECT difficulty_level FROM learning_content WHERE id = 1") == [(1,)]
    assert _found(live, "rice") == [2, 5]
    _consistent(live)
    notes = _notes(returned)
    assert "trigger cascade did not run: it writes the moved table content_fragments" in notes
    assert "trigger ranked did not run: it writes the moved table rankings" in notes
    assert {"trigger stamp_and_audit ran", "trigger counted ran", "trigger discounted ran"} <= notes


def test_triggers_are_named_whatever_the_case_of_their_table_and_who_starts_them(
    live: World,
) -> None:
    _script(
        live,
        """
        CREATE TABLE audit (entry);
        CREATE TRIGGER audited AFTER UPDATE ON Content_FRAGMENTS BEGIN
          INSERT INTO audit VALUES (new.id); END;
        CREATE TRIGGER swept AFTER INSERT ON audit BEGIN
          DELETE FROM rankings WHERE fragment_id = new.entry; END;
        """,
    )
    live.do(WRITES)
    assert _notes(live.rollback()) == {
        "trigger audited ran",
        "trigger swept of audit did not run: it writes the moved table rankings",
    }
    assert live.source.run("SELECT * FROM audit") == [(1,)]
    equal(live)


def test_a_full_text_index_of_a_view_is_rebuilt(live: World) -> None:
    _script(
        live,
        """
        CREATE VIEW texts AS SELECT f.id, c.title || ' ' || f.body_text AS body
          FROM content_fragments AS f JOIN learning_content AS c ON c.id = f.learning_content_id;
        CREATE VIRTUAL TABLE words USING fts5(body, content='texts', content_rowid='id');
        INSERT INTO words (words) VALUES ('rebuild');
        """,
    )
    live.do(WRITES)
    assert _notes(live.rollback()) == {"full-text index words was rebuilt"}
    assert (_found(live, "updated"), _found(live, "inserted")) == ([1], [70])
    _consistent(live)


@pytest.mark.parametrize("how", ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"])
def test_a_trigger_that_refuses_rows_does_not_stop_the_way_back(live: World, how: str) -> None:
    _script(
        live,
        f"""{FTS}
        CREATE TRIGGER guard BEFORE UPDATE ON content_fragments
          WHEN new.body_text = 'updated' BEGIN SELECT RAISE({how}); END;
        """,
    )
    live.do(WRITES)
    returned = live.rollback()
    equal(live)
    assert _found(live, "updated") == [1]
    assert "trigger guard did not run: it refuses or skips a row that the target has" in _notes(
        returned
    )
    assert "trigger words_au ran" in _notes(returned)
    assert "guard" in _triggers(live)


def test_a_guard_that_refuses_nothing_runs(live: World) -> None:
    _script(
        live,
        "CREATE TRIGGER guard BEFORE UPDATE ON content_fragments WHEN new.body_text = ''"
        " BEGIN SELECT RAISE(ABORT, 'empty'); END",
    )
    live.do(WRITES)
    assert _notes(live.rollback()) == {"trigger guard ran"}


def test_triggers_that_cannot_run_are_named_and_the_index_is_rebuilt(live: World) -> None:
    _script(
        live,
        FTS.replace("VALUES (new.id, new.body_text)", "VALUES (new.id, stem(new.body_text))")
        + """
        CREATE TABLE log (entry NOT NULL);
        CREATE TRIGGER logged AFTER INSERT ON rankings BEGIN
          INSERT INTO log VALUES (new.assessment_notes); END;
        """,
    )
    live.do(WRITES)
    live.do("INSERT INTO rankings (id, assessed_by) VALUES (90, 'x')")
    returned = live.rollback()
    equal(live)
    notes = _notes(returned)
    assert (
        "trigger words_ai did not run: SQLite cannot run it here (no such function: stem)" in notes
    )
    assert (
        "trigger logged did not run: the rows cannot be written with the triggers of the source"
        in notes
    )
    assert "full-text index words was rebuilt" in notes
    assert _found(live, "inserted") == [70]
    _consistent(live)


def test_an_index_without_triggers_is_rebuilt_and_one_that_was_stale_is_left(live: World) -> None:
    _script(
        live,
        """
        CREATE VIRTUAL TABLE kept USING fts5(body_text, content=content_fragments,
          content_rowid=id);
        INSERT INTO kept (kept) VALUES ('rebuild');
        CREATE VIRTUAL TABLE older USING fts4(content="content_fragments", body_text);
        INSERT INTO older (older) VALUES ('rebuild');
        CREATE VIRTUAL TABLE some USING fts5(body_text, content='content_fragments',
          content_rowid='id');
        INSERT INTO some (rowid, body_text) VALUES (2, 'I eat rice');
        """,
    )
    live.do(WRITES)
    notes = _notes(live.rollback())
    assert _found(live, "inserted", "kept") == [70]
    _consistent(live, "kept")
    assert live.source.run("SELECT count(*) FROM older WHERE older MATCH 'inserted'") == [(1,)]
    live.source.run("INSERT INTO older (older) VALUES ('integrity-check')")
    assert {"full-text index kept was rebuilt", "full-text index older was rebuilt"} <= notes
    (stale,) = [note for note in notes if "index some" in note]
    assert stale.startswith("full-text index some was not consistent before the rollback (")
    assert _found(live, "rice", "some") == [2]


def test_nothing_is_said_where_nothing_was_written(live: World) -> None:
    _script(live, FTS)
    returned = live.rollback()
    assert _notes(returned) <= {"full-text index words is consistent"}
    equal(live)


OTHERS = {
    "title VARCHAR(200) NOT NULL,": "title VARCHAR(200) NOT NULL UNIQUE,",
    "rankings (id INTEGER NOT NULL PRIMARY KEY,": "rankings (id INTEGER PRIMARY KEY AUTOINCREMENT,",
    "fragment_assets (id INTEGER NOT NULL PRIMARY KEY,": (
        "fragment_assets (id INT NOT NULL PRIMARY KEY, size INTEGER AS (length(asset_data)) STORED,"
    ),
    "REFERENCES content_fragments(id), asset_type": (
        "REFERENCES content_fragments(id) ON DELETE CASCADE, asset_type"
    ),
    "REFERENCES learning_content(id));": "REFERENCES learning_content(id) ON DELETE CASCADE)"
    " WITHOUT ROWID;",
}


@pytest.fixture(params=["UTF-8", "UTF-16le"])
def odd(
    request: pytest.FixtureRequest, target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A source with tables of every kind that is live."""
    ddl = f"PRAGMA encoding = '{request.param}';\n{CONTENT_DDL}"
    for plain, other in OTHERS.items():
        assert ddl.count(plain) == 1, plain
        ddl = ddl.replace(plain, other)
    world = made_world(tmp_path, target_url, monkeypatch)
    world.source.path.unlink()
    world.source = SourceFile.make(world.source.path, ddl)
    world.source.add_family()
    _script(
        world,
        """
        CREATE UNIQUE INDEX one_ipa ON learning_content (ipa, title);
        CREATE VIRTUAL TABLE titles USING fts5(title, content='learning_content',
          content_rowid='id');
        INSERT INTO titles (titles) VALUES ('rebuild');
        CREATE TRIGGER titles_ai AFTER INSERT ON learning_content BEGIN
          INSERT INTO titles (rowid, title) VALUES (new.id, new.title); END;
        CREATE TRIGGER titles_ad AFTER DELETE ON learning_content BEGIN
          INSERT INTO titles (titles, rowid, title) VALUES ('delete', old.id, old.title); END;
        CREATE TRIGGER titles_au AFTER UPDATE OF title ON learning_content BEGIN
          INSERT INTO titles (titles, rowid, title) VALUES ('delete', old.id, old.title);
          INSERT INTO titles (rowid, title) VALUES (new.id, new.title); END;
        CREATE VIRTUAL TABLE kinds USING fts5(asset_type, content='fragment_assets',
          content_rowid='rowid');
        INSERT INTO kinds (kinds) VALUES ('rebuild');
        CREATE TRIGGER kinds_au AFTER UPDATE ON fragment_assets BEGIN
          INSERT INTO kinds (kinds, rowid, asset_type)
            VALUES ('delete', old.rowid, old.asset_type);
          INSERT INTO kinds (rowid, asset_type) VALUES (new.rowid, new.asset_type); END;
        """,
    )
    assert world.live().state == "live"
    return world


def test_rows_that_exchange_values_get_other_keys_or_come_anew_come_back(odd: World) -> None:
    odd.delete_share = 1
    odd.do(
        """
        UPDATE learning_content SET title = 'free' WHERE id = 1;
        UPDATE learning_content SET title = 'word 1' WHERE id = 2;
        UPDATE learning_content SET title = 'word 2' WHERE id = 1;
        UPDATE fragment_assets SET asset_type = 'image' WHERE id = 3;
        DELETE FROM content_fragments WHERE id = 5;
        UPDATE rankings SET id = 60 WHERE id = 1;
        SELECT setval('rankings_id_seq', 99);
        INSERT INTO rankings (assessed_by) VALUES ('x');
        DELETE FROM rankings WHERE id = 100;
        """
    )
    rowids = odd.source.run("SELECT id, rowid FROM fragment_assets WHERE id < 5")
    returned = odd.rollback()
    assert odd.source.run("SELECT id, title FROM learning_content ORDER BY id") == [
        (1, "word 2"),
        (2, "word 1"),
        (3, "word 3"),
    ]
    assert odd.source.run("SELECT id, rowid FROM fragment_assets WHERE id < 5") == rowids
    search = "SELECT rowid FROM titles WHERE titles MATCH '\"word 1\"'"
    assert odd.source.run(search) == [(2,)]
    for index in ("titles", "kinds"):
        _consistent(odd, index)
    assert {"trigger titles_au ran", "full-text index titles is consistent"} <= _notes(returned)
    assert odd.source.run("SELECT seq FROM sqlite_sequence WHERE name = 'rankings'") == [(100,)]
    assert odd.source.run("SELECT * FROM pragma_index_list('learning_content') WHERE origin = 'c'")
    equal(odd)


def test_an_index_whose_order_only_the_application_knows_is_named(tmp_path: Path) -> None:
    source = SourceFile.make(tmp_path / "source.db")
    with closing(sqlite3.connect(source.path)) as connection:
        require_known_collations(connection, ["rankings", "content_fragments"])
        connection.create_collation("unicase", lambda a, b: (a > b) - (a < b))
        connection.execute("CREATE INDEX by_body ON content_fragments (body_text COLLATE unicase)")
        require_known_collations(connection, ["rankings"])
        with pytest.raises(NotReversible) as refused:
            require_known_collations(connection, ["rankings", "content_fragments"])
    assert "index by_body of content_fragments uses the collation unicase" in str(refused.value)
    assert "Drop that index in the source file" in str(refused.value)


def test_a_function_of_the_application_in_an_index_is_named(live: World) -> None:
    with closing(sqlite3.connect(live.source.path)) as connection:
        connection.create_function("stem", 1, str.lower, deterministic=True)
        connection.execute("CREATE INDEX by_stem ON content_fragments (stem(body_text))")
    before = content(live.source.path)
    live.do(WRITES)
    with pytest.raises(PipelineError) as refused:
        live.rollback()
    assert "an index or a constraint uses the function stem" in str(refused.value)
    assert (content(live.source.path), live.state) == (before, "live")
    assert freezing.is_frozen_file(live.source.path, TABLES)
    live.source.run("DROP INDEX by_stem")
    live.rollback()
    assert live.state == "shadow"


def test_the_status_counts_rows_and_not_their_writes(live: World) -> None:
    for score in (1, 2, 3):
        live.do(f"UPDATE rankings SET rank_score = {score} WHERE id < 3")
    assert live.ask()["every write is captured"] == "2 so far"
    live.do("TRUNCATE rankings")
    assert live.ask()["every write is captured"] == "2 so far; rankings truncated"


def test_a_failed_way_back_says_what_was_done_and_what_was_not(
    live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezing.unfreeze(live.source.path)
    with pytest.raises(PipelineError, match="is no longer frozen") as refused:
        live.rollback()
    assert "still frozen" not in str(refused.value)
    freezing.freeze(live.source.path, TABLES)
    live.do("INSERT INTO rankings (id, assessed_by, created_at) VALUES (90, 'x', 'infinity')")
    with pytest.raises(NotReversible, match="nothing was changed"):
        live.rollback()
    live.do("UPDATE rankings SET created_at = now() WHERE id = 90")
    live.delete_share = 0
    live.do("DELETE FROM rankings WHERE id = 1")
    with pytest.raises(PipelineError, match="Nothing was changed, and the application"):
        live.rollback()
    live.delete_share = 1
    holder = sqlite3.connect(live.source.path, isolation_level=None)
    real = rollback.write_back

    def then_locked(*given: Any) -> Any:
        written = real(*given)
        holder.execute("BEGIN IMMEDIATE")
        return written

    monkeypatch.setattr(rollback, "write_back", then_locked)
    monkeypatch.setattr(snapshot, "BUSY_SECONDS", 0.1)
    with closing(holder), pytest.raises(PipelineError, match="another rollback unfreezes it"):
        live.rollback()
    assert live.state == "shadow"
    live.rollback()
    assert not freezing.is_frozen_file(live.source.path, TABLES)
    equal(live)
