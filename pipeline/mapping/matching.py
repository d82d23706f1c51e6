"""Match a declared table with the columns that the source has.

SQLite's names have no case. Columns that only the source has are carried to the target as nullable
columns, and reported as drift. A declared column that the source lacks stops the move, unless only
the target is meant to have it (``ColumnRules.added``), or a policy gives it its default.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.errors import SettingsError, SourceError
from pipeline.core.findings import Drift
from pipeline.core.messages import SOURCE_SETTING, message
from pipeline.core.policies import DEFAULT, Policies
from pipeline.declared import forms
from pipeline.declared.rules import ColumnRules, TableRules
from pipeline.mapping.casts import carried
from pipeline.mapping.casts.types import cast_for, type_name
from pipeline.mapping.source_names import require_distinct
from pipeline.mapping.table_mapping import TableMapping

_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_LONGEST_NAME = 63
_MOST_COLUMNS = 1_000
"""PostgreSQL's limit is 1,600, or less for long values, and includes dropped columns."""


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source.

    Attributes:
        declared: its type.
        default: its default, as SQL.
        unique: a unique constraint or index holds for this column alone.
    """

    name: str
    declared: str
    default: str = ""
    unique: bool = False


def folded(name: str) -> str:
    """A name as SQLite compares it: without the case of ASCII letters."""
    if name.isascii():
        return name.lower()
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), name)


def match(
    declared: sa.Table,
    source_columns: Sequence[SourceColumn],
    policies: Policies = DEFAULT,
    *,
    types: Sequence[tuple[str, str]] = (),
) -> TableMapping:
    """Match a declared table with the columns that the source has.

    Args:
        types: carried columns, and the names of their types; see ``carried``.

    Raises:
        SourceError: the source lacks a column, or has columns that the policy forbids.
        SettingsError: a policy names a column that does not exist, or gives it an unsuitable form
            or replacement for NULL.
    """
    return _matched(declared, tuple(source_columns), _PoliciesKey(policies), tuple(types))


def extra_columns(
    declared: sa.Table, source_columns: Sequence[SourceColumn], policies: Policies = DEFAULT
) -> list[SourceColumn]:
    """The columns that only the source has."""
    taken = {found.name for found in resolved(declared, source_columns, policies).values()}
    return [column for column in source_columns if column.name not in taken]


@dataclass(frozen=True)
class _PoliciesKey:
    """Policies as a cache key, equal only if their ``repr`` is: 1 differs from ``True``."""

    policies: Policies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PoliciesKey) and repr(self.policies) == repr(other.policies)

    def __hash__(self) -> int:
        return hash(repr(self.policies))


@functools.lru_cache(maxsize=128)
def _matched(
    declared: sa.Table,
    source_columns: tuple[SourceColumn, ...],
    key: _PoliciesKey,
    types: tuple[tuple[str, str], ...],
) -> TableMapping:
    """Match a table once in a process: a run needs each mapping several times."""
    policies = key.policies
    found = resolved(declared, source_columns, policies)
    extra = extra_columns(declared, source_columns, policies)
    _require_columns(declared, extra, policies)
    carries = extra if policies.extra_columns == "carry" else []
    require_distinct(declared, {n: c.name for n, c in found.items()}, [c.name for c in carries])
    drift = [*_missing(declared, found, extra, policies)]
    table = with_forms(declared, policies)
    drift += _retyped(table, found)
    drift += _extra(table, extra, policies)
    unique: list[str] = []
    if carries:
        table = _copy(table) if table is declared else table
        for column in carries:
            if _carry(table, column, policies, dict(types)):
                unique.append(column.name)
            detail = f"added to the target as {type_name(table.columns[column.name].type)}"
            drift.append(Drift(table.name, column.name, "carried", detail))
            found[column.name] = column
    moving = tuple(column for column in table.columns if column.name in found)
    kinds = {column.name: found[column.name].declared for column in moving}
    others = {name: each.name for name, each in found.items() if folded(each.name) != folded(name)}
    mapping = TableMapping(table, moving, kinds, tuple(drift), policies, others, tuple(unique))
    _ = mapping.fills
    return mapping


def resolved(
    table: sa.Table, source_columns: Sequence[SourceColumn], policies: Policies
) -> dict[str, SourceColumn]:
    """The source's column of each declared column that it has, by the declared name."""
    available = {folded(column.name): column for column in source_columns}
    resolved = {}
    for column in table.columns:
        given = policies.source_names.get(f"{table.name}.{column.name}")
        names = [given] if given is not None else [*_names(table, column.name)]
        for name in names:
            if folded(name) in available:
                resolved[column.name] = available[folded(name)]
                break
        else:
            if given is not None:
                raise SettingsError(
                    f"POLICY_SOURCE_NAMES gives {table.name}.{column.name} the name {given}, but"
                    f" the source has no such column in {table.name}",
                    remedy="Correct the name; the source has "
                    + ", ".join(each.name for each in source_columns),
                )
    return resolved


