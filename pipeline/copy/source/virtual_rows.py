"""Rows of virtual tables, copied as ordinary tables if their module is here and has rows."""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.copy.source.prepared import ROW_ID, stand_in_of
from pipeline.core.quoting import quoted
from pipeline.sqlite import opening
from pipeline.sqlite.catalog import collations
from pipeline.sqlite.structure.model import Column, Schema, Table, VirtualTable

_CONTENT = re.compile(r"[,(]\s*content\s*=", re.IGNORECASE)
"""An option of FTS: the texts are in another table, or nowhere."""
_ROW_ID = "rowid"


@dataclass
class VirtualRows:
    """What became of the virtual tables.

    Attributes:
        tables: with their rows, as ordinary tables.
        stand_ins: the tables of the copy that hold these rows, by name.
        unread: tables whose rows cannot be read, with the reason.
    """

    tables: list[Table] = field(default_factory=list)
    stand_ins: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def copy_all(path: Path, schema: Schema) -> VirtualRows:
    """Copy the rows of all virtual tables of a private file."""
    found = VirtualRows()
    wanted = [table for table in schema.virtual if not _CONTENT.search(table.sql)]
    if not wanted:
        return found
    with closing(opening.connect(path, "rw")) as connection:
        collations.stand_in(connection)
        for table in wanted:
            try:
                columns = _columns(connection, table)
                _copy(connection, table, columns)
            except sqlite3.Error as error:
                connection.rollback()
                found.unread[table.name] = (
                    f"rows of a virtual table of the module {table.module} cannot be read here"
                    f" ({error})"
                )
                continue
            connection.commit()
            found.tables.append(Table(table.name, tuple(columns)))
            found.stand_ins[table.name] = stand_in_of(table.name)
    return found


def _columns(connection: sqlite3.Connection, table: VirtualTable) -> list[Column]:
    info = connection.execute(f"PRAGMA table_xinfo({quoted(table.name)})").fetchall()
    columns = [Column(row[1], row[2] or "") for row in info if not row[6]]
    if table.module.lower().startswith("fts") and _ROW_ID not in {
        column.name.lower() for column in columns
    }:
        # Other tables refer to a text by this number.
        columns.insert(0, Column(_ROW_ID, "INTEGER"))
    return columns


def _copy(connection: sqlite3.Connection, table: VirtualTable, columns: list[Column]) -> None:
    names = ", ".join(quoted(column.name) for column in columns)
    stand_in = quoted(stand_in_of(table.name))
    connection.execute("BEGIN")
    connection.execute(f"CREATE TABLE {stand_in} ({quoted(ROW_ID)} INTEGER PRIMARY KEY, {names})")
    connection.execute(f"INSERT INTO {stand_in} ({names}) SELECT {names} FROM {quoted(table.name)}")
