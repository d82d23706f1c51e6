"""Sessions with both databases: contents in PostgreSQL, cards and vectors in SQLite."""

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
import sqlite_vec
from sqlalchemy.orm import Session

from pipeline.application.errors import Refused
from pipeline.config import environment, settings
from pipeline.core import urls
from pipeline.core.errors import SourceError, TargetError, first_line
from pipeline.migrations.content import CONTENT
from pipeline.postgres.session import APPLICATION, LIMITS, connect, stating

BUSY_SECONDS = 5.0
POOL_SIZE = 5
POOL_SECONDS = 10.0


class HybridDatabaseManager:
    """Two connection pools; create them once per program, and close them at its end.

    A session commits when its block ends, and rolls back on an exception; it may also commit in
    between. No transaction spans both databases: a method that writes to both documents the order,
    and the state after an interruption.

    Attributes:
        sqlite_path: the SQLite file; sqlite-vec is loaded into every connection.
        shown: the name of the PostgreSQL database in messages, without password.
    """

    def __init__(
        self,
        sqlite_path: Path,
        postgres_url: str,
        *,
        shown: str = "PostgreSQL",
        pool_size: int = POOL_SIZE,
        pool_seconds: float = POOL_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
        limits: bool = True,
    ) -> None:
        """Connect with the first session.

        Args:
            sqlite_path: the application's file; it must exist.
            postgres_url: ``postgresql://...``, with password.
            shown: the name of the PostgreSQL database in messages.
            pool_size: the most connections to each database.
            pool_seconds: how long a session waits for a free connection.
            busy_seconds: how long a statement waits for another writer of the SQLite file.
            limits: whether the server's time limits for statements and idle transactions apply.

        Raises:
            SettingsError: the URL is not a PostgreSQL URL, or is ambiguous.
        """
        self.sqlite_path = sqlite_path
        self.shown = shown
        self._url = postgres_url
        self._postgres = sa.create_engine(
            "postgresql+psycopg2://",
            creator=partial(
                connect,
                settings.libpq(urls.postgres(postgres_url, name="The URL of PostgreSQL")),
                shown=shown,
                application_name="pipeline services",
                settings=_LIMITED if limits else APPLICATION,
                autocommit=False,
            ),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_seconds,
            pool_pre_ping=True,
        )
        self._sqlite = sa.create_engine(
            f"sqlite:///{sqlite_path}",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_seconds,
            connect_args={"timeout": busy_seconds},
            module=_driver(),
        )
        sa.event.listen(self._sqlite, "connect", _load_vectors)
        for engine, where in ((self._postgres, shown), (self._sqlite, str(sqlite_path))):
            sa.event.listen(engine, "handle_error", partial(_refuse_unsendable, where))

    @classmethod
    def of_settings(cls, *, pool_size: int = POOL_SIZE, limits: bool = True) -> Self:
        """Use the databases of the settings.

        Args:
            pool_size: the most connections to each database.
            limits: whether the server's time limits apply.

        Raises:
            SettingsError: a URL is malformed.
            TargetError: the embedded server does not start.
        """
        found = environment.databases(settings.load(), CONTENT)
        url, shown = found.target_url, found.target_shown
        return cls(found.source, url, shown=shown, pool_size=pool_size, limits=limits)

    @contextmanager
    def get_postgres_session(self, *, snapshot: bool = False) -> Iterator[Session]:
        """A session with PostgreSQL.

        Args:
            snapshot: read only, and all statements see the state at the first one.

        Raises:
            TargetError: the server does not answer, or refuses.
            Refused: a value or a key is invalid; nothing was changed.
        """
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = self._postgres.execution_options(**options) if snapshot else self._postgres
        try:
            with Session(engine) as session, session.begin():
                yield session
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            raise Refused.by_database(error, where=self.shown) from error
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "pgcode", None) in _TOO_MUCH:
                raise Refused.by_database(error, where=self.shown) from error
            # Not "from error": the driver's own text may contain the URL.
            cause: Any = error.orig
            raise TargetError.from_driver(cause, where=self.shown, url=self._url) from None
        except sa.exc.TimeoutError as error:
            raise TargetError(
                f"{self.shown}: no connection of the pool became free before the timeout",
                remedy="Close sessions before opening others, or use a larger pool",
            ) from error

    @contextmanager
    def get_sqlite_session(
        self, *, snapshot: bool = False, write: bool = False
    ) -> Iterator[Session]:
        """A session with the SQLite file.

        Args:
            snapshot: all statements see the state at the first one.
            write: lock out other writers, so that reads stay valid until the session ends.

        Raises:
            SourceError: the file is missing, locked or damaged, or the disk is full.
            Refused: a value or a key is invalid; nothing was changed.
        """
        if not self.sqlite_path.exists():
            raise SourceError(
                f"There is no SQLite file {self.sqlite_path}",
                remedy=f"Check {CONTENT.setting}",
            )
        try:
            with Session(self._sqlite) as session, session.begin():
                if snapshot or write:
                    session.execute(sa.text("BEGIN IMMEDIATE" if write else "BEGIN"))
                yield session
        except (sa.exc.IntegrityError, sa.exc.DataError) as error:
            raise Refused.by_database(error, where=str(self.sqlite_path)) from error
        except sa.exc.DBAPIError as error:
            raise _translated(error, self.sqlite_path) from error
        except sa.exc.TimeoutError as error:
            raise SourceError(
                f"{self.sqlite_path}: no connection of the pool became free before the timeout",
                remedy="Close sessions before opening others, or use a larger pool",
            ) from error

    def close(self) -> None:
        """Close every connection of both pools."""
        self._postgres.dispose()
        self._sqlite.dispose()

    def __enter__(self) -> Self:
        """The manager, closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close both pools."""
        self.close()


