"""A sample appears under its name only when it is complete, and never over something else."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.core import private
from pipeline.core.errors import FilesError


def write(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Write a new SQLite file; missing folders are created.

    Args:
        path: where it goes.
        fill: makes tables and rows in an empty database.

    Raises:
        FileExistsError: something has this name already; it is left as it is.
        FilesError: it cannot be written.
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
                remedy="Free space on that disk, or name a source of your own",
            ) from error
        _refuse_existing(path)
        whole.rename(path)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; move it away or choose another name for the sample")
