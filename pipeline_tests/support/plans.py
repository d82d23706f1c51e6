"""Plans of a move, the move itself, and what its checks found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.core.findings import Finding
from pipeline.core.policies import DEFAULT, Policies
from pipeline.migrations.content import metadata
from pipeline.move.run.disk_space import NOTHING_NEEDED
from pipeline.move.run.plan import TablePlan, plan_tables
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres.target import Target
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.verification import opened

TABLES = metadata.sorted_tables


def planned(
    source: SourceFile,
    url: str,
    folder: Path,
    *,
    tables: Sequence[sa.Table] = TABLES,
    policies: Policies = DEFAULT,
) -> dict[str, TablePlan]:
    """The plans by table, without the times, which nobody can foretell."""
    copy = opened(source.path, folder, tables)
    with Target.connect(url, shown="the target") as target:
        plans = plan_tables(tables, source=copy, target=target, policies=policies)
    assert all(0 < plan.seconds < 30 for plan in plans)
    return {plan.table: replace(plan, seconds=0, disk_need=NOTHING_NEEDED) for plan in plans}


def moved(source: SourceFile, url: str, **options: Any) -> dict[str, MoveResult]:
    """Move as one run does."""
    return move_all(source.path, url, delete_share=1, **options)


def found_by(move: MoveResult, kind: type[Finding]) -> list[Any]:
    return [f for check in move.checks for f in check.findings if isinstance(f, kind)]
