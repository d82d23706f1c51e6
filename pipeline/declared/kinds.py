"""Distinctions between column types that SQLAlchemy's classes do not make."""

from typing import Any

import sqlalchemy as sa

_MOST_DIGITS = 38
"""The largest precision of a decimal that Arrow and the driver convert by themselves."""
_SINGLE_BITS = 24


def is_wide(kind: "sa.types.TypeEngine[Any]") -> bool:
    """Whether a type is a numeric without a precision, or with one above 38 digits."""
    if not isinstance(kind, sa.Numeric):
        return False
    return kind.precision is None or kind.precision > _MOST_DIGITS


def is_single(kind: "sa.types.TypeEngine[Any]") -> bool:
    """Whether a type is PostgreSQL's ``real``, which has four bytes.

    Without a precision, ``float`` has eight.
    """
    if not isinstance(kind, sa.Float) or isinstance(kind, sa.Double):
        return False
    short = kind.precision is not None and kind.precision <= _SINGLE_BITS
    return short or isinstance(kind, sa.REAL)
