"""What is done with a target from the first move to the way back, under hostile settings."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.application.manager import HybridDatabaseManager
from pipeline.backup import restore
from pipeline.config.settings import libpq
from pipeline.core.errors import PipelineError
from pipeline_tests.support.backups import SHOWN, Place
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.cutover_world import World, set_up
from pipeline_tests.support.hostile_settings import (
    HARMLESS,
    HOSTILE,
    NOT_LISTED,
    assert_same,
    cleanly,
    fill,
    role,
    settable,
)
from pipeline_tests.support.hostile_settings import Place as Hostile
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.syncs import NAMES
from pipeline_tests.support.targets import new_database, query
from pipeline_tests.support.verification import broken, opened, standing

CHANGE = (
    "UPDATE learning_content SET title = 'ใหม่ 🎉', updated_at = '2026-01-01 00:00:00' WHERE id = 1"
)
DELETE = "DELETE FROM learning_content WHERE id = 10"


def afterwards(source: SourceFile, url: str, clean: str, folder: Path) -> None:
    """Back up, restore, cut over, write as the application does, and go back."""
    place = Place.at(source.path, url, folder)
    made = place.back_up()
    assert (made.source.fault, made.target.fault) == (None, None)
    query(clean, "DELETE FROM public.rankings")
    tables, kept = made.manifest.target_tables, place.folder(made.manifest)
    restore.restore(url, shown=SHOWN, tables=tables, folder=kept)
    assert_same(source.path, clean)
    world = World(source, url, folder)
    assert world.live().state == "live"
    with (
        HybridDatabaseManager(source.path, url, limits=False) as manager,
        manager.get_postgres_session() as session,
    ):
        session.execute(sa.text("UPDATE learning_content SET title = 'กลับ 🐘 é' WHERE id = 2"))
        session.execute(sa.text("DELETE FROM learning_content WHERE id = 11"))
    back = {each.table: (each.inserted, each.updated, each.deleted) for each in world.rollback()}
    assert back == dict.fromkeys(NAMES, (0, 0, 0)) | {"learning_content": (0, 1, 1)}
    assert source.run("SELECT title FROM learning_content WHERE id = 2") == [("กลับ 🐘 é",)]
    assert_same(source.path, clean)


@pytest.mark.parametrize("place", ["all of them"], indirect=True)
def test_all_hostile_settings_at_once(
    place: Hostile, source: SourceFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source)
    # With it, every query of Dagster's own starts a process.
    slow = "RESET debug_parallel_query"
    query(place.clean, f"ALTER ROLE hostile {slow}; ALTER DATABASE spoiled {slow}")
    ran = pipeline("migrate", **usable(source, place.url, tmp_path))
    assert (ran.code, ran.err) == (0, "")
    assert_same(source.path, place.clean)
    everything(source, place.url, place.clean, tmp_path, monkeypatch)


@pytest.mark.usefixtures("lowly")
def test_an_ordinary_owner_with_all_hostile_settings_at_once(
    server: URL, source: SourceFile
) -> None:
    fill(source)
    there = settable(libpq(server))
    mine = {
        name: value
        for name, value in HOSTILE.items()
        if name in NOT_LISTED or there[name]["context"] == "user"
    }
    with (
        role(server, "ordinary", mine, kind="NOSUPERUSER IN ROLE lowly") as ordinary,
        new_database(server, "owned") as database,
    ):
        query(libpq(server), "ALTER DATABASE owned OWNER TO ordinary")
        url = libpq(database.set(username=ordinary.username))
        move_all(source.path, url)
        source.run(CHANGE)
        sync_all(source.path, url)
        assert_same(source.path, cleanly(database))


EXTREME = {
    "temp_file_limit": "0",
    "lc_messages": "C",
    "default_tablespace": "nowhere",
    "temp_tablespaces": "nowhere",
    "createrole_self_grant": "set, inherit",
    "default_text_search_config": "pg_catalog.simple",
    "backtrace_functions": "ProcSleep",
    "plpgsql.extra_warnings": "all",
    "wal_consistency_checking": "heap",
    "output_plugin_libraries": "*",
    "local_preload_libraries": "",
}
"""Values of harmless settings that cannot be made up."""


def extreme(setting: dict[str, Any]) -> str:
    """A value of a setting that is far from the one it has."""
    name, value = setting["name"], setting["setting"]
    if name in EXTREME:
        return EXTREME[name]
    match setting["vartype"]:
        case "bool":
            return "off" if value == "on" else "on"
        case "enum":
            return next((each for each in reversed(setting["enumvals"]) if each != value), value)
        case "integer" | "real":
            low, high = setting["min_val"], setting["max_val"]
            return str(low if float(low) != float(value) else high)
    return str(value)


@pytest.mark.slow
@pytest.mark.usefixtures("lowly")
@pytest.mark.parametrize("name", sorted({*HOSTILE, *set[str]().union(*HARMLESS.values())}))
def test_each_hostile_setting_alone(
    server: URL,
    source: SourceFile,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = settable(libpq(server))
    if name not in there and name not in NOT_LISTED:
        pytest.skip("this version does not have it")
    if name in ("local_preload_libraries", "session_preload_libraries"):
        pytest.skip("a library that is not there ends every login, whoever connects")
    if name.startswith("transaction_"):
        pytest.skip("of one transaction; a role cannot have it")
    value = HOSTILE[name] if name in HOSTILE else extreme(there[name])
    fill(source)
    with (
        role(server, "alone", {name: value}, kind="SUPERUSER") as alone,
        new_database(server, "alone") as database,
    ):
        query(
            libpq(database),
            "CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler",
        )
        url, clean = libpq(database.set(username=alone.username)), cleanly(database)
        try:
            everything(source, url, clean, tmp_path, monkeypatch)
        except PipelineError as error:
            assert name in str(error)


def everything(
    source: SourceFile, url: str, clean: str, folder: Path, patch: pytest.MonkeyPatch
) -> None:
    """Move, sync, verify and all that comes after."""
    move_all(source.path, url)
    assert_same(source.path, clean)
    source.run(CHANGE)
    source.run(DELETE)
    sync_all(source.path, url)
    assert_same(source.path, clean)
    copy = opened(source.path, folder)
    assert [broken(standing(url, copy, name)) for name in NAMES] == [set()] * len(NAMES)
    set_up(source.path, url, patch)
    afterwards(source, url, clean, folder)
