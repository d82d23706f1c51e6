"""A move and a sync of tables, as one run does them, without Dagster."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core.place import PUBLIC
from pipeline.core.progress import OnProgress
from pipeline.migrations.content import metadata
from pipeline.move.context.options import MoveOptions
from pipeline.move.engine import Engine, open_engine
from pipeline.move.run.scope import ChangesOnly, Everything, Scope
from pipeline.move.run.transaction import MoveResult
from pipeline.move.run.views import SourceViews
from pipeline.postgres.target import Target


@contextmanager
def moving(
    source: Path,
    url: str,
    scope: Scope,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    busy_seconds: float = 2,
    **options: Any,
) -> Iterator[Engine]:
    """The engine as one run has it, without Dagster; ``options`` as of ``MoveOptions``.

    Unless they say otherwise, a table may go to quarantine as a whole.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Target.connect(url, shown="the target") as target,
        SourceViews(
            lambda: source, Path(folder) / "runs", name="run", busy_seconds=busy_seconds
        ) as views,
        open_engine(
            tables,
            views,
            target,
            PUBLIC,
            scope,
            MoveOptions(**{"run_id": "test", "quarantine_share": 1, **options}),
        ) as engine,
    ):
        yield engine


def move_in(
    scope: Scope,
    source: Path,
    url: str,
    *,
    tables: Sequence[sa.Table] = metadata.sorted_tables,
    on_progress: OnProgress = lambda _: None,
    **options: Any,
) -> dict[str, MoveResult]:
    """Move tables as one run does, without Dagster; by table name."""
    with moving(source, url, scope, tables=tables, **options) as engine:
        return {table.name: engine.move(table, on_progress=on_progress) for table in tables}


def move_all(source: Path, url: str, **options: Any) -> dict[str, MoveResult]:
    """Move everything; by table name."""
    return move_in(Everything(), source, url, **options)


def sync_all(
    source: Path, url: str, *, retry_rejected: bool = False, **options: Any
) -> dict[str, MoveResult]:
    """Move what changed, which must be known; by table name."""
    changes = ChangesOnly(retry_rejected, or_everything=False)
    return move_in(changes, source, url, **{"run_id": "sync", **options})
