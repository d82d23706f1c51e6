"""Values of secret columns (``ColumnRules.secret``), which are never displayed.

They are moved and kept like all others, in quarantine and as originals, too. Reports to people and
to Dagster show ``(secret)`` instead. Keys are displayed, because overrides need them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.declared.rules import ColumnRules
from pipeline.mapping.casts.cast import Cast, Converted

SHOWN = "(secret)"
_OURS = {"pipeline_stage", "UTF8"}
"""Further names that PostgreSQL may quote."""
_QUOTED = re.compile('"([^"]*)"')


class Secret:
    """A value whose ``repr`` does not show it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        """Wrap a value."""
        self.value = value

    def __repr__(self) -> str:
        """The placeholder."""
        return SHOWN


def columns(table: sa.Table) -> frozenset[str]:
    """Names of a table's secret columns."""
    return frozenset(column.name for column in table.columns if ColumnRules.of(column).secret)


def hidden(table: sa.Table, column: str, values: Iterable[Any]) -> list[Any]:
    """Values of a column for findings."""
    return [Secret(value) for value in values] if column in columns(table) else list(values)


def revealed(value: Any) -> Any:
    """The original value of a finding; only the ledger may use it."""
    return value.value if isinstance(value, Secret) else value


def redacted(cast: Cast) -> Cast:
    """The same cast, with errors that do not quote the value."""

    def convert(values: pa.Array) -> Converted:
        try:
            return cast.convert(values)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(
                "Invalid UTF8 payload" if "UTF8" in str(error) else "a secret value is wrong"
            ) from None

    return replace(cast, convert=convert)


def redact_message(table: sa.Table, message: str) -> str:
    """PostgreSQL's message about a row, cut before a quotation that may be a secret.

    Quoted names of the table are kept.
    """
    if not columns(table):
        return message
    known = _names(table) | _OURS
    for quotation in _QUOTED.finditer(message):
        if quotation[1] not in known:
            return f"{message[: quotation.start()]}{SHOWN}"
    return message


def quoted_names(message: str) -> list[str]:
    """What PostgreSQL's message has within quotation marks."""
    return _QUOTED.findall(message)


def _names(table: sa.Table) -> set[str]:
    named: Sequence[Any] = (table, *table.columns, *table.constraints, *table.indexes)
    return {str(each.name) for each in named}
