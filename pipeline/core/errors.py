"""What can go wrong, as types whose text says what, where and what to do.

Data faults and wrong settings are terminal. Only ``Transient`` ones are worth another try.
"""

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from pipeline.core.messages import ANYBODY, Address, Message, Text, message, written
from pipeline.core.printable import printable

TRANSIENT_STATES = frozenset(
    {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "25P03"}
)

SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING = "PS001", "PS002", "PS003"
"""SQLSTATEs of this project: why a session with a server cannot be used; see ``session``."""
SESSION_REFUSALS = frozenset({SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING})

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says when a disk, or a user's share of it, is full."""


CONNECTIONS_OF_A_RUN = 6
"""Two sessions of the move, one that sees what is committed, and three of Dagster's."""


class PipelineError(Exception):
    """A failure that a person can act on; ``str()`` is one sentence with its remedy.

    Attributes:
        problem: what is wrong where.
        advice: what to do about it, with commands as values.
        address: the migration for which these are written out.
    """

    def __init__(self, problem: str, *, remedy: Text) -> None:
        """Say what is wrong where, and what to do about it."""
        super().__init__(problem, remedy)
        self.problem = printable(problem)
        self.advice = remedy
        self.address = ANYBODY

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return written(self.advice, self.address)

    @property
    def message(self) -> Message:
        """The whole sentence, with commands as values."""
        end = "" if self.remedy.endswith(".") else "."
        return message(f"{self.problem.rstrip('.')}. ", self.advice, end)

    def __str__(self) -> str:
        """The whole sentence."""
        return written(self.message, self.address)

    def addressed(self, address: Address) -> Self:
        """The same, now that somebody knows which migration it is about."""
        self.address = address
        return self


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
        error = _of_the_driver(error)
        text = without_password(first_line(str(error)), url)
        state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        known = next((each for each in _KNOWN if each.matches(str(error), state)), None)
        passing = state in TRANSIENT_STATES or (known is not None and known.passing)
        kind = Transient if passing else TargetError
        if known:
            made = kind(f"{where}: {known.problem} ({text})", remedy=known.remedy)
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


class OverrideError(PipelineError):
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
    if said:
        return said.group(1).strip()
    text = re.sub(r"^.*?\[libpq\] (?:Failed to connect: )?", "", text.strip(), flags=re.S)
    return text.splitlines()[0].strip() if text else "no message"


