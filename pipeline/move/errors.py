"""What can go wrong, as types whose text says what, where and what to do.

Data faults and wrong settings are terminal. Only ``Transient`` ones are worth another try.
"""

import errno
import re
from pathlib import Path
from urllib.parse import unquote

from pipeline.move.printable import printable

TRANSIENT_STATES = frozenset(
    {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "25P03"}
)

SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING = "PS001", "PS002", "PS003"
"""SQLSTATEs of this project: why a session with a server cannot be used; see ``session``."""
SESSION_REFUSALS = frozenset({SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING})


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says when a disk, or a user's share of it, is full."""


class PipelineError(Exception):
    """A failure that a person can act on; ``str()`` is one sentence with its remedy."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        """Say what is wrong where, and what to do about it."""
        problem = printable(problem)
        super().__init__(f"{problem.rstrip('.')}. {remedy.rstrip('.')}.")
        self.problem = problem
        self.remedy = remedy


class SettingsError(PipelineError):
    """A setting is missing or cannot be used."""


class SourceError(PipelineError):
    """The SQLite database cannot be read as declared."""


class TargetError(PipelineError):
    """The PostgreSQL database cannot be written as declared.

    Attributes:
        sqlstate: PostgreSQL's five-character code, or None when no server answered.
    """

    sqlstate: str | None = None

    @classmethod
    def from_driver(cls, error: BaseException, *, where: str, url: str = "") -> "TargetError":
        """Translate a driver's error; codes from PostgreSQL's Appendix A.

        Args:
            error: what the driver raised.
            where: what people call the database.
            url: how it was reached; nothing of its password stays in the message.
        """
        text = without_password(first_line(str(error)), url)
        state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        known = [
            (codes, problem, remedy)
            for codes, pattern, problem, remedy in _KNOWN
            if state in codes or (state is None and re.search(pattern, str(error)))
        ]
        # What a driver says may match several; the first of them says what is wrong.
        passing = state in TRANSIENT_STATES or any(codes & _CONNECTION for codes, *_ in known[:1])
        kind = Transient if passing else TargetError
        if known:
            _, problem, remedy = known[0]
            made = kind(f"{where}: {problem} ({text})", remedy=remedy)
        else:
            made = kind(f"{where}: {text}", remedy="Nothing was changed; run again afterwards")
        made.sqlstate = state
        return made


class Transient(TargetError):
    """The target could not serve now; the same call may succeed later."""


class ShapeError(TargetError):
    """A table of the target has another shape than the declared one."""


class SideEffect(TargetError):
    """Triggers of the target changed rows that no proof has looked at."""


class LockedError(TargetError):
    """Another run holds the target."""


class FilesError(PipelineError):
    """A file of the pipeline's own cannot be written."""

    @classmethod
    def from_system(cls, error: OSError, path: Path) -> "FilesError":
        """Translate what the operating system says.

        Args:
            error: what it said; it mostly names a file.
            path: what was to be written, where it does not.
        """
        said = error.strerror or type(error).__name__
        path = Path(error.filename) if isinstance(error.filename, str) else path
        if error.errno in FULL:
            remedy = "Free space on that disk, and run again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Give this user the right to write there, or name another PIPELINE_HOME"
        else:
            remedy = "Check that disk and PIPELINE_HOME, and run again"
        return cls(f"{path} cannot be written ({said})", remedy=remedy)


class MendError(PipelineError):
    """What a person mended cannot be taken in."""


class LossyConversion(PipelineError):
    """A value would change in a way that cannot be undone, which the policy forbids."""


class ScopeError(PipelineError):
    """What was asked for cannot be moved as a subset."""


class ConflictError(TargetError):
    """Somebody changed a row in the target, which the policy forbids."""


class TooManyDeletes(TargetError):
    """A move would delete more of the target than the set share."""


