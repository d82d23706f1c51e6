"""Backups of older versions: tables, columns and a schema by their present names."""

import re
from dataclasses import replace

from pipeline.backup.manifest import TargetTable
from pipeline.declared import functions, ledger

_FUNCTIONS_SCHEMA = f"CREATE SCHEMA IF NOT EXISTS {ledger.OLD_FUNCTIONS_SCHEMA}"
_TABLES, _COLUMNS = dict(ledger.RENAMED_TABLES), ledger.RENAMED_COLUMNS


def renamed(table: TargetTable) -> TargetTable:
    """A table of a backup by its present names; its file keeps its name."""
    if table.schema == ledger.SCHEMA:
        return _ledger_table(table)
    if _FUNCTIONS_SCHEMA in table.definition.get("functions", ()):
        old = rf"(?<=^CREATE SCHEMA IF NOT EXISTS ){ledger.OLD_FUNCTIONS_SCHEMA}$"
        called = rf"\b{ledger.OLD_FUNCTIONS_SCHEMA}(?=\.\w+\(\))"
        return _replaced(table, {f"{old}|{called}": functions.SCHEMA})
    return table


def _ledger_table(table: TargetTable) -> TargetTable:
    name = _TABLES.get(table.name, table.name)
    columns = {old: new for table_name, old, new in _COLUMNS if table_name == name}
    names = {rf"\b{old}\b": new for old, new in columns.items()}
    # Names of constraints begin with that of their table.
    names |= {rf"\b{old}(?=\b|_)": new for old, new in _TABLES.items()}
    made = _replaced(table, names)
    present = tuple(columns.get(column, column) for column in table.columns)
    return replace(made, name=name, columns=present, stored_as=table.name)


def _replaced(table: TargetTable, names: dict[str, str]) -> TargetTable:
    definition = dict(table.definition)
    for old, new in names.items():
        definition = {
            phase: tuple(re.sub(old, new, statement) for statement in statements)
            for phase, statements in definition.items()
        }
    return replace(table, definition=definition)
