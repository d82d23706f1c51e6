"""What Dagster loads, with other migrations than most tests have."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest

import pipeline.orchestration.definitions
from pipeline.config import settings
from pipeline.config.environment import server
from pipeline.orchestration.instance import storage


@contextmanager
def loaded(names: str) -> Iterator[dg.Definitions]:
    """The definitions with these migrations; later tests have those of ``content``."""
    try:
        yield _reloaded(names)
    finally:
        _reloaded("content")


def _reloaded(names: str) -> dg.Definitions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGRATIONS", names)
        found: dg.Definitions = importlib.reload(pipeline.orchestration.definitions).defs
        return found


def shown(result: dg.ExecuteInProcessResult, table: str) -> dict[str, Any]:
    """The metadata of a table's materialization."""
    (materialization,) = result.asset_materializations_for_node(table)
    return {name: value.value for name, value in materialization.metadata.items()}


def use(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Give settings to this process, and let Dagster keep its runs in their target."""
    for name, value in variables.items():
        patch.setenv(name, value)
    # storage.prepare sets these for the process; the patch takes them back.
    for name in (settings.DAGSTER_URL, settings.DAGSTER_FILES):
        patch.setenv(name, "")
    patch.setenv("DAGSTER_HOME", str(settings.PROJECT))
    loaded = settings.load()
    storage.prepare(server(loaded), loaded)
