"""Values that nobody is shown: those of columns whose ``info["secret"]`` says so.

They move and are kept like all others, quarantine and originals included. Whatever is told of them,
to people or to Dagster, says ``(secret)``. Keys are shown: without them nothing could be mended.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.declared.rules import ColumnRules
from pipeline.mapping.types import Cast, Converted

SHOWN = "(secret)"
_OURS = {"pipeline_stage", "UTF8"}
"""Further names that PostgreSQL may quote."""
_QUOTED = re.compile('"([^"]*)"')


class Secret:
    """A value that can be kept, and that prints as nothing."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        """Take a value in."""
        self.value = value

    def __repr__(self) -> str:
        """Nothing of it."""
        return SHOWN


def columns(table: sa.Table) -> frozenset[str]:
    """Names of a table's secret columns."""
    return frozenset(column.name for column in table.columns if ColumnRules.of(column).secret)


def hidden(table: sa.Table, column: str, values: Iterable[Any]) -> list[Any]:
    """Values of a column as findings may hold them."""
    return [Secret(value) for value in values] if column in columns(table) else list(values)


def revealed(value: Any) -> Any:
    """A value of a finding, for the ledger alone."""
    return value.value if isinstance(value, Secret) else value


def discreet(cast: Cast) -> Cast:
    """The same cast, whose failure does not quote what it could not convert."""

    def convert(values: pa.Array) -> Converted:
        try:
            return cast.convert(values)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(
                "Invalid UTF8 payload" if "UTF8" in str(error) else "a secret value is wrong"
            ) from None

    return replace(cast, convert=convert)


def said_of(table: sa.Table, message: str) -> str:
    """What PostgreSQL says of a row; where that may quote a secret, it ends before the quotation.

    Names of the table's own are quoted as well, and stay.
    """
    if not columns(table):
        return message
    known = _names(table) | _OURS
    for quotation in _QUOTED.finditer(message):
        if quotation[1] not in known:
            return f"{message[: quotation.start()]}{SHOWN}"
    return message


def _names(table: sa.Table) -> set[str]:
    named: Sequence[Any] = (table, *table.columns, *table.constraints, *table.indexes)
    return {str(each.name) for each in named}
