"""A second copy: only differences are written, and what others have made in the target stays."""

from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pipeline.copy.moving import proving
from pipeline.core.errors import ShapeError
from pipeline_tests.support.copies import (
    assert_same,
    constraints,
    copied,
    database,
    left,
    outcomes,
    stored,
    table,
)
from pipeline_tests.support.targets import query

FAMILY = (
    "CREATE TABLE p (id INTEGER PRIMARY KEY, u TEXT UNIQUE)",
    "INSERT INTO p VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
    "CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES p (id) ON DELETE {0} ON UPDATE {0},"
    " q TEXT REFERENCES p (u) ON DELETE {0})",
    "INSERT INTO c VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd'), (5, 4, 'd')",
)
SWAPPED = (
    "UPDATE p SET u = '' WHERE id = 1",
    "UPDATE p SET u = 'a' WHERE id = 2",
    "UPDATE p SET u = 'b' WHERE id = 1",
)
BOOM = """
CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
CREATE TRIGGER each BEFORE INSERT OR DELETE OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION boom();
CREATE TRIGGER whole AFTER INSERT OR DELETE ON t EXECUTE FUNCTION boom();
ALTER TABLE t ENABLE ALWAYS TRIGGER whole;
"""


def written(path: Path, url: str, label: str) -> tuple[int, int]:
    found = table(copied(path, url), label)
    assert found.proven, found
    return found.written, found.deleted


@pytest.fixture
def simple(tmp_path: Path, target_url: str) -> Path:
    """A copied table ``t``."""
    path = database(
        tmp_path / "simple.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT NOT NULL DEFAULT 7, w TEXT UNIQUE)",
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')",
    )
    assert copied(path, target_url).proven
    return path


@pytest.mark.parametrize("action", ["NO ACTION", "CASCADE", "RESTRICT", "SET NULL"])
def test_parents_and_children_change_together(tmp_path: Path, target_url: str, action: str) -> None:
    path = database(tmp_path / "family.db", *(each.format(action) for each in FAMILY))
    assert copied(path, target_url).proven
    before = constraints(target_url, "c")
    database(
        path,
        *SWAPPED,
        *("DELETE FROM c WHERE p = 3", "DELETE FROM p WHERE id = 3"),
        *("INSERT INTO p VALUES (9, 'z')", "INSERT INTO c VALUES (9, 9, 'z')"),
        "UPDATE c SET p = 9 WHERE id = 4",
    )

    found = copied(path, target_url)

    assert found.proven
    assert left(found) == []
    assert_same(path, target_url, "p", "c")
    assert (table(found, "p").written, table(found, "p").deleted) == (3, 3)
    assert (table(found, "c").written, table(found, "c").deleted) == (2, 2)
    assert constraints(target_url, "c") == before
    assert set(outcomes(copied(path, target_url)).values()) == {"unchanged"}


def test_rows_of_a_circle_change_together(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "circle.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b INT REFERENCES b (id))",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, c INT REFERENCES c (id), s INT REFERENCES b (id))",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, a INT REFERENCES a (id))",
        *("INSERT INTO a VALUES (1, 1), (2, 2)", "INSERT INTO b VALUES (1, 1, 2), (2, 2, 1)"),
        "INSERT INTO c VALUES (1, 1), (2, 2)",
    )
    assert copied(path, target_url).proven
    before = [constraints(target_url, name) for name in "abc"]
    database(path, "INSERT INTO a VALUES (3, 3)", "INSERT INTO b VALUES (3, 3, 3)")
    database(path, "INSERT INTO c VALUES (3, 3)")

    added = copied(path, target_url)
    database(path, *(f"DELETE FROM {name} WHERE id = 2" for name in "abc"))
    database(path, "UPDATE b SET s = 3")
    removed = copied(path, target_url)

    for found in (added, removed):
        assert found.proven
        assert left(found) == []
    assert set(outcomes(added).values()) == {"updated"}
    assert_same(path, target_url, "a", "b", "c")
    assert [constraints(target_url, name) for name in "abc"] == before


def test_equal_rows_without_a_key_are_counted(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "rows.db",
        "CREATE TABLE k (a INT, b INT)",
        "INSERT INTO k VALUES (1, 1), (1, 1), (1, 1), (2, NULL), (2, NULL)",
    )
    assert copied(path, target_url).proven
    database(path, "DELETE FROM k WHERE rowid = 1", "INSERT INTO k VALUES (2, NULL), (3, 3)")

    assert written(path, target_url, "k") == (2, 1)
    assert_same(path, target_url, "k")


