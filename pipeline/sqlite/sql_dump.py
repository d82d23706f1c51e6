"""An SQLite file built from a dump, which may create and fill tables and do nothing else.

The file is built under a temporary name and renamed once the dump is complete. It is rebuilt only
if the content of the dump has changed. Virtual tables are skipped, because they are never read; the
tables that store their rows are ordinary tables.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.sqlite import opening
from pipeline.sqlite.dump import text
from pipeline.sqlite.dump.execution import CREATE, Execution
from pipeline.sqlite.dump.statements import STATEMENT_BYTES, Unfinished, statements

Log = Callable[[str], None]

_REPORT_BYTES = 256 * 2**20
"""The interval between progress messages."""

_MAX_GROWTH = 10
"""The largest ratio of file size to dump size; the file also contains indexes."""

_PAGE = 4096
_SPARE_PAGES = 4096

_AGAIN = "Create it again, and wait until the program that writes it has finished"


def update_copy(dump: Path, copy: Path, *, log: Log) -> None:
    """Rebuild the SQLite file if the dump has changed since the last build.

    Args:
        dump: the SQL text.
        copy: the SQLite file; the caller holds its lock.
        log: receives progress messages.

    Raises:
        SourceError: the dump cannot be read, is incomplete, or does more than create and fill
            tables; the file does not change.
    """
    state = copy.with_name("dump.json")
    known = _read_state(state) if copy.exists() else {}
    try:
        fingerprint = _fingerprint(dump)
        if known.get("looks") == fingerprint:
            return
        digest = _digest(dump)
        if known.get("digest") != digest:
            _build(dump, copy, log=log)
        if _fingerprint(dump) != fingerprint:
            raise SourceError(
                f"The dump {dump} changed while it was read",
                remedy="Wait until the program that writes it has finished, then run again",
            )
    except OSError as error:
        raise SourceError(
            f"The dump {dump} cannot be read, or its copy {copy} cannot be written"
            f" ({error.strerror})",
            remedy="Check that the dump exists, the permissions of both, and the free disk space",
        ) from error
    private.write_text(state, json.dumps({"looks": fingerprint, "digest": digest}))


def _read_state(state: Path) -> dict[str, object]:
    try:
        found = json.loads(state.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(dump: Path) -> list[int]:
    found = dump.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _digest(dump: Path) -> str:
    with dump.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(dump: Path, copy: Path, *, log: Log) -> None:
    draft = copy.with_name("making.db")
    draft.unlink(missing_ok=True)
    private.create(draft)
    try:
        size = text.size(dump)
        with closing(opening.connect(draft, "rw", isolation_level=None)) as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            execution = Execution(connection, str(dump))
            execution.confine(pages=_SPARE_PAGES + size * _MAX_GROWTH // _PAGE)
            _fill(execution, dump, size=size, log=log)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(copy)
    except SourceError as error:
        # Only now, because a dump of SQLite may mention anything in its comments.
        found = text.other_format(dump)
        if found is None:
            raise
        problem, remedy = found
        raise SourceError(f"{dump} {problem}", remedy=remedy) from error
    finally:
        draft.unlink(missing_ok=True)


def _fill(execution: Execution, dump: Path, *, size: int, log: Log) -> None:
    line, reported = 0, 0
    execution.connection.execute("BEGIN")
    with text.opened(dump) as read:
        try:
            for statement in statements(read):
                line = statement.line
                execution.process(statement)
                if statement.end - reported >= _REPORT_BYTES:
                    reported = statement.end
                    log(f"{dump}: {reported / 2**20:,.0f} of {size / 2**20:,.0f} MiB read")
        except Unfinished as error:
            raise _incomplete(dump, error, begun=bool(execution.executed)) from None
    if not execution.executed:
        raise SourceError(
            f"{dump} is not a dump: it {'is empty' if not size else 'contains no statement'}",
            remedy=CREATE,
        )
    if execution.open is not None:
        raise SourceError(
            f"The dump {dump} is incomplete: it ends after line {line} without the COMMIT of its"
            f" BEGIN in line {execution.open}",
            remedy=_AGAIN,
        )
    execution.finish()
    execution.connection.execute("COMMIT")
    _report(execution, log)


def _report(execution: Execution, log: Log) -> None:
    """Tell what was skipped, and what cannot be known."""
    dump, virtual = execution.dump, len(execution.virtual)
    if virtual:
        log(
            f"{dump}: {virtual} virtual table{'s were' if virtual > 1 else ' was'} skipped; virtual"
            " tables are never read"
        )
    for name, why in execution.indexes.items():
        log(f"{dump}: index {name} was skipped, because it needs {why}; it contains no rows")
    if not execution.ended:
        log(
            f"{dump}: the dump has no BEGIN and COMMIT, so a missing end would not be noticed;"
            " compare the numbers of rows with the database"
        )


def _incomplete(dump: Path, error: Unfinished, *, begun: bool) -> SourceError:
    if error.long:
        return SourceError(
            f"The statement in line {error.line} of {dump} is longer than"
            f" {STATEMENT_BYTES / 2**20:.0f} MiB",
            remedy="Use the database itself as the source",
        )
    if not begun:
        return SourceError(
            f"{dump} is not a dump: line {error.line} begins a statement that never ends",
            remedy=CREATE,
        )
    return SourceError(
        f"The dump {dump} is incomplete: it ends within the statement that begins in line"
        f" {error.line}",
        remedy=_AGAIN,
    )
