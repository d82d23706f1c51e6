"""The proof of one table: both databases are read again and compared.

The proof uses no figures of the load. It reads the source without the contract: every row that is
not in quarantine must be in the target, value by value, and the target must have no other rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.core import proof
from pipeline.core.errors import PipelineError
from pipeline.core.findings import (
    OFFENDERS,
    CheckResult,
    DigestDiffers,
    Finding,
    Lossy,
    RowExtra,
    RowMissing,
    ValueDiffers,
)
from pipeline.core.proof import Proof
from pipeline.mapping import secret
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare import conversions
from pipeline.move.compare.changes import Changes, Totals, shown
from pipeline.move.compare.comparison import ALL_ROWS, AllRows, RowsByKey, compare
from pipeline.move.ledger import overrides, quarantine
from pipeline.move.proof import constraints
from pipeline.move.reading.batch_converter import ConvertedBatch, convert
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Survey
from pipeline.postgres.session import TRIGGER_REMEDY
from pipeline.postgres.target import Target


class ProofFailed(PipelineError):
    """A blocking check failed; the table was rolled back."""

    def __init__(self, table: str, checks: Proof, *, triggers: str = "") -> None:
        """Name the failed checks, and unmanaged triggers that may be the cause."""
        why = f"; {triggers} may have changed the written values" if triggers else ""
        super().__init__(
            f"{table} was rolled back: the proof failed ({', '.join(checks.failed)}){why}",
            remedy="Inspect the rows named in the check's result; the target is unchanged"
            + (f". {TRIGGER_REMEDY}" if triggers else ""),
        )
        self.table = table
        self.checks = checks


@dataclass
class Compared:
    """The result of a comparison of both sides.

    Attributes:
        missing: number of rows that only the source has.
        extra: number of rows that only the target has.
        differing: number of different values, by column.
        rows: offending rows, up to a limit.
        values: offending values, up to a limit.
        foreign_keys: the foreign key check, if it was already made.
    """

    totals: Totals = field(default_factory=Totals)
    missing: int = 0
    extra: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    rows: list[Finding] = field(default_factory=list)
    values: list[Finding] = field(default_factory=list)
    foreign_keys: CheckResult | None = None

    @property
    def equal(self) -> bool:
        """Whether both sides are equal."""
        return not (self.missing or self.extra or self.differing)


def examine(
    target: Target,
    mapping: TableMapping,
    survey: Survey,
    batches: Iterable[ConvertedBatch],
    *,
    on_tile_compared: Callable[[Changes], None],
    scope: AllRows | RowsByKey = ALL_ROWS,
    kept: Sequence[Any] = (),
) -> Compared:
    """Compare both sides by tile; count the differences and name some of them.

    Args:
        on_tile_compared: called with the differences of each tile.
        kept: keys of rows that may differ.
    """
    found = Compared()
    for changes in compare(
        target, mapping, survey.ranges, batches, found.totals, scope=scope, kept=kept
    ):
        _note(mapping, changes, found)
        on_tile_compared(changes)
    return found


def _note(mapping: TableMapping, changes: Changes, found: Compared) -> None:
    table = mapping.name
    found.missing += len(changes.missing)
    found.extra += len(changes.extra)
    room = max(0, OFFENDERS - len(found.rows))
    found.rows += [RowMissing(table, key) for key in changes.missing[:room].to_pylist()]
    room = max(0, OFFENDERS - len(found.rows))
    found.rows += [RowExtra(table, key) for key in changes.extra[:room].to_pylist()]
    for differing in changes.differing:
        column = differing.column
        found.differing[column] = found.differing.get(column, 0) + len(differing.keys)
        room = max(0, OFFENDERS - len(found.values))
        found.values += [
            ValueDiffers(table, key, column, source, target)
            for key, source, target in zip(
                differing.keys[:room].to_pylist(),
                secret.hidden(mapping.table, column, shown(differing.source[:room])),
                secret.hidden(mapping.table, column, shown(differing.target[:room])),
                strict=True,
            )
        ]


def unchecked_batches(
    source: SourceView, mapping: TableMapping, survey: Survey, *, without: set[Any]
) -> Iterator[ConvertedBatch]:
    """Every source row that is not in quarantine, without evaluating the contract.

    Raises:
        PipelineError: a row cannot be converted and is not in quarantine.
    """
    for part in survey.ranges:
        try:
            raw = source.read(mapping, part, without=without)
            batch, lossy = convert(mapping, raw)
        except pa.ArrowInvalid as error:
            raise PipelineError(
                f"{mapping.name}: a row between {part.first} and {part.last} cannot be"
                f" converted and is not in quarantine ({error})",
                remedy="Move the table again",
            ) from error
        yield ConvertedBatch(part, batch, raw, lossy, contract_checked=False)


def results(
    source: SourceView,
    target: Target,
    mapping: TableMapping,
    compared: Compared,
    lossy: tuple[Lossy, ...],
    *,
    conserved: CheckResult,
    scope_keys: Sequence[Any] | None = None,
) -> tuple[CheckResult, ...]:
    """The results of all checks of a table.

    Args:
        scope_keys: keys of the rows in scope; None for all rows.
    """
    return (
        conserved,
        keys(compared),
        digests(mapping, compared),
        compared.foreign_keys or constraints.foreign_keys(target, mapping, scope_keys=scope_keys),
        constraints.sequences(target, mapping, assigned=source.last_assigned(mapping.table.name)),
        drift(mapping),
        in_quarantine(target, mapping),
        changed(lossy),
        overrides.check(source.overrides.get(mapping.name, [])),
    )


def keys(compared: Compared) -> CheckResult:
    """Both sides have the same keys."""
    figures = {
        "compared": compared.totals.target_rows,
        "missing": compared.missing,
        "extra": compared.extra,
    }
    return proof.KEYS.result(compared.rows, figures)


def digests(mapping: TableMapping, compared: Compared) -> CheckResult:
    """Every compared value is equal."""
    found = compared.totals.digests()
    # A short secret could be guessed from its digest.
    hidden = secret.columns(mapping.table)
    unequal = tuple(
        DigestDiffers(mapping.name, column, *secret.hidden(mapping.table, column, pair))
        for column, pair in found.items()
        if pair[0] != pair[1]
    )
    return proof.DIGESTS.result(
        (*compared.values, *unequal),
        {
            "values_compared": compared.totals.values,
            "values_differing": sum(compared.differing.values()),
            "digests": {c: digest for c, (_, digest) in found.items() if c not in hidden},
        },
    )


def drift(mapping: TableMapping) -> CheckResult:
    """Source and declared schema agree."""
    return proof.DRIFT.result(mapping.drift)


def in_quarantine(target: Target, mapping: TableMapping) -> CheckResult:
    """Quarantine is empty."""
    reasons = quarantine.summary(target, mapping.name)
    rows = len(quarantine.row_ids(target, mapping.name))
    return proof.QUARANTINE.result(reasons, {"rows": rows}, passed=not rows)


def changed(lossy: tuple[Lossy, ...]) -> CheckResult:
    """No value was converted irreversibly."""
    values = sum(found.values for found in lossy)
    return proof.CONVERSIONS.result(lossy, {"values": values})


def conversions_kept(target: Target, mapping: TableMapping) -> CheckResult:
    """No value was converted irreversibly, according to the ledger."""
    return changed(conversions.summary(target, mapping))
