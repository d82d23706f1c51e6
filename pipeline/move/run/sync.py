"""Sync: move only the rows that may have changed since the source was last read.

With tracking, the source's change log names these rows. Otherwise the keys, dates of change and
BLOB sizes of all rows on both sides are compared, so late, equal or decreasing dates do no harm.
The rows are copied to a private file, checked, merged and proven like those of a full move. An
update that changes neither a date nor a tracked table is not detected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import LockedError
from pipeline.core.policies import DEFAULT, Policies
from pipeline.core.progress import OnProgress
from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.contract import compile_contract
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare.changes import Changes
from pipeline.move.context.move_context import MoveContext, counter, later
from pipeline.move.context.options import MoveOptions
from pipeline.move.context.table_scope import ChangedRows, CountedRows
from pipeline.move.ledger import (
    cascades,
    check_results,
    conflicts,
    overrides,
    quarantine,
    watermarks,
)
from pipeline.move.ledger.watermarks import Watermark
from pipeline.move.proof import constraints, table_checks
from pipeline.move.reading.batch_converter import BatchConverter, read_ahead
from pipeline.move.reading.pinned_source import PinnedSource
from pipeline.move.reading.prepare import Prepared, surveyed
from pipeline.move.reading.surveys import Survey
from pipeline.move.run import proving
from pipeline.move.run.transaction import MoveResult, move_table, prove_unchanged
from pipeline.move.writing import deletes
from pipeline.postgres import schema
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target
from pipeline.sqlite.catalog.change_log import Position

MANY_ROWS = 250_000
"""Keys of rows that may have changed are kept in memory; for more, every value is compared."""


def questions(mapping: TableMapping) -> tuple[Question[Any], ...]:
    """What is asked about each table before a sync of changes."""
    return (
        schema.state_question(mapping.name),
        watermarks.question(mapping.name),
        constraints.sequence_question(mapping),
    )


def reason_for_full_comparison(
    tables: Sequence[sa.Table], *, live: PinnedSource, target: Target, policies: Policies = DEFAULT
) -> str | None:
    """Why every value of the tables must be compared; None if a sync of changes is possible.

    Args:
        target: a session with a target that has a ledger.

    Raises:
        SourceError: the source lacks a required table or column.
        ShapeError: a table of the target is not one plain table that can be written.
    """
    for table in tables:
        mapping = live.match(table, policies)
        mark = watermarks.read(target, table.name)
        present = schema.inspect_for_writing(target, mapping, rows=False)
        if mark is None or not present.exists:
            return f"{table.name} has not been moved into this target before"
        if mark.is_part:
            return f"only a subset of {table.name} has been moved"
        if mark.rules != watermarks.rules_digest(mapping):
            return f"columns or policies of {table.name} have changed"
        types = present.types or {}
        if {column.name for column in mapping.columns} - set(types):
            return f"{table.name} of the target lacks a column"
        if any(types[name] != type_name(mapping.table.c[name].type) for name in mapping.carried):
            return f"a carried column of {table.name} has another type in the target"
        tracked = live.position(table) is not None
        if tracked != (mark.position is not None):
            return f"tracking of {table.name} was switched {'on' if tracked else 'off'}"
        if mark.position is not None and not live.continues(mark.position):
            return f"the change log of {table.name} no longer has the entry that was last read"
        if mark.position is not None and live.row_ids_changed(
            mapping, quarantine.renumberable(target, live, mapping), mark.position
        ):
            return f"the row ids of quarantined rows of {table.name} have changed in the source"
    return None


@dataclass(frozen=True)
class _Candidates:
    """Rows that may have changed.

    Attributes:
        keys: their keys, in the source or in the target.
        row_ids: row ids of further rows of the source.
        after: the change log names further rows after this entry.
    """

    keys: tuple[Any, ...] = ()
    row_ids: tuple[Any, ...] = ()
    after: Position | None = None
    source_rows: int | None = None
    newest: datetime | None = None


class Syncer:
    """Moves the changes of the tables of one run, each in its own transaction, parents first.

    Attributes:
        idle: the session, outside a transaction between two moves.
    """

    def __init__(
        self,
        live: PinnedSource,
        session: Target,
        options: MoveOptions,
        *,
        retry_rejected: bool = False,
    ) -> None:
        """Keep the arguments; call ``find_changes`` before ``move``."""
        self.idle = session
        self._live = live
        self._options = options
        self._retry_rejected = retry_rejected
        self._mappings: dict[str, TableMapping] = {}
        self._marks: dict[str, Watermark | None] = {}
        self._candidates: dict[str, _Candidates | None] = {}
        self._sequences: dict[str, str | None] = {}

    def suspend(self) -> None:
        """Nothing is unfinished between two moves."""

    def resume(self, target: Target) -> None:
        """Continue in a new session with what was found in the first one.

        Raises:
            LockedError: the ledger has changed since, for example by a restore.
        """
        self.idle = target
        run_id = self._options.run_id
        with target.prefetched(*map(watermarks.question, self._marks)):
            changed = [n for n, mark in self._marks.items() if watermarks.read(target, n) != mark]
        others = [n for n in changed if not watermarks.is_committed(target, n, run_id=run_id)]
        if others:
            raise LockedError(
                f"The ledger's record of {', '.join(others)} changed while the connection was lost",
                remedy="Run again; tables that this run has committed are kept",
            )

    def move(
        self,
        table: sa.Table,
        *,
        upcoming: Sequence[sa.Table] = (),  # noqa: ARG002
        on_progress: OnProgress = lambda _: None,
    ) -> MoveResult:
        """Move the changes of a table whose parents have already been moved.

        Raises:
            PipelineError: as ``move_table``; nothing was changed.
        """
        mapping, found = self._mappings[table.name], self._candidates[table.name]
        mark, parents = self._marks[table.name], [parent.name for _, parent in mapping.parents]
        unchanged = self._unchanged(mapping, mark, found, on_progress)
        sequence = self._sequences.get(table.name) if unchanged else None
        with self.idle.prefetched(
            cascades.keys_question(mapping),
            conflicts.keys_question(mapping),
            overrides.question((table.name,)),
            watermarks.any_newer_question(parents, than=table.name),
            quarantine.row_ids_question(mapping.name),
            # Most likely nothing changed; then these questions are all that is needed.
            *(proving.questions(unchanged, sequence=sequence) if unchanged else ()),
        ):
            # Rows deleted with a parent may still be in the source, conflicts may have ended, and
            # held rows may move once their parent has moved.
            also = (*cascades.keys(self.idle, mapping), *conflicts.keys(self.idle, mapping))
            known_overrides = self.idle.answer(overrides.question((table.name,)))
            retried = quarantine.row_ids(self.idle, mapping.name)
            newer = watermarks.any_newer(self.idle, parents, than=table.name)
            waiting = retried and (newer or self._retry_rejected)
            last = self._live.last_assigned(table.name) if unchanged else 0
            behind = constraints.is_behind(self.idle, mapping, sequence, assigned=last)
            if unchanged and mark and not (also or known_overrides or waiting or behind):
                proven = prove_unchanged(unchanged, mark, sequence=sequence)
                if found is None:
                    self._store_failures(proven)
                if found is None or not proven.checks.failed:
                    return proven
        found = found or _Candidates(newest=mark.newest if mark else None)
        retried |= {override.row_id for override in known_overrides}
        prepared, scope = self._copy_scope_rows(mapping, found, also, known_overrides, retried)
        return move_table(self._context(prepared, scope, on_progress))

    def _store_failures(self, proven: MoveResult) -> None:
        """Store what failed, so that gates close; nothing was compared that could be stored."""
        failed = [check for check in proven.checks if check.name in proven.checks.failed]
        check_results.write(self.idle, proven.table, failed, run_id=self._options.run_id)

    def _unchanged(
        self,
        mapping: TableMapping,
        mark: Watermark | None,
        found: _Candidates | None,
        on_progress: OnProgress,
    ) -> MoveContext | None:
        """The context of a table of which no row may have changed; None if some may have."""
        if mark is None or (found and (found.keys or found.row_ids or found.source_rows is None)):
            return None
        scope = ChangedRows(newest=mark.newest, rows_before=mark.rows)
        if found is not None and found.source_rows is not None:
            scope = CountedRows(newest=found.newest, source_rows=found.source_rows)
        nothing = Prepared(mapping, compile_contract(mapping), Survey(0, 0, (), (), frozenset()))
        return self._context(nothing, scope, on_progress)

    def _context(
        self, prepared: Prepared, scope: ChangedRows, on_progress: OnProgress
    ) -> MoveContext:
        return MoveContext(self.idle, self._live, prepared, self._options, on_progress, scope)

    def find_changes(
        self, tables: Sequence[sa.Table], *, on_progress: OnProgress = lambda _: None
    ) -> str | None:
        """Find the rows that may have changed, for all tables of this run.

        Returns:
            Why every value must be compared; None if these rows are enough.

        Raises:
            SourceError: the source cannot be read.
            TargetError: the target does not answer.
        """
        to_compare = []
        for table in tables:
            mapping = self._live.match(table, self._options.policies)
            mark = watermarks.read(self.idle, table.name)
            self._mappings[table.name], self._marks[table.name] = mapping, mark
            self._sequences[table.name] = constraints.find_sequence(self.idle, mapping)
            if mark is not None and self._is_unchanged(mapping, mark):
                self._candidates[table.name] = None
            elif mark is not None and mark.position is not None:
                logged = self._live.changed_keys(mapping, mark.position)
                self._candidates[table.name] = _Candidates(
                    tuple(logged), after=mark.position, newest=mark.newest
                )
            else:
                to_compare.append(mapping)
        # While the versions of one table are compared, those of the next are copied. Children come
        # first: they have more rows, and the last comparison overlaps with no copy.
        with read_ahead(self._versions(to_compare[::-1])) as versions:
            for converter in versions:
                self._candidates[converter.mapping.name] = self._compare(converter, on_progress)
        for name, found in self._candidates.items():
            if found and len(found.keys) + len(found.row_ids) > MANY_ROWS:
                return f"more than {MANY_ROWS:,} rows of {name} may have changed"
            if found and not self._live.carries(self._mappings[name], found.after, found.keys):
                return f"a carried column of {name} holds values that its type does not take"
        return None

    def _is_unchanged(self, mapping: TableMapping, mark: Watermark) -> bool:
        """Whether the source has certainly not changed since."""
        if mark.position is not None:
            return mark.position == self._live.position(mapping.table)
        fingerprint = self._live.snapshot.fingerprint
        return fingerprint is not None and fingerprint == mark.fingerprint

    def _versions(self, mappings: Sequence[TableMapping]) -> Iterator[BatchConverter]:
        """Keys, dates of change and sizes of all rows of tables."""
        for mapping in mappings:
            versions = self._live.take_versions(mapping)
            narrow = mapping.version_mapping
            contract = compile_contract(narrow)
            unique = versions.row_id_column(narrow) == quoted(narrow.key.name)
            simple = unique and contract.violated(always=True) == "0"
            survey = versions.cut(narrow) if simple else versions.survey(narrow, contract)
            yield BatchConverter(versions, narrow, contract, survey)

    def _compare(self, converter: BatchConverter, on_progress: OnProgress) -> _Candidates:
        """Compare the versions of all rows of a table with the target's."""
        mapping, survey = converter.mapping, converter.survey
        count = counter(mapping.name, "compare", survey.rows, on_progress)
        keys: list[Any] = []
        newest: datetime | None = None

        def on_tile_compared(changes: Changes) -> None:
            nonlocal newest
            if len(keys) <= MANY_ROWS:
                arrays = (changes.missing, changes.extra, *(d.keys for d in changes.differing))
                keys.extend(key for array in arrays for key in array.to_pylist())
            if changes.converted is not None:
                count(changes.converted)
                newest = later(newest, changes.converted, mapping)

        table_checks.examine(
            self.idle, mapping, survey, iter(converter), on_tile_compared=on_tile_compared
        )
        return _Candidates(
            tuple(keys), tuple(converter.rejected), source_rows=survey.rows, newest=newest
        )

    def _copy_scope_rows(
        self,
        mapping: TableMapping,
        found: _Candidates,
        also: tuple[Any, ...],
        known_overrides: Sequence[overrides.Override],
        retried: set[str],
    ) -> tuple[Prepared, ChangedRows]:
        """Copy the rows that may have changed, and quarantined rows, to the private file."""
        live = self._live
        row_ids = [live.row_id_from(mapping, row_id) for row_id in sorted(retried)]
        named = (*found.keys, *also)
        # A row goes to quarantine with its parent, which may be a changed row of the same table.
        below = deletes.own_descendants(self.idle, mapping, named)
        keys = list(dict.fromkeys((*named, *below)))
        live.take_rows(mapping, keys=keys, row_ids=[*found.row_ids, *row_ids], after=found.after)
        overrides.apply(live, [mapping.table], known_overrides, mapping.policies)
        prepared = surveyed(mapping, live)
        # An override may have changed a key.
        taken = tuple(live.taken_keys(mapping))
        deleted = tuple(set(live.missing_keys(mapping, keys)) - set(taken))
        mark, rows, newest = self._marks[mapping.name], found.source_rows, found.newest
        if rows is not None:
            return prepared, CountedRows(
                existing=taken, deleted=deleted, newest=newest, source_rows=rows
            )
        # Counting all rows would take longer than moving the changes.
        before = mark.rows if mark else None
        return prepared, ChangedRows(
            existing=taken, deleted=deleted, newest=newest, rows_before=before
        )
