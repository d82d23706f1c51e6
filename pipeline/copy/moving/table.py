"""Move one table within a transaction: create and fill it, or write what differs; prove it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import Outcome, TableResult
from pipeline.copy.moving import difference, filling, proving, witness
from pipeline.copy.moving.difference import Copied, Reference
from pipeline.copy.moving.filling import Rows
from pipeline.copy.moving.proving import Proven
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.target.extras import LeftOut
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import PipelineError, TargetError, Transient
from pipeline.core.findings import OFFENDERS, Finding, Quarantined, ValueDiffers, describe
from pipeline.core.progress import waiting
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_POINT = "pipeline_computed"
_COMPUTED_OTHERWISE = "PostgreSQL computes other values; it holds those of the source"


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
        reasons: why rows are in quarantine.
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
    reasons: tuple[Quarantined, ...] = ()
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
            reasons=self.reasons,
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
    is filled again, and these columns get the values of SQLite.

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
    """Fill a table with generated columns; with plain ones where PostgreSQL computes others."""
    wrong = frozenset(table.computed)
    reason = _COMPUTED_OTHERWISE
    # Not ``target.savepoint``, in which other threads would wait.
    target.run(f"SAVEPOINT {_POINT}")
    try:
        moved = _filled(target, source, table, seed=seed)
        if moved.proven.equal:
            target.run(f"RELEASE SAVEPOINT {_POINT}")
            return moved
        differ = {
            each.column for each in moved.proven.differences if isinstance(each, ValueDiffers)
        }
        wrong = (wrong & differ) or wrong
    except Transient:
        raise
    except (DataFault, TargetError) as error:
        reason = f"PostgreSQL refuses it: {error}; it holds the values of the source"
    target.run(f"ROLLBACK TO SAVEPOINT {_POINT}")
    right = {name: sql for name, sql in table.computed.items() if name not in wrong}
    again = _computed if right else _filled
    moved = again(target, source, replace(table, computed=right), seed=seed)
    moved.left += not_computed(table, wrong, reason)
    return moved


def not_computed(
    table: CopiedTable, names: Iterable[str], reason: str = _COMPUTED_OTHERWISE
) -> list[LeftOut]:
    """Generated columns that hold the values of the source."""
    return [LeftOut("generated column", table.label, name, reason) for name in sorted(names)]


def _filled(target: Target, source: PreparedSource, table: CopiedTable, *, seed: str) -> Moved:
    with waiting(f"{table.label}, load"):
        rows = Rows(source, table)
        target.run(table.ddl())
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
    copied: Copied,
    *,
    in_circle: bool = False,
) -> Moved:
    """Compare a table of an earlier copy with the source, and write what differs.

    Args:
        copied: all tables of the copy.
        in_circle: parents of the table may be written after it.

    Raises:
        NotProven: a value differs.
        TooManyDeletes: too many rows would be lost.
    """
    started = time.perf_counter()
    with waiting(f"{table.label}, compare"):
        rows = Rows(source, table)
        proven = proving.compare(target, rows, table.place, stop_early=True, phase="compare")
    outcome: Outcome = "unchanged"
    references: tuple[Reference, ...] = ()
    written = deleted = 0
    if not proven.equal:
        with waiting(f"{table.label}, difference"):
            rows = Rows(source, table)
            found = difference.write(target, rows, options, copied, in_circle=in_circle)
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
