"""Types that the user gives to columns: ``--cast table.column=type``."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.copy.census.declared import meaning
from pipeline.copy.census.groups import Place, groups
from pipeline.core.errors import SettingsError
from pipeline.declared.forms import (
    DECIMAL_TEXT,
    UNITS,
    DecimalText,
    EpochMoment,
    MixedBytes,
    MixedText,
    WordBoolean,
    is_words,
)
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import Column, Schema, Table

Kind = sa.types.TypeEngine[Any]

_KINDS: dict[str, Kind] = {
    "smallint": sa.SmallInteger(),
    "integer": sa.Integer(),
    "bigint": sa.BigInteger(),
    "real": sa.Float(24),
    "double precision": sa.Double(),
    "numeric": sa.Numeric(),
    "boolean": WordBoolean(),
    "text": MixedText(),
    "bytea": MixedBytes(),
    "jsonb": JSONB(),
    "uuid": sa.Uuid(),
    "date": sa.Date(),
    "time": sa.Time(),
    "timestamp": sa.DateTime(),
    "timestamptz": sa.DateTime(timezone=True),
}
"""Types by name; the widest form of each, which takes the most values."""
_SYNONYMS = {
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "decimal": "numeric",
    "varchar": "text",
    "json": "jsonb",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_SIZED = re.compile(r"(varchar|character varying|numeric|decimal) ?\((\d+)(?: ?, ?(\d+))?\)")
_LISTED = 20


def kinds(schema: Schema, casts: Mapping[str, str]) -> dict[str, dict[str, Kind]]:
    """The given types by table and column, also of columns that foreign keys join with these.

    Raises:
        SettingsError: there is no such table, column or type, or two types exclude each other.
    """
    chosen: dict[Place, tuple[str, Kind]] = {}
    for name, type_name in casts.items():
        table, column = _find(schema, name)
        chosen[table.name, column.name] = (name, _kind(type_name.strip(), name, column))
    found: dict[str, dict[str, Kind]] = {}
    for group in groups(schema):
        given = [chosen[place] for place in group if place in chosen]
        if not given:
            continue
        _require_one([(name, casts[name]) for name, _ in given])
        for table_name, column_name in group:
            found.setdefault(table_name, {})[column_name] = given[0][1]
    return found


def _require_one(given: list[tuple[str, str]]) -> None:
    (first, first_type), *others = given
    for name, type_name in others:
        if type_name != first_type:
            raise SettingsError(
                f"--cast gives {first} the type {first_type} and {name} the type {type_name}, but"
                " a foreign key joins them",
                remedy=f"Give both the same type, or omit the one of {name}",
            )


def _find(schema: Schema, name: str) -> tuple[Table, Column]:
    """The table and the column of ``table.column``; each part may contain points."""
    tables = {folded(table.name): table for table in schema.tables}
    parts = name.split(".")
    found = None
    for at in range(1, len(parts)):
        table = tables.get(folded(".".join(parts[:at])))
        if table is None:
            continue
        found = table
        column = folded(".".join(parts[at:]))
        for each in table.columns:
            if folded(each.name) == column:
                return table, each
    if len(parts) == 1:
        raise SettingsError(
            f"--cast names {name}, which is not a column of a table",
            remedy="Write it as --cast table.column=type",
        )
    if found is None:
        raise SettingsError(
            f"--cast names {name}, but the source has no table {parts[0]}",
            remedy=f"Name one of its tables: {_listed(table.name for table in schema.tables)}",
        )
    raise SettingsError(
        f"--cast names {name}, but the table {found.name} has no such column",
        remedy=f"Name one of its columns: {_listed(each.name for each in found.columns)}",
    )


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{', '.join(found[:_LISTED])}{more}"


def _kind(type_name: str, name: str, column: Column) -> Kind:
    wanted = " ".join(type_name.lower().split())
    kind = _KINDS.get(_SYNONYMS.get(wanted, wanted)) or _sized(wanted) or _form(wanted, column)
    if kind is None:
        raise SettingsError(
            f"--cast gives {name} the type {type_name}, which is not supported",
            remedy=f"Use {', '.join(_names())}",
        )
    return kind


def _names() -> Iterator[str]:
    yield from _KINDS
    yield from ("varchar(n)", "numeric(p,s)", *UNITS, DECIMAL_TEXT)
    yield "or two words for true and false, such as t/f"


def _sized(wanted: str) -> Kind | None:
    matched = _SIZED.fullmatch(wanted)
    if matched is None:
        return None
    name, first, second = matched.groups()
    if name in ("varchar", "character varying"):
        return sa.String(int(first)) if second is None and int(first) else None
    declared = meaning(f"NUMERIC({first},{second or 0})")
    if declared.precision is None:
        return None
    return sa.Numeric(declared.precision, declared.scale)


def _form(wanted: str, column: Column) -> Kind | None:
    for unit in UNITS:
        if wanted == unit:
            return EpochMoment(unit)
    if wanted == DECIMAL_TEXT:
        declared = meaning(column.declared)
        if declared.family == "decimal":
            return DecimalText(declared.precision, declared.scale)
        return sa.Numeric()
    return WordBoolean(wanted) if is_words(wanted) else None