_LIMITED = stating(without=LIMITS, row_security="on")

_TOO_MUCH = frozenset({"54000", "54001", "54023"})
"""SQLSTATEs of too large a value: for an index, for the stack, too many arguments."""

_SQLITE_PROBLEMS = (
    ("locked", "another process is writing to it", "Try again later"),
    ("full", "the disk is full", "Free disk space; the transaction was rolled back"),
    ("readonly", "it is read-only", "Give this user write permission on the file and its folder"),
    ("malformed", "it is damaged", "Restore it from a backup"),
    ("not a database", "it is not an SQLite database", f"Check {CONTENT.setting}"),
    ("no such table", "a table is missing", "Check that this is the application's file"),
    ("unable to open", "it cannot be opened", "Check the path and its permissions"),
)


def _translated(error: sa.exc.DBAPIError, path: Path) -> SourceError:
    message = first_line(str(error.orig))
    for words, problem, remedy in _SQLITE_PROBLEMS:
        if words in message:
            return SourceError(f"{path}: {problem} ({message})", remedy=remedy)
    return SourceError(f"{path}: {message}", remedy="The transaction was rolled back")


def _driver() -> Any:
    """Python's own SQLite, or pysqlite3 if that was built without extensions.

    Two SQLite libraries that open the same file in one process drop each other's locks, so
    pysqlite3 is only used if necessary.
    """
    if hasattr(sqlite3.Connection, "enable_load_extension"):
        return sqlite3
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        raise SourceError(
            "This Python's sqlite3 cannot load extensions, which sqlite-vec needs",
            remedy="Install pysqlite3-binary, or use a Python with enable_load_extension",
        ) from None


def _load_vectors(connection: Any, _: object) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.enable_load_extension(False)


def _refuse_unsendable(where: str, context: sa.engine.ExceptionContext) -> None:
    """Refuse values that the driver cannot send: a NUL, or a number of more than 64 bits."""
    error = context.original_exception
    if isinstance(error, (ValueError, OverflowError)):
        raise Refused(
            f"{where} rejected the change: {first_line(str(error))}",
            remedy="Nothing was changed; correct the value",
        ) from error
