"""Prepare a source for a copy: a private file, in UTF-8, in which every table has row ids."""

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.copy.source import virtual_rows
from pipeline.copy.source.prepared import ROW_ID, ROW_IDS, PreparedSource, stand_in_of
from pipeline.core import private
from pipeline.core.locks import private_folder
from pipeline.core.progress import waiting
from pipeline.core.quoting import quoted
from pipeline.sqlite import fetch, opening
from pipeline.sqlite.catalog import change_log, collations, plain_tables
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.origin import Origin
from pipeline.sqlite.snapshot import copy_source, fingerprint_of
from pipeline.sqlite.sql_dump import Log
from pipeline.sqlite.structure import reading
from pipeline.sqlite.structure.model import Schema, Table

_FROZEN = "pipeline_frozen_"
"""The beginning of the names of triggers with which a cut-over blocks writes."""


@contextmanager
def prepared(
    origin: Origin, *, home: Path, log: Log = fetch.log_to_stderr
) -> Iterator[PreparedSource]:
    """Copy a source into a private folder, which is deleted at the end.

    Args:
        home: the folder of the pipeline's files.
        log: receives messages about progress and repairs.

    Raises:
        SourceError: the source cannot be read, or there is no space for the copy.
    """
    with contextlib.ExitStack() as opened:
        with waiting(f"reading {origin.shown}"):
            located = fetch.fetch(origin, home=home, log=log)
        folder = opened.enter_context(private_folder(home / "copies", secrets.token_hex(8)))
        path, fingerprint = folder / "source.db", fingerprint_of(located)
        with waiting(f"copying {located}"):
            copy_source(located, path)
        try:
            schema = _structure(path)
            path = _in_utf8(path, schema)
            stand_ins = _with_row_ids(path, schema)
            virtual = virtual_rows.copy_all(path, schema)
        except opening.UNREADABLE as error:
            raise unreadable(located, error, copy=path) from error
        yield opened.enter_context(
            closing(
                PreparedSource(
                    path,
                    origin.shown,
                    replace(schema, tables=(*schema.tables, *virtual.tables)),
                    stand_ins | virtual.stand_ins,
                    fingerprint,
                    virtual.unread,
                )
            )
        )


def _structure(path: Path) -> Schema:
    with closing(opening.connect(path, "immutable")) as connection:
        collations.stand_in(connection)
        found = reading.read(connection)
        ours = {name for name, _, _ in change_log.our_triggers(connection)}
        tracked = change_log.log_exists(connection)
    # What this project has added to the source belongs to the source alone.
    return replace(
        found,
        tables=tuple(t for t in found.tables if not (tracked and t.name == change_log.LOG)),
        triggers=tuple(
            t for t in found.triggers if t.name not in ours and not t.name.startswith(_FROZEN)
        ),
    )


def _in_utf8(path: Path, schema: Schema) -> Path:
    """The file itself, or a file with the same rows whose texts are in UTF-8."""
    with closing(opening.connect(path, "immutable")) as raw:
        encoding = plain_tables.utf16(raw)
        if encoding is None:
            return path
        collations.stand_in(raw)
        plain = path.with_name("plain.db")
        private.create(plain)
        with closing(opening.connect(plain, "rw")) as into:
            into.execute("PRAGMA journal_mode = OFF")
            for table in schema.tables:
                plain_tables.transcode(raw, into, table.name, encoding=encoding)
            for view in schema.views:
                into.execute(view.sql)
            into.commit()
    path.unlink()
    return plain


def _with_row_ids(path: Path, schema: Schema) -> dict[str, str]:
    """Copy the rows of tables that cannot be read by row id; returns the tables that have them."""
    with closing(opening.connect(path, "immutable")) as connection:
        only_there = collations.unknown(connection)
        stand_ins = {
            table.name: stand_in_of(table.name)
            for table in schema.tables
            if not _has_row_ids(table)
            # The Arrow reader has no collations of an application.
            or (only_there and collations.named_by(connection, table.name) & only_there)
        }
    if stand_ins:
        with closing(opening.connect(path, "rw")) as connection:
            collations.stand_in(connection)
            connection.execute("PRAGMA journal_mode = OFF")
            for name, stand_in in stand_ins.items():
                _copy_rows(connection, schema.table(name), stand_in)
            connection.commit()
    return stand_ins


def _has_row_ids(table: Table) -> bool:
    if table.without_rowid:
        return False
    taken = {column.name.lower() for column in table.columns}
    return table.is_row_id or any(name not in taken for name in ROW_IDS)


def _copy_rows(connection: sqlite3.Connection, table: Table, stand_in: str) -> None:
    # Columns without a type store every value unchanged.
    names = ", ".join(quoted(column.name) for column in table.columns)
    connection.execute(
        f"CREATE TABLE {quoted(stand_in)} ({quoted(ROW_ID)} INTEGER PRIMARY KEY, {names})"
    )
    connection.execute(
        f"INSERT INTO {quoted(stand_in)} ({names}) SELECT {names} FROM {quoted(table.name)}"
        " NOT INDEXED"
    )
