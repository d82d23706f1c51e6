"""Types of columns that only the source has: by their declared type, and by what they hold."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared import forms
from pipeline.declared.forms import MixedBytes, MixedText
from pipeline.mapping.casts.cast import affinity

_KINDS: dict[str, "sa.types.TypeEngine[Any]"] = {
    "timestamp with time zone": sa.DateTime(timezone=True),
    "jsonb": JSONB(),
    "boolean": sa.Boolean(),
    "bigint": sa.BigInteger(),
    "double precision": sa.Double(),
    "text": sa.Text(),
    "bytea": sa.LargeBinary(),
    "mixed text": MixedText(),
    "mixed numeric text": MixedText(numeric=True),
    "mixed bytea": MixedBytes(),
}
"""The types by name; a mixed type takes values of several storage classes."""

_FORM = "form "
_SPEAKING = ("NUM", "DEC", "MONEY", "CURRENCY", "FIXED")
"""Parts of type names with NUMERIC affinity that mean a number."""


def kind(name: str) -> "sa.types.TypeEngine[Any]":
    """The type of a name."""
    found = forms.of_carried(name.removeprefix(_FORM)) if name.startswith(_FORM) else None
    return found or _KINDS[name]


def named_form(form: str) -> str:
    """The name of the type of a column whose form is known."""
    return _FORM + form


def existing(declared: str, type_name: str) -> str | None:
    """The type of an existing column of the target; None if no carried column has it.

    Args:
        declared: the type in the source.
        type_name: the type in the target, as PostgreSQL writes it.
    """
    if type_name in ("text", "bytea"):
        return settled(declared, type_name)
    return type_name if type_name in _KINDS else None


def candidates(declared: str, default: str, *, empty: bool) -> Iterator[str]:
    """The types to try, the preferred one first; the last one takes every value.

    Args:
        declared: the type in the source.
        default: the default in the source, as SQL.
        empty: the column has no values.
    """
    yield from dict.fromkeys(
        (
            by_declaration(declared, default, empty=empty),
            *("bigint", "double precision", "text", "bytea"),
            "mixed text",
            "mixed bytea",
        )
    )


def preferred(declared: str, default: str = "") -> str:
    """The type of a column about whose values nothing is known."""
    return settled(declared, by_declaration(declared, default, empty=True))


def by_declaration(declared: str, default: str, *, empty: bool) -> str:
    """By names that applications use for dates, booleans and JSON, then by SQLite's affinity."""
    name, of = declared.upper(), affinity(declared)
    if name.startswith(("DATETIME", "TIMESTAMP")):
        return "timestamp with time zone"
    if name.startswith("JSON"):
        return "jsonb"
    if name.startswith("BOOL") or (of == "INTEGER" and default.lower() in ("true", "false")):
        return "boolean"
    if name.startswith("DATE"):
        return "text"
    if not name or (of == "NUMERIC" and not any(word in name for word in _SPEAKING)):
        # The name says nothing of what the column holds.
        return "text" if empty else "bigint"
    by_affinity = {"INTEGER": "bigint", "TEXT": "text", "BLOB": "bytea"}
    return by_affinity.get(of, "double precision")


def settled(declared: str, name: str) -> str:
    """The type that also takes what the column may hold later, if it has the same SQL type.

    It follows from the declared type and the type in the target alone.
    """
    of = affinity(declared)
    if name.endswith("bytea"):
        return "mixed bytea"
    if name.endswith("text") and of != "TEXT":
        return "mixed text" if of == "BLOB" else "mixed numeric text"
    return name if not name.startswith("mixed") else "text"


def conversion(column: str, name: "sa.types.TypeEngine[Any]", before: str) -> str:
    """SQL for the value of a column whose type changes; NULL if the next comparison restores it.

    Args:
        column: its name, quoted.
        before: its type until now, as PostgreSQL writes it.
    """
    match name:
        case sa.Text():
            return f"{column}::text"
        case sa.LargeBinary():
            return f"convert_to({column}::text, 'UTF8')"
        case sa.Double() if before == "bigint":
            return f"{column}::double precision"
    return "NULL"
