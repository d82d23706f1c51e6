"""A replica of a database on Turso, and a plain SQLite copy of it for the engine.

Only Turso's package accesses the replica, in a separate process. The content of the replica is
written to the copy in one SQLite transaction, so concurrent readers still see the previous state.
Without changes, the copy and its file times stay the same.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import private
from pipeline.core.errors import PipelineError, SourceError, Transient
from pipeline.sqlite import opening
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.origin import TOKEN, Remote
from pipeline.sqlite.snapshot import BUSY_SECONDS, carry_over
from pipeline.sqlite.sql_dump import Log

_REPORT_SECONDS = 10.0
"""The interval between progress messages of a pull."""


class Lost(SourceError, Transient):
    """The server did not respond; the same call may succeed later."""


class Damaged(SourceError):
    """The replica is not a copy of the server; a new one may be."""


@dataclass(frozen=True)
class Pulled:
    """The result of a pull.

    Attributes:
        changed: the server had changes.
        revision: the server's revision that the replica has.
    """

    changed: bool
    revision: str


def update_copy(origin: Remote, into: Path, *, lock: int, log: Log) -> None:
    """Pull, and update the copy; a damaged replica is moved away and fetched again.

    Args:
        origin: the server.
        into: the copy; the caller holds its lock.
        lock: the descriptor of the lock, which the pull inherits and holds to its end even if this
            process is killed.
        log: receives messages about progress and repairs.

    Raises:
        SourceError: the server rejects the request, or has no such database.
        Transient: the server did not respond; the copy did not change.
    """
    try:
        _update(origin, into, lock=lock, log=log)
    except Damaged as error:
        moved = _move_away(into)
        if moved is None:
            raise
        log(f"{error.problem}. It was moved to {moved.name} and is fetched again")
        _update(origin, into, lock=lock, log=log)


def _update(origin: Remote, into: Path, *, lock: int, log: Log) -> None:
    replica, mark = into.parent / "replica" / "replica.db", into.parent / "current.json"
    private.folder(replica.parent)
    # Without the mark, the copy may be older than the replica: a run may end in between.
    before = _read_revision(mark) if _is_intact(into) else None
    mark.unlink(missing_ok=True)
    pulled = _pull(origin, replica, lock=lock, log=log)
    if before is not None and _went_back(before, pulled.revision):
        raise Damaged(
            f"{origin.shown} is at revision {pulled.revision}, but its replica was at {before}: the"
            " database was replaced",
            remedy="Run again",
        )
    if pulled.changed or before is None:
        _publish(replica, into, origin)
    private.write_text(mark, json.dumps(pulled.revision))


def _read_revision(mark: Path) -> str | None:
    try:
        found = json.loads(mark.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _went_back(before: str, now: str) -> bool:
    """Whether a numeric revision decreased; other revisions cannot be compared."""
    return before.isdigit() and now.isdigit() and int(now) < int(before)


def _pull(origin: Remote, replica: Path, *, lock: int, log: Log) -> Pulled:
    token = origin.token.get_secret_value() if origin.token else ""
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.sqlite.pulling", str(replica), origin.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        text=True,
    ) as child:
        given: str | None = f"{token}\n"
        try:
            while True:
                try:
                    out, _ = child.communicate(given, timeout=_REPORT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    given = None
                    size = sum(file.stat().st_size for file in replica.parent.iterdir())
                    log(f"{origin.shown}: the replica has {size / 2**20:,.0f} MiB")
        except BaseException:
            child.kill()
            raise
    try:
        result = json.loads(out)
    except ValueError:
        raise Damaged(
            f"The pull from {origin.shown} was interrupted (exit code {child.returncode})",
            remedy="Run again",
        ) from None
    if "error" in result:
        raise _translate(origin, str(result["error"]))
    return Pulled(bool(result["changed"]), str(result["revision"]))


_KNOWN: tuple[tuple[str, type[PipelineError], str, str], ...] = (
    (
        r"status=40[13]\b",
        SourceError,
        "does not accept the token",
        f"Create one with turso db tokens create NAME, and set {TOKEN} to it",
    ),
    (
        r"status=404\b",
        SourceError,
        "has no such database, or does not allow its replication",
        "Run turso db show NAME to see its URL",
    ),
    (
        r"status=(?:408|429|5\d\d)\b",
        Lost,
        "reported an internal error (HTTP {found})",
        "Wait a few minutes and run again; nothing was changed",
    ),
    (
        r"Errno -2\]|nodename nor servname",
        SourceError,
        "cannot be found: the host name is unknown",
        "Run turso db show NAME to see its URL",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        SourceError,
        "has an untrusted certificate",
        "Check the URL, and the trusted certificates of this machine",
    ),
    (
        r"\[SSL",
        SourceError,
        "does not support TLS",
        "Use http://HOST:PORT for a server of your own without TLS",
    ),
    (
        r"network error|http error|timed out|IncompleteRead|unexpected end of|Connection",
        Lost,
        "did not respond, or closed the connection",
        "Check the network and run again; the previous copy is kept",
    ),
    (r"status=(\d+)", SourceError, "sent an unexpected response", "Check the URL"),
)


def _translate(origin: Remote, text: str) -> PipelineError:
    """Translate an error of the package; the message contains nothing of the server's response."""
    for pattern, kind, problem, remedy in _KNOWN:
        found = re.search(pattern, text)
        if found:
            code = found.group().removeprefix("status=")
            return kind(f"{origin.shown} {problem.format(found=code)}", remedy=remedy)
    return Damaged(
        f"The replica of {origin.shown} cannot be used"
        f" ({text.removeprefix('sync engine operation failed: ')[:200]})",
        remedy="Run again; if the error remains, delete its folder in PIPELINE_HOME/sources",
    )


