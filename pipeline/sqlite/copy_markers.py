"""Copies of another database: reads use the copy, writes go to the original (the primary).

A marker file next to a copy prevents that a process writes the copy by mistake.
"""

import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline.core import private
from pipeline.core.errors import SourceError

_MARK = ".follows"


class Primary(Protocol):
    """The original of a copy."""

    def writing(self, file: Path, *, why: str) -> AbstractContextManager[sqlite3.Connection]:
        """Run a transaction on the primary and then update the copy; an exception rolls back.

        Statements are first tried on the copy and rolled back there. They are sent to the primary
        when the block ends.
        """


PRIMARIES: dict[Path, Primary] = {}
"""Primaries that can be written, by the path of their copy."""


def mark(file: Path, shown: str) -> None:
    """Mark a file as a copy, for all processes."""
    marker = file.with_name(f"{file.name}{_MARK}")
    if not marker.exists():
        private.write_text(marker, shown)


def primary_of(file: Path, *, why: str) -> Primary | None:
    """The primary of a copy; None if the file is not a copy.

    ``why`` is the reason for writing in messages.

    Raises:
        SourceError: the primary cannot be written.
    """
    marker = file.with_name(f"{file.name}{_MARK}")
    if not marker.exists():
        return None
    if file not in PRIMARIES:
        raise SourceError(
            f"The source, {marker.read_text()}, cannot be written, which {why} requires",
            remedy="Use the database itself as the source: libsql://HOST, or its SQLite file",
        )
    return PRIMARIES[file]