def test_new_ids_advance_the_sequence(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "ids.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v INT)",
        "INSERT INTO t (v) VALUES (1), (2), (3)",
    )
    assert copied(path, target_url).proven
    database(path, "INSERT INTO t VALUES (100, 1), (200, 1)", "DELETE FROM t WHERE id = 200")

    assert copied(path, target_url).proven

    following = "INSERT INTO t (v) VALUES (0) RETURNING id"
    assert query(target_url, following) == [(201,)]
    # It does not go back behind what the application has assigned.
    assert copied(path, target_url).proven
    assert query(target_url, following) == [(202,)]


def test_what_was_changed_by_hand_becomes_equal_again(simple: Path, target_url: str) -> None:
    before = constraints(target_url, "t")
    query(
        target_url,
        "UPDATE t SET v = 9 WHERE id = 1; DELETE FROM t WHERE id = 2;"
        " INSERT INTO t VALUES (77, 1, 'q'); ALTER TABLE t DROP CONSTRAINT t_w_key;"
        " ALTER TABLE t ALTER v DROP NOT NULL, ALTER v DROP DEFAULT, ALTER id DROP IDENTITY",
    )

    assert written(simple, target_url, "t") == (2, 2)

    assert_same(simple, target_url, "t")
    assert constraints(target_url, "t") == before
    assert query(target_url, "INSERT INTO t DEFAULT VALUES RETURNING id, v") == [(4, 7)]
    with pytest.raises(Exception, match="not-null"):
        query(target_url, "INSERT INTO t (v) VALUES (NULL)")


