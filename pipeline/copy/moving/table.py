"""Move one table within a transaction: create and fill it, or write what differs; prove it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import Outcome, TableResult
from pipeline.copy.moving import difference, filling, proving, witness
from pipeline.copy.moving.difference import Reference
from pipeline.copy.moving.filling import Rows
from pipeline.copy.moving.proving import Proven
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.target.extras import LeftOut
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import PipelineError, TargetError, Transient
from pipeline.core.findings import OFFENDERS, Finding, describe
from pipeline.core.progress import waiting
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_POINT = "pipeline_computed"


class NotProven(PipelineError):
    """A table whose values in the target are not those of the source; it was rolled back."""

    def __init__(self, table: str, findings: Sequence[Finding]) -> None:
        """Name the first finding."""
        first = describe(findings[0]) if findings else "no finding"
        super().__init__(
            f"{table} was rolled back, because the target would not have the same values: {first}",
            remedy="Run again; if this remains, report it with the output of --json",
        )
        self.findings = tuple(findings[:OFFENDERS])


@dataclass
class Moved:
    """A table that was moved in a transaction that is still open.

    Attributes:
        table: as it was made; generated columns may have become plain ones.
        references: foreign keys of other tables that were dropped.
        fresh: the table was created in this transaction.
    """

    table: CopiedTable
    rows: Rows
    outcome: Outcome
    proven: Proven
    witnessed: int
    seconds: float
    written: int = 0
    deleted: int = 0
    references: tuple[Reference, ...] = ()
    left: list[LeftOut] = field(default_factory=list)
    fresh: bool = False

    def result(self) -> TableResult:
        """The result of the move."""
        return TableResult(
            table=self.table.label,
            outcome=self.outcome,
            rows=self.table.rows,
            bytes=self.table.bytes,
            written=self.written,
            deleted=self.deleted,
            quarantined=len(self.rows.rejected),
            values=self.proven.values,
            witnessed=self.witnessed,
            seconds=self.seconds,
            digests=self.proven.digests,
            left=tuple(self.left),
            findings=tuple(self.proven.differences[:OFFENDERS]),
        )


def create(target: Target, source: PreparedSource, table: CopiedTable, *, seed: str) -> Moved:
    """Create a table, fill it, and prove it.

    Generated columns are computed by the server; if their values are not those of SQLite, the table
    is filled again with the values of SQLite.

    Raises:
        NotProven: a value differs.
    """
    started = time.perf_counter()
    if not table.computed:
        moved = _filled(target, source, table, seed=seed)
    else:
        moved = _computed(target, source, table, seed=seed)
    if not moved.proven.equal:
        raise NotProven(table.label, moved.proven.differences)
    proving.keep_originals(target, table, moved.proven)
    moved.seconds = time.perf_counter() - started
    return moved


def _computed(target: Target, source: PreparedSource, table: CopiedTable, *, seed: str) -> Moved:
    """Fill a table with generated columns; with plain ones if PostgreSQL computes other values."""
    reason = "PostgreSQL computes other values; it holds those of the source"
    # Not ``target.savepoint``, in which other threads would wait.
    target.run(f"SAVEPOINT {_POINT}")
    try:
        moved = _filled(target, source, table, seed=seed)
        if moved.proven.equal:
            target.run(f"RELEASE SAVEPOINT {_POINT}")
            return moved
    except Transient:
        raise
    except (DataFault, TargetError) as error:
        reason = f"PostgreSQL refuses it: {error}; it holds the values of the source"
    target.run(f"ROLLBACK TO SAVEPOINT {_POINT}")
    moved = _filled(target, source, replace(table, computed={}), seed=seed)
    names = table.computed
    moved.left += [LeftOut("generated column", table.label, name, reason) for name in names]
    return moved


def _filled(target: Target, source: PreparedSource, table: CopiedTable, *, seed: str) -> Moved:
    with waiting(f"{table.label}, load"):
        rows = Rows(source, table)
        if table.computed:
            # The server may refuse an expression.
            target.run(table.ddl())
        else:
            target.defer(table.ddl())
        filling.fill(target, rows)
    with waiting(f"{table.label}, prove"):
        proven = proving.compare(target, rows, table.place)
        witnessed = 0
        if proven.equal:
            found = witness.check(target, rows, table.place, seed=seed)
            proven.differences += found.differences
            witnessed = found.rows
    return Moved(table, rows, "copied", proven, witnessed, 0.0, proven.rows, fresh=True)


def update(
    target: Target,
    source: PreparedSource,
    table: CopiedTable,
    options: CopyOptions,
    *,
    own: Sequence[CopiedTable],
) -> Moved:
    """Compare a table of an earlier copy with the source, and write what differs.

    Args:
        own: all tables of the copy.

    Raises:
        NotProven: a value differs.
        TooManyDeletes: too many rows would be lost.
    """
    started = time.perf_counter()
    with waiting(f"{table.label}, compare"):
        rows = Rows(source, table)
        proven = proving.compare(target, rows, table.place, stop_early=True)
    outcome: Outcome = "unchanged"
    references: tuple[Reference, ...] = ()
    written = deleted = 0
    if not proven.equal:
        with waiting(f"{table.label}, difference"):
            rows = Rows(source, table)
            found = difference.write(target, rows, options, own=own)
        proven, references = found.proven, found.references
        written, deleted = found.inserted, found.deleted
        if not proven.equal and not options.verify:
            raise NotProven(table.label, proven.differences)
        if written or deleted:
            outcome = "differs" if options.verify else "updated"
    if not options.verify:
        proving.keep_originals(target, table, proven)
    seconds = time.perf_counter() - started
    return Moved(table, rows, outcome, proven, 0, seconds, written, deleted, references)