def _of_the_driver(error: BaseException) -> BaseException:
    """What the driver said, which SQLAlchemy and Dagster wrap in errors of their own."""
    while not hasattr(error, "pgcode") and not hasattr(error, "sqlstate"):
        inner = getattr(error, "orig", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


@dataclass(frozen=True)
class _Known:
    """A failure of the server or of the way to it, and what is said of it.

    Attributes:
        pattern: what a driver says where the server gave no code, as while a connection is made;
            None where there always is a code.
        problem: what is wrong.
        remedy: what to do about it.
        states: the codes that mean it.
        passing: whether the same call may succeed later, though no code says so.
    """

    pattern: str | None
    problem: str
    remedy: str
    states: frozenset[str] = frozenset()
    passing: bool = False

    def matches(self, text: str, state: str | None) -> bool:
        """Whether a driver's text and code are of this failure."""
        if state:
            return state in self.states
        return self.pattern is not None and re.search(self.pattern, text) is not None


_KNOWN = (
    _Known(
        None,
        "the server is a standby, which cannot be written",
        "Name the primary server in DATABASE_URL",
        states=frozenset({SESSION_STANDBY}),
    ),
    _Known(
        None,
        "the database is not in UTF8, so it cannot hold every text",
        "Create a database with ENCODING 'UTF8' TEMPLATE template0 and name it in DATABASE_URL",
        states=frozenset({SESSION_ENCODING}),
    ),
    _Known(
        None,
        "the server sets a parameter that moves cannot work with, and this user may not change it",
        "Ask an administrator to reset it: ALTER ROLE ... RESET, ALTER DATABASE ... RESET, or"
        " postgresql.conf",
        states=frozenset({SESSION_SETTING}),
    ),
    _Known(
        r"server does not support SSL",
        "the server offers no encryption, which sslmode demands",
        "Switch TLS on at the server, or allow sslmode=prefer on a network that you trust",
    ),
    _Known(
        r"no pg_hba\.conf entry.*no encryption|SSL connection is required",
        "the server does not let this user in without encryption",
        "Add ?sslmode=require to DATABASE_URL, or allow this user and address in pg_hba.conf",
    ),
    _Known(
        r"pg_hba\.conf",
        "the server does not let this user in from this address",
        "Allow user, database and address in the server's pg_hba.conf, or in the network"
        " restrictions of its provider",
    ),
    _Known(
        r"password authentication failed|no password supplied|role \".*\" does not exist"
        r"|is not permitted to log in|Tenant or user not found|authentication failed for user",
        "the server refused this user or password",
        "Check user and password in DATABASE_URL, and that the password has not expired",
        states=frozenset({"28P01", "28000"}),
    ),
    _Known(
        r"database \".*\" does not exist",
        "the database does not exist",
        "Check the database name at the end of DATABASE_URL, or create it",
        states=frozenset({"3D000"}),
    ),
    _Known(
        r"is not currently accepting connections",
        "the database is closed to connections",
        "Open it with ALTER DATABASE ... ALLOW_CONNECTIONS true, or name another one",
    ),
    _Known(
        r"too many connections|too many clients|connection slots are reserved"
        r"|max clients reached|no more connections allowed",
        "no connection is free",
        f"A run needs {CONNECTIONS_OF_A_RUN}: end other sessions, or raise the limit of the role,"
        " of the database, of the server (max_connections) or of Supabase's pool (pool size)",
        states=frozenset({"53300"}),
        passing=True,
    ),
    _Known(
        r"the database system is (?:starting up|shutting down|in recovery|not )",
        "the server is starting or stopping",
        "Wait until it accepts connections, then run again",
        states=frozenset({"57P03"}),
        passing=True,
    ),
    _Known(
        r"in a read-only transaction",
        "the database accepts no writes",
        "Name the primary if this is a standby; otherwise switch default_transaction_read_only off,"
        " which Supabase switches on while the disk is nearly full",
        states=frozenset({"25006"}),
    ),
    _Known(
        r"no schema has been selected",
        "schema public is missing, or closed to this user",
        "Create it, and grant the user USAGE and CREATE on it",
        states=frozenset({"3F000"}),
    ),
    _Known(
        r"permission denied",
        "the user lacks a right",
        "Grant the user CREATE on the database, USAGE and CREATE on schema public, and ownership"
        " of the moved tables",
        states=frozenset({"42501"}),
    ),
    _Known(
        r"No space left on device",
        "the server's disk is full",
        "Free space on the server; the table was rolled back, so run again afterwards",
        states=frozenset({"53100"}),
    ),
    _Known(
        r"temp_file_limit",
        "the server gives this user too little room for temporary files",
        "Raise temp_file_limit for this user; the table was rolled back, so run again afterwards",
        states=frozenset({"53400"}),
    ),
    _Known(
        r"out of (?:shared )?memory",
        "the server ran out of memory, or of room for locks",
        "Raise max_locks_per_transaction where it says shared memory, or free memory; the table was"
        " rolled back, so run again afterwards",
        states=frozenset({"53200"}),
    ),
    _Known(
        r"statement timeout",
        "a statement was cancelled by its time limit",
        "Raise statement_timeout for this user and run again",
        states=frozenset({"57014"}),
    ),
    _Known(
        r"lock timeout",
        "a table stayed locked by someone else",
        "Wait for the other session to finish, or end it, and run again",
        states=frozenset({"55P03"}),
    ),
    _Known(
        r"invalid response to SSL negotiation|expected authentication request"
        r"|unsupported frontend protocol|lost synchronization with server",
        "what answers there is not PostgreSQL",
        "Check host and port in DATABASE_URL",
    ),
    _Known(
        r"connection to server.* failed: server closed the connection",
        "what answers there hung up at once",
        "Check that host and port in DATABASE_URL are PostgreSQL's and that it takes connections",
        passing=True,
    ),
    _Known(
        r"server closed the connection|terminating connection|SSL SYSCALL|no connection to the"
        r"|could not (receive|send) data|Connection reset|Broken pipe|connection not open",
        "the connection was cut by the server",
        "The table was rolled back; run again",
        states=frozenset({"57P01", "57P02", "08006", "08003", "08000"}),
        passing=True,
    ),
    _Known(
        r"certificate verify failed|does not match host name|root certificate file",
        "its certificate is not the one that is trusted",
        "Name the project's own in sslrootcert, and in DATABASE_URL the host that it is made for",
    ),
    _Known(
        r"invalid dsn|invalid \w+ value|invalid URI|invalid connection option|percent-encoded"
        r"|invalid port number",
        "it cannot be reached by this URL",
        "Correct DATABASE_URL; what follows its question mark are options of libpq",
    ),
    _Known(
        r"could not connect|connection refused|Connection refused|could not translate|timeout "
        r"expired|failed to resolve host|No such file or directory|connection to server",
        "no server answers there",
        "Check host and port in DATABASE_URL and that the server is running",
        states=frozenset({"08001", "08004"}),
        passing=True,
    ),
)
