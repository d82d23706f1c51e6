"""What a check can find, as values that carry a title and a sentence for people."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.core.messages import ANYBODY, MIGRATE, Address, Text, message, written

OFFENDERS = 20
"""A check names at most this many offenders; its figures count all of them."""


@dataclass(frozen=True)
class Finding(ABC):
    """Something that is wrong with something.

    Attributes:
        title: its kind, in a few words.
        heading: what stands above a table of its kind; empty where the title does.
    """

    title: ClassVar[str]
    heading: ClassVar[str] = ""

    @property
    @abstractmethod
    def sentence(self) -> Text:
        """What is wrong with what."""


def describe(finding: Finding, address: Address = ANYBODY) -> str:
    """One sentence for people."""
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
        """What is wrong with what."""
        return f"{self.table} {self.key}: in the source, not in the target"


@dataclass(frozen=True)
class RowExtra(Finding):
    """A target row that no clean source row accounts for."""

    title: ClassVar[str] = "row extra"
    heading: ClassVar[str] = "Rows that only the target has"
    table: str
    key: Any

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table} {self.key}: in the target, not in the source"


@dataclass(frozen=True)
class ValueDiffers(Finding):
    """One value that is not the same on both sides."""

    title: ClassVar[str] = "value differs"
    heading: ClassVar[str] = "Values that differ"
    table: str
    key: Any
    column: str
    source: Any
    target: Any

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        where = f"{self.table} {self.key}, {self.column}"
        return f"{where}: source {_shown(self.source)}, target {_shown(self.target)}"


@dataclass(frozen=True)
class NotConserved(Finding):
    """source = moved + quarantined + excluded does not hold."""

    title: ClassVar[str] = "not conserved"
    heading: ClassVar[str] = "Rows do not add up"
    table: str
    source_rows: int
    target_rows: int
    quarantined_rows: int
    excluded_rows: int = 0

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        left_out = f", and {self.excluded_rows} left out" if self.excluded_rows else ""
        return (
            f"{self.table}: {self.source_rows} source rows, but {self.target_rows} in the target"
            f" and {self.quarantined_rows} in quarantine{left_out}"
        )


@dataclass(frozen=True)
class OnlyAPart(Finding):
    """A table of which a subset has moved, and the rest has not."""

    title: ClassVar[str] = "only a part"
    heading: ClassVar[str] = "Tables of which only a part has moved"
    table: str

    @property
    def sentence(self) -> Text:
        """What is wrong with what."""
        part = f"{self.table}: only a part of it has been moved; run "
        return message(part, MIGRATE, " to complete it")


@dataclass(frozen=True)
class DigestDiffers(Finding):
    """A column's digest over all rows is not the same on both sides."""

    title: ClassVar[str] = "digest differs"
    heading: ClassVar[str] = "Columns whose digest differs"
    table: str
    column: str
    source: str
    target: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        where = f"{self.table}.{self.column}"
        return f"{where}: digest {self.source} in the source, {self.target} in the target"


@dataclass(frozen=True)
class Orphan(Finding):
    """A target row whose parent is absent."""

    title: ClassVar[str] = "orphan"
    heading: ClassVar[str] = "Rows without their parent"
    table: str
    key: Any
    column: str
    parent: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        points = f"{self.column} points to a row of {self.parent} that is not there"
        return f"{self.table} {self.key}: {points}"


@dataclass(frozen=True)
class KeyNotEnforced(Finding):
    """A foreign key that the target does not have, or never validated."""

    title: ClassVar[str] = "key not enforced"
    heading: ClassVar[str] = "Foreign keys that are missing or were never validated"
    table: str
    constraint: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table}: foreign key {self.constraint} is missing or was never validated"


@dataclass(frozen=True)
class SequenceBehind(Finding):
    """The next id that a sequence gives out is taken already."""

    title: ClassVar[str] = "sequence behind"
    heading: ClassVar[str] = "Sequences that give out an id twice"
    table: str
    sequence: str
    next_value: int
    largest_id: int

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return (
            f"{self.table}: {self.sequence} would give out {self.next_value}, ids go up to"
            f" {self.largest_id}"
        )


@dataclass(frozen=True)
class SequenceEnded(Finding):
    """A sequence that has no further id to give out."""

    title: ClassVar[str] = "sequence ended"
    heading: ClassVar[str] = "Sequences without a further id"
    table: str
    sequence: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table}: {self.sequence} has no further id to give out"


@dataclass(frozen=True)
class QuarantineOutdated(Finding):
    """A row in quarantine that is not kept as the source has it now."""

    title: ClassVar[str] = "quarantine outdated"
    heading: ClassVar[str] = "Rows in quarantine that differ from the source"
    table: str
    row_id: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        outdated = "quarantine has not what the source has; move it again"
        return f"{self.table}, row {self.row_id}: {outdated}"


