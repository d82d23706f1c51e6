"""Delete rows of the target, within the allowed share, and record what is deleted with them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import TooManyDeletes
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import Reason
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.move_context import MoveContext
from pipeline.move.ledger import cascades, conservation
from pipeline.move.writing import load
from pipeline.postgres import schema
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_STAYS = ("SET NULL", "SET DEFAULT")
"""Actions of a foreign key after which a row stays without its parent."""
_REFUSES = (None, "NO ACTION", "RESTRICT")
"""Actions of a foreign key that hold back the deletion of a parent."""


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
        keys = _with_own_children(context, keys)
        deleted = context.target.rows(
            f"DELETE FROM {quoted(context.mapping.name)} WHERE {name} = ANY($1) RETURNING 1",
            (keys,),
        )
        context.deleted += len(deleted)


def record_cascades(
    context: MoveContext, keys: list[Any], *, parent: sa.Table | None = None
) -> None:
    """Record the rows of other tables that are deleted or changed with these rows.

    A foreign key that would refuse the deletion is emptied, or its row is deleted as well.

    If a run is killed before it moves those tables, the next run finds the records in the ledger.
    """
    if not keys:
        return
    table = context.mapping.table if parent is None else parent
    _require_no_unmanaged(context, table, keys)
    for child, foreign in _children(context, table):
        key, name = RowKey.of(child).sql, quoted(foreign.parent.name)
        found = context.target.rows(
            f"SELECT {key} FROM {quoted(child.name)} WHERE {name} = ANY($1)", (keys,)
        )
        affected = [k for (k,) in found if child is not table or k not in keys]
        if not affected:
            continue
        stays = foreign.ondelete in _STAYS
        if foreign.ondelete in _REFUSES and _may_be_null(foreign):
            stays = True
            _set_null(context, child, foreign, keys)
        if stays:
            cascades.note(context.target, child.name, affected, parent=cascades.STAYED)
            continue
        rows = context.target.value(f"SELECT count(*) FROM {quoted(child.name)}")
        why = f"their parent rows in {table.name} are deleted"
        _require_share(context, child.name, len(affected), rows, why)
        cascades.note(context.target, child.name, affected, parent=table.name)
        both = [*keys, *affected] if child is table else affected
        record_cascades(context, both, parent=child)
        if foreign.ondelete in _REFUSES:
            place = quoted(child.name)
            context.target.rows(
                f"DELETE FROM {place} WHERE {key} = ANY($1) RETURNING 1", (affected,)
            )


def _children(context: MoveContext, table: sa.Table) -> Iterator[tuple[sa.Table, sa.ForeignKey]]:
    """The existing tables that refer to a table, each with a foreign key."""
    for child in table.metadata.sorted_tables:
        for foreign in sorted(child.foreign_keys, key=lambda each: each.parent.name):
            # Rows of the moved table itself are in the scope of its move.
            own = child is context.mapping.table
            if (
                foreign.column.table is table
                and not own
                and schema.exists(context.target, child.name)
            ):
                yield child, foreign


def own_descendants(target: Target, mapping: TableMapping, keys: Sequence[Any]) -> list[Any]:
    """Keys of the target's rows that refer, directly or not, to these rows of the same table."""
    table, key, found = quoted(mapping.name), RowKey.of(mapping.table).sql, list[Any]()
    for column, parent in mapping.parents:
        if keys and parent is mapping.table:
            name = quoted(column.name)
            rows = target.rows(
                f"WITH RECURSIVE d (k) AS (SELECT {key} FROM {table} WHERE {name} = ANY($1)"
                f" UNION SELECT t.{key} FROM {table} AS t JOIN d ON t.{name} = d.k)"
                " SELECT k FROM d",
                (list(keys),),
            )
            found += [k for (k,) in rows]
    return found


def _with_own_children(context: MoveContext, keys: list[Any]) -> list[Any]:
    """Detach rows of the same table from rows that are to be deleted.

    A staged row is about to be written with another parent; until then it has none. Any other row
    has lost its parent in the source as well, so it is rejected.

    Returns:
        The keys to delete: the given ones, and those of the rejected rows.
    """
    target, mapping = context.target, context.mapping
    key, table = RowKey.of(mapping.table).sql, quoted(mapping.name)
    own = [column for column, parent in mapping.parents if parent is mapping.table]
    doomed, found = list(keys), list(keys) if own else []
    staged = "true"
    if own and target.value("SELECT to_regclass($1) IS NOT NULL", (load.STAGE,)):
        staged = f"NOT EXISTS (SELECT FROM {load.STAGE} AS s WHERE s.{key} = t.{key})"
    while found:
        lonely = set[Any]()
        for column in own:
            name = quoted(column.name)
            if staged != "true":
                where = f"{name} = ANY($1) AND NOT {staged}"
                _detach(context, column, where, found)
            rows = target.rows(f"SELECT {key} FROM {table} AS t WHERE {name} = ANY($1)", (found,))
            orphans = [k for (k,) in rows if k not in doomed]
            message = f"refers to a row of {mapping.name} that is not in the target"
            context.converter.reject(orphans, Reason("held", column.name, message))
            lonely.update(orphans)
        found = sorted(lonely)
        record_cascades(context, found)
        doomed += found
    return doomed


def _detach(context: MoveContext, column: sa.Column[Any], where: str, keys: list[Any]) -> None:
    """Take away the parents of rows until they are written; ``where`` says of which rows.

    A row refers to itself if the column is NOT NULL, or if a CHECK demands a parent.
    """
    update = f"UPDATE {quoted(context.mapping.name)} AS t SET {quoted(column.name)} ="
    if column.nullable:
        with contextlib.suppress(DataFault), context.target.savepoint():
            context.target.rows(f"{update} NULL WHERE {where} RETURNING 1", (keys,))
            return
    key = RowKey.of(context.mapping.table).sql
    context.target.rows(f"{update} {key} WHERE {where} RETURNING 1", (keys,))


def _set_null(
    context: MoveContext, child: sa.Table, foreign: sa.ForeignKey, keys: list[Any]
) -> None:
    name = quoted(foreign.parent.name)
    context.target.rows(
        f"UPDATE {quoted(child.name)} SET {name} = NULL WHERE {name} = ANY($1) RETURNING 1",
        (keys,),
    )


def _may_be_null(foreign: sa.ForeignKey) -> bool:
    """Whether a row can be without its parent until its table has moved."""
    checks = (isinstance(each, sa.CheckConstraint) for each in foreign.parent.table.constraints)
    return bool(foreign.parent.nullable) and not any(checks)


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
