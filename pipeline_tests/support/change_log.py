"""A source that keeps a log of its changes, and what the log holds."""

from typing import Any

import pytest

from pipeline.migrations.content import metadata
from pipeline.sqlite import tracking
from pipeline.sqlite.catalog import change_log
from pipeline_tests.support.sources import SourceFile

TABLES = metadata.sorted_tables


def logged(source: SourceFile) -> list[tuple[str, Any]]:
    """Table and key of every entry, in order, the first one left out."""
    return source.run(
        "SELECT table_name, key FROM pipeline_changes WHERE table_name IS NOT NULL ORDER BY change"
    )


@pytest.fixture
def contents(source: SourceFile) -> SourceFile:
    """A tracked source with three contents of which nothing is logged."""
    source.add("learning_content", *({"id": k, "title": f"t{k}"} for k in (1, 2, 3)))
    tracking.switch_on(source.path, TABLES)
    return source


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "KEPT_CHANGES", 5)
