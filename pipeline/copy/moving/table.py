"""Move one table within a transaction: create and fill it, or write what differs; prove it."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.copy.interface.options import CopyOptions
from pipeline.copy.interface.results import Outcome, TableResult
from pipeline.copy.moving import difference, filling, proving, witness
from pipeline.copy.moving.difference import Copied, Reference
from pipeline.copy.moving.filling import Rows
from pipeline.copy.moving.proving import Proven
from pipeline.copy.source.prepared import PreparedSource
from pipeline.copy.target import belongings
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
    """Fill a table with generated columns; those that PostgreSQL computes otherwise are plain."""
    computed, left = dict(table.computed), list[LeftOut]()
    while True:
        # Not ``target.savepoint``, in which other threads would wait.
        target.run(f"SAVEPOINT {_POINT}")
        try:
            moved = _filled(target, source, replace(table, computed=computed), seed=seed)
            if moved.proven.equal or not computed:
                target.run(f"RELEASE SAVEPOINT {_POINT}")
                moved.left += left
                return moved
            named = {e.column for e in moved.proven.differences if isinstance(e, ValueDiffers)}
            wrong, reason = computed.keys() & named or computed.keys(), _COMPUTED_OTHERWISE
        except Transient:
            raise
        except (DataFault, TargetError) as error:
            if not computed:
                raise
            wrong = computed.keys()
            reason = f"PostgreSQL refuses it: {error}; it holds the values of the source"
        target.run(f"ROLLBACK TO SAVEPOINT {_POINT}")
        left += not_computed(table, wrong, reason)
        computed = {name: sql for name, sql in computed.items() if name not in wrong}


def not_computed(
    table: CopiedTable, names: Iterable[str], reason: str = _COMPUTED_OTHERWISE
) -> list[LeftOut]:
    """Generated columns that hold the values of the source."""
    return [LeftOut("generated column", table.label, name, reason) for name in sorted(names)]


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


def make_anew(
    target: Target,
    source: PreparedSource,
    table: CopiedTable,
    options: CopyOptions,
    copied: Copied,
) -> Moved:
    """Replace a table whose columns or constraints have changed in the source.

    Raises:
        NotProven: a value differs.
        ShapeError: something that others have added would be lost.
        TooManyDeletes: too many rows would be lost.
    """
    if options.verify:
        raise PipelineError(
            f"{table.label} has other columns or constraints in the source now",
            remedy="Run the copy without --verify",
        )
    before = int(target.value(f"SELECT count(*) FROM {table.place}"))
    difference.require_few_lost(source, table, before, before - table.rows, options)
    belongings.require_none(target, table)
    rights = belongings.rights(target, table)
    references = difference.drop_references(target, table, copied)
    target.run(f"DROP TABLE {table.place}")
    made = create(target, source, table, seed=options.run_id)
    target.run(*rights)
    made.references, made.outcome = references, "updated"
    return made


def update(
    target: Target,
    source: PreparedSource,
    table: CopiedTable,
    options: CopyOptions,
    copied: Copied,
    *,
    anew: Callable[[], Moved],
    in_circle: bool = False,
) -> Moved:
    """Compare a table of an earlier copy with the source, and write what differs.

    Args:
        copied: all tables of the copy.
        anew: makes the table anew.
        in_circle: parents of the table may be written after it.

    Raises:
        NotProven: a value differs.
        TooManyDeletes: too many rows would be lost.
    """
    started = time.perf_counter()
    if not options.verify:
        # What is proven must still be true at the commit.
        target.defer(f"LOCK TABLE ONLY {table.place} IN SHARE ROW EXCLUSIVE MODE")
    with waiting(f"{table.label}, compare"):
        rows = Rows(source, table)
        proven = proving.compare(
            target, rows, table.place, key=rows.key, stop_early=True, phase="compare"
        )
        witnessed = 0
        if proven.equal:
            seen = witness.check(target, rows, table.place, seed=options.run_id, key=rows.key)
            proven.differences += seen.differences
            witnessed = seen.rows
    outcome: Outcome = "unchanged"
    references: tuple[Reference, ...] = ()
    written = deleted = 0
    if not proven.equal:
        with waiting(f"{table.label}, difference"):
            rows = Rows(source, table)
            found = difference.write(target, rows, options, copied, in_circle=in_circle)
        proven, references, witnessed = found.proven, found.references, found.witnessed
        written, deleted = found.inserted, found.deleted
        if not proven.equal and not options.verify:
            if not table.computed:
                raise NotProven(table.label, proven.differences)
            # A generated column may disagree on the new rows: it becomes a plain one.
            moved = anew()
            moved.references = (*references, *moved.references)
            return moved
        if written or deleted:
            outcome = "differs" if options.verify else "updated"
    if not options.verify:
        proving.keep_originals(target, table, proven)
    seconds = time.perf_counter() - started
    return Moved(table, rows, outcome, proven, witnessed, seconds, written, deleted, references)
