"""SQLite's errors as sentences: what is wrong with the source, and what to do about it."""

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import SourceError


@dataclass(frozen=True)
class _Fault:
    """An error of SQLite.

    Attributes:
        text: matches SQLite's message; ``{1}`` and so on in the sentences are its groups.
        problem: the sentence; ``{source}`` is the file.
    """

    text: str
    problem: str
    remedy: str


_RECOVER = "Restore it from a backup, or recover it with `sqlite3 FILE .recover`"

_FAULTS = (
    _Fault(
        r"locked|busy",
        "The source {source} is locked by another program",
        "Wait until that program has finished its transaction, then run again",
    ),
    _Fault(
        r"no such collation sequence: (.+)",
        "The source {source} uses the collation {1}, which only the application has",
        "Declare the column or index that uses it with NOCASE, or drop that index, in the"
        " application; then run again",
    ),
    _Fault(
        r"(?:no such|unknown) function: ([^()]+)",
        "The schema of the source {source} calls {1}(), which only the application has",
        "Let the application store what it computes in an ordinary column, or drop the trigger,"
        " view, index or CHECK that calls it; then run again",
    ),
    _Fault(
        r"unsafe use of (.+?)(?:\(\))?$",
        "The schema of the source {source} uses {1}, which a file from elsewhere may not use",
        "Drop the view, trigger, index or CHECK that uses it if the application does not need it",
    ),
    _Fault(
        r"(malformed database schema \((.*?)\).*)",
        f"SQLite {sqlite3.sqlite_version} cannot read the definition of {{2}} in the source"
        " {source} ({1})",
        "If a newer SQLite wrote the file, use a Python build with that version; otherwise restore"
        " the file from a backup, or recover it with `sqlite3 FILE .recover`",
    ),
    _Fault(
        r"unsupported file format",
        "The source {source} has a file format that SQLite"
        f" {sqlite3.sqlite_version} does not support",
        "Use a Python build with the SQLite version that wrote the file",
    ),
    _Fault(
        r"not a database|encrypted",
        "The source {source} is encrypted or not an SQLite database",
        "Export a plain SQLite copy first",
    ),
    _Fault(
        r"foreign key mismatch - (.*)",
        "The source {source} declares a foreign key to columns that are not unique ({1})",
        "Add a UNIQUE index to the columns that it refers to, then run again",
    ),
    _Fault(
        r"(no such (?:table|column): .+)",
        "The schema of the source {source} refers to what it does not have ({1})",
        "Correct or drop the view, trigger or foreign key that refers to it, then run again",
    ),
    _Fault(
        r"database schema has changed",
        "The schema of the source {source} was changed while it was read",
        "Run again",
    ),
    _Fault(r"interrupted", "Reading of the source {source} was interrupted", "Run again"),
    _Fault(
        r"too big",
        "The source {source} has a value larger than PostgreSQL can store (1 GB)",
        "Shorten that value, or store it outside of the database; then run again",
    ),
    _Fault(
        r"no memory|out of memory",
        "There is not enough memory to read the source {source}",
        "End other programs, or use a machine with more memory; then run again",
    ),
    _Fault(
        r"disk I/O error",
        "The source {source} is damaged or truncated, or its disk fails (disk I/O error)",
        "Copy it to another disk and run again; if that fails, restore it from a backup or recover"
        " it with `sqlite3 FILE .recover`",
    ),
    _Fault(
        r"(.*(?:malformed|corrupt).*|it is not UTF-8)",
        "The source {source} is damaged or truncated ({1})",
        _RECOVER,
    ),
)

_OPENING = _Fault(
    r"unable to open",
    "The source {source}, or a file that SQLite keeps beside it, cannot be opened",
    "Give this user permission to read the file and to write in its folder, where SQLite keeps"
    " -wal and -shm, or use a copy in another folder",
)
_NAMED = {
    "SQLITE_READONLY_DBMOVED": _Fault(
        "", "The source {source} was moved or replaced while it was open", "Run again"
    ),
    "SQLITE_READONLY_RECOVERY": _OPENING,
    "SQLITE_READONLY_CANTINIT": _OPENING,
    "SQLITE_READONLY_CANTLOCK": _OPENING,
    "SQLITE_IOERR_SHORT_READ": _Fault(
        "", "The source {source} is truncated: pages are missing at its end", _RECOVER
    ),
}
"""Errors whose message says less than their code."""


def unreadable(source: Path, error: Exception, *, copy: Path | None = None) -> SourceError:
    """Translate SQLite's error about a file.

    Args:
        source: the file.
        error: raised by SQLite.
        copy: the private copy, if one was being written.
    """
    text = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error) or "no memory"
    text = text.splitlines()[0]
    if "is full" in text:
        return SourceError(
            f"There is no space for the copy of {source} in {copy.parent}"
            if copy
            else f"The disk of {source} is full",
            remedy="Free space on that disk and run again",
        )
    code = getattr(error, "sqlite_errorname", "")
    known = _NAMED.get(code)
    if known is None and "readonly" in text:
        return SourceError(
            f"The source {source} has an unfinished transaction of a killed program in"
            f" {source.name}-journal",
            remedy="Start and close the application once to roll it back, then run again",
        )
    for fault in (known,) if known else (*_FAULTS, _OPENING):
        found = re.search(fault.text, text)
        if found:
            groups = ["", *(group or "no details" for group in found.groups())]
            return SourceError(fault.problem.format(*groups, source=source), remedy=fault.remedy)
    return SourceError(
        f"SQLite cannot read the source {source} ({text})",
        remedy="Check it with `sqlite3 FILE 'PRAGMA integrity_check'`, and correct what that names",
    )
