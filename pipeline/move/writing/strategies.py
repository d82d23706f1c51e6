"""The ways to make a table equal to its source, inside the move's transaction.

``fill`` sets rows down in a bare table and builds keys, foreign keys and indexes afterwards, which
is four times faster than into a table that has them. ``merge`` compares both sides and writes
only what differs, so what is equal is not touched; ``merge_scope`` does so for the rows in scope.
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
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import Strategy
from pipeline.move.ledger import cascades, conservation
from pipeline.move.proof import table_checks
from pipeline.move.reading.batch_converter import ahead
from pipeline.move.writing import load, uniques
from pipeline.postgres import access, objects, schema
from pipeline.postgres.target import DataFault


def fill(context: MoveContext, present: schema.Present) -> load.Stage:
    """Set rows down in a table that is missing or empty, without keys.

    Returns:
        Rows that wait until the indexes are there.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    with context.timed("load"):
        target.run(*schema.prepare(mapping, present))
        _strip(context, present)
        stage = load.Stage(target, converter)
        with ahead(iter(converter)) as batches:
            load.set_down(stage, batches, on_batch=context.counter("load"))
    return stage


def finish(context: MoveContext, stage: load.Stage) -> None:
    """Give a filled table its foreign keys, keys and indexes, and the planner its statistics."""
    with context.timed("keys"):
        _build(context, filled=True)
        stage.merge()
    with context.timed("analyze"):
        context.target.run(f"ANALYZE {quoted(context.mapping.name)}")
    context.written = context.survey.rows - len(context.converter.rejected)


def merge(context: MoveContext, present: schema.Present) -> table_checks.Compared | None:
    """Write what differs into a table with rows.

    Returns:
        The comparison when both sides were equal, so that it is the proof as well; else None.

    Raises:
        TooManyDeletes: more than the share of the table would go.
        ConflictError: somebody changed a row in the target, and the policy is to stop.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    target.run(*schema.prepare(mapping, present))
    _build_keys(context, present)
    conversions.prepare(target)
    staged, gone = load.Stage(target, converter), list[Any]()
    stage, count = _stager(context, staged), context.counter("compare")

    def note(changes: Changes) -> None:
        if len(changes.extra):
            _guard_deletes(context, len(gone) + len(changes.extra))
            gone.extend(changes.extra.to_pylist())
        for lost in changes.lost:
            conversions.collect(target, mapping.name, lost)
        stage(changes)
        if changes.converted is not None:
            context.see(changes.converted)
            count(changes.converted)

    with context.timed("compare"):
        compared = table_checks.examine(
            target, mapping, context.survey, iter(converter), on_changes=note
        )
        compared.foreign_keys = table_checks.foreign_keys(target, mapping)
    equal = compared.equal and compared.foreign_keys.passed and not converter.rejected
    if not equal:
        with context.timed("load"):
            load.drop_orphans(
                target, converter, quoted(mapping.name), on_found=partial(_note_cascades, context)
            )
            _write(context, staged, gone)
    with context.timed("keys"):
        _build(context)
    return compared if equal else None


def merge_scope(context: MoveContext, present: schema.Present) -> None:
    """Write what differs of the rows in scope.

    Raises:
        TooManyDeletes: more than the share of the table would go.
        ConflictError: somebody changed a row in the target, and the policy is to stop.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    target.run(*schema.prepare(mapping, present))
    _build_keys(context, present)
    staged, extra = load.Stage(target, converter), list[Any]()
    stage = _stager(context, staged)

    def note(changes: Changes) -> None:
        extra.extend(changes.extra.to_pylist())
        stage(changes)

    with context.timed("compare"):
        compared = table_checks.examine(
            target,
            mapping,
            context.survey,
            iter(converter),
            on_changes=note,
            among=context.scope.keys,
        )
        context.scope_before = compared.totals.target_rows
        # What the contract rejects is extra as well; it is deleted when all such rows are known.
        gone = sorted(set(extra).intersection(context.scope.deleted))
        _guard_deletes(context, len(gone))
    with context.timed("load"):
        _write(context, staged, gone)
    with context.timed("keys"):
        _build(context)


def _stager(context: MoveContext, staged: load.Stage) -> Callable[[Changes], None]:
    """What stages the source rows that the target needs."""
    staged.make()

    def stage(changes: Changes) -> None:
        kept = context.conflicts.settle(changes)
        batch = changes.to_write(context.mapping.key.name, kept=kept)
        if batch is not None and changes.converted is not None:
            staged.add(batch, changes.converted)

    return stage