def _names(table: sa.Table, name: str) -> Iterator[str]:
    """Names that the source may give a column."""
    yield ColumnRules.of(table.columns[name]).source_name or name
    if TableRules.of(table).camel_case and name not in table.primary_key.columns:
        first, *rest = name.split("_")
        yield first + "".join(word.capitalize() for word in rest)


def with_forms(table: sa.Table, policies: Policies) -> sa.Table:
    """The table with the forms that the policy gives to its columns."""
    given = {
        name.rpartition(".")[2]: form
        for name, form in policies.forms.items()
        if name.rpartition(".")[0] == table.name
    }
    kinds = {}
    for name, form in given.items():
        if name not in table.columns:
            continue
        found = forms.of_form(table.columns[name], form)
        if found is None or name in table.primary_key.columns:
            raise SettingsError(
                f"POLICY_FORMS gives {table.name}.{name}, a {type_name(table.columns[name].type)},"
                f" the form {form}",
                remedy="A form is seconds, milliseconds, microseconds or julian_days for a moment,"
                " two words such as t/f for a boolean, and decimal_text for a numeric; keys have"
                " none",
            )
        kinds[name] = found
    if not kinds:
        return table
    table = _copy(table)
    for name, found in kinds.items():
        table.columns[name].type = found
    return table


def _extra(table: sa.Table, extra: Sequence[SourceColumn], policies: Policies) -> Iterator[Drift]:
    """Check columns that only the source has, and report those that stay there."""
    if policies.extra_columns == "carry":
        _require_room(table, extra)
    elif policies.extra_columns == "ignore":
        for column in extra:
            yield Drift(table.name, column.name, "ignored", "stays in the source")
    elif extra:
        raise SourceError(
            f"Table {table.name} of the source has undeclared columns:"
            f" {', '.join(column.name for column in extra)}",
            remedy="Declare them, or set POLICY_EXTRA_COLUMNS to carry or ignore",
        )


def _carry(
    table: sa.Table, column: SourceColumn, policies: Policies, types: dict[str, str]
) -> bool:
    """Add a column of the source to a table; returns whether its values stay unique."""
    form = policies.forms.get(f"{table.name}.{column.name}")
    name = types.get(column.name, carried.preferred(column.declared, column.default))
    if form is not None:
        if forms.of_carried(form) is None:
            raise SettingsError(
                f"POLICY_FORMS gives {table.name}.{column.name} the form {form}",
                remedy="For a column that only the source has, a form is seconds, milliseconds,"
                " microseconds, julian_days, boolean, or two words such as t/f",
            )
        name = carried.named_form(form)
    table.append_column(sa.Column(column.name, carried.kind(name), nullable=True))
    # Other types may make equal what is distinct in the source.
    return column.unique and name in ("bigint", "text")


def _require_room(table: sa.Table, extra: Sequence[SourceColumn]) -> None:
    """Reject columns that PostgreSQL does not support."""
    wrong = [
        column.name
        for column in extra
        if column.name in _SYSTEM_COLUMNS
        or not 0 < len(column.name.encode(errors="surrogatepass")) <= _LONGEST_NAME
    ]
    if wrong or len(table.columns) + len(extra) > _MOST_COLUMNS:
        shown = ", ".join(repr(name[:_LONGEST_NAME]) for name in wrong[:5])
        unsupported = f"columns whose names PostgreSQL does not support: {shown}"
        raise SourceError(
            f"Table {table.name} of the source has"
            f" {unsupported if wrong else f'{len(extra):,} undeclared columns, too many'}",
            remedy="Rename or drop them, or set POLICY_EXTRA_COLUMNS=ignore",
        )