@dataclass(frozen=True)
class OriginalMissing(Finding):
    """A value that lost something, whose original is not in the ledger."""

    title: ClassVar[str] = "original missing"
    heading: ClassVar[str] = "Changed values whose original is missing"
    table: str
    key: str
    column: str
    original: str | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        lacking = f"the ledger lacks the original {_shown(self.original)}"
        return f"{self.table} {self.key}, {self.column}: {lacking}"


@dataclass(frozen=True)
class Drift(Finding):
    """Source and declared schema disagree about a column."""

    title: ClassVar[str] = "drift"
    heading: ClassVar[str] = "Columns that source and declaration do not share"
    table: str
    column: str
    kind: Literal["carried", "ignored", "missing", "retyped"]
    detail: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table}.{self.column}: {self.kind}, {self.detail}"


@dataclass(frozen=True)
class Quarantined(Finding):
    """How many rows of a table are in quarantine for one reason."""

    title: ClassVar[str] = "quarantined"
    heading: ClassVar[str] = "Why rows are in quarantine"
    table: str
    reason: str
    column: str | None
    rows: int
    examples: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        where = f"{self.table}.{self.column}" if self.column else self.table
        return f"{where}: {self.rows} in quarantine, {self.reason}"


@dataclass(frozen=True)
class Lossy(Finding):
    """How many values of a column were changed in a way that cannot be undone."""

    title: ClassVar[str] = "lossy"
    heading: ClassVar[str] = "Values that changed; the originals are in the ledger"
    table: str
    column: str
    values: int
    examples: tuple[tuple[str, str | None, str], ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        changed = f"{self.values} values changed, originals kept in the ledger"
        return f"{self.table}.{self.column}: {changed}"


@dataclass(frozen=True)
class Overridden(Finding):
    """A value that a person mended; it holds while the source still has what was mended."""

    title: ClassVar[str] = "mended"
    heading: ClassVar[str] = "Values that a person mended"
    table: str
    row_id: str
    column: str
    was: str
    now: str
    holds: bool

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        outdated = "" if self.holds else "; the source has changed since, so this is not used"
        overrides = f"{self.was!r} was mended to {self.now!r}"
        return f"{self.table}, row {self.row_id}, {self.column}: {overrides}{outdated}"


@dataclass(frozen=True)
class Conflict(Finding):
    """One value of a row that was changed in the target since the source was read last."""

    title: ClassVar[str] = "conflict"
    heading: ClassVar[str] = "Values that were changed in the target as well"
    table: str
    key: Any
    column: str
    source: Any
    target: Any
    kept: Literal["source", "target"]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return (
            f"{self.table} {self.key}, {self.column}: source {_shown(self.source)}, target"
            f" {_shown(self.target)}, which is newer; the {self.kept}'s is kept"
        )


@dataclass(frozen=True)
class Unaccounted(Finding):
    """A source row that breaks its contract and is not in quarantine either."""

    title: ClassVar[str] = "unaccounted"
    heading: ClassVar[str] = "Rows neither movable nor in quarantine"
    table: str
    row_id: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        nowhere = "neither movable nor in quarantine; move the table again"
        return f"{self.table}, row {self.row_id}: {nowhere}"


@dataclass(frozen=True)
class NotComparable(Finding):
    """The target's table is of another shape, so its values cannot be held against the source's."""

    title: ClassVar[str] = "not comparable"
    heading: ClassVar[str] = "Why values cannot be compared"
    table: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return self.why


@dataclass(frozen=True)
class SchemaDiffers(Finding):
    """What belongs to a table is not as declared; None where it does not exist."""

    title: ClassVar[str] = "schema differs"
    heading: ClassVar[str] = "Parts that are not as declared"
    table: str
    kind: Literal["table", "column", "constraint", "index", "trigger", "function"]
    name: str
    declared: str | None
    actual: str | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        actual = self.actual or "missing"
        return f"{self.table}: {self.kind} {self.name} is {actual} instead of {self.declared}"


@dataclass(frozen=True)
class RightDiffers(Finding):
    """A role may do more or less with a table than is declared."""

    title: ClassVar[str] = "right differs"
    heading: ClassVar[str] = "Rights that are not as declared"
    table: str
    what: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table}: {self.what}"


@dataclass(frozen=True)
class Exposed(Finding):
    """A schema of the pipeline that others can reach."""

    title: ClassVar[str] = "exposed"
    heading: ClassVar[str] = "Schemas that others can reach"
    schema: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"schema {self.schema}: {self.why}"


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check of one table.

    Attributes:
        name: conservation, keys, digests, foreign_keys, sequences, schema, access (all blocking),
            drift, quarantine, conversions, mended or conflicts (warnings).
        blocking: when it fails within a move, the table is rolled back and its children do not
            move.
        figures: what was counted, by name.
    """

    name: str
    passed: bool
    blocking: bool
    findings: tuple[Finding, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)


def _shown(value: Any) -> str:
    """A value as a person would write it; a text in quotation marks, so that blanks are seen."""
    return repr(value) if isinstance(value, str) else "NULL" if value is None else str(value)
