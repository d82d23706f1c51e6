"""Moves a subset: the rows that are in scope on either side, and no others.

They are carried into a private file, judged, merged and proven like those of a sync. All the rest
is left as it is on both sides, and counted in the source as excluded. That a table was seen whole
is not claimed any more, so the next sync looks at every value, and the next move completes it.
What a person mended is tried again wherever it belongs.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.core.progress import OnProgress
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import SubsetRows
from pipeline.move.ledger import cascades, overrides
from pipeline.move.reading.live import LiveSource
from pipeline.move.reading.prepare import Prepared, surveyed
from pipeline.move.run.scope import Reach, Subset, reach
from pipeline.move.run.transaction import Move, move_table
from pipeline.postgres import schema
from pipeline.postgres.target import Target


class SubsetMover:
    """Moves a subset of the tables of one run, each in its own transaction, parents first.

    Attributes:
        idle: the session, in no transaction between two moves.
    """

    def __init__(
        self,
        live: LiveSource,
        session: Target,
        subset: Subset,
        options: MoveOptions,
    ) -> None:
        """Move what belongs to a subset.

        Args:
            live: the pinned source; it has the tables that are moved and those they refer to.
            session: the target.
            subset: what moves.
            options: what holds for every table of the run.
        """
        self.idle = session
        self._live = live
        self._subset = subset
        self._options = options
        self._reached: dict[str, Reach] = {}

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),
        on_progress: OnProgress = lambda _: None,
    ) -> Move:
        """Move what is in scope of a table whose parents have moved before.

        Raises:
            PipelineError: as ``move_table`` and ``reach``; nothing was changed.
        """
        if table.name not in self._reached:
            # Before anything is deleted: what goes with a parent could not be found afterwards.
            self._reached |= reach(
                self._subset,
                [table, *upcoming],
                live=self._live,
                target=self.idle,
                policies=self._options.policies,
            )
        schema.make_ledger(self.idle)
        mapping = match(table, self._live.columns(table.name), self._options.policies)
        prepared, scope = self._take(mapping, self._reached[table.name])
        context = MoveContext(self.idle, self._live, prepared, self._options, on_progress, scope)
        return move_table(context)

    def _take(self, mapping: TableMapping, reached: Reach) -> tuple[Prepared, SubsetRows]:
        """Carry the rows in scope into the private file."""
        live, known_overrides = self._live, overrides.read(self.idle, [mapping.name])
        # Rows that went with a parent may still be in the source.
        keys = list(dict.fromkeys((*reached.keys, *cascades.keys(self.idle, mapping))))
        overridden = [live.row_id_from(mapping, override.row_id) for override in known_overrides]
        row_ids: list[Any] = [*reached.row_ids, *overridden]
        live.take_rows(mapping, keys=keys, row_ids=row_ids)
        excluded = live.count_without(mapping, keys=keys, row_ids=row_ids)
        named = frozenset(map(str, live.taken_row_ids(mapping)))
        overrides.apply(live, [mapping.table], known_overrides)
        prepared = surveyed(mapping, live)
        # A key may have been mended as well.
        taken = tuple(live.taken_keys(mapping))
        return prepared, SubsetRows(
            existing=taken,
            deleted=tuple(set(live.lacking(mapping, keys)) - set(taken)),
            source_rows=live.count(mapping),
            row_ids=named,
            excluded=excluded,
            largest=live.largest(mapping),
        )
