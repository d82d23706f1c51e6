"""What a check can find, as values. Text for people is made at the edge, by ``say``."""

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Literal

OFFENDERS = 20
"""A check names at most this many offenders; its figures count all of them."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with something."""


@dataclass(frozen=True)
class RowMissing(Finding):
    """A clean source row that the target lacks."""

    table: str
    key: Any


@dataclass(frozen=True)
class RowExtra(Finding):
    """A target row that no clean source row accounts for."""

    table: str
    key: Any


@dataclass(frozen=True)
class ValueDiffers(Finding):
    """One value that is not the same on both sides."""

    table: str
    key: Any
    column: str
    source: Any
    target: Any


@dataclass(frozen=True)
class NotConserved(Finding):
    """source = moved + quarantined + excluded does not hold."""

    table: str
    source_rows: int
    target_rows: int
    quarantined_rows: int
    excluded_rows: int = 0


@dataclass(frozen=True)
class OnlyAPart(Finding):
    """A table of which a subset has moved, and the rest has not."""

    table: str


@dataclass(frozen=True)
class DigestDiffers(Finding):
    """A column's digest over all rows is not the same on both sides."""

    table: str
    column: str
    source: str
    target: str


@dataclass(frozen=True)
class Orphan(Finding):
    """A target row whose parent is absent."""

    table: str
    key: Any
    column: str
    parent: str


@dataclass(frozen=True)
class KeyNotEnforced(Finding):
    """A foreign key that the target does not have, or never validated."""

    table: str
    constraint: str


@dataclass(frozen=True)
class SequenceBehind(Finding):
    """The next id that a sequence gives out is taken already."""

    table: str
    sequence: str
    next_value: int
    largest_id: int


@dataclass(frozen=True)
class SequenceEnded(Finding):
    """A sequence that has no further id to give out."""

    table: str
    sequence: str


@dataclass(frozen=True)
class QuarantineOutdated(Finding):
    """A row in quarantine that is not kept as the source has it now."""

    table: str
    handle: str


@dataclass(frozen=True)
class OriginalMissing(Finding):
    """A value that lost something, whose original is not in the ledger."""

    table: str
    key: str
    column: str
    original: str | None


@dataclass(frozen=True)
class Drift(Finding):
    """Source and declared schema disagree about a column."""

    table: str
    column: str
    kind: Literal["carried", "ignored", "missing", "retyped"]
    detail: str


@dataclass(frozen=True)
class Quarantined(Finding):
    """How many rows of a table are kept aside for one reason."""

    table: str
    reason: str
    column: str | None
    rows: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lossy(Finding):
    """How many values of a column were changed in a way that cannot be undone."""

    table: str
    column: str
    values: int
    examples: tuple[tuple[str, str | None, str], ...] = ()


@dataclass(frozen=True)
class Mended(Finding):
    """A value that a person mended; it holds while the source still has what was mended."""

    table: str
    handle: str
    column: str
    was: str
    now: str
    holds: bool


@dataclass(frozen=True)
class Conflict(Finding):
    """One value of a row that was changed in the target since the source was read last."""

    table: str
    key: Any
    column: str
    source: Any
    target: Any
    kept: Literal["source", "target"]


@dataclass(frozen=True)
class Unaccounted(Finding):
    """A source row that breaks its contract and is not in quarantine either."""

    table: str
    handle: str


@dataclass(frozen=True)
class NotComparable(Finding):
    """The target's table is of another shape, so its values cannot be held against the source's."""

    table: str
    why: str


@dataclass(frozen=True)
class SchemaDiffers(Finding):
    """What belongs to a table is not as declared; None where it does not exist."""

    table: str
    kind: Literal["table", "column", "constraint", "index", "trigger", "function"]
    name: str
    declared: str | None
    actual: str | None


@dataclass(frozen=True)
class RightDiffers(Finding):
    """A role may do more or less with a table than is declared."""

    table: str
    what: str


@dataclass(frozen=True)
class Exposed(Finding):
    """A schema of the pipeline that others can reach."""

    schema: str
    why: str


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


@singledispatch
def say(finding: Finding) -> str:
    """One sentence for people."""
    match finding:
        case RowMissing(table, key):
            return f"{table} {key}: in the source, not in the target"
        case RowExtra(table, key):
            return f"{table} {key}: in the target, not in the source"
        case ValueDiffers(table, key, column, source, target):
            return f"{table} {key}, {column}: source {_shown(source)}, target {_shown(target)}"
        case NotConserved(table, source_rows, target_rows, quarantined_rows, excluded):
            left_out = f", and {excluded} left out" if excluded else ""
            return (
                f"{table}: {source_rows} source rows, but {target_rows} in the target"
                f" and {quarantined_rows} in quarantine{left_out}"
            )
        case OnlyAPart(table):
            return f"{table}: only a part of it has been moved; run pipeline migrate to complete it"
        case DigestDiffers(table, column, source, target):
            return f"{table}.{column}: digest {source} in the source, {target} in the target"
        case Orphan(table, key, column, parent):
            return f"{table} {key}: {column} points to a row of {parent} that is not there"
        case KeyNotEnforced(table, constraint):
            return f"{table}: foreign key {constraint} is missing or was never validated"
        case SequenceBehind(table, sequence, next_value, largest_id):
            return f"{table}: {sequence} would give out {next_value}, ids go up to {largest_id}"
        case SequenceEnded(table, sequence):
            return f"{table}: {sequence} has no further id to give out"
        case QuarantineOutdated(table, handle):
            return f"{table}, row {handle}: quarantine has not what the source has; move it again"
        case OriginalMissing(table, key, column, original):
            return f"{table} {key}, {column}: the ledger lacks the original {_shown(original)}"
        case Drift(table, column, kind, detail):
            return f"{table}.{column}: {kind}, {detail}"
        case Quarantined(table, reason, column, rows, _):
            where = f"{table}.{column}" if column else table
            return f"{where}: {rows} in quarantine, {reason}"
        case Lossy(table, column, values, _):
            return f"{table}.{column}: {values} values changed, originals kept in the ledger"
        case Mended(table, handle, column, was, now, holds):
            outdated = "" if holds else "; the source has changed since, so this is not used"
            return f"{table}, row {handle}, {column}: {was!r} was mended to {now!r}{outdated}"
        case Conflict(table, key, column, source, target, kept):
            return (
                f"{table} {key}, {column}: source {_shown(source)}, target {_shown(target)}, which"
                f" is newer; the {kept}'s is kept"
            )
        case Unaccounted(table, handle):
            return f"{table}, row {handle}: neither movable nor in quarantine; move the table again"
        case NotComparable(_, why):
            return why
        case SchemaDiffers(table, kind, name, declared, actual):
            return f"{table}: {kind} {name} is {actual or 'missing'} instead of {declared}"
        case RightDiffers(table, what):
            return f"{table}: {what}"
        case Exposed(schema, why):
            return f"schema {schema}: {why}"
        case _:
            raise TypeError(f"nobody has said how to say {type(finding).__name__}")


def _shown(value: Any) -> str:
    """A value as a person would write it; a text in quotation marks, so that blanks are seen."""
    return repr(value) if isinstance(value, str) else "NULL" if value is None else str(value)
