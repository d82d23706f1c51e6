"""A third migration is one file in a folder; settings, commands, jobs and messages follow it."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.settings import PROJECT, libpq
from pipeline.core.errors import SettingsError
from pipeline.migrations import registry
from pipeline.orchestration import schedules
from pipeline_tests.support import commands
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.runs import loaded, use
from pipeline_tests.support.targets import new_database, query

NOTES = '''
"""Notebooks and their pages."""

import sqlite3

import sqlalchemy as sa

from pipeline.migrations.declaration import NAMES, Migration
from pipeline.migrations.sample_file import write

metadata = sa.MetaData(naming_convention=NAMES)

notebooks = sa.Table(
    "notebooks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    info={"description": "Books of notes."},
)
pages = sa.Table(
    "pages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("notebook_id", sa.Integer, sa.ForeignKey("notebooks.id"), nullable=False),
    sa.Column("scan", sa.LargeBinary),
    info={"description": "Pages, each scanned."},
)


def _fill(source: sqlite3.Connection) -> None:
    source.executescript(
        "CREATE TABLE notebooks (id INTEGER PRIMARY KEY, title TEXT);"
        "CREATE TABLE pages (id INTEGER PRIMARY KEY, notebook_id INTEGER, scan BLOB);"
        "INSERT INTO notebooks VALUES (1, 'กิน'), (2, 'walk'), (3, NULL);"
    )
    rows = [(number, number % 2 + 1, bytes([number]) * 1000) for number in range(40)]
    source.executemany("INSERT INTO pages VALUES (?, ?, ?)", rows)


MIGRATION = Migration(
    "notes",
    metadata,
    setting="NOTES_DATABASE_URL",
    make_sample=lambda path: write(path, _fill),
    owners=("team:notes",),
)
'''
TABLES = ("notebooks", "pages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that declares the migration."""
    made = tmp_path_factory.mktemp("migrations")
    (made / "notes.py").write_text(NOTES)
    return made


class World:
    """The third migration, its sample, and a target."""

    def __init__(self, folder: Path, url: URL, home: Path) -> None:
        """Nothing is moved yet, and no sample is made."""
        self.url, self.home = libpq(url), home
        self.settings = {
            "MIGRATIONS_FOLDER": str(folder),
            "MIGRATIONS": "content,notes",
            "DATABASE_URL": self.url,
            "PIPELINE_HOME": str(home),
        }

    @property
    def sample(self) -> Path:
        """The file that is made where no source is named."""
        return self.home / "notes_sample.db"

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> Ran:
        """Run a command that ends so."""
        ran = pipeline(*arguments, **{**self.settings, **more})
        assert ran.code == code, ran.out + ran.err
        # No sentence names the migration twice, or a command of another one.
        text = " ".join((ran.out + ran.err).split())
        assert "notes notes" not in text
        assert "SQLITE_DATABASE_URL" not in text
        return ran

    def words(self, *arguments: str, code: int = 0, **more: str) -> str:
        """What a command prints, on one line."""
        ran = self(*arguments, code=code, **more)
        return " ".join((ran.out + ran.err).split())