def test_rows_that_moved_in_the_target_are_compared_by_their_key(
    simple: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(simple, "UPDATE t SET v = 9 WHERE id = 1")
    assert written(simple, target_url, "t") == (1, 1)
    (first, *_) = query(target_url, "SELECT id FROM t ORDER BY ctid LIMIT 1")
    assert first != (1,)

    # Nothing is staged.
    monkeypatch.delattr("pipeline.copy.moving.difference.write")
    found = table(copied(simple, target_url), "t")

    assert (found.outcome, found.witnessed, found.proven) == ("unchanged", 3, True)


def test_nobody_writes_between_the_comparison_and_the_commit(
    simple: Path, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, refused = proving.compare, list[str]()

    def compared(*given: Any, **named: Any) -> proving.Proven:
        found = compare(*given, **named)
        with pytest.raises(psycopg2.errors.LockNotAvailable) as error:
            query(target_url, "SET lock_timeout = '100ms'; UPDATE t SET v = 0")
        refused.append(str(error.value))
        return found

    monkeypatch.setattr(proving, "compare", compared)
    assert copied(simple, target_url).proven
    assert len(refused) == 1


def test_a_rule_that_keeps_rows_away_fails_the_table(simple: Path, target_url: str) -> None:
    query(target_url, "CREATE RULE away AS ON INSERT TO t DO INSTEAD NOTHING")
    before = stored(target_url, "t")
    database(simple, "UPDATE t SET v = 9 WHERE id = 1")

    found = table(copied(simple, target_url), "t")

    wanted = "t: after it was written, the target lacks 1 row of the source, and has 0 rows that"
    assert found.outcome == "failed"
    assert wanted in str(found.error)
    assert stored(target_url, "t") == before


def test_objects_of_others_stay_and_do_not_fire(simple: Path, target_url: str) -> None:
    query(
        target_url,
        f"{BOOM} ALTER TABLE t ADD mine text DEFAULT 'new'; ALTER TABLE t DISABLE TRIGGER USER;"
        " UPDATE t SET mine = 'precious' WHERE id = 1; ALTER TABLE t ENABLE TRIGGER each;"
        " ALTER TABLE t ENABLE ALWAYS TRIGGER whole;"
        " CREATE VIEW seen AS SELECT id FROM t;"
        " CREATE TABLE other (t bigint REFERENCES t (id)); INSERT INTO other VALUES (1)",
    )
    triggers = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    before = query(target_url, triggers)
    database(simple, "UPDATE t SET v = 8 WHERE id = 1", "INSERT INTO t VALUES (4, 4, 'd')")

    assert written(simple, target_url, "t") == (2, 1)

    assert stored(target_url, "t") == {
        (1, 8, "a", "precious"): 1,
        (2, 2, "b", "new"): 1,
        (3, 3, "c", "new"): 1,
        (4, 4, "d", "new"): 1,
    }
    assert query(target_url, triggers) == before == [("each", "O"), ("whole", "A")]
    assert "other_t_fkey" in constraints(target_url, "other")
    database(simple, "DELETE FROM t WHERE id = 1")
    orphan = table(copied(simple, target_url), "t")
    assert orphan.outcome == "failed"
    assert "other_t_fkey" in str(orphan.error)
    assert stored(target_url, "t")[1, 8, "a", "precious"] == 1


def test_columns_of_others_need_a_key(tmp_path: Path, target_url: str) -> None:
    path = database(tmp_path / "k.db", "CREATE TABLE k (a INT)", "INSERT INTO k VALUES (1), (2)")
    assert copied(path, target_url).proven
    query(target_url, "ALTER TABLE k ADD mine text DEFAULT 'keep'")
    database(path, "INSERT INTO k VALUES (3)")
    assert written(path, target_url, "k") == (1, 0)
    database(path, "UPDATE k SET a = 5 WHERE a = 1")

    found = table(copied(path, target_url), "k")

    assert found.outcome == "failed"
    assert "no primary key" in str(found.error)
    assert stored(target_url, "k")[1, "keep"] == 1


def test_a_foreign_key_of_others_between_copied_tables_stays(
    tmp_path: Path, target_url: str
) -> None:
    path = database(
        tmp_path / "two.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p INT)",
        *("INSERT INTO p VALUES (1), (2)", "INSERT INTO c VALUES (1), (2)"),
    )
    assert copied(path, target_url).proven
    query(target_url, "ALTER TABLE c ADD CONSTRAINT mine FOREIGN KEY (p) REFERENCES p (id)")
    database(path, "DELETE FROM c WHERE p = 2", "DELETE FROM p WHERE id = 2")

    assert copied(path, target_url).proven

    assert_same(path, target_url, "p", "c")
    assert constraints(target_url, "c") == {"mine": "FOREIGN KEY (p) REFERENCES p(id)"}
    database(path, "DELETE FROM p")
    found = copied(path, target_url)
    assert found.proven
    assert "it is NOT VALID now" in left(found)[0]
    assert constraints(target_url, "c") == {"mine": "FOREIGN KEY (p) REFERENCES p(id) NOT VALID"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("RENAME w TO w2", "it has no column w"),
        ("DROP w", "it has no column w"),
        ("ALTER v TYPE text", "column v is text instead of bigint"),
    ],
)
def test_columns_changed_by_hand_are_named(
    simple: Path, target_url: str, change: str, reason: str
) -> None:
    query(target_url, f"ALTER TABLE t {change}")
    before = stored(target_url, "t")

    found = table(copied(simple, target_url), "t")

    assert found.outcome == "failed"
    assert reason in str(found.error)
    assert stored(target_url, "t") == before
    query(target_url, "DROP TABLE t")
    assert outcomes(copied(simple, target_url)) == {"t": "copied"}


def test_a_changed_schema_of_the_source_follows(tmp_path: Path, target_url: str) -> None:
    path = database(
        tmp_path / "schema.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, t INT REFERENCES t (id))",
        "CREATE TABLE gone (a INT)",
        "CREATE VIEW seen AS SELECT * FROM t",
        *("INSERT INTO t VALUES (1, 1)", "INSERT INTO c VALUES (1, 1)"),
        "INSERT INTO gone VALUES (1)",
    )
    assert copied(path, target_url).proven
    query(
        target_url,
        "CREATE TABLE other (t bigint REFERENCES t (id)); INSERT INTO other VALUES (1);"
        " GRANT SELECT ON t TO PUBLIC; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    )
    database(path, "ALTER TABLE t ADD w TEXT DEFAULT 'x'", "CREATE INDEX t_v ON t (v)")
    database(path, "DROP TABLE gone", "CREATE TABLE fresh (a INT)")

    verified = copied(path, target_url, verify=True)
    assert outcomes(verified) == {"t": "failed", "c": "unchanged", "fresh": "failed"}
    assert stored(target_url, "seen") == {(1, 1): 1}
    found = copied(path, target_url)

    assert outcomes(found) == {"t": "updated", "c": "unchanged", "fresh": "copied"}
    assert_same(path, target_url, "t", "c", "seen")
    assert "t_v" in constraints(target_url, "t")
    assert "c_t_fkey" in constraints(target_url, "c")
    assert "other_t_fkey" in constraints(target_url, "other")
    rights = "SELECT relrowsecurity, has_table_privilege('public', oid, 'SELECT') FROM pg_class"
    assert query(target_url, f"{rights} WHERE relname = 't'") == [(True, True)]
    assert stored(target_url, "gone") == {(1,): 1}
    assert [line for line in left(found) if "gone" in line] == [
        "table gone: an earlier copy wrote it, and this one does not have it; it stays as it is"
    ]
    assert set(outcomes(copied(path, target_url)).values()) == {"unchanged"}


@pytest.mark.parametrize(
    ("object_", "named"),
    [
        ("CREATE VIEW mine AS SELECT id FROM t", "view mine"),
        ("CREATE VIEW mine AS SELECT id FROM seen", "seen"),
        ("ALTER TABLE t ADD mine text", "column mine"),
        ("CREATE POLICY mine ON t USING (true)", "policy mine"),
        (BOOM, "trigger each"),
    ],
)
def test_a_table_with_objects_of_others_is_not_made_anew(
    simple: Path, target_url: str, object_: str, named: str
) -> None:
    database(simple, "CREATE VIEW seen AS SELECT id FROM t")
    assert copied(simple, target_url).proven
    query(target_url, object_)
    database(simple, "ALTER TABLE t ADD x TEXT")
    before = stored(target_url, "t")

    found = table(copied(simple, target_url), "t")

    assert found.outcome == "failed"
    assert named in str(found.error)
    assert stored(target_url, "t") == before


@pytest.mark.parametrize("change", ["SELECT 1", "ALTER TABLE t ADD x TEXT"])
def test_most_rows_are_not_deleted(simple: Path, target_url: str, change: str) -> None:
    database(simple, "DELETE FROM t WHERE id > 1", change)

    found = table(copied(simple, target_url, delete_share=0.5), "t")

    assert found.outcome == "failed"
    assert "2 of 3 rows of the target would be lost" in str(found.error)
    assert stored(target_url, "t").total() == 3
    assert copied(simple, target_url, delete_share=0.7).proven


def test_tables_that_no_copy_wrote_are_refused(tmp_path: Path, target_url: str) -> None:
    path = database(tmp_path / "t.db", "CREATE TABLE a (x INT)", "CREATE TABLE b (x INT)")
    query(target_url, "CREATE VIEW b AS SELECT 1 AS x")
    with pytest.raises(ShapeError, match="a view b that was not made by a copy"):
        copied(path, target_url)
    assert query(target_url, "SELECT to_regclass('a')") == [(None,)]
    query(target_url, "DROP VIEW b")
    assert copied(path, target_url).proven
    query(target_url, "UPDATE migration.watermarks SET rules = 'of a migration'")
    with pytest.raises(ShapeError, match="was written by a migration"):
        copied(path, target_url)


def test_the_originals_of_every_table_of_a_circle_are_kept(tmp_path: Path, target_url: str) -> None:
    late = "2024-01-01 00:00:00.1234567"
    path = database(
        tmp_path / "circle.db",
        "CREATE TABLE one (id INTEGER PRIMARY KEY, o INT REFERENCES two (id), m DATETIME)",
        "CREATE TABLE two (id INTEGER PRIMARY KEY, o INT REFERENCES one (id), m DATETIME)",
        f"INSERT INTO one VALUES (1, 1, '{late}')",
        f"INSERT INTO two VALUES (1, 1, '{late}')",
    )
    casts = {"one.m": "timestamp", "two.m": "timestamp"}
    kept = "SELECT table_name, original FROM migration.conversions ORDER BY 1"
    for _ in range(2):
        assert copied(path, target_url, casts=casts).proven
        assert query(target_url, kept) == [("one", late), ("two", late)]
    database(path, "UPDATE one SET m = '2024-01-01 00:00:00'")
    assert copied(path, target_url, casts=casts).proven
    assert query(target_url, kept) == [("two", late)]


def test_a_generated_column_that_disagrees_on_new_rows_becomes_plain(
    tmp_path: Path, target_url: str
) -> None:
    path = database(
        tmp_path / "half.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n DECIMAL(12,2) NOT NULL, half AS (n / 2))",
        "INSERT INTO t (id, n) VALUES (1, 0.5), (2, 1.5)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, t INT REFERENCES t)",
        "INSERT INTO c VALUES (1, 1)",
        "CREATE VIEW halves AS SELECT id, n FROM t",
    )
    first = copied(path, target_url)
    # SQLite stores 7.0 as an integer here and divides it as one.
    database(path, "INSERT INTO t (id, n) VALUES (3, 7)")

    second, third = copied(path, target_url), copied(path, target_url)

    assert left(first) == []
    assert second.proven
    assert query(target_url, "SELECT half FROM t ORDER BY id") == [(0.25,), (0.75,), (3.0,)]
    assert "c_t_fkey" in constraints(target_url, "c")
    assert len(stored(target_url, "halves")) == 3
    assert [each.kind for each in second.all_left] == ["generated column"]
    assert outcomes(third) == {"t": "unchanged", "c": "unchanged"}
