"""Creation of samples: a file appears only when it is complete, and never replaces another."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.core import private
from pipeline.core.errors import FilesError

Row = tuple[object, ...]


def write(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Create an SQLite file and missing folders.

    ``fill`` creates tables and rows in an empty database.

    Raises:
        FileExistsError: the path exists; it does not change.
        FilesError: the file cannot be written.
    """
    _refuse_existing(path)
    private.folder(path.parent)
    with (
        TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch,
        closing(sqlite3.connect(":memory:")) as source,
    ):
        fill(source)
        source.commit()
        whole = Path(scratch, path.name)
        private.create(whole)
        try:
            source.execute("VACUUM INTO ?", (str(whole),))
        except sqlite3.OperationalError as error:
            raise FilesError(
                f"The sample {path} cannot be written ({error})",
                remedy="Free space on that disk, or configure a source",
            ) from error
        _refuse_existing(path)
        whole.rename(path)


def insert(source: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows with a value for each column."""
    marks = ", ".join("?" * len(rows[0]))
    source.executemany(f"INSERT INTO `{table}` VALUES ({marks})", rows)


def numbered(rows: Iterable[Row]) -> list[Row]:
    """Put ids from 1 in front of rows."""
    return [(i, *row) for i, row in enumerate(rows, 1)]


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; move it or choose another path for the sample")
