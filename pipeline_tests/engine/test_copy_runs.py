"""A run of a copy: lost connections, other runs, a source that changes, hostile targets."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.copy import run
from pipeline.copy.interface.results import CopyResult, TableResult
from pipeline.copy.sessions import place_of
from pipeline.core.errors import LockedError
from pipeline.core.findings import ValueDiffers
from pipeline.postgres.target import Target
from pipeline_tests.support.copies import (
    assert_same,
    constraints,
    copied,
    outcomes,
    stored,
    table,
)
from pipeline_tests.support.copies import database as changed
from pipeline_tests.support.hostile_settings import (
    HOSTILE,
    NOT_LISTED,
    UNKNOWN_HERE,
    set_for,
)
from pipeline_tests.support.proxy import Fault, Proxy, proxied
from pipeline_tests.support.targets import query

TABLES = tuple(f"t{n}" for n in range(4))
TAMPER = """
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.id = 2 THEN NEW.v := {value}; END IF; RETURN NEW; END $$;
CREATE FUNCTION spy() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.t0'
  LOOP
    EXECUTE 'CREATE TRIGGER change BEFORE INSERT ON t0 FOR EACH ROW EXECUTE FUNCTION change()';
  END LOOP;
END $$;
CREATE EVENT TRIGGER spy ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION spy();
"""


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables of which each refers to the one before, and a view."""
    monkeypatch.setattr(run, "_PAUSE_SECONDS", 0.05)
    path = tmp_path / "chain.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for at, name in enumerate(TABLES):
            parent = f", p INT REFERENCES {TABLES[at - 1]} (id)" if at else ""
            connection.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, v TEXT{parent})")
            rows = [(n, f"{name} {n}") for n in range(500)]
            connection.executemany(f"INSERT INTO {name} (id, v) VALUES (?, ?)", rows)
            if at:
                connection.execute(f"UPDATE {name} SET p = id")
        connection.execute("CREATE VIEW seen AS SELECT id, v FROM t1 WHERE id < 3")
    return path


@pytest.fixture
def proxy(database: URL) -> Iterator[Proxy]:
    with proxied(database) as made:
        yield made


def assert_whole(path: Path, url: str, found: CopyResult) -> None:
    assert found.proven, found
    assert not list(found.all_left)
    assert_same(path, url, *TABLES, "seen")
    for at, name in enumerate(TABLES[1:]):
        key = f"FOREIGN KEY (p) REFERENCES {TABLES[at]}(id)"
        assert constraints(url, name)[f"{name}_p_fkey"] == key


@pytest.mark.parametrize(
    ("fault", "marker", "skip"),
    [
        ("reset", b"COPY", 1),
        ("truncate", b"COPY", 0),
        ("vanish", b"count(*)", 1),
        ("reset", b"ADD CONSTRAINT", 2),
        ("vanish", b"FOREIGN KEY", 1),
        ("lose the answer", b"COMMIT", 0),
        ("vanish", b"COMMIT", 1),
        ("lose the answer", b"INSERT INTO migration.watermarks", 1),
    ],
)
def test_a_lost_connection_costs_nothing(
    chain: Path, target_url: str, proxy: Proxy, fault: Fault, marker: bytes, skip: int
) -> None:
    proxy.plan(fault, marker, skip=skip)

    found = copied(chain, libpq(proxy.url))

    assert proxy.broken == 1
    assert_whole(chain, target_url, found)


@pytest.mark.parametrize("fault", ["reset", "lose the answer"])
def test_a_second_copy_survives_a_lost_connection(
    chain: Path, target_url: str, proxy: Proxy, fault: Fault
) -> None:
    assert copied(chain, target_url).proven
    changed(chain, "UPDATE t0 SET v = 'x' WHERE id = 7", "DELETE FROM t3 WHERE id = 7")
    proxy.plan(fault, b"DELETE FROM", skip=1)

    found = copied(chain, libpq(proxy.url))

    assert proxy.broken == 1
    assert_whole(chain, target_url, found)


def test_a_run_ends_if_another_one_has_taken_its_place(
    chain: Path, target_url: str, proxy: Proxy
) -> None:
    place = place_of("public")

    def take(ended: TableResult) -> None:
        if ended.table == "t0":
            # The sessions of the run are lost, and another run begins.
            query(
                target_url,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'pipeline copy' AND pid <> pg_backend_pid()",
            )
            other = Target.connect(target_url, shown="the target", application_name="other")
            opened.enter_context(opened.enter_context(other).lock(place))

    assert copied(chain, target_url).proven
    changed(chain, "UPDATE t2 SET v = 'x'")
    with contextlib.ExitStack() as opened:
        found = copied(chain, libpq(proxy.url), lock_seconds=0.2, on_table=take)

    assert outcomes(found) == {"t0": "unchanged", "t1": "failed", "t2": "failed", "t3": "failed"}
    assert "application other" in str(table(found, "t1").error)
    assert not found.proven


