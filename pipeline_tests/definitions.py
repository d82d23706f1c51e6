"""What Dagster loads, with other migrations than most tests have."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

import pipeline.definitions


@contextmanager
def loaded(names: str) -> Iterator[dg.Definitions]:
    """The definitions with these migrations; whoever comes next has those that were there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGRATIONS", names)
        found = importlib.reload(pipeline.definitions).defs
    try:
        yield found
    finally:
        importlib.reload(pipeline.definitions)
