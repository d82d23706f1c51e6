"""Strategies to make a table equal to its source, inside the move's transaction.

``fill`` loads rows into a table without keys and builds keys, foreign keys and indexes afterwards,
which is four times faster. ``merge`` compares both sides and writes only the differences;
``merge_scope`` does the same for the rows in scope.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import ShapeError, TooManyDeletes
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.mapping.row_key import RowKey
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.compare.comparison import RowsByKey
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import Strategy
from pipeline.move.ledger import cascades, conservation
from pipeline.move.proof import table_checks
from pipeline.move.reading.batch_converter import prefetched
from pipeline.move.writing import load, uniques
from pipeline.postgres import access, schema, table_functions
from pipeline.postgres.target import DataFault


def fill(context: MoveContext, present: schema.TargetTableState) -> load.Stage:
    """Load rows into a missing or empty table, without keys.

    Returns:
        Rows to be inserted after the indexes are built.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    with context.timed("load"):
        target.run(*schema.prepare(mapping, present))
        _strip(context, present)
        stage = load.Stage(target, converter)
        with prefetched(iter(converter)) as batches:
            load.load_batches(stage, batches, on_batch=context.counter("load"))
    return stage


def finish(context: MoveContext, stage: load.Stage) -> None:
    """Build foreign keys, keys and indexes of a filled table, and collect planner statistics."""
    with context.timed("keys"):
        _build(context, filled=True)
        stage.merge()
    with context.timed("analyze"):
        context.target.run(f"ANALYZE {quoted(context.mapping.name)}")
    context.written = context.survey.rows - len(context.converter.rejected)


def merge(context: MoveContext, present: schema.TargetTableState) -> table_checks.Compared | None:
    """Write the differences to a table with rows.

    Returns:
        The comparison if both sides were equal, because it is also the proof; otherwise None.

    Raises:
        TooManyDeletes: more than the allowed share of the table would be deleted.
        ConflictError: a row was changed in the target, and the policy is to stop.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    target.run(*schema.prepare(mapping, present))
    _build_keys(context, present)
    conversions.prepare(target)
    staged, deleted = load.Stage(target, converter), list[Any]()
    stage, count = _stager(context, staged), context.counter("compare")

    def on_tile_compared(changes: Changes) -> None:
        if len(changes.extra):
            _require_few_deletes(context, len(deleted) + len(changes.extra))
            deleted.extend(changes.extra.to_pylist())
        for lost in changes.lost:
            conversions.collect(target, mapping.name, lost)
        stage(changes)
        if changes.converted is not None:
            context.update_newest(changes.converted)
            count(changes.converted)

    with context.timed("compare"):
        compared = table_checks.examine(
            target, mapping, context.survey, iter(converter), on_tile_compared=on_tile_compared
        )
        compared.foreign_keys = table_checks.foreign_keys(target, mapping)
    equal = compared.equal and compared.foreign_keys.passed and not converter.rejected
    if not equal:
        with context.timed("load"):
            load.drop_orphans(
                target, converter, quoted(mapping.name), on_found=partial(_record_cascades, context)
            )
            _write(context, staged, deleted)
    with context.timed("keys"):
        _build(context)
    return compared if equal else None


def merge_scope(context: MoveContext, present: schema.TargetTableState) -> None:
    """Write the differences of the rows in scope.

    Raises:
        TooManyDeletes: more than the allowed share of the table would be deleted.
        ConflictError: a row was changed in the target, and the policy is to stop.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    target.run(*schema.prepare(mapping, present))
    _build_keys(context, present)
    staged, extra = load.Stage(target, converter), list[Any]()
    stage = _stager(context, staged)

    def on_tile_compared(changes: Changes) -> None:
        extra.extend(changes.extra.to_pylist())
        stage(changes)

    with context.timed("compare"):
        compared = table_checks.examine(
            target,
            mapping,
            context.survey,
            iter(converter),
            on_tile_compared=on_tile_compared,
            scope=RowsByKey(context.scope.keys or (), changed=True),
        )
        context.scope_before = compared.totals.target_rows
        # Rejected rows are extra as well; they are deleted once all of them are known.
        deleted = sorted(set(extra).intersection(context.scope.deleted))
        _require_few_deletes(context, len(deleted))
    with context.timed("load"):
        _write(context, staged, deleted)
    with context.timed("keys"):
        _build(context)


