"""The result of a copy, as values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.copy.target.extras import LeftOut
from pipeline.core.findings import Finding, Quarantined

Outcome = Literal["copied", "updated", "unchanged", "differs", "failed"]


@dataclass(frozen=True)
class TableResult:
    """What happened to one table.

    Attributes:
        rows: rows of the source.
        bytes: size of their values.
        written: rows that were inserted.
        deleted: rows that were deleted, including older versions of inserted ones.
        quarantined: rows that stayed behind.
        reasons: why they did, one for each reason.
        left: constraints and other properties that were not carried.
        findings: differences for which the table was rolled back.
        error: why it failed, if not by findings.
    """

    table: str
    outcome: Outcome
    rows: int
    bytes: int
    written: int = 0
    deleted: int = 0
    quarantined: int = 0
    reasons: tuple[Quarantined, ...] = ()
    values: int = 0
    witnessed: int = 0
    seconds: float = 0.0
    digests: dict[str, str] = field(default_factory=dict)
    left: tuple[LeftOut, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: str | None = None

    @property
    def proven(self) -> bool:
        """Whether every row and value is in the target."""
        return self.outcome in ("copied", "updated", "unchanged") and not self.quarantined


@dataclass(frozen=True)
class CopyResult:
    """What happened to all tables.

    Attributes:
        left: what belongs to no copied table, such as views and triggers.
        behind: tables with rows that were not copied, each with the reason.
        hints: proposals for columns whose type the values do not decide.
        missing: tables that the run did not reach.
    """

    run_id: str
    source: str
    target: str
    tables: tuple[TableResult, ...]
    left: tuple[LeftOut, ...] = ()
    behind: dict[str, str] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def proven(self) -> bool:
        """Whether all rows and values of the source are in the target."""
        complete = not self.behind and not self.missing
        return complete and all(table.proven for table in self.tables)

    @property
    def all_left(self) -> Sequence[LeftOut]:
        """Everything that was not carried, by table."""
        return [*(left for table in self.tables for left in table.left), *self.left]
