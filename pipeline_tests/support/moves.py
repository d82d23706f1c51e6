"""A move and a sync of tables, as one run does them, without Dagster."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from pipeline.move import mending
from pipeline.move.extract import Source
from pipeline.move.live import pinned
from pipeline.move.mover import Mover
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.snapshot import take_snapshot
from pipeline.move.sync import Syncer, why_whole
from pipeline.move.target import Target
from pipeline.move.transaction import Move
from pipeline.move.work import DELETE_SHARE
from pipeline.tables.content import metadata


def move_all(
    source: Path,
    url: str,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    delete_share: float = DELETE_SHARE,
    run_id: str = "test",
) -> dict[str, Move]:
    """Move tables as one run does, without Dagster; by table name."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot = take_snapshot(source, Path(folder) / "source.db", tables=tables, busy_seconds=2)
        opened = Source(snapshot)
        with Target.connect(url, shown="the target") as target:
            mending.apply(opened, tables, mending.read(target, [table.name for table in tables]))
            with Mover.over(opened, target, run_id=run_id, delete_share=delete_share) as mover:
                return {
                    table.name: mover.move(table, upcoming=tables[at + 1 :])
                    for at, table in enumerate(tables)
                }


def sync_all(
    source: Path,
    url: str,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    delete_share: float = DELETE_SHARE,
    policies: Policies = DEFAULT,
    run_id: str = "sync",
) -> dict[str, Move]:
    """Sync tables as one run does, without Dagster; by table name."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        pinned(source, Path(folder), tables=tables, busy_seconds=2) as live,
    ):
        assert why_whole(tables, live=live, target=target, policies=policies) is None
        syncer = Syncer(live, target, run_id=run_id, delete_share=delete_share, policies=policies)
        return {
            table.name: syncer.move(table, upcoming=tables[at + 1 :])
            for at, table in enumerate(tables)
        }
