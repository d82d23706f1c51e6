"""Forms: how the source writes the values of a column, if not as its type usually is.

A form is part of the declared type. It changes what is read from the source and what a rollback
writes there, never the column of the target.
"""

from typing import Any, Literal, get_args

import sqlalchemy as sa

Unit = Literal["seconds", "milliseconds", "microseconds", "julian_days"]
UNITS: tuple[Unit, ...] = get_args(Unit)

DECIMAL_TEXT = "decimal_text"
BOOLEAN = "boolean"
"""Integers 0 and 1; for a column that only the source has."""


class EpochMoment(sa.DateTime):
    """A timestamptz that the source writes as a number, counted from an epoch.

    Seconds, milliseconds and microseconds count from 1970-01-01 UTC; julian days are SQLite's.
    Numbers written as text and ISO dates are accepted as well.
    """

    cache_ok = True

    def __init__(self, unit: Unit = "seconds") -> None:
        """Declare the unit of the source's numbers."""
        super().__init__(timezone=True)
        self.unit = unit


class WordBoolean(sa.Boolean):
    """A boolean that the source writes as one of two words; case of ASCII letters is ignored.

    The integers 0 and 1 are accepted as well.
    """

    cache_ok = True

    def __init__(self, words: str = "true/false", **options: Any) -> None:
        """Declare both words, the one for true first, as in ``t/f``."""
        super().__init__(**options)
        self.words = words

    @property
    def true(self) -> str:
        """The word for true."""
        return self.words.partition("/")[0]

    @property
    def false(self) -> str:
        """The word for false."""
        return self.words.partition("/")[2]


class DecimalText(sa.Numeric[Any]):
    """A numeric that the source writes as text, with every digit."""

    cache_ok = True


class MixedText(sa.Text):
    """A text for values of several storage classes: numbers become texts.

    Attributes:
        numeric: the source's column stores texts that look like numbers as numbers, so that the
            storage class of each value follows from its text.
    """

    cache_ok = True

    def __init__(self, *, numeric: bool = False) -> None:
        """Declare what the source's column does with numbers."""
        super().__init__()
        self.numeric = numeric


class MixedBytes(sa.LargeBinary):
    """A bytea for values of several storage classes: BLOBs, and the bytes of texts and numbers."""

    cache_ok = True


def of_form(column: sa.Column[Any], form: str) -> "sa.types.TypeEngine[Any] | None":
    """The type of a column whose source has this form; None if form and type do not fit."""
    kind = column.type
    is_moment = isinstance(kind, sa.DateTime) and kind.timezone
    if form in UNITS and is_moment:
        return EpochMoment(form)
    if isinstance(kind, sa.Boolean) and is_words(form):
        return WordBoolean(form)
    if form == DECIMAL_TEXT and isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return DecimalText(kind.precision, kind.scale)
    return None


def of_carried(form: str) -> "sa.types.TypeEngine[Any] | None":
    """The type of a column that only the source has, if its form is known."""
    if form in UNITS:
        return EpochMoment(form)
    if is_words(form):
        return WordBoolean(form)
    return sa.Boolean() if form == BOOLEAN else None


def is_words(form: str) -> bool:
    """Whether a form names two words."""
    true, slash, false = form.partition("/")
    return bool(slash and true and false and true.casefold() != false.casefold())


def form_of(kind: "sa.types.TypeEngine[Any]") -> str | None:
    """The name of a type's form; None for the usual one."""
    match kind:
        case EpochMoment():
            return kind.unit
        case WordBoolean():
            return kind.words
        case DecimalText():
            return DECIMAL_TEXT
    return None
