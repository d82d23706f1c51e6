"""The work of loading a migration grows with its tables, not with their square."""

import cProfile
import pstats
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from pipeline_tests.support.runs import loaded

HEAD = """
import sqlalchemy as sa

from pipeline.migrations.declaration import NAMES, Migration

metadata = sa.MetaData(naming_convention=NAMES)
MIGRATION = Migration("wide", metadata, setting="WIDE_DATABASE_URL", source="sqlite:///app.db")
"""
TABLE = """
sa.Table(
    "wide_{number}",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("before_id", sa.Integer, sa.ForeignKey("wide_{before}.id")),
)
"""
SIZES = (10, 20, 40)


def calls(folder: Path, patch: pytest.MonkeyPatch, *, tables: int) -> Counter[str]:
    """How often each function is called while a migration of so many tables loads, by name."""
    folder.mkdir()
    # Chains of five.
    declared = (TABLE.format(number=n, before=n - (n % 5 > 0)) for n in range(tables))
    (folder / "wide.py").write_text(HEAD + "".join(declared))
    patch.setenv("MIGRATIONS_FOLDER", str(folder))
    profile = cProfile.Profile()
    with profile, loaded("wide") as defs:
        dg.Definitions.validate_loadable(defs)
    assert len(defs.resolve_asset_graph().get_all_asset_keys()) > tables
    found: Counter[str] = Counter()
    for (_, _, name), (_, count, *_) in pstats.Stats(profile).stats.items():
        found[name] += count
    return found


def test_loading_twice_the_tables_takes_twice_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls(tmp_path / "first", monkeypatch, tables=1)  # fills the caches of the process
    some, more, most = (calls(tmp_path / f"{n}", monkeypatch, tables=n) for n in SIZES)
    assert most.total() - more.total() < 2.02 * (more.total() - some.total())
    # Each of the two migrations that were loaded, this one and content.
    assert most["sorted_tables"] <= 2
