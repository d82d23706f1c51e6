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

from pipeline.core.errors import ShapeError
from pipeline.core.quoting import quoted
from pipeline.mapping import secret
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes
from pipeline.move.compare.comparison import RowsByKey
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import Strategy
from pipeline.move.proof import constraints, table_checks
from pipeline.move.reading.batch_converter import read_ahead
from pipeline.move.writing import deletes, load, uniques
from pipeline.postgres import access, schema, table_functions
from pipeline.postgres.driver.faults import DataFault


def fill(context: MoveContext, present: schema.TargetTableState) -> load.Stage:
    """Load rows into a missing or empty table, without keys.

    Returns:
        Rows to be inserted after the indexes are built.
    """
    target, mapping, converter = context.target, context.mapping, context.converter
    with context.timed("load"):
        target.run(*schema.prepare(mapping, present))
        _strip(context, present)
        uniques.drop_carried(target, mapping, present.constraints, staged=False)
        stage = load.Stage(target, converter)
        with read_ahead(iter(converter)) as batches:
            load.load_batches(stage, batches, on_batch=context.counter("load"))
    return stage


def finish(context: MoveContext, stage: load.Stage, before: schema.TargetTableState) -> None:
    """Build foreign keys, keys and indexes of a filled table, and collect planner statistics.

    Args:
        before: the state of the table before it was filled.
    """
    with context.timed("keys"):
        _build(context, filled=True, created=not before.exists)
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
            deletes.require_few(context, len(deleted) + len(changes.extra))
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
        with target.prefetched(*constraints.foreign_key_questions(mapping)):
            compared.foreign_keys = constraints.foreign_keys(target, mapping)
    equal = compared.equal and compared.foreign_keys.passed and not converter.rejected
    if not equal:
        with context.timed("load"):
            load.drop_orphans(
                target,
                converter,
                quoted(mapping.name),
                on_found=partial(deletes.record_cascades, context),
            )
            _write(context, present, staged, deleted)
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
        deletes.require_few(context, len(deleted))
    with context.timed("load"):
        _write(context, present, staged, deleted)
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


def _write(
    context: MoveContext,
    present: schema.TargetTableState,
    staged: load.Stage,
    deleted: list[Any],
) -> None:
    """Delete rows, including older versions of rejected ones, and merge staged rows."""
    load.drop_orphans(context.target, context.converter, load.STAGE)
    deletes.delete(context, deleted)
    # Deletes come first, because other rows may take over unique values.
    deletes.delete_stale(context)
    for unique in schema.unique_constraints(context.mapping.table):
        uniques.reject_held(context.target, context.converter, unique)
        deletes.delete_stale(context)
    uniques.drop_occupied(context.target, context.mapping)
    uniques.drop_carried(context.target, context.mapping, present.constraints, staged=True)
    context.written = staged.merge()
    deletes.delete_stale(context)


def choose_strategy(context: MoveContext) -> Strategy:
    """The reported strategy of a merge."""
    return "merged" if context.written or context.deleted else "unchanged"


def _build(context: MoveContext, *, filled: bool = False, created: bool = False) -> None:
    """Add missing foreign keys, keys, indexes, functions, triggers and privileges."""
    target, converter, mapping = context.target, context.converter, context.mapping
    if not created:
        # PostgreSQL does not alter a table with pending deferred work.
        target.run_deferred_constraints()
    name, roles = mapping.name, context.server_roles
    present = schema.created(mapping) if created else schema.inspect(target, name, rows=False)
    for to_itself in (False, True):
        load.build_foreign_keys(
            target,
            converter,
            schema.foreign_keys(mapping, present, to_itself=to_itself),
            on_orphans=partial(deletes.record_cascades, context),
        )
        if not to_itself:
            _build_keys(context, present, filled=filled)
    uniques.add_carried(target, mapping, present.constraints)
    target.run(*schema.indexes(mapping, present))
    if created:
        table_functions.make_functions(target, mapping.table, roles)
        rights = access.statements(mapping.table, roles) if roles else []
        for statement in (*table_functions.triggers_ddl(mapping.table), *rights):
            target.defer(statement)
    else:
        table_functions.apply(target, mapping.table, roles)
        access.apply(target, mapping, roles)


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
    if present.exists and _published(context):
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