def _write(context: MoveContext, staged: load.Stage, gone: list[Any]) -> None:
    """Delete what is gone and older versions of what was rejected, merge what is staged."""
    load.drop_orphans(context.target, context.converter, load.STAGE)
    _delete(context, gone)
    # What goes makes room for values that others take over.
    _delete_stale(context)
    for unique in schema.uniques_of(context.mapping.table):
        uniques.reject_held(context.target, context.converter, unique)
        _delete_stale(context)
    uniques.make_way(context.target, context.mapping)
    context.written = context.target.value(f"SELECT count(*) FROM {load.STAGE}")
    staged.merge()
    _delete_stale(context)


def _delete_stale(context: MoveContext) -> None:
    stale = _stale(context)
    _guard_deletes(context, context.deleted + len(stale))
    _delete(context, stale)


def choose_strategy(context: MoveContext) -> Strategy:
    """What a merge did."""
    return "merged" if context.written or context.deleted else "unchanged"


def _build(context: MoveContext, *, filled: bool = False) -> None:
    """Add the foreign keys, keys and indexes that are not there, and what hangs on the table."""
    target, converter, mapping = context.target, context.converter, context.mapping
    # PostgreSQL changes no table of which work is still deferred.
    target.settle()
    present = schema.inspect(target, mapping.name)
    load.build_foreign_keys(
        target,
        converter,
        schema.foreign_keys(mapping, present),
        on_orphans=partial(_note_cascades, context),
    )
    _build_keys(context, present, filled=filled)
    target.run(*schema.indexes(mapping, present))
    objects.apply(target, mapping.table, access.roles(target))
    access.apply(target, mapping)


def _build_keys(context: MoveContext, present: schema.Present, *, filled: bool = False) -> None:
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
            f"Table {mapping.name} of the target has rows that its keys forbid"
            f" ({secret.said_of(mapping.table, str(fault))})",
            remedy="Remove those rows from the target, then run again",
        ) from fault


def _strip(context: MoveContext, present: schema.Present) -> None:
    """Take keys and indexes off; one that something else of the target needs stays."""
    if _published(context):
        # PostgreSQL deletes nothing from a published table without its key, and orphans go.
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
    """Keys of rejected rows that the target still holds in an older version."""
    keys = context.source.keys_of(context.mapping, list(context.converter.rejected))
    return conservation.existing(context.target, context.mapping, keys)


def _guard_deletes(context: MoveContext, deletes: int) -> None:
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
        _note_cascades(context, keys)
        gone = context.target.rows(
            f"DELETE FROM {quoted(context.mapping.name)} WHERE {name} = ANY($1) RETURNING 1",
            (keys,),
        )
        context.deleted += len(gone)


def _note_cascades(context: MoveContext, keys: list[Any], *, of: sa.Table | None = None) -> None:
    """Count and note what goes along with these rows in the tables that refer to them.

    A run that is killed before their own tables' turn finds the notes in the ledger.
    """
    table = context.mapping.table if of is None else of
    _require_no_others(context, table, keys)
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
            along = [k for (k,) in found]
            if along and foreign.ondelete == "SET NULL":
                cascades.note(context.target, child.name, along, parent=cascades.STAYED)
            elif along:
                rows = context.target.value(f"SELECT count(*) FROM {quoted(child.name)}")
                why = f"rows of {table.name} that they belong to are deleted"
                _require_share(context, child.name, len(along), rows, why)
                cascades.note(context.target, child.name, along, parent=table.name)
                _note_cascades(context, along, of=child)


_OTHERS = """
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


def _require_no_others(context: MoveContext, table: sa.Table, keys: list[Any]) -> None:
    """Refuse to delete rows with which rows of somebody else's tables would go or change."""
    declared = list(table.metadata.tables)
    place, key = f"public.{quoted(table.name)}", RowKey.of(table).sql
    for name, constraint, goes, joined in context.target.rows(_OTHERS, (place, declared)):
        rows = context.target.value(
            f"SELECT count(*) FROM {name} AS o JOIN ONLY {place} AS t ON {joined}"
            f" WHERE t.{key} = ANY($1)",
            (keys,),
        )
        if rows:
            raise TooManyDeletes(
                f"{table.name}: {len(keys):,} rows of the target would be deleted, and"
                f" {rows:,} rows of {name}, which no move has made, would"
                f" {'be deleted' if goes else 'change'} with them",
                remedy=f"Delete or change these rows of {name} first, or make its foreign key"
                f" {constraint} anew without an ON DELETE action",
            )


def _require_share(context: MoveContext, table: str, deletes: int, rows: int, why: str) -> None:
    if deletes > rows * context.options.delete_share:
        raise TooManyDeletes(
            f"{table}: at least {deletes} of {rows} rows of the target would be deleted, because"
            f" {why}; at most {context.options.delete_share:.0%} may go in one run",
            remedy=f"Check that {context.source.path} is the right source; if it is, raise"
            " MAX_DELETE_SHARE",
        )