def _copy(declared: sa.Table) -> sa.Table:
    """A copy of a table that can be extended, with copies of the tables that it refers to."""
    everything = sa.MetaData(
        naming_convention=declared.metadata.naming_convention, info=declared.metadata.info
    )
    for table in declared.metadata.sorted_tables:
        table.to_metadata(everything)
    return everything.tables[declared.name]


def _require_columns(table: sa.Table, extra: Sequence[SourceColumn], policies: Policies) -> None:
    """Reject policies for columns that do not exist."""
    tables = table.metadata.tables
    for name in policies.forbidden_nulls:
        of_table, _, column = name.rpartition(".")
        declared = tables.get(of_table)
        if declared is None or column not in declared.columns or declared.columns[column].nullable:
            raise SettingsError(
                f"POLICY_FORBIDDEN_NULLS names {name}, which is not a NOT NULL column",
                remedy='Correct it, as in {"content_fragments.native_text": ""}',
            )
    for setting, names in (
        ("POLICY_FORMS", policies.forms),
        ("POLICY_SOURCE_NAMES", policies.source_names),
    ):
        for name in names:
            of_table, _, column = name.rpartition(".")
            declared = tables.get(of_table)
            # Only the source tells which further columns a table has.
            extra_names = [each.name for each in extra] if declared is table else [column]
            known = [] if declared is None else [*declared.columns.keys()]
            if setting == "POLICY_FORMS" and declared is not None:
                known += extra_names
            if column not in known:
                raise SettingsError(
                    f"{setting} names {name}, which is not a column",
                    remedy="Write it as table.column, with the name of the column in the target",
                )


def _missing(
    table: sa.Table,
    found: dict[str, SourceColumn],
    extra: Sequence[SourceColumn],
    policies: Policies,
) -> Iterator[Drift]:
    missing = [
        column
        for column in table.columns
        if column.name not in found and not ColumnRules.of(column).added
    ]
    required = [
        column
        for column in missing
        if column.primary_key or not (column.nullable or column.server_default is not None)
    ]
    wrong = missing if policies.missing_columns == "fail" else required
    if wrong:
        _refuse(table, wrong, required, extra, policies)
    for column in missing:
        yield Drift(table.name, column.name, "missing", "the source lacks it")


def _refuse(
    table: sa.Table,
    missing: Sequence[sa.Column[Any]],
    required: Sequence[sa.Column[Any]],
    extra: Sequence[SourceColumn],
    policies: Policies,
) -> None:
    """Stop because of columns that the source lacks.

    Raises:
        SourceError: names them, and columns with similar names.
    """
    alike = {each.name.replace("_", "").lower(): each.name for each in extra}
    similar = {
        f"{table.name}.{column.name}": alike[column.name.replace("_", "").lower()]
        for column in missing
        if column.name.replace("_", "").lower() in alike
    }
    remedies: list[Any] = ["Check that ", SOURCE_SETTING, " names the right file and version"]
    if similar:
        names = json.dumps({**policies.source_names, **similar}, ensure_ascii=False)
        remedies.append(f". If names differ, set POLICY_SOURCE_NAMES={names}")
    if not required:
        remedies.append(". To give the rows their default, set POLICY_MISSING_COLUMNS=default")
    raise SourceError(
        f"Table {table.name} of the source has no column {', '.join(c.name for c in missing)}",
        remedy=message(*remedies),
    )


def _retyped(table: sa.Table, found: dict[str, SourceColumn]) -> Iterator[Drift]:
    for column in table.columns:
        source = found.get(column.name)
        if source is None or not source.declared:
            continue
        expected = cast_for(column).storage
        kind = carried.kind(carried.by_declaration(source.declared, source.default, empty=True))
        actual = cast_for(sa.Column(column.name, kind)).storage
        if not set(expected) & set(actual):
            detail = f"declared {source.declared} in the source, {column.type} in the target"
            yield Drift(table.name, column.name, "retyped", detail)