def _stager(context: MoveContext, staged: load.Stage) -> Callable[[Changes], None]:
    """A function that stages the source rows to write."""
    staged.make()

    def stage(changes: Changes) -> None:
        kept = context.conflicts.settle(changes)
        batch = changes.to_write(context.mapping.key.name, kept=kept)
        if batch is not None and changes.converted is not None:
            staged.add(batch, changes.converted)

    return stage


def _write(context: MoveContext, staged: load.Stage, deleted: list[Any]) -> None:
    """Delete rows, including older versions of rejected ones, and merge staged rows."""
    load.drop_orphans(context.target, context.converter, load.STAGE)
    _delete(context, deleted)
    # Deletes come first, because other rows may take over unique values.
    _delete_stale(context)
    for unique in schema.unique_constraints(context.mapping.table):
        uniques.reject_held(context.target, context.converter, unique)
        _delete_stale(context)
    uniques.drop_occupied(context.target, context.mapping)
    context.written = context.target.value(f"SELECT count(*) FROM {load.STAGE}")
    staged.merge()
    _delete_stale(context)


def _delete_stale(context: MoveContext) -> None:
    stale = _stale(context)
    _require_few_deletes(context, context.deleted + len(stale))
    _delete(context, stale)


def choose_strategy(context: MoveContext) -> Strategy:
    """The reported strategy of a merge."""
    return "merged" if context.written or context.deleted else "unchanged"


def _build(context: MoveContext, *, filled: bool = False) -> None:
    """Add missing foreign keys, keys, indexes, functions, triggers and privileges."""
    target, converter, mapping = context.target, context.converter, context.mapping
    # PostgreSQL does not alter a table with pending deferred work.
    target.run_deferred_constraints()
    present = schema.inspect(target, mapping.name)
    load.build_foreign_keys(
        target,
        converter,
        schema.foreign_keys(mapping, present),
        on_orphans=partial(_record_cascades, context),
    )
    _build_keys(context, present, filled=filled)
    target.run(*schema.indexes(mapping, present))
    table_functions.apply(target, mapping.table, access.roles(target))
    access.apply(target, mapping)


def _build_keys(
    context: MoveContext, present: schema.TargetTableState, *, filled: bool = False
) -> None:
    mapping = context.mapping
    statements = schema.keys(mapping, present)
    try:
        if filled:
            uniques.build(context.target, context.converter, statements)
        else:
            context.target.run(*statements)
    except DataFault as fault:
        if fault.context.functions:
            raise
        raise ShapeError(
            f"Table {mapping.name} of the target has rows that violate its keys"
            f" ({secret.redact_message(mapping.table, str(fault))})",
            remedy="Remove those rows from the target, then run again",
        ) from fault


def _strip(context: MoveContext, present: schema.TargetTableState) -> None:
    """Drop keys and indexes, except those with dependent objects."""
    if _published(context):
        # Orphans are deleted, which PostgreSQL refuses for a published table without its key.
        present = replace(present, referenced=True)
    for statement in schema.strip(context.mapping, present):
        with contextlib.suppress(DataFault), context.target.savepoint():
            context.target.run(statement)


def _published(context: MoveContext) -> bool:
    return bool(
        context.target.value(
            "SELECT EXISTS (SELECT FROM pg_publication_tables WHERE schemaname = 'public'"
            " AND tablename = $1)",
            (context.mapping.name,),
        )
    )


def _stale(context: MoveContext) -> list[Any]:
    """Keys of rejected rows of which the target has an older version."""
    keys = context.source.keys_by_row_id(context.mapping, list(context.converter.rejected))
    return conservation.existing(context.target, context.mapping, keys)


def _require_few_deletes(context: MoveContext, deletes: int) -> None:
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


def _delete(context: MoveContext, keys: list[Any]) -> None:
    if keys:
        name = quoted(context.mapping.key.name)
        _record_cascades(context, keys)
        deleted = context.target.rows(
            f"DELETE FROM {quoted(context.mapping.name)} WHERE {name} = ANY($1) RETURNING 1",
            (keys,),
        )
        context.deleted += len(deleted)


def _record_cascades(
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
            if not schema.inspect(context.target, child.name).exists:
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
                _record_cascades(context, affected, parent=child)


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
