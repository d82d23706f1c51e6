"""A database on Turso, kept as a replica, and as a plain SQLite file that the engine reads.

The replica is touched by the official package alone, in a process of its own. What it holds goes
into the file as one transaction of SQLite, so whoever reads the file meanwhile goes on reading what
was. Where nothing changed, the file is not touched, and looks as it did.
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
from pipeline.sqlite.dump import Log
from pipeline.sqlite.origin import TOKEN, Remote
from pipeline.sqlite.snapshot import BUSY_SECONDS, carry_over, unreadable

_TELL_SECONDS = 10.0
"""A pull that takes longer says how far it is, and again after as much."""


class Lost(SourceError, Transient):
    """The server did not answer now; the same call may succeed later."""


class Damaged(SourceError):
    """The replica is not what the server has; a new one may be."""


@dataclass(frozen=True)
class Pulled:
    """What a pull came to.

    Attributes:
        changed: whether the server had something new.
        revision: of the server, up to which the replica follows it.
    """

    changed: bool
    revision: str


def bring(origin: Remote, into: Path, *, held: int, log: Log) -> None:
    """Pull, and let the file follow; a replica that is damaged is set aside and fetched anew.

    Args:
        origin: the server.
        into: the file; nobody else pulls meanwhile.
        held: the lock's file, which the pull holds to its end even if this process is killed.
        log: told what takes long, and what was mended.

    Raises:
        SourceError: the server refuses us, or has no such database.
        Transient: the server did not answer now; the file is as it was.
    """
    try:
        _follow(origin, into, held=held, log=log)
    except Damaged as error:
        kept = _set_aside(into)
        if kept is None:
            raise
        log(f"{error.problem}. It is kept as {kept.name}, and fetched anew")
        _follow(origin, into, held=held, log=log)


def _follow(origin: Remote, into: Path, *, held: int, log: Log) -> None:
    replica, mark = into.parent / "replica" / "replica.db", into.parent / "current.json"
    private.folder(replica.parent)
    # Without the mark, the file is behind the replica: a run may end between the two.
    before = _marked(mark) if _sound(into) else None
    mark.unlink(missing_ok=True)
    pulled = _pull(origin, replica, held=held, log=log)
    if before is not None and _went_back(before, pulled.revision):
        raise Damaged(
            f"{origin.shown} is at revision {pulled.revision}, its replica was at {before}: it is"
            " another database than before",
            remedy="Run again",
        )
    if pulled.changed or before is None:
        _publish(replica, into, origin)
    private.write_text(mark, json.dumps(pulled.revision))


def _marked(mark: Path) -> str | None:
    try:
        found = json.loads(mark.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def _went_back(before: str, now: str) -> bool:
    """Whether revisions that count up went down; others tell nothing."""
    return before.isdigit() and now.isdigit() and int(now) < int(before)


def _pull(origin: Remote, replica: Path, *, held: int, log: Log) -> Pulled:
    token = origin.token.get_secret_value() if origin.token else ""
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.sqlite.pulling", str(replica), origin.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(held,),
        text=True,
    ) as child:
        given: str | None = f"{token}\n"
        try:
            while True:
                try:
                    out, _ = child.communicate(given, timeout=_TELL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    given = None
                    size = sum(file.stat().st_size for file in replica.parent.iterdir())
                    log(f"{origin.shown}: the replica has {size / 2**20:,.0f} MiB")
        except BaseException:
            child.kill()
            raise
    try:
        told = json.loads(out)
    except ValueError:
        raise Damaged(
            f"Pulling {origin.shown} broke off (exit code {child.returncode})", remedy="Run again"
        ) from None
    if "error" in told:
        raise _translated(origin, str(told["error"]))
    return Pulled(bool(told["changed"]), str(told["revision"]))


_KNOWN: tuple[tuple[str, type[PipelineError], str, str], ...] = (
    (
        r"status=40[13]\b",
        SourceError,
        "refuses the token",
        f"Make one with turso db tokens create NAME, and set it as {TOKEN}",
    ),
    (
        r"status=404\b",
        SourceError,
        "has no such database, or none that can be replicated",
        "See turso db show NAME for its URL",
    ),
    (
        r"status=(?:408|429|5\d\d)\b",
        Lost,
        "met an error of its own (HTTP {found})",
        "Run again in a while; nothing was changed",
    ),
    (
        r"Errno -2\]|nodename nor servname",
        SourceError,
        "cannot be found: no server has this name",
        "See turso db show NAME for its URL",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        SourceError,
        "has a certificate that is not trusted",
        "Check the URL, and the certificates that this machine trusts",
    ),
    (
        r"\[SSL",
        SourceError,
        "speaks no TLS",
        "Write http://HOST:PORT for a server of your own that has none",
    ),
    (
        r"network error|http error|timed out|IncompleteRead|unexpected end of|Connection",
        Lost,
        "did not answer, or broke off",
        "Check the network and run again; what was there before is kept",
    ),
    (r"status=(\d+)", SourceError, "answers in a way that is not understood", "Check the URL"),
)


def _translated(origin: Remote, said: str) -> PipelineError:
    """What the package says, as a sentence; of what the server wrote nothing is repeated."""
    for pattern, kind, problem, remedy in _KNOWN:
        found = re.search(pattern, said)
        if found:
            code = found.group().removeprefix("status=")
            return kind(f"{origin.shown} {problem.format(found=code)}", remedy=remedy)
    return Damaged(
        f"The replica of {origin.shown} cannot be used"
        f" ({said.removeprefix('sync engine operation failed: ')[:200]})",
        remedy="Run again; if it stays so, remove its folder in PIPELINE_HOME/sources",
    )


def _publish(replica: Path, into: Path, origin: Remote) -> None:
    """Make the file equal to the replica, in one transaction."""
    wal = replica.with_name(f"{replica.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise Damaged(f"The replica of {origin.shown} is not whole", remedy="Run again")
    # Nobody writes it now, and its own package knows nothing of SQLite's locks.
    with closing(opening.connect(replica, "immutable")) as copy:
        try:
            said = str(copy.execute("PRAGMA integrity_check(1)").fetchone()[0])
            page = copy.execute("PRAGMA page_size").fetchone()[0]
        except opening.UNREADABLE as error:
            said = str(error)
        if said != "ok":
            raise Damaged(
                f"The replica of {origin.shown} is damaged ({said.splitlines()[-1]})",
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
    # The first reader leaves an empty WAL beside it; from now on reading changes no look.
    _sound(into)


def _sound(file: Path) -> bool:
    """Whether a file is there that SQLite takes for a database; what it does not is removed."""
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


def _set_aside(into: Path) -> Path | None:
    """Move the replica out of the way; None where there was none before this run."""
    folder = into.parent / "replica"
    if not (folder / "replica.db-info").exists():
        shutil.rmtree(folder, ignore_errors=True)
        return None
    for old in into.parent.glob("replica.damaged-*"):
        shutil.rmtree(old, ignore_errors=True)
    kept = into.parent / f"replica.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    return folder.rename(kept)
