"""How an SQLite file is opened that somebody else has made: nothing in it is trusted.

Whoever can hand over a source can put anything into it: triggers, views, computed columns, pages
that point at each other. Every connection to such a file is made here. Schemas may not call
functions that act, cells are checked before they are read, extensions stay off (SQLite's default),
and what a statement may take is limited. The bulk reader has an SQLite of its own that knows no
limits; before it computes columns, a process of its own has computed them once, within bounds.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted

Mode = Literal["ro", "rw", "rwc", "immutable"]

UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError)
"""What reading a damaged file raises; SQLite may quote in its message what is no text."""

VALUE_BYTES = 1_000_000_000
"""The largest value and row that is read; PostgreSQL takes no larger ones either."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 16_000_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 5_000_000,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

COMPUTING_SECONDS = 60.0
COMPUTING_BYTES = 2**30
"""What computing a table's columns may take, of time and of memory."""

COMPUTED_SHARE = 10
"""Computed values may be so many times as large as the file."""

_COMPUTING = """
import resource, sqlite3, sys
path, query, most, memory, busy = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
source, seen = sqlite3.connect(path, uri=True, timeout=float(busy)), 0
source.text_factory = bytes
source.execute("PRAGMA trusted_schema = OFF")
for row in source.execute(query):
    seen += sum(len(value) for value in row if isinstance(value, bytes))
    if seen > int(most):
        sys.exit("they are too large")
"""


def connect(path: Path, mode: Mode, **options: Any) -> sqlite3.Connection:
    """Open a file that somebody else has made.

    Args:
        path: the file.
        mode: what may be done with it; ``immutable`` is for a file that nobody writes any more.
        options: further ones of ``sqlite3.connect``.
    """
    if mode == "rwc":
        private.create(path)
    asked = "immutable=1" if mode == "immutable" else f"mode={mode}"
    made: sqlite3.Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{asked}", uri=True, **options
    )
    try:
        guard(made)
    except BaseException:
        made.close()
        raise
    return made


def guard(connection: sqlite3.Connection) -> None:
    """Let a connection trust nothing of the files that it reads."""
    for limit, most in _LIMITS.items():
        connection.setlimit(limit, most)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def require_computable(
    path: Path, table: str, columns: Sequence[str], *, source: Path, busy_seconds: float = 0.0
) -> None:
    """Compute columns once in a process of its own, which ends when it takes too much.

    Args:
        path: the file that is read.
        table: its table.
        columns: those that are computed when they are read.
        source: what messages call the file.
        busy_seconds: how long a locked file is waited for.

    Raises:
        SourceError: they take too much time, memory or room, or cannot be computed.
    """
    query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)}"
    most = COMPUTED_SHARE * path.stat().st_size
    given = (f"{path.absolute().as_uri()}?mode=ro", query, most, COMPUTING_BYTES, busy_seconds)
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _COMPUTING, *map(str, given)],
            capture_output=True,
            timeout=COMPUTING_SECONDS + busy_seconds,
            check=False,
        )
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        why = None if ended.returncode == 0 else said[-1] if said else "the computation broke off"
    except subprocess.TimeoutExpired:
        why = f"they take longer than {COMPUTING_SECONDS:g} s"
    if why is not None:
        raise SourceError(
            f"The computed columns of {table} in {source} cannot be read ({why})",
            remedy="Look at what they compute, and take them out if it is not the application's",
        )
