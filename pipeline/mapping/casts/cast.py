"""The conversion of one PostgreSQL type, as a value.

A ``Cast`` says which storage classes it accepts, which further rules a value must meet (as SQL for
SQLite), how the value is read, how columns of it become Arrow, and in which form source and target
are compared. A cast succeeds for all values that meet its rules and raises ``pa.ArrowInvalid`` for
others. It marks values that lose information.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

UTC_MICROSECONDS = pa.timestamp("us", "UTC")
NAIVE_MICROSECONDS = pa.timestamp("us")


@dataclass(frozen=True)
class Rule:
    """A condition for values.

    Attributes:
        violated: SQL that is true for values that break the rule.
        always: no reader, cast or PostgreSQL would notice a violation, so the rule is checked for
            every row; other rules are checked only if a batch fails.
        cast: a violation makes the cast fail.
    """

    code: str
    message: str
    violated: str
    always: bool = False
    cast: bool = False


@dataclass(frozen=True)
class ForeseenRule(Rule):
    """A rule that PostgreSQL has as well, so it does not change which rows move."""


@dataclass(frozen=True)
class Converted:
    """A converted column, and a mask of the values that lost information (None: no value)."""

    values: pa.Array
    lossy: pa.Array | None = None


def _as_is(values: pa.Array) -> pa.Array:
    return values


@dataclass(frozen=True)
class Originals:
    """Values of the source as the ledger keeps them: storage classes, and texts."""

    storage: pa.Array
    texts: pa.Array


def _originals(raw: pa.Array) -> Originals:
    stored = "real" if pa.types.is_floating(raw.type) else "text"
    return Originals(pc.if_else(raw.is_null(), "null", stored), raw.cast(pa.string()))


def _same(expression: str) -> str:
    return expression


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The conversion of one PostgreSQL type.

    Attributes:
        storage: accepted SQLite storage classes, in addition to ``null``.
        sentinel: SQL literal that fixes the reader's Arrow type.
        raw: the Arrow type that the reader then returns.
        rules: column expression -> rules beyond the storage class.
        checked_as: column expression -> SQLite expression of the value for CHECK constraints.
        read: column expression -> SQLite expression to read.
        convert: raw column -> column for COPY.
        convert_accepts_any: ``convert`` accepts any text.
        target: column expression -> PostgreSQL expression to read back.
        source_form: converted column -> the form for comparison.
        target_form: column that was read back -> the form for comparison.
        originals: raw column -> the source's own values, for those that lost information.
    """

    storage: tuple[str, ...]
    sentinel: str
    raw: pa.DataType
    rules: Callable[[str], tuple[Rule, ...]] = lambda _: ()
    checked_as: Callable[[str], str] = _same
    read: Callable[[str], str] = _same
    convert: Callable[[pa.Array], Converted]
    convert_accepts_any: bool = False
    target: Callable[[str], str] = _same
    source_form: Callable[[pa.Array], pa.Array] = _as_is
    target_form: Callable[[pa.Array], pa.Array] = _as_is
    originals: Callable[[pa.Array], Originals] = _originals

    def storage_rule(self, expression: str, declared: str) -> Rule:
        """The rule that a value is null or has an accepted storage class.

        The reader rejects values that do not fit its Arrow type, with two exceptions: it converts
        numbers to text, unless SQLite has done so because of the declared type, and accepts any
        value as bytes.
        """
        unnoticed = self.raw == pa.binary() or (
            self.raw == pa.string() and "integer" not in self.storage and self.convert_accepts_any
        )
        always = unnoticed and not (self.raw == pa.string() and affinity(declared) == "TEXT")
        violated = " AND ".join(f"typeof({expression}) <> '{s}'" for s in (*self.storage, "null"))
        return Rule("type", f"is not {' or '.join(self.storage)}", violated, always)

    def guarded_read(self, expression: str) -> str:
        """Like ``read``, but NULL for other storage classes."""
        accepted = ", ".join(f"'{s}'" for s in self.storage)
        return f"CASE WHEN typeof({expression}) IN ({accepted}) THEN {self.read(expression)} END"


def as_postgres_writes(type_: str, texts: pa.Array) -> pa.ExtensionArray:
    """A column of texts, spelled as PostgreSQL spells values of this type.

    The driver has no Arrow type for all of their values; ``Target.copy`` encodes them.
    """
    return pa.ExtensionArray.from_storage(pa.opaque(pa.string(), type_, "PostgreSQL"), texts)


def affinity(declared: str) -> str:
    """SQLite's affinity of a declared type (section 3.1 of its documentation of datatypes)."""
    name = declared.upper()
    if "INT" in name:
        return "INTEGER"
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not name or "BLOB" in name:
        return "BLOB"
    if any(word in name for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def no_nul_rule(c: str) -> Rule:
    """The rule that a text has no NUL character, which PostgreSQL cannot store."""
    return Rule("nul", "holds a NUL character", f"instr({c}, char(0)) > 0")


def shortest(c: str) -> str:
    """SQL for the shortest text of a double that identifies it."""
    fifteen = f"printf('%!.15g', {c})"
    return f"CASE WHEN CAST({fifteen} AS REAL) = {c} THEN {fifteen} ELSE printf('%!.17g', {c}) END"


def is_number(c: str) -> str:
    """SQL that is true for texts of digits, with at most one sign and one point."""
    digits = f"substr({c}, 1 + ({c} GLOB '-*'))"
    return (
        f"({digits} GLOB '[0-9]*' AND {digits} NOT GLOB '*[^0-9.]*'"
        f" AND {digits} NOT GLOB '*.*.*' AND {digits} GLOB '*[0-9]')"
    )
