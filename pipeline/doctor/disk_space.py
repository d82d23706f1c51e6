"""Check the room on the target's disk, where it can be known."""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from pipeline.core.quoting import literal
from pipeline.doctor.diagnostics import Diagnostic
from pipeline.move.run.disk_space import DiskNeed, TargetDisk


def disk_space(
    rows: Callable[[str], Any], url: URL, tables: Sequence[sa.Table], bytes_needed: int
) -> Diagnostic:
    """Compare what a move adds with what is free; a warning if that is clearly too little.

    Args:
        rows: executes a query in the target.
        url: the target.
        tables: the tables of the migration.
        bytes_needed: the size of the source.
    """
    names = ", ".join(map(literal, sorted(table.name for table in tables)))
    ((existing,),) = rows(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
        f" WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname IN ({names})"
    )
    needed, space = DiskNeed.of_file(bytes_needed, existing=existing), TargetDisk.of(rows, url)
    detail = space.describe(needed)
    if space.fits(needed):
        return Diagnostic("target", "disk space", "ok", detail)
    remedy = "Free up disk space on the server"
    return Diagnostic("target", "disk space", "warning", detail, remedy)
