"""From where a source comes to an SQLite file that is read as any other.

What is fetched lies under ``PIPELINE_HOME`` in a folder that only this user can enter. A mark
beside it says whose copy it is: the copy itself is never written by a cut-over, see
``pipeline.sqlite.followed``.
"""

import sys
from functools import partial
from pathlib import Path

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.locks import locked
from pipeline.sqlite import dump, followed, replica
from pipeline.sqlite.dump import Log
from pipeline.sqlite.origin import Dump, File, Origin, Remote, place
from pipeline.sqlite.primary import Primary


def tell(text: str) -> None:
    """Say something beside what a command prints."""
    print(text, file=sys.stderr, flush=True)


def fetch(origin: Origin, *, home: Path, log: Log = tell) -> Path:
    """Bring the file that is read up to date with where it comes from.

    Two processes at once do it one after the other. What is interrupted is done again by the next
    call; until then the file is what it was.

    Args:
        origin: where the source comes from.
        home: where the pipeline keeps its files.
        log: told what takes long, and what was mended.

    Raises:
        SourceError: it cannot be had; the message says what to do.
        Transient: the server did not answer now.
    """
    path = place(origin, home=home)
    if isinstance(origin, File):
        return path
    folder = path.parent
    try:
        private.folder(folder)
        followed.mark(path, origin.shown)
        with locked(folder / "lock", wait=True) as held:
            match origin:
                case Dump():
                    dump.bring(origin.path, path, log=log)
                case Remote():
                    replica.bring(origin, path, held=held, log=log)
                    again = partial(fetch, origin, home=home, log=log)
                    followed.PRIMARIES[path] = Primary(origin, again)
    except OSError as error:
        raise SourceError(
            f"The copy of {origin.shown} in {folder} cannot be written ({error.strerror})",
            remedy="Check the rights and the room of PIPELINE_HOME",
        ) from error
    return path