def without_password(text: str, url: str) -> str:
    """Strike out whatever a driver repeats of a URL's password, whole or in pieces."""
    secrets = [url[: url.rfind("@")].partition("://")[2].partition(":")[2]] if "@" in url else []
    secrets += re.findall(r"[?&]password=([^&]*)", url)
    pieces = {
        piece
        for secret in secrets
        for form in (secret, unquote(secret))
        for piece in (form, *re.split(r"[^\w]+", form))
        if len(piece) > 2
    }
    for piece in sorted(pieces, key=len, reverse=True):
        text = text.replace(piece, "***")
    return text


def first_line(text: str) -> str:
    """The first sentence of a driver's message, without its prefix and without a password."""
    text = re.sub(r"(postgres(?:ql)?(?:\+\w+)?://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    said = re.search(r"\b(?:ERROR|FATAL|PANIC):\s*(.*)", text)
    if said and "connection to" not in text:
        return said.group(1).strip()
    text = re.sub(r"^.*?\[libpq\] (?:Failed to connect: )?", "", text.strip(), flags=re.S)
    return text.splitlines()[0].strip() if text else "no message"


_CONNECTION = frozenset({"08006", "08001"})
"""SQLSTATEs of a connection that was lost, or not made."""

_KNOWN: tuple[tuple[frozenset[str], str, str, str], ...] = (
    (
        frozenset({SESSION_STANDBY}),
        r"(?!)",
        "the server is a standby, which cannot be written",
        "Name the primary server in DATABASE_URL",
    ),
    (
        frozenset({SESSION_ENCODING}),
        r"(?!)",
        "the database is not in UTF8, so it cannot hold every text",
        "Create a database with ENCODING 'UTF8' TEMPLATE template0 and name it in DATABASE_URL",
    ),
    (
        frozenset({SESSION_SETTING}),
        r"(?!)",
        "the server sets what a session must not have, and this user may not change it",
        "Ask an administrator to reset it: ALTER ROLE ... RESET, ALTER DATABASE ... RESET, or"
        " postgresql.conf",
    ),
    (
        frozenset({"28P01", "28000"}),
        r"password authentication failed|no password supplied",
        "the server refused this user or password",
        "Check user and password in DATABASE_URL",
    ),
    (
        frozenset({"3D000"}),
        r"database \".*\" does not exist",
        "the database does not exist",
        "Check the database name at the end of DATABASE_URL, or create it",
    ),
    (
        frozenset({"42501"}),
        r"permission denied",
        "the user lacks a right",
        "Grant the user CREATE on the database and ownership of the moved tables",
    ),
    (
        frozenset({"53100"}),
        r"No space left on device",
        "the server's disk is full",
        "Free space on the server; the table was rolled back, so run again afterwards",
    ),
    (
        frozenset({"57014"}),
        r"statement timeout",
        "a statement was cancelled by its time limit",
        "Raise statement_timeout for this user and run again",
    ),
    (
        frozenset({"55P03"}),
        r"lock timeout",
        "a table stayed locked by someone else",
        "Wait for the other session to finish, or end it, and run again",
    ),
    (
        frozenset({"57P01", "57P02", "57P03", "08006", "08003", "08000"}),
        r"server closed the connection|terminating connection|SSL SYSCALL|no connection to the"
        r"|could not (receive|send) data|Connection reset|Broken pipe|connection not open",
        "the connection was cut by the server",
        "The table was rolled back; run again",
    ),
    (
        frozenset(),
        r"certificate verify failed|does not match host name|root certificate file",
        "its certificate is not the one that is trusted",
        "Name the project's own in sslrootcert, and in DATABASE_URL the host that it is made for",
    ),
    (
        frozenset({"08001", "08004"}),
        r"could not connect|connection refused|Connection refused|could not translate|timeout "
        r"expired|No such file or directory|connection to server",
        "no server answers there",
        "Check host and port in DATABASE_URL and that the server is running",
    ),
)
