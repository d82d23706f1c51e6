"""Delete rows of the target, within the allowed share, and record what is deleted with them."""

from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import TooManyDeletes
from pipeline.core.quoting import quoted
from pipeline.mapping.row_key import RowKey
from pipeline.move.context.move_context import MoveContext
from pipeline.move.ledger import cascades, conservation
from pipeline.postgres import schema


def delete_stale(context: MoveContext) -> None:
    """Delete older versions of rejected rows."""
    stale = _stale(context)
    require_few(context, context.deleted + len(stale))
    delete(context, stale)


def _stale(context: MoveContext) -> list[Any]:
    """Keys of rejected rows of which the target has an older version."""
    keys = context.source.keys_by_row_id(context.mapping, list(context.converter.rejected))
    return conservation.existing(context.target, context.mapping, keys)


def require_few(context: MoveContext, deletes: int) -> None:
    """Refuse to delete more than the allowed share of the table.

    Raises:
        TooManyDeletes: says how many rows would be deleted, and why.
    """
    if not deletes:
        return
    if context.target_rows is None:
        count = f"SELECT count(*) FROM {quoted(context.mapping.name)}"
        context.target_rows = int(context.target.value(count))
    _require_share(
        context,
        context.mapping.name,
        deletes,
        context.target_rows,
        f"{context.source.path} lacks them",
    )


def delete(context: MoveContext, keys: list[Any]) -> None:
    """Delete rows, and record the rows that are deleted with them."""
    if keys:
        name = quoted(context.mapping.key.name)
        record_cascades(context, keys)
        deleted = context.target.rows(
            f"DELETE FROM {quoted(context.mapping.name)} WHERE {name} = ANY($1) RETURNING 1",
            (keys,),
        )
        context.deleted += len(deleted)


def record_cascades(
    context: MoveContext, keys: list[Any], *, parent: sa.Table | None = None
) -> None:
    """Count and record the rows of other tables that are deleted or changed with these rows.

    If a run is killed before it moves those tables, the next run finds the records in the ledger.
    """
    table = context.mapping.table if parent is None else parent
    _require_no_unmanaged(context, table, keys)
    for child in table.metadata.sorted_tables:
        for foreign in child.foreign_keys:
            if foreign.column.table is not table or child is table:
                continue
            if not schema.exists(context.target, child.name):
                continue
            key = RowKey.of(child).sql
            found = context.target.rows(
                f"SELECT {key} FROM {quoted(child.name)}"
                f" WHERE {quoted(foreign.parent.name)} = ANY($1)",
                (keys,),
            )
            affected = [k for (k,) in found]
            if affected and foreign.ondelete == "SET NULL":
                cascades.note(context.target, child.name, affected, parent=cascades.STAYED)
            elif affected:
                rows = context.target.value(f"SELECT count(*) FROM {quoted(child.name)}")
                why = f"their parent rows in {table.name} are deleted"
                _require_share(context, child.name, len(affected), rows, why)
                cascades.note(context.target, child.name, affected, parent=table.name)
                record_cascades(context, affected, parent=child)


_UNMANAGED = """
SELECT format('%I.%I', n.nspname, r.relname), quote_ident(c.conname), c.confdeltype = 'c',
  (SELECT string_agg(format('o.%I = t.%I', theirs.attname, ours.attname), ' AND ')
   FROM unnest(c.conkey, c.confkey) AS pair(theirs, ours)
   JOIN pg_attribute AS theirs ON (theirs.attrelid, theirs.attnum) = (c.conrelid, pair.theirs)
   JOIN pg_attribute AS ours ON (ours.attrelid, ours.attnum) = (c.confrelid, pair.ours))
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
JOIN pg_namespace AS n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND c.confrelid = to_regclass($1) AND c.confdeltype IN ('c', 'n', 'd')
AND NOT (n.nspname = 'public' AND r.relname = ANY ($2))
"""


def _require_no_unmanaged(context: MoveContext, table: sa.Table, keys: list[Any]) -> None:
    """Refuse to delete rows if rows of unmanaged tables would be deleted or changed with them."""
    declared = list(table.metadata.tables)
    place, key = f"public.{quoted(table.name)}", RowKey.of(table).sql
    for name, constraint, cascade, joined in context.target.rows(_UNMANAGED, (place, declared)):
        rows = context.target.value(
            f"SELECT count(*) FROM {name} AS o JOIN ONLY {place} AS t ON {joined}"
            f" WHERE t.{key} = ANY($1)",
            (keys,),
        )
        if rows:
            raise TooManyDeletes(
                f"{table.name}: {len(keys):,} rows of the target would be deleted, and"
                f" {rows:,} rows of {name}, which is not managed by the pipeline, would"
                f" {'be deleted' if cascade else 'change'} with them",
                remedy=f"Delete or change these rows of {name} first, or create its foreign key"
                f" {constraint} again without an ON DELETE action",
            )


def _require_share(context: MoveContext, table: str, deletes: int, rows: int, why: str) -> None:
    if deletes > rows * context.options.delete_share:
        raise TooManyDeletes(
            f"{table}: at least {deletes} of {rows} rows of the target would be deleted because"
            f" {why}. At most {context.options.delete_share:.0%} may be deleted in one run",
            remedy=f"Check that {context.source.path} is the right source; if it is, raise"
            " MAX_DELETE_SHARE",
        )
