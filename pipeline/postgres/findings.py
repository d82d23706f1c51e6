"""Findings about the schema of the target: objects, sequences and privileges."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.core.findings import Finding


@dataclass(frozen=True)
class KeyNotEnforced(Finding):
    """A foreign key that is missing in the target or was never validated."""

    title: ClassVar[str] = "key not enforced"
    heading: ClassVar[str] = "Foreign keys that are missing or were never validated"
    table: str
    constraint: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table}: foreign key {self.constraint} is missing or was never validated"


@dataclass(frozen=True)
class SequenceBehind(Finding):
    """A sequence whose next value is not above the largest id."""

    title: ClassVar[str] = "sequence behind"
    heading: ClassVar[str] = "Sequences that are behind the largest id"
    table: str
    sequence: str
    next_value: int
    largest_id: int

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return (
            f"{self.table}: the next value of {self.sequence} is {self.next_value}, but the largest"
            f" id is {self.largest_id}"
        )


@dataclass(frozen=True)
class IdsReused(Finding):
    """A sequence that would assign ids of rows that the source has deleted."""

    title: ClassVar[str] = "ids reused"
    heading: ClassVar[str] = "Sequences that would assign ids of deleted rows"
    table: str
    sequence: str
    next_value: int
    assigned: int

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return (
            f"{self.table}: the next value of {self.sequence} is {self.next_value}, but the source"
            f" has assigned ids up to {self.assigned} (sqlite_sequence)"
        )


@dataclass(frozen=True)
class IdsTooLarge(Finding):
    """A key whose type ends before the ids that the source has assigned."""

    title: ClassVar[str] = "ids too large"
    heading: ClassVar[str] = "Keys whose type is too small for the ids of the source"
    table: str
    column: str
    assigned: int
    largest: int

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return (
            f"{self.table}: the source has assigned ids up to {self.assigned} (sqlite_sequence),"
            f" but {self.column} of the target holds ids only up to {self.largest}"
        )


@dataclass(frozen=True)
class SequenceExhausted(Finding):
    """A sequence without further values."""

    title: ClassVar[str] = "sequence exhausted"
    heading: ClassVar[str] = "Exhausted sequences"
    table: str
    sequence: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table}: {self.sequence} is exhausted"


@dataclass(frozen=True)
class SchemaDiffers(Finding):
    """A schema object that differs from its declaration; None where it does not exist."""

    title: ClassVar[str] = "schema differs"
    heading: ClassVar[str] = "Schema objects that differ from the declaration"
    table: str
    kind: Literal["table", "column", "constraint", "index", "trigger", "function"]
    name: str
    declared: str | None
    actual: str | None

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        actual = self.actual or "missing"
        return f"{self.table}: {self.kind} {self.name} is {actual} instead of {self.declared}"


@dataclass(frozen=True)
class RightDiffers(Finding):
    """A privilege of a role that differs from the declaration."""

    title: ClassVar[str] = "right differs"
    heading: ClassVar[str] = "Privileges that differ from the declaration"
    table: str
    what: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"{self.table}: {self.what}"


@dataclass(frozen=True)
class Exposed(Finding):
    """A schema of the pipeline that is accessible to others."""

    title: ClassVar[str] = "exposed"
    heading: ClassVar[str] = "Schemas that are accessible to others"
    schema: str
    why: str

    @property
    def sentence(self) -> str:
        """The fault, for people."""
        return f"schema {self.schema}: {self.why}"
