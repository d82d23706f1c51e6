"""The beginning of a table's transaction: lock and inspect the table, and read the ledger."""

import sqlalchemy as sa

from pipeline.core.errors import ShapeError
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.move_context import MoveContext
from pipeline.move.ledger import conflicts, unmanaged_rows, watermarks
from pipeline.move.proof import side_effects
from pipeline.postgres import access, schema
from pipeline.postgres.target import Target


def start(context: MoveContext, *, filled: bool) -> schema.TargetTableState:
    """Lock the table, inspect it, and load what the ledger knows of it.

    Args:
        filled: the transaction has created and filled the table already.

    Raises:
        ShapeError: the target has another table of that name, unmanaged rows, or no parent table.
    """
    target, mapping = context.target, context.mapping
    if not filled:
        schema.lock(target, mapping.name)
    with target.prefetched(
        access.ROLES_QUESTION,
        side_effects.COUNTS_QUESTION,
        schema.state_question(mapping.name),
        *(schema.exists_question(parent.name) for parent in _parents(mapping)),
        watermarks.question(mapping.name),
        conflicts.keys_question(mapping),
    ):
        context.server_roles = access.roles(target)
        present = schema.TargetTableState(exists=False)
        if not filled:
            context.counts_at_start = side_effects.count(target)
            # A scope is merged, whether the table has rows or not.
            present = schema.inspect_for_writing(
                target, mapping, rows=context.scope.strategy is None
            )
            schema.check_shape(mapping, present, widening=True)
        _check_parents(target, mapping)
        context.load_watermark(watermarks.read(target, mapping.name))
    unknown = present.exists and context.watermark is None
    if unknown and not mapping.policies.adopt_target:
        unmanaged_rows.require_own(target.rows, [mapping.table])
    return present


def _parents(mapping: TableMapping) -> list[sa.Table]:
    return [parent for _, parent in mapping.parents if parent.name != mapping.name]


def _check_parents(target: Target, mapping: TableMapping) -> None:
    for parent in _parents(mapping):
        if not schema.exists(target, parent.name):
            raise ShapeError(
                f"{mapping.name} refers to {parent.name}, which the target does not have",
                remedy=f"Move {parent.name} first",
            )
