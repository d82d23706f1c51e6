"""Two migrations in one target: each by itself, side by side, and without a trace of the other."""

from pathlib import Path

import dagster as dg
import pytest

from pipeline.config import settings
from pipeline.core.errors import SettingsError
from pipeline.declared.rules import TableRules
from pipeline.migrations import registry
from pipeline.migrations.content import CONTENT
from pipeline.migrations.declaration import Migration
from pipeline.migrations.spaces import SPACES
from pipeline_tests.support.runs import loaded

BOTH = "content,spaces"
THERE = registry.find()
JOBS = ("doctor", "census", "plan", "migrate", "sync", "backup", "redrive", "verify", "cutover")


def test_no_name_of_a_table_occurs_in_two_migrations() -> None:
    names = [table.name for migration in THERE for table in migration.tables]
    assert len(names) == len(set(names)) == 18
    for migration in THERE:
        assert THERE.of(migration.tables) is migration
        assert all(THERE.holding(table.name) is migration for table in migration.tables)
    assert THERE.holding("nothing") is None


@pytest.mark.parametrize("migration", list(THERE), ids=THERE.names)
def test_a_table_comes_after_the_tables_that_it_refers_to(migration: Migration) -> None:
    seen: set[str] = set()
    for table in migration.tables:
        assert {key.column.table.name for key in table.foreign_keys} <= seen | {table.name}
        seen.add(table.name)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["content", "spaces"]),
        ("spaces", ["spaces"]),
        ("spaces, content", ["spaces", "content"]),
        ("content,content", ["content"]),
    ],
)
def test_migrations_are_enabled_by_name_in_their_order(
    given: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIGRATIONS")
    if given is not None:
        monkeypatch.setenv("MIGRATIONS", given)
    assert [migration.name for migration in settings.load().enabled] == names


@pytest.mark.parametrize("given", ["", ",", "contents", "content,x", "Content"])
def test_a_migration_that_is_not_there_is_refused_by_name(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATIONS", given)
    with pytest.raises(SettingsError, match="MIGRATIONS cannot be used: name content or spaces"):
        settings.load()


def test_a_value_for_null_is_a_matter_of_the_migration_that_has_its_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"rankings.assessed_by": "unknown", "notes.title": "-", "nothing.at_all": 1}
    monkeypatch.setenv("POLICY_FORBIDDEN_NULLS", str(given).replace("'", '"'))
    loaded = settings.load()
    assert set(loaded.policies(CONTENT).forbidden_nulls) == {
        "rankings.assessed_by",
        "nothing.at_all",
    }
    assert set(loaded.policies(SPACES).forbidden_nulls) == {"notes.title", "nothing.at_all"}


def test_each_migration_has_its_own_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPACES_DATABASE_URL", f"sqlite:///{tmp_path}/turso.db")
    loaded = settings.load()
    assert loaded.source_path(SPACES) == tmp_path / "turso.db"
    assert loaded.source_path(CONTENT) == loaded.sample_path(CONTENT)
    assert loaded.sample_path(CONTENT) != loaded.sample_path(SPACES)
    monkeypatch.setenv("SPACES_DATABASE_URL", "turso.db")
    with pytest.raises(SettingsError, match="SPACES_DATABASE_URL is not a URL"):
        settings.load().source_path(SPACES)


@pytest.mark.parametrize("names", ["content", "spaces", BOTH])
def test_dagster_loads_the_migrations_that_are_enabled(names: str) -> None:
    with loaded(names) as defs:
        dg.Definitions.validate_loadable(defs)
    enabled = [each for each in THERE if each.name in names.split(",")]
    assets = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    for migration in THERE:
        tables = {table.name for table in migration.tables}
        own = {migration.named(job) for job in JOBS}
        if migration in enabled:
            assert tables <= assets
            assert own <= jobs
        else:
            assert not tables & assets
            assert not own & jobs
    assert ("anki_sync" in jobs) == (CONTENT in enabled)
    schedules = {schedule.name for schedule in defs.schedules or ()}
    assert {migration.named("sync_schedule") for migration in enabled} <= schedules
    sensors = {sensor.name for sensor in defs.sensors or ()}
    assert {migration.named("source_written") for migration in enabled} <= sensors


def test_what_belongs_to_a_migration_is_in_its_group() -> None:
    with loaded(BOTH) as defs:
        graph = defs.resolve_asset_graph()
    for migration in THERE:
        for table in migration.tables:
            node = graph.get(dg.AssetKey(table.name))
            assert node.group_name == migration.name
            assert node.owners == list(migration.owners)
            assert node.description == TableRules.of(table).description
        assert graph.get(dg.AssetKey(migration.named("plan"))).group_name == migration.name
        assert graph.get(dg.AssetKey(migration.named("cutover"))).group_name == "operations"
