"""Errors whose text names the problem, its place and the remedy.

Data faults and wrong settings are terminal. Only ``Transient`` errors are retried.
"""

import errno
import re
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from pipeline.core.messages import DEFAULT_ADDRESS, Address, Message, Text, message, written
from pipeline.core.quoting import printable
from pipeline.core.server_errors import TRANSIENT_STATES, find_failure

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of an exhausted quota."""


class PipelineError(Exception):
    """A failure that a person can act on; ``str()`` is the problem and its remedy.

    Attributes:
        problem: what is wrong, and where.
        advice: what to do about it, with commands as values.
        address: the migration whose commands the remedy names.
    """

    def __init__(self, problem: str, *, remedy: Text) -> None:
        """Create the error; ``problem`` is escaped for terminals."""
        super().__init__(problem, remedy)
        self.problem = printable(problem)
        self.advice = remedy
        self.address = DEFAULT_ADDRESS

    @property
    def remedy(self) -> str:
        """The advice with its commands written out."""
        return written(self.advice, self.address)

    @property
    def message(self) -> Message:
        """Problem and remedy, with commands as values."""
        end = "" if self.remedy.endswith(".") else "."
        return message(f"{self.problem.rstrip('.')}. ", self.advice, end)

    def __str__(self) -> str:
        """Problem and remedy."""
        return written(self.message, self.address)

    def for_migration(self, address: Address) -> Self:
        """This error, with commands written out for a migration."""
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
        """Translate a driver's error; SQLSTATEs are those of PostgreSQL's Appendix A.

        Args:
            error: raised by the driver, or wraps what it raised.
            where: the name of the database in messages.
            url: its password is removed from the message.
        """
        error = _driver_error(error)
        text = without_password(first_line(str(error)), url)
        state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
        known = find_failure(str(error), state)
        transient = state in TRANSIENT_STATES or (known is not None and known.transient)
        kind = Transient if transient else TargetError
        if known:
            translated = kind(f"{where}: {known.problem} ({text})", remedy=known.remedy)
        else:
            remedy = "Nothing was changed; fix the cause and run again"
            translated = kind(f"{where}: {text}", remedy=remedy)
        translated.sqlstate = state
        return translated


class Transient(TargetError):
    """The target is temporarily unavailable; the same call may succeed later."""


class ShapeError(TargetError):
    """A table of the target differs from its declaration."""


class SideEffect(TargetError):
    """Triggers of the target changed rows that no proof covers."""


class LockedError(TargetError):
    """Another run holds the target."""


class FilesError(PipelineError):
    """A file of the pipeline's own cannot be written."""

    @classmethod
    def from_system(cls, error: OSError, path: Path) -> "FilesError":
        """Translate an error of the operating system.

        Args:
            error: usually names a file.
            path: the file or folder to write, if the error names none.
        """
        reason = error.strerror or type(error).__name__
        path = Path(error.filename) if isinstance(error.filename, str) else path
        if error.errno in FULL:
            remedy = "Free space on that disk and run again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Give this user write permission there, or set PIPELINE_HOME to another folder"
        else:
            remedy = "Check that disk and PIPELINE_HOME, then run again"
        return cls(f"{path} cannot be written ({reason})", remedy=remedy)


class OverrideError(PipelineError):
    """A manual correction cannot be applied."""


class LossyConversion(PipelineError):
    """A value would lose information, which the policy forbids."""


class ScopeError(PipelineError):
    """The selection cannot be moved as a subset."""


class ConflictError(TargetError):
    """A row was changed in the target, which the policy forbids."""


class TooManyDeletes(TargetError):
    """A move would delete a larger share of the target than the limit."""


class TooManyRejected(TargetError):
    """A move would leave a larger share of a table in quarantine than the limit."""


def without_password(text: str, url: str) -> str:
    """Mask the password of a URL, and every part of it, in a driver's text."""
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
    """The first line of a driver's message, without its prefix and without a password."""
    text = re.sub(r"(postgres(?:ql)?(?:\+\w+)?://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    after_severity = re.search(r"\b(?:ERROR|FATAL|PANIC):\s*(.*)", text)
    if after_severity:
        return after_severity.group(1).strip()
    text = re.sub(r"^.*?\[libpq\] (?:Failed to connect: )?", "", text.strip(), flags=re.S)
    return text.splitlines()[0].strip() if text else "no message"


def _driver_error(error: BaseException) -> BaseException:
    """The driver's own error, which SQLAlchemy and Dagster wrap."""
    while not hasattr(error, "pgcode") and not hasattr(error, "sqlstate"):
        inner = getattr(error, "orig", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error
