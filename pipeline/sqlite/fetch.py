"""Fetching of a source into an SQLite file.

Copies are kept under ``PIPELINE_HOME`` in a folder that only this user can access. A marker next to
a copy names its origin: a cut-over never writes the copy itself, see ``copy_markers``.
"""

import sys
from functools import partial
from pathlib import Path

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.locks import locked
from pipeline.sqlite import copy_markers, replica, sql_dump
from pipeline.sqlite.origin import Dump, File, Origin, Remote, place
from pipeline.sqlite.primary import Primary
from pipeline.sqlite.sql_dump import Log


def log_to_stderr(text: str) -> None:
    """Print a message that is not part of a command's output."""
    print(text, file=sys.stderr, flush=True)


def fetch(origin: Origin, *, home: Path, log: Log = log_to_stderr) -> Path:
    """Update the copy of a source, and return the SQLite file to read.

    Concurrent calls wait for each other. The next call repeats an interrupted update; until then
    the file does not change.

    Args:
        origin: the source; a file is returned unchanged.
        home: the folder of the pipeline's files.
        log: receives messages about progress and repairs.

    Raises:
        SourceError: the source cannot be fetched.
        Transient: the server did not respond.
    """
    path = place(origin, home=home)
    if isinstance(origin, File):
        return path
    folder = path.parent
    try:
        private.folder(folder)
        copy_markers.mark(path, origin.shown)
        with locked(folder / "lock", wait=True) as lock:
            match origin:
                case Dump():
                    sql_dump.update_copy(origin.path, path, log=log)
                case Remote():
                    replica.update_copy(origin, path, lock=lock, log=log)
                    refresh = partial(fetch, origin, home=home, log=log)
                    copy_markers.PRIMARIES[path] = Primary(origin, refresh)
    except OSError as error:
        raise SourceError(
            f"The copy of {origin.shown} in {folder} cannot be written ({error.strerror})",
            remedy="Check the permissions and the free space of PIPELINE_HOME",
        ) from error
    return path
