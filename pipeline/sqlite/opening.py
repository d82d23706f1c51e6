"""Opening of untrusted SQLite files.

A source can contain anything: triggers, views, computed columns, pages that point at each other.
Every connection to such a file is opened here. Schemas cannot call functions with side effects,
cells are checked before they are read, extensions stay off (SQLite's default), and statements have
resource limits. The bulk reader uses its own SQLite library without such limits; so a separate
process first computes the computed columns once, within limits.
"""

import functools
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from pipeline.core import private
from pipeline.core.errors import SourceError
from pipeline.core.quoting import quoted

Mode = Literal["ro", "rw", "rwc", "immutable"]

UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError)
"""Errors of reading a damaged file; SQLite's message may quote bytes that are not UTF-8."""

VALUE_BYTES = 1_000_000_000
"""The largest value and row that is read; PostgreSQL does not accept larger ones."""

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
"""Limits of time and memory for computing the columns of a table."""

COMPUTED_SHARE = 10
"""The largest ratio of the size of computed values to the size of the file."""

_INNOCUOUS, _DIRECT_ONLY = 0x200000, 0x80000
"""Flags of SQLite's functions: a schema may always call these, and never those."""

_MISSING = re.compile(r"(?:no such|unknown) (function|collation sequence): ([^()\n]+)")

_COMPUTING = """
import json, resource, sqlite3, sys
path, query, most, memory, busy, trusted, without = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
source, seen = sqlite3.connect(path, uri=True, timeout=float(busy)), 0
source.text_factory = bytes
source.execute("PRAGMA trusted_schema = " + trusted)
for name, arguments in json.loads(without):
    source.create_function(name, arguments, None)
for row in source.execute(query):
    seen += sum(len(value) for value in row if isinstance(value, bytes))
    if seen > int(most):
        sys.exit("they are too large")
"""


def connect(path: Path, mode: Mode, **options: Any) -> sqlite3.Connection:
    """Open an untrusted file.

    ``immutable`` is for a file that is never written again.
    """
    if mode == "rwc":
        private.create(path)
    parameter = "immutable=1" if mode == "immutable" else f"mode={mode}"
    connection: sqlite3.Connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{parameter}", uri=True, **options
    )
    try:
        guard(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def guard(connection: sqlite3.Connection) -> None:
    """Set the limits and the checks of a connection to untrusted files."""
    for limit, most in _LIMITS.items():
        connection.setlimit(limit, most)
    trusted, without = _trust()
    connection.execute(f"PRAGMA trusted_schema = {trusted}")
    for name, arguments in without:
        connection.create_function(name, arguments, None)
    connection.execute("PRAGMA cell_size_check = ON")


@functools.cache
def _trust() -> tuple[str, tuple[tuple[str, int], ...]]:
    """The setting trusted_schema, and functions to remove.

    JSON functions have no side effects, but some versions, such as 3.40, do not let an untrusted
    schema call them, not even in a CHECK. There the schema is trusted, and all other functions that
    it could not call are removed.
    """
    with closing(sqlite3.connect(":memory:")) as library:
        functions = library.execute(
            "SELECT DISTINCT name, narg FROM pragma_function_list WHERE flags & ? = 0",
            (_INNOCUOUS | _DIRECT_ONLY,),
        ).fetchall()
    others = tuple((name, n) for name, n in functions if not name.startswith(("json", "->")))
    return ("OFF", ()) if len(others) == len(functions) else ("ON", others)


def require_computable(
    path: Path, table: str, columns: Sequence[str], *, source: Path, busy_seconds: float = 0.0
) -> None:
    """Compute columns once in a separate process with limits.

    ``path`` is the file to read, ``source`` its name in messages.

    Raises:
        SourceError: the columns exceed a limit or cannot be computed.
    """
    query = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(table)} NOT INDEXED"
    most = COMPUTED_SHARE * path.stat().st_size
    given = (f"{path.absolute().as_uri()}?mode=ro", query, most, COMPUTING_BYTES, busy_seconds)
    trusted, without = _trust()
    try:
        ended = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                _COMPUTING,
                *map(str, given),
                trusted,
                json.dumps(without),
            ],
            capture_output=True,
            timeout=COMPUTING_SECONDS + busy_seconds,
            check=False,
        )
        errors = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        why = None if ended.returncode == 0 else (errors or ["the process was killed"])[-1]
    except subprocess.TimeoutExpired:
        why = f"they take longer than {COMPUTING_SECONDS:g} s"
    if why is None:
        return
    missing = _MISSING.search(why)
    if missing:
        what = "function" if missing[1] == "function" else "collation"
        raise SourceError(
            f"Table {table} of the source {source} computes {', '.join(columns)} with the {what}"
            f" {missing[2]}, which only the application has",
            remedy="Let the application store these values in ordinary columns, then run again",
        )
    raise SourceError(
        f"The computed columns of {table} in {source} cannot be read ({why})",
        remedy="Check what they compute, and remove them if the application does not need them",
    )
