"""Move a subset: only the rows in scope on both sides.

These rows are copied to a private file, checked, merged and proven like those of a sync. All other
rows stay unchanged on both sides and are counted as excluded. The watermark then covers only a part
of the table, so the next sync compares every value, and the next move completes the table. Rows
with overrides are always included.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.progress import OnProgress
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import SubsetRows
from pipeline.move.ledger import cascades, overrides
from pipeline.move.reading.pinned_source import PinnedSource
from pipeline.move.reading.prepare import Prepared, surveyed
from pipeline.move.run.scope import RowsInScope, Subset, find_rows_in_scope
from pipeline.move.run.transaction import MoveResult, move_table
from pipeline.postgres import schema
from pipeline.postgres.target import Target


class SubsetMover:
    """Moves a subset of the tables of one run, each in its own transaction, parents first.

    Attributes:
        idle: the session, outside a transaction between two moves.
    """

    def __init__(
        self,
        live: PinnedSource,
        session: Target,
        subset: Subset,
        options: MoveOptions,
    ) -> None:
        """Keep the arguments of the run.

        Args:
            live: the pinned source with the tables to be moved and those they refer to.
        """
        self.idle = session
        self._live = live
        self._subset = subset
        self._options = options
        self._reached: dict[str, RowsInScope] = {}

    def suspend(self) -> None:
        """Nothing is unfinished between two moves."""

    def resume(self, target: Target) -> None:
        """Continue in a new session with what was found in the first one."""
        self.idle = target

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> MoveResult:
        """Move the rows in scope of a table whose parents have already been moved.

        Raises:
            PipelineError: as ``move_table`` and ``find_rows_in_scope``; nothing was changed.
        """
        if table.name not in self._reached:
            # Before anything is deleted: children of deleted parents could not be found later.
            self._reached |= find_rows_in_scope(
                self._subset,
                [table, *upcoming],
                live=self._live,
                target=self.idle,
                policies=self._options.policies,
            )
        schema.make_ledger(self.idle)
        mapping = self._live.match(table, self._options.policies)
        prepared, scope = self._copy_scope_rows(mapping, self._reached[table.name])
        context = MoveContext(self.idle, self._live, prepared, self._options, on_progress, scope)
        return move_table(context)

    def _copy_scope_rows(
        self, mapping: TableMapping, reached: RowsInScope
    ) -> tuple[Prepared, SubsetRows]:
        """Copy the rows in scope to the private file."""
        live, known_overrides = self._live, overrides.read(self.idle, [mapping.name])
        # Rows deleted with a parent may still be in the source.
        keys = list(dict.fromkeys((*reached.keys, *cascades.keys(self.idle, mapping))))
        overridden = [live.row_id_from(mapping, override.row_id) for override in known_overrides]
        row_ids: list[Any] = [*reached.row_ids, *overridden]
        live.take_rows(mapping, keys=keys, row_ids=row_ids)
        excluded = live.count_without(mapping, keys=keys, row_ids=row_ids)
        taken_row_ids = frozenset(map(str, live.taken_row_ids(mapping)))
        overrides.apply(live, [mapping.table], known_overrides, mapping.policies)
        prepared = surveyed(mapping, live)
        # An override may have changed a key.
        taken = tuple(live.taken_keys(mapping))
        return prepared, SubsetRows(
            existing=taken,
            deleted=tuple(set(live.missing_keys(mapping, keys)) - set(taken)),
            source_rows=live.count(mapping),
            row_ids=taken_row_ids,
            excluded=excluded,
            largest=live.largest(mapping),
        )