@pytest.fixture(scope="module")
def world(
    folder: Path, server: URL, dagster_tables: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A target for the third migration."""
    with new_database(server, "third", template=dagster_tables) as url:
        yield World(folder, url, tmp_path_factory.mktemp("third") / "home")


def test_dagster_loads_what_every_migration_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATIONS_FOLDER", str(folder))
    with loaded("content,notes") as defs:
        dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assets = {key.to_user_string() for key in graph.get_all_asset_keys()}
    beside = ("plan", "cutover", "source_backup", "target_backup")
    assert {*TABLES, *(f"notes_{name}" for name in beside)} <= assets
    for table in TABLES:
        assert graph.get(dg.AssetKey(table)).group_name == "notes"
        assert graph.get(dg.AssetKey(table)).owners == ["team:notes"]
    checks = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys}
    wanted = {("pages", "digests"), ("pages", "schema"), ("notes_plan", "doctor")}
    assert wanted | {("notes_cutover", "gate")} <= checks
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    kinds = ("doctor", "plan", "migrate", "sync", "backup", "redrive", "verify", "cutover")
    assert {f"notes_{kind}" for kind in kinds} <= jobs
    assert {s.name for s in defs.schedules or ()} >= {
        "notes_sync_schedule",
        "notes_verify_schedule",
    }
    assert "notes_source_written" in {sensor.name for sensor in defs.sensors or ()}


def test_settings_name_its_source_in_the_environment_and_in_dot_env(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "pipeline", project / "pipeline")
    (project / "further").mkdir()
    (project / "further" / "notes.py").write_text(NOTES)
    (project / ".env").write_text(
        "MIGRATIONS_FOLDER=further\nMIGRATIONS=notes,spaces\nNOTES_DATABASE_URL=sqlite:///a.db\n"
    )
    show = (
        "from pipeline.config import settings\n"
        "loaded = settings.load()\n"
        "print([each.name for each in loaded.enabled], loaded.registry.names)\n"
        "print(loaded.source_path(loaded.enabled[0]))"
    )
    environment = commands.environment()
    del environment["MIGRATIONS"]

    def run(**more: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", show],
            cwd=project,
            env=environment | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    names = "['notes', 'spaces'] ['content', 'spaces', 'notes']"
    assert run() == [names, str(project / "a.db")]
    assert run(NOTES_DATABASE_URL="sqlite:////else.db") == [names, "/else.db"]


def test_its_commands_move_verify_and_tell_of_it_by_its_name(world: World) -> None:
    assert "content or spaces or notes" in world.words("plan", "--help")
    assert "Back up the databases of the migration notes." in world.words("backup", "--help")
    missing = {"NOTES_DATABASE_URL": "sqlite:////no/such.db"}
    assert "Set NOTES_DATABASE_URL to" in world.words("plan", "notes", code=2, **missing)
    assert "Set NOTES_DATABASE_URL to" in world.words("doctor", "notes", code=1, **missing)
    assert "or run pipeline migrate notes." in world.words("track", "on", "notes", code=2)

    script = world("schema", "notes").out
    assert "-- Generated by `pipeline schema notes`;" in script
    assert '"pages"' in script
    assert world.sample.exists()
    world("doctor", "notes")
    planned = json.loads(world("plan", "notes", "--json").out)
    assert [(each["table"], each["rejected_rows"]) for each in planned] == [
        ("notebooks", 1),
        ("pages", 0),
    ]
    asked = world.words("cutover", "status", "notes")
    assert "pipeline migrate notes" in asked
    assert "pipeline backup notes" in asked
    moved = world("migrate", "notes")
    assert moved.row("pages")[:2] == ["filled", "40"]
    assert query(world.url, "SELECT sum(octet_length(scan)) FROM pages") == [(40_000,)]
    assert "proven" in world.words("verify", "notes")
    with closing(sqlite3.connect(world.sample)) as source, source:
        source.execute("UPDATE pages SET scan = zeroblob(10) WHERE id = 1")
        source.execute("INSERT INTO notebooks VALUES (4, 'new')")
    assert "proven" in world.words("sync", "notes")
    assert query(world.url, "SELECT count(*) FROM notebooks") == [(3,)]
    file = world.home / "rejected.csv"
    assert "values written to" in world.words("quarantine", "export", str(file), "notes")
    assert "notebooks" in file.read_text()
    assert "run pipeline track on notes" not in world.words("track", "status", "notes")


def test_its_state_is_its_own_and_stops_its_schedules(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("migrate", "plan", "backup"):
        world(command, "notes")
    asked = world.words("cutover", "status", "notes", code=0)
    assert "the migration notes is shadow" in asked
    assert "pipeline cutover freeze notes" in asked
    world("cutover", "sign-off", "notebooks", "--by", "Ann", "--reason", "known")
    assert "the migration notes is live" in world.words("cutover", "live", "notes")
    refused = world.words("sync", "notes", code=1)
    assert "pipeline rollback notes copies the target's changes to the source" in refused
    use(monkeypatch, world.settings)
    notes = settings.load().registry.get("notes")
    with dg.DagsterInstance.ephemeral() as instance:
        no = schedules.under_way(instance, follows=notes)
        assert no is not None
        assert no.startswith("The application writes to the target: the migration is live since")
        content = settings.load().registry.get("content")
        assert schedules.under_way(instance, follows=content) is None
    assert "the migration notes is shadow" in world.words("rollback", "notes")


REFUSED = {
    "no migration": ("", "declares no migration"),
    "no module": ("from nothing import anything", "notes in .* cannot be imported"),
    "a name that is taken": (NOTES.replace('"notes"', '"spaces"'), "both have the name spaces"),
    "a table that is taken": (NOTES.replace('"pages"', '"rankings"'), "have a table rankings"),
    "a source that is taken": (
        NOTES.replace("NOTES_DATABASE_URL", "SQLITE_DATABASE_URL"),
        "both have the setting SQLITE_DATABASE_URL",
    ),
    "a setting of the project": (
        NOTES.replace("NOTES_DATABASE_URL", "DATABASE_URL"),
        "declares DATABASE_URL as the setting of its source",
    ),
    "plain names": (NOTES.replace('("team:notes",)', '("team:notes",), plain=True'), "plain names"),
    "a name that no step can have": (
        NOTES.replace('"pages"', '"type"'),
        "cannot name a step after the table 'type' of notes",
    ),
    "a reference to no key": (
        NOTES.replace('"notebooks.id"', '"notebooks.title"'),
        r"foreign key \(notebook_id\) of pages in notes does not refer to the primary key",
    ),
    "a circle": (
        NOTES.replace(
            'sa.Column("title", sa.Text, nullable=False),',
            'sa.Column("cover", sa.Integer, sa.ForeignKey("pages.id")),',
        ),
        "notebooks and pages of notes refer to each other in a circle",
    ),
    "a name that is none": (NOTES.replace('"notes"', '"my notes"'), "the name 'my notes'"),
}


@pytest.mark.parametrize(("module", "why"), REFUSED.values(), ids=REFUSED)
def test_a_declaration_that_cannot_be_used_is_refused_in_a_sentence(
    module: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.py").write_text(module)
    monkeypatch.setenv("MIGRATIONS_FOLDER", str(tmp_path))
    with pytest.raises(SettingsError, match=why):
        settings.load()


def test_a_folder_that_is_none_is_refused_and_an_empty_name_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATIONS_FOLDER", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="nowhere is not a folder"):
        settings.load()
    monkeypatch.setenv("MIGRATIONS_FOLDER", "")
    assert settings.load().registry == registry.find()


def test_modules_of_a_folder_import_each_other_and_hold_several_migrations(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(NOTES)
    more = NOTES.replace("MIGRATION =", "from .notes import MIGRATION as OTHER\n\nMIGRATION =")
    for old, new in (('"notes"', '"albums"'), ("pages", "photos"), ("notebooks", "shelves")):
        more = more.replace(old, new)
    (tmp_path / "albums.py").write_text(more.replace("NOTES_DATABASE", "ALBUMS_DATABASE"))
    found = registry.find(tmp_path)
    assert found.names == ["content", "spaces", "albums", "notes"]
    photos = found.holding("photos")
    assert photos is not None
    assert photos.name == "albums"
