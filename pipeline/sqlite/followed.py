"""Files that follow a database elsewhere: they are read here, and written only there.

Such a file has a mark beside it, so that nobody writes the copy by mistake and believes that the
database itself was written.
"""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline.core import private
from pipeline.core.errors import SourceError

_MARK = ".follows"


class Primary(Protocol):
    """The database that a file follows."""

    def writing(self, file: Path, *, why: str) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction there, and then the file follows; an exception undoes it.

        What is executed on the connection is tried on the file, whose rows it sees, and undone in
        it; it counts once the block has ended.
        """


PRIMARIES: dict[Path, Primary] = {}
"""Those that can be written, by the file that follows."""


def mark(file: Path, shown: str) -> None:
    """Let it be known that a file follows another database, whatever process looks at it."""
    beside = file.with_name(f"{file.name}{_MARK}")
    if not beside.exists():
        private.write_text(beside, shown)


def primary_of(file: Path, *, why: str) -> Primary | None:
    """What has to be written in place of a file; None where the file itself is the database.

    Args:
        file: the file.
        why: what needs to write, for people.

    Raises:
        SourceError: it follows what cannot be written.
    """
    beside = file.with_name(f"{file.name}{_MARK}")
    if not beside.exists():
        return None
    if file not in PRIMARIES:
        raise SourceError(
            f"The source, {beside.read_text()}, cannot be written, which {why} needs",
            remedy="Take the database itself as the source: libsql://HOST, or its SQLite file",
        )
    return PRIMARIES[file]
