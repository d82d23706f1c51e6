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
from pipeline.mapping.landing import Landing, match
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import SubsetRows
from pipeline.move.context.work import Work
from pipeline.move.ledger import cascades, mending
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
        landing = match(table, self._live.columns(table.name), self._options.policies)
        prepared, scope = self._take(landing, self._reached[table.name])
        work = Work(self.idle, self._live, prepared, self._options, on_progress, scope)
        return move_table(work)

    def _take(self, landing: Landing, reached: Reach) -> tuple[Prepared, SubsetRows]:
        """Carry the rows in scope into the private file."""
        live, mends = self._live, mending.read(self.idle, [landing.name])
        # Rows that went with a parent may still be in the source.
        keys = list(dict.fromkeys((*reached.keys, *cascades.keys(self.idle, landing))))
        mended = [live.handle_from(landing, mend.handle) for mend in mends]
        handles: list[Any] = [*reached.handles, *mended]
        live.take_rows(landing, keys=keys, handles=handles)
        excluded = live.count_without(landing, keys=keys, handles=handles)
        named = frozenset(map(str, live.taken_handles(landing)))
        mending.apply(live, [landing.table], mends)
        prepared = surveyed(landing, live)
        # A key may have been mended as well.
        taken = tuple(live.taken_keys(landing))
        return prepared, SubsetRows(
            existing=taken,
            deleted=tuple(set(live.lacking(landing, keys)) - set(taken)),
            source_rows=live.count(landing),
            handles=named,
            excluded=excluded,
            largest=live.largest(landing),
        )
