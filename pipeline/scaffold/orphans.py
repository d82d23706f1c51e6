"""Rows of the source whose foreign key refers to no row; SQLite does not check it by default."""

from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import ForeignKey


def count(plan: CopyPlan, table: CopiedTable, key: ForeignKey) -> int:
    """The number of rows whose foreign key of one column refers to no row."""
    parent = plan.tables[folded(key.parent)].source
    column, there = f"c.{quoted(key.columns[0])}", quoted(key.parent_columns[0])
    # PostgreSQL compares exactly, whatever the collation of the source.
    rows, parents = plan.source.rows_of(table.source), plan.source.rows_of(parent)
    with plan.source.sqlite() as connection:
        (found,) = connection.execute(
            f"SELECT count(*) FROM {rows} AS c WHERE {column} IS NOT NULL AND {column}"
            f" COLLATE BINARY NOT IN (SELECT {there} FROM {parents} WHERE {there} IS NOT NULL)"
        ).fetchone()
    return int(found)