def _publish(replica: Path, into: Path, origin: Remote) -> None:
    """Make the copy equal to the replica, in one transaction."""
    wal = replica.with_name(f"{replica.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise Damaged(f"The replica of {origin.shown} is incomplete", remedy="Run again")
    # Nothing writes the replica now, and its package ignores SQLite's locks.
    with closing(opening.connect(replica, "immutable")) as copy:
        try:
            result = str(copy.execute("PRAGMA integrity_check(1)").fetchone()[0])
            page = copy.execute("PRAGMA page_size").fetchone()[0]
        except opening.UNREADABLE as error:
            result = str(error)
        if result != "ok":
            raise Damaged(
                f"The replica of {origin.shown} is damaged ({result.splitlines()[-1]})",
                remedy="Run again",
            )
        private.create(into)
        try:
            with closing(opening.connect(into, "rw", timeout=BUSY_SECONDS)) as file:
                file.execute(f"PRAGMA page_size = {page}")
                file.execute("PRAGMA journal_mode = WAL")
                carry_over(copy, file, wait=BUSY_SECONDS)
        except opening.UNREADABLE as error:
            raise unreadable(into, error) from error
    # The first read creates an empty WAL; later reads then do not change the fingerprint.
    _is_intact(into)


def _is_intact(file: Path) -> bool:
    """Whether a file is an SQLite database; a file that is not is deleted."""
    if not file.exists():
        return False
    try:
        with closing(opening.connect(file, "ro", timeout=BUSY_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except opening.UNREADABLE:
        for end in ("", "-wal", "-shm", "-journal"):
            file.with_name(f"{file.name}{end}").unlink(missing_ok=True)
        return False
    return True


def _move_away(into: Path) -> Path | None:
    """Rename a damaged replica; None if there was none before this run."""
    folder = into.parent / "replica"
    if not (folder / "replica.db-info").exists():
        shutil.rmtree(folder, ignore_errors=True)
        return None
    for old in into.parent.glob("replica.damaged-*"):
        shutil.rmtree(old, ignore_errors=True)
    target = into.parent / f"replica.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    return folder.rename(target)
