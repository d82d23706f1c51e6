"""The input of the limit: each table as a file in PostgreSQL's binary COPY format.

The files are created once per source, in a folder beside it, and contain exactly its rows. Creating
them is not measured.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import psycopg2
from psycopg2 import extensions

from bench.target import TABLES, Table

_BATCH_CHARACTERS = 4 << 20
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def encoded_file(source: Path, table: Table) -> Path:
    """The path of a table's binary COPY file; it need not exist."""
    return source.with_suffix(".copy") / table.name


def encode(source: Path, url: str) -> None:
    """Create the binary COPY files of a source, using the empty database at `url`."""
    final = source.with_suffix(".copy")
    unfinished = source.with_suffix(".copying")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with (
        closing(sqlite3.connect(source)) as reader,
        closing(psycopg2.connect(url, options="-c timezone=UTC")) as writer,
        writer.cursor() as cursor,
    ):
        for table in TABLES:
            cursor.execute(table.create)
            _fill(table, reader, cursor)
            with (unfinished / table.name).open("wb") as file:
                cursor.copy_expert(f"COPY {table.name} TO STDOUT (FORMAT binary)", file)
    unfinished.rename(final)


def _fill(table: Table, reader: sqlite3.Connection, cursor: extensions.cursor) -> None:
    columns = ", ".join(table.columns)
    for batch in _batches(reader.execute(f"SELECT {columns} FROM {table.name} ORDER BY id")):
        cursor.copy_expert(f"COPY {table.name} ({columns}) FROM STDIN", batch)


def _batches(rows: Iterator[tuple[object, ...]]) -> Iterator[StringIO]:
    """Rows in COPY's text format, in batches of about four million characters."""
    batch = StringIO()
    for row in rows:
        batch.write("\t".join(map(_text, row)) + "\n")
        if batch.tell() >= _BATCH_CHARACTERS:
            batch.seek(0)
            yield batch
            batch = StringIO()
    batch.seek(0)
    yield batch


def _text(value: object) -> str:
    match value:
        case None:
            return "\\N"
        case bytes():
            return "\\\\x" + value.hex()
        case _:
            return str(value).translate(_ESCAPES)
