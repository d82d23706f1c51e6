"""Check that other names of columns in the source (POLICY_SOURCE_NAMES) are unambiguous."""

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from pipeline.core.errors import SettingsError


def require_distinct(table: sa.Table, names: Mapping[str, str], extra: Iterable[str]) -> None:
    """Refuse a column of the source that belongs to two columns, or has the name of another one.

    Args:
        names: the name in the source of each declared column, by declared name.
        extra: names of columns that are carried.

    Raises:
        SettingsError: names the columns.
    """
    owners: dict[str, str] = {}
    for name, source_name in names.items():
        if source_name in owners:
            raise SettingsError(
                f"{table.name}.{owners[source_name]} and {table.name}.{name} would both be read"
                f" from the column {source_name} of the source",
                remedy="Correct POLICY_SOURCE_NAMES",
            )
        owners[source_name] = name
    declared = {name.lower(): name for name in names}
    for each in extra:
        if each.lower() in declared:
            name = declared[each.lower()]
            raise SettingsError(
                f"{table.name}.{name} is read from the column {names[name]} of the source, which"
                f" also has a column {each}; the target cannot have two columns of that name",
                remedy=f"Correct POLICY_SOURCE_NAMES, rename {each} in the source, or leave such"
                " columns there with POLICY_EXTRA_COLUMNS=ignore",
            )
