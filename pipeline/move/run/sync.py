"""What changed in the source since it was read last moves; all the rest is left alone.

Which rows may have changed is told by the source's log of changes, where it keeps one, and else by
holding the keys, dates of change and BLOB sizes of all rows on both sides against each other, so
that a date that comes late, equals another one or goes back is no matter. These rows are carried
into a private file, judged, merged and proven like those of a whole move. What neither log nor
date shows (an update that touches no date, without tracking) is not seen here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.progress import OnProgress
from pipeline.core.quoting import quoted
from pipeline.mapping.contract import contract_of
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.compare.changes import Changes
from pipeline.move.context.move_context import MoveContext, counter, later
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import ChangedRows, CountedRows
from pipeline.move.ledger import cascades, conflicts, overrides, quarantine, watermarks
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.proof import table_checks
from pipeline.move.reading.batch_converter import BatchConverter, ahead
from pipeline.move.reading.extract import Survey
from pipeline.move.reading.live import LiveSource
from pipeline.move.reading.prepare import Prepared, surveyed
from pipeline.move.run.transaction import Move, move_table, prove_unchanged
from pipeline.postgres import schema
from pipeline.postgres.target import Target
from pipeline.sqlite.tracking import Position

MANY_ROWS = 250_000
"""Keys of rows that may have changed are held in memory; of more, every value is looked at."""


def why_whole(
    tables: Sequence[sa.Table], *, live: LiveSource, target: Target, policies: Policies = DEFAULT
) -> str | None:
    """Why every value of the tables must be looked at; None where what changed is enough.

    Raises:
        SourceError: the source lacks what a table needs.
        ShapeError: a name of the target is not that of one plain table that can be written.
    """
    schema.make_ledger(target)
    for table in tables:
        mapping = match(table, live.columns(table.name), policies)
        mark = watermarks.read(target, table.name)
        present = schema.inspect_for_writing(target, mapping)
        if mark is None or not present.exists:
            return f"{table.name} has not been moved into this target before"
        if mark.is_part:
            return f"only a part of {table.name} has been moved"
        if mark.rules != watermarks.rules_of(mapping):
            return f"columns or policies of {table.name} are other ones than before"
        if {column.name for column in mapping.columns} - set(present.types or {}):
            return f"the target's {table.name} lacks a column"
        tracked = live.position(table) is not None
        if tracked != (mark.position is not None):
            return f"tracking of {table.name} was switched {'on' if tracked else 'off'}"
        if mark.position is not None and not live.continues(mark.position):
            return f"the log of changes of {table.name} is not the one that was read before"
        if mark.position is not None and live.strayed(
            mapping, _waiting(live, target, mapping), mark.position
        ):
            return f"rows of {table.name} in quarantine are not where they were in the source"
    return None


def _waiting(
    live: LiveSource, target: Target, mapping: TableMapping
) -> list[tuple[Any, str | None]]:
    """Rows in quarantine whose row ids may come to name other rows, as (row id, key)."""
    if not live.renumbers(mapping):
        return []
    return [
        (live.row_id_from(mapping, row_id), key)
        for row_id, key in quarantine.keys(target, mapping.name).items()
        # As text, a key may be known no more.
        if key is None or not {"\N{REPLACEMENT CHARACTER}", "\N{SYMBOL FOR NULL}"} & set(key)
    ]


@dataclass(frozen=True)
class _Found:
    """Rows that may have changed.

    Attributes:
        keys: their keys, in the source or in the target.
        row_ids: what names further ones in the source.
        after: further ones are those that the log names after this entry.
        source_rows: rows of the source in all, None where nobody has counted them.
        newest: the largest date of change that was seen.
    """

    keys: tuple[Any, ...] = ()
    row_ids: tuple[Any, ...] = ()
    after: Position | None = None
    source_rows: int | None = None
    newest: datetime | None = None


class Syncer:
    """Moves what changed of the tables of one run, each in its own transaction, parents first.

    Attributes:
        idle: the session, in no transaction between two moves.
    """

    def __init__(
        self,
        live: LiveSource,
        session: Target,
        options: MoveOptions,
        *,
        retry_rejected: bool = False,
    ) -> None:
        """Sync what a pinned source has; ``why_whole`` and ``look`` find no reason against it.

        Args:
            live: the pinned source.
            session: the target.
            options: what holds for every table of the run.
            retry_rejected: rows in quarantine are tried even if the source was not written since.
        """
        self.idle = session
        self._live = live
        self._options = options
        self._retry_rejected = retry_rejected
        self._mappings: dict[str, TableMapping] = {}
        self._marks: dict[str, Watermark | None] = {}
        self._found: dict[str, _Found | None] = {}

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),  # noqa: ARG002
        on_progress: OnProgress = lambda _: None,
    ) -> Move:
        """Move what changed of a table that was looked at and whose parents have moved before.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """
        mapping, found = self._mappings[table.name], self._found[table.name]
        mark = self._marks[table.name]
        # Rows that went with a parent may still be in the source, those that were kept may have
        # been settled, and what was held waits for its parent, whenever that has moved.
        also = (*cascades.keys(self.idle, mapping), *conflicts.keys(self.idle, mapping))
        known_overrides = overrides.read(self.idle, [table.name])
        parents = [parent.name for _, parent in mapping.parents]
        waiting = self._retry_rejected or watermarks.any_newer(self.idle, parents, than=table.name)
        if found is None and not (also or known_overrides or waiting) and mark is not None:
            nothing = Prepared(mapping, contract_of(mapping), Survey(0, 0, (), (), frozenset()))
            untouched = ChangedRows(newest=mark.newest, rows_before=mark.rows)
            return prove_unchanged(self._work(nothing, untouched, on_progress), mark)
        found = found or _Found(newest=mark.newest if mark else None)
        prepared, scope = self._take(mapping, found, also, known_overrides)
        return move_table(self._work(prepared, scope, on_progress))

    def _work(self, prepared: Prepared, scope: ChangedRows, on_progress: OnProgress) -> MoveContext:
        return MoveContext(self.idle, self._live, prepared, self._options, on_progress, scope)

    def look(
        self, tables: Sequence[sa.Table], *, on_progress: OnProgress = lambda _: None
    ) -> str | None:
        """Find the rows that may have changed, of all tables that this run moves.

        Returns:
            Why every value must be looked at; None where these rows are enough.

        Raises:
            SourceError: the source cannot be read.
            TargetError: the target does not answer.
        """
        to_compare = []
        for table in tables:
            mapping = match(table, self._live.columns(table.name), self._options.policies)
            mark = watermarks.read(self.idle, table.name)
            self._mappings[table.name], self._marks[table.name] = mapping, mark
            if mark is not None and self._is_where_it_was(mapping, mark):
                self._found[table.name] = None
            elif mark is not None and mark.position is not None:
                logged = self._live.changed_keys(mapping, mark.position)
                self._found[table.name] = _Found(
                    tuple(logged), after=mark.position, newest=mark.newest
                )
            else:
                to_compare.append(mapping)
        # While the versions of one table are compared, those of the next are copied. Children have
        # more rows than their parents, and what is compared last overlaps with nothing.
        with ahead(self._versions(to_compare[::-1])) as versions:
            for converter in versions:
                self._found[converter.mapping.name] = self._compare(converter, on_progress)
        for name, found in self._found.items():
            if found is not None and len(found.keys) + len(found.row_ids) > MANY_ROWS:
                return f"more than {MANY_ROWS:,} rows of {name} may have changed"
        return None

    def _is_where_it_was(self, mapping: TableMapping, mark: Watermark) -> bool:
        """Whether the source has surely not been written since."""
        if mark.position is not None:
            return mark.position == self._live.position(mapping.table)
        fingerprint = self._live.snapshot.fingerprint
        return fingerprint is not None and fingerprint == mark.fingerprint

    def _versions(self, mappings: Sequence[TableMapping]) -> Iterator[BatchConverter]:
        """Keys, dates of change and sizes of all rows of tables."""
        for mapping in mappings:
            versions = self._live.take_versions(mapping)
            narrow = mapping.of_versions
            contract = contract_of(narrow)
            unique = versions.row_id_column(narrow) == quoted(narrow.key.name)
            simple = unique and contract.violated(always=True) == "0"
            survey = versions.cut(narrow) if simple else versions.survey(narrow, contract)
            yield BatchConverter(versions, narrow, contract, survey)

    def _compare(self, converter: BatchConverter, on_progress: OnProgress) -> _Found:
        """Hold the versions of all rows of a table against the target's."""
        mapping, survey = converter.mapping, converter.survey
        count = counter(mapping.name, "compare", survey.rows, on_progress)
        keys: list[Any] = []
        newest: datetime | None = None

        def note(changes: Changes) -> None:
            nonlocal newest
            if len(keys) <= MANY_ROWS:
                arrays = (changes.missing, changes.extra, *(d.keys for d in changes.differing))
                keys.extend(key for array in arrays for key in array.to_pylist())
            if changes.converted is not None:
                count(changes.converted)
                newest = later(newest, changes.converted, mapping)

        table_checks.examine(self.idle, mapping, survey, iter(converter), on_changes=note)
        return _Found(
            tuple(keys), tuple(converter.rejected), source_rows=survey.rows, newest=newest
        )

    def _take(
        self,
        mapping: TableMapping,
        found: _Found,
        also: tuple[Any, ...],
        known_overrides: Sequence[overrides.Override],
    ) -> tuple[Prepared, ChangedRows]:
        """Carry the rows that may have changed, and those that wait, into the private file."""
        live = self._live
        waiting = quarantine.row_ids(self.idle, mapping.name) | {
            override.row_id for override in known_overrides
        }
        row_ids = [live.row_id_from(mapping, row_id) for row_id in sorted(waiting)]
        keys = list(dict.fromkeys((*found.keys, *also)))
        live.take_rows(mapping, keys=keys, row_ids=[*found.row_ids, *row_ids], after=found.after)
        overrides.apply(live, [mapping.table], known_overrides)
        prepared = surveyed(mapping, live)
        # A key may have been mended as well.
        taken = tuple(live.taken_keys(mapping))
        deleted = tuple(set(live.lacking(mapping, keys)) - set(taken))
        mark = self._marks[mapping.name]
        rows, newest = found.source_rows, found.newest
        if rows is not None:
            return prepared, CountedRows(
                existing=taken, deleted=deleted, newest=newest, source_rows=rows
            )
        # Counting all rows would cost more than what changed.
        before = mark.rows if mark else None
        return prepared, ChangedRows(
            existing=taken, deleted=deleted, newest=newest, rows_before=before
        )