def test_a_server_that_is_gone_ends_the_run_with_what_was_copied(
    chain: Path, target_url: str, database: URL, server: URL
) -> None:
    name = database.database

    def close(ended: TableResult) -> None:
        if ended.table == "t0":
            query(
                libpq(server),
                f"UPDATE pg_database SET datallowconn = false WHERE datname = '{name}';"
                f" SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE datname = '{name}'",
            )

    found = copied(chain, target_url, on_table=close)
    query(libpq(server), f"UPDATE pg_database SET datallowconn = true WHERE datname = '{name}'")

    assert table(found, "t0").outcome == "copied"
    assert table(found, "t3").outcome == "failed"
    assert "does not accept connections" in str(table(found, "t3").error)
    assert not found.proven
    again = copied(chain, target_url)
    assert_whole(chain, target_url, again)
    assert table(again, "t0").outcome == "unchanged"


def test_an_unexpected_error_in_one_session_ends_the_other_one(
    chain: Path, target_url: str
) -> None:
    def fail(ended: TableResult) -> None:
        if ended.table == "t0":
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        copied(chain, target_url, on_table=fail)


def test_another_run_on_the_same_schema_waits_or_is_named(chain: Path, target_url: str) -> None:
    found: dict[str, CopyResult] = {}

    def work(name: str, schema: str) -> None:
        found[name] = copied(chain, target_url, schema=schema)

    threads = [
        threading.Thread(target=work, args=each)
        for each in (("one", "public"), ("two", "public"), ("three", "Other place"))
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    both = {tuple(outcomes(found[name]).values()) for name in ("one", "two")}
    assert both == {("copied",) * 4, ("unchanged",) * 4}
    assert set(outcomes(found["three"]).values()) == {"copied"}
    assert stored(target_url, "t3", "Other place") == stored(target_url, "t3")
    with Target.connect(target_url, shown="the target") as other, other.lock():
        assert copied(chain, target_url, schema="Other place", lock_seconds=0).proven
        with pytest.raises(LockedError, match="is in use by another run"):
            copied(chain, target_url, lock_seconds=0)


def test_a_role_with_one_connection_copies_with_one(
    chain: Path, target_url: str, database: URL
) -> None:
    query(target_url, "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1")
    try:
        query(target_url, "GRANT CREATE ON SCHEMA public TO narrow")
        query(target_url, f"GRANT CREATE ON DATABASE {database.database} TO narrow")
        found = copied(chain, target_url.replace("postgres@", "narrow@"))
        assert_whole(chain, target_url, found)
    finally:
        query(target_url, "DROP OWNED BY narrow CASCADE; DROP ROLE narrow")


def test_a_source_is_read_at_one_point_in_time(chain: Path, target_url: str) -> None:
    before = sqlite3.connect(chain).execute("SELECT count(*) FROM t3").fetchone()

    def write(ended: TableResult) -> None:
        changed(chain, f"DELETE FROM {ended.table} WHERE id = 1")
        changed(chain, "DELETE FROM t3 WHERE id > 100")

    found = copied(chain, target_url, on_table=write)

    assert found.proven
    assert query(target_url, "SELECT count(*) FROM t3") == [before]
    assert query(target_url, "SELECT count(*) FROM t0") == [before]


@pytest.mark.parametrize(
    ("value", "differs"),
    [("'tampered'", ValueDiffers("t0", "row 2", "v", "t0 2", "tampered")), ("NULL", None)],
)
def test_a_value_that_changes_on_the_way_is_named_and_rolled_back(
    chain: Path, target_url: str, value: str, differs: ValueDiffers | None
) -> None:
    query(target_url, TAMPER.format(value=value))

    found = copied(chain, target_url)

    failed = table(found, "t0")
    assert failed.outcome == "failed"
    (finding,) = failed.findings
    assert isinstance(finding, ValueDiffers)
    assert (finding.key, finding.column) == ("row 2", "v")
    assert differs in (None, finding)
    assert query(target_url, "SELECT to_regclass('t0')") == [(None,)]
    assert not found.proven
    left = table(found, "t1").left
    assert [(each.kind, each.name) for each in left] == [("foreign key", "(p) to t0")]


def test_settings_that_nobody_expects_change_nothing(
    tmp_path: Path, server: URL, database: URL, lowly: None
) -> None:
    path = values_of(tmp_path / "values.db")
    settings = {
        name: value
        for name, value in HOSTILE.items()
        if name not in NOT_LISTED | UNKNOWN_HERE | {"default_table_access_method"}
    }
    more = {"synchronize_seqscans": "on", "min_parallel_table_scan_size": "0"}
    more |= {"parallel_setup_cost": "0", "parallel_tuple_cost": "0", "enable_tidscan": "off"}
    name = database.database
    with closing(psycopg2.connect(libpq(database))) as connection, connection:
        connection.cursor().execute(set_for(f"DATABASE {name}", settings | more))

    first = copied(path, libpq(database))
    changed(path, "UPDATE v SET t = '\\x41' WHERE id = 3")
    second = copied(path, libpq(database))

    assert first.proven
    assert outcomes(second) == {"v": "updated"}
    assert (table(second, "v").written, table(second, "v").deleted) == (1, 1)
    query(libpq(server), f"ALTER DATABASE {name} RESET ALL")
    assert_same(path, libpq(database), "v")


def values_of(path: Path) -> Path:
    """Values that a setting could spoil."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE v (id INTEGER PRIMARY KEY, t TEXT, r REAL, b BLOB)")
        connection.executemany(
            "INSERT INTO v VALUES (?, ?, ?, ?)",
            [(n, f"é \\x41 ' {n}", n / 7, bytes([n % 256, 92, 0])) for n in range(2000)],
        )
    return path
