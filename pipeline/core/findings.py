"""Findings of checks: values with a title and a sentence for people."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.core.messages import DEFAULT_ADDRESS, MIGRATE, Address, Text, message, written

OFFENDERS = 20
"""A check lists at most this many findings; its figures count all of them."""


@dataclass(frozen=True)
class Finding(ABC):
    """A fault that a check found.

    Attributes:
        title: names the kind of fault.
        heading: the heading of a table of such findings; empty if the title serves.
    """

    title: ClassVar[str]
    heading: ClassVar[str] = ""

    @property
    @abstractmethod
    def sentence(self) -> Text:
        """The fault, for people."""


def describe(finding: Finding, address: Address = DEFAULT_ADDRESS) -> str:
    """The sentence of a finding, with commands for a migration."""
    return written(finding.sentence, address)


@dataclass(frozen=True)
class RowMissing(Finding):
    """A clean source row that the target lacks."""

    title: ClassVar[str] = "row missing"
    heading: ClassVar[str] = "Rows that only the source has"
    table: str
    key: Any

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table} {self.key}: in the source, not in the target"


@dataclass(frozen=True)
class RowExtra(Finding):
    """A target row without a clean source row."""

    title: ClassVar[str] = "row extra"
    heading: ClassVar[str] = "Rows that only the target has"
    table: str
    key: Any

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table} {self.key}: in the target, not in the source"


@dataclass(frozen=True)
class ValueDiffers(Finding):
    """A value that differs between source and target."""

    title: ClassVar[str] = "value differs"
    heading: ClassVar[str] = "Values that differ"
    table: str
    key: Any
    column: str
    source: Any
    target: Any

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        where = f"{self.table} {self.key}, {self.column}"
        return f"{where}: source {_shown(self.source)}, target {_shown(self.target)}"


@dataclass(frozen=True)
class NotConserved(Finding):
    """The source rows are not the sum of moved, quarantined and excluded rows."""

    title: ClassVar[str] = "not conserved"
    heading: ClassVar[str] = "Row counts that do not add up"
    table: str
    source_rows: int
    target_rows: int
    quarantined_rows: int
    excluded_rows: int = 0

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        excluded = f", and {self.excluded_rows} excluded" if self.excluded_rows else ""
        return (
            f"{self.table}: {self.source_rows} source rows, but {self.target_rows} in the target"
            f" and {self.quarantined_rows} in quarantine{excluded}"
        )


@dataclass(frozen=True)
class PartiallyMoved(Finding):
    """A table of which only a subset has moved."""

    title: ClassVar[str] = "only a part"
    heading: ClassVar[str] = "Tables of which only a subset has been moved"
    table: str

    @property
    def sentence(self) -> Text:
        """The fault, for people."""
        problem = f"{self.table}: only a subset has been moved; run "
        return message(problem, MIGRATE, " to complete it")


@dataclass(frozen=True)
class DigestDiffers(Finding):
    """A column whose digest over all rows differs between source and target."""

    title: ClassVar[str] = "digest differs"
    heading: ClassVar[str] = "Columns whose digest differs"
    table: str
    column: str
    source: str
    target: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        where = f"{self.table}.{self.column}"
        return f"{where}: digest {self.source} in the source, {self.target} in the target"


@dataclass(frozen=True)
class Orphan(Finding):
    """A target row whose parent does not exist."""

    title: ClassVar[str] = "orphan"
    heading: ClassVar[str] = "Rows without a parent"
    table: str
    key: Any
    column: str
    parent: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table} {self.key}: {self.column} refers to a missing row of {self.parent}"


@dataclass(frozen=True)
class QuarantineOutdated(Finding):
    """A quarantined row that differs from the source."""

    title: ClassVar[str] = "quarantine outdated"
    heading: ClassVar[str] = "Quarantined rows that differ from the source"
    table: str
    row_id: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        outdated = "the quarantined row differs from the source; move the table again"
        return f"{self.table}, row {self.row_id}: {outdated}"


@dataclass(frozen=True)
class OriginalMissing(Finding):
    """A value that lost information and whose original is not in the ledger."""

    title: ClassVar[str] = "original missing"
    heading: ClassVar[str] = "Changed values whose original is missing"
    table: str
    key: str
    column: str
    original: str | None

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        lacking = f"the ledger lacks the original {_shown(self.original)}"
        return f"{self.table} {self.key}, {self.column}: {lacking}"


@dataclass(frozen=True)
class Drift(Finding):
    """A column that differs between the source and the declaration."""

    title: ClassVar[str] = "drift"
    heading: ClassVar[str] = "Columns that differ between source and declaration"
    table: str
    column: str
    kind: Literal["carried", "ignored", "missing", "retyped", "another unit", "unreadable"]
    detail: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table}.{self.column}: {self.kind}, {self.detail}"


@dataclass(frozen=True)
class Quarantined(Finding):
    """The number of quarantined rows of a table with one reason."""

    title: ClassVar[str] = "quarantined"
    heading: ClassVar[str] = "Reasons for quarantine"
    table: str
    reason: str
    column: str | None
    rows: int
    examples: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        where = f"{self.table}.{self.column}" if self.column else self.table
        return f"{where}: {self.rows} in quarantine, {self.reason}"


@dataclass(frozen=True)
class Lossy(Finding):
    """The number of values of a column that lost information."""

    title: ClassVar[str] = "lossy"
    heading: ClassVar[str] = "Values that changed; the originals are in the ledger"
    table: str
    column: str
    values: int
    examples: tuple[tuple[str, str | None, str], ...] = ()

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        changed = f"{self.values} values changed, originals kept in the ledger"
        return f"{self.table}.{self.column}: {changed}"


@dataclass(frozen=True)
class Overridden(Finding):
    """A value that a person overrode.

    Attributes:
        holds: the source still has the value that was overridden, so the override is applied.
    """

    title: ClassVar[str] = "overridden"
    heading: ClassVar[str] = "Values that were overridden manually"
    table: str
    row_id: str
    column: str
    was: str
    now: str
    holds: bool

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        outdated = (
            "" if self.holds else "; the source has changed since, so the override is not applied"
        )
        change = f"{self.was!r} was overridden with {self.now!r}"
        return f"{self.table}, row {self.row_id}, {self.column}: {change}{outdated}"


@dataclass(frozen=True)
class Conflict(Finding):
    """A differing value of a row that was changed in the target after the last sync."""

    title: ClassVar[str] = "conflict"
    heading: ClassVar[str] = "Values that were also changed in the target"
    table: str
    key: Any
    column: str
    source: Any
    target: Any
    kept: Literal["source", "target"]

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return (
            f"{self.table} {self.key}, {self.column}: source {_shown(self.source)}, target"
            f" {_shown(self.target)}, which is newer; the value of the {self.kept} is kept"
        )


@dataclass(frozen=True)
class Unaccounted(Finding):
    """A source row that breaks its contract and is not in quarantine."""

    title: ClassVar[str] = "unaccounted"
    heading: ClassVar[str] = "Rows that cannot be moved and are not in quarantine"
    table: str
    row_id: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        nowhere = "cannot be moved and is not in quarantine; move the table again"
        return f"{self.table}, row {self.row_id}: {nowhere}"


@dataclass(frozen=True)
class NotComparable(Finding):
    """A target table whose shape does not allow a comparison of values."""

    title: ClassVar[str] = "not comparable"
    heading: ClassVar[str] = "Reasons why values cannot be compared"
    table: str
    why: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return self.why


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check of one table.

    Attributes:
        name: that of the check, see ``pipeline.core.proof``.
        blocking: if the check fails during a move, the table is rolled back and its children are
            not moved.
        figures: counts, by name.
    """

    name: str
    passed: bool
    blocking: bool
    findings: tuple[Finding, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)


def _shown(value: Any) -> str:
    """A value for people; text is quoted, so that blanks are visible."""
    return repr(value) if isinstance(value, str) else "NULL" if value is None else str(value)
