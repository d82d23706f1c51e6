"""Fixtures: one PostgreSQL for the whole session, a database of its own for each test.

Files of tests and of the server lie in memory where there is room. Dagster's tables are in a
database that all tests of a session share, apart from their targets. A test marked ``dagster`` has
them in its target: copied from the start, or made by the first command if the mark says ``fresh``.
So does a test whose target is not that of the fixture ``database``.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.migrations import registry
from pipeline.postgres.embedded.server import ensure_server, leave
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import new_database

# Fixtures of whole worlds lie beside what the tests do with them.
pytest_plugins = [
    "pipeline_tests.support.anki_world",
    "pipeline_tests.support.browser",
    "pipeline_tests.support.change_log",
    "pipeline_tests.support.cutover_world",
    "pipeline_tests.support.feeds",
    "pipeline_tests.support.hostile_settings",
    "pipeline_tests.support.old_world",
    "pipeline_tests.support.pairs",
    "pipeline_tests.support.receivers",
    "pipeline_tests.support.servers",
    "pipeline_tests.support.services",
    "pipeline_tests.support.verification",
    "pipeline_tests.support.subscribers",
    "pipeline_tests.support.supabase",
    "pipeline_tests.support.turso",
]

# Tests of one migration need not load the other; those of both say so.
os.environ["MIGRATIONS"] = "content"

hypothesis_settings.register_profile("suite", deadline=None, derandomize=True, max_examples=100)
hypothesis_settings.load_profile("suite")

# Few names, taken in turn: what a process knows of a database it knows of the next one, too, and
# who still waits for the one before does not find another in its place.
_names = itertools.cycle(range(4))
_MEMORY, _ROOM = Path("/dev/shm"), 4 << 30
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    # By the variable, because commands that tests start have to find the same place.
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More workers than cores: a third of the time tests wait, for servers and for clocks."""
    return round(1.5 * (os.cpu_count() or 1))


_LONGEST = (
    *("sync_faults", "sync", "ui", "sync_commands", "migrations", "moves_merge", "kill"),
    *(
        "sync_sources",
        "copy_databases",
        "cutover",
        "soak",
        "serving",
        "cutover_attacks",
        "surroundings",
    ),
    *("sync_conflicts", "old_targets", "anki_sync", "spaces_moves", "embedded"),
    *("moves_proof", "sync_rejected", "replica", "types", "overrides", "side_effects"),
    *("anki_commands", "turso_cutover", "cutover_commands", "subset", "selftest"),
    *("uniques", "housekeeping", "third_migration", "moves_input", "quarantine"),
    *("definitions", "network", "moves_schema", "contract", "lost_server", "policies"),
    *("secrets", "schedules"),
)
"""Modules that take longest, in that order; the others follow by name."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left with one of them at the end."""
    places = {f"test_{name}.py": place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no test see the settings of whoever runs it."""
    sources = [each.setting for each in registry.find()]
    others = (
        "MIGRATIONS_FOLDER",
        "DATABASE_URL",
        "DAGSTER_DATABASE_URL",
        "TURSO_AUTH_TOKEN",
        "MAX_DELETE_SHARE",
        "DAGSTER_HOME",
    )
    for name in (*sources, *others):
        monkeypatch.delenv(name, raising=False)
    for name in [
        name for name in os.environ if name.startswith(("ALERT_", "ANKI_", "POLICY_", "UI_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MIGRATIONS", "content")


@pytest.fixture(scope="session")
def server() -> Iterator[URL]:
    """A PostgreSQL that is made for this session and stopped at its end."""
    # Short, because a Unix socket's path has room for about a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix=f"pg{os.getpid()}"))
    url = ensure_server(folder / "data")
    _forget_the_disk(url)
    yield url
    leave(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)


def _forget_the_disk(server: URL) -> None:
    """Wait for no disk: what a test commits must outlive the server's death, not the machine's."""
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.cursor().execute(f"ALTER SYSTEM SET {setting} = off")
        connection.cursor().execute("SELECT pg_reload_conf()")


@pytest.fixture
def database(
    request: pytest.FixtureRequest, server: URL, records: URL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[URL]:
    """An empty database; with Dagster's tables where a test is marked so."""
    marked, template = request.node.get_closest_marker("dagster"), "template1"
    if marked and "fresh" not in marked.args:
        template = request.getfixturevalue("dagster_tables")
    if not marked:
        monkeypatch.setenv("DAGSTER_DATABASE_URL", libpq(records))
    with new_database(server, f"test_{next(_names)}", template=template) as made:
        yield made


@pytest.fixture(scope="session")
def records(server: URL) -> Iterator[URL]:
    """A database for Dagster's records; the first command makes its tables."""
    with new_database(server, "records") as made:
        yield made


@pytest.fixture(scope="session")
def dagster_tables(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a database with Dagster's tables, for others to copy."""
    with new_database(server, "dagster_tables") as made:
        with pytest.MonkeyPatch.context() as patch:
            folder = tmp_path_factory.mktemp("dagster")
            use(patch, {"DATABASE_URL": libpq(made), "PIPELINE_HOME": str(folder)})
        yield "dagster_tables"


@pytest.fixture
def target_url(database: URL) -> str:
    """The URL of an empty database, as libpq reads it."""
    return libpq(database)


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    """An empty source in the application's schema."""
    return SourceFile.make(tmp_path / "source.db")


@pytest.fixture(params=["dates", "tracked"])
def mode(request: pytest.FixtureRequest) -> str:
    """Whether the source keeps a log of its changes."""
    return str(request.param)
