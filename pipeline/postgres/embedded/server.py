"""The embedded PostgreSQL server, used when DATABASE_URL is not set: local, on a Unix socket.

Every process that uses the server holds a shared lock on a file beside its data folder. The
operating system releases the lock when the process ends. The last process to leave stops the
server.
"""

import atexit
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import URL

from pipeline.core import private
from pipeline.core.errors import FilesError, PipelineError
from pipeline.core.locks import locked
from pipeline.postgres.embedded import postmaster

_HELD: dict[Path, int] = {}
"""File descriptors of the locks that keep servers running, by data folder."""


def ensure_server(data: Path) -> URL:
    """Start the server unless it is running, and use it until this process ends.

    Args:
        data: the data folder, created if missing. As root, the server runs as a separate user.

    Raises:
        TargetError: it cannot be started.
        FilesError: its folder cannot be written.
    """
    data = data.absolute()
    private.folder(data.parent)
    try:
        with locked(data.with_suffix(".lock"), wait=True):
            found = postmaster.ensure(data)
            _hold(data)
    except OSError as error:
        raise FilesError.from_system(error, data.parent) from error
    return URL.create(
        "postgresql",
        username="postgres",
        database="postgres",
        query={"host": str(found.socket)},
    )


def leave(data: Path) -> None:
    """Release a server; the last process to do so stops it."""
    data = data.absolute()
    held = _HELD.pop(data, None)
    if held is None:
        return
    os.close(held)
    with locked(data.with_suffix(".lock"), wait=True):
        if not _used(data):
            postmaster.stop(data)


def _hold(data: Path) -> None:
    if data in _HELD:
        return
    held = os.open(_users(data), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_SH)
    _HELD[data] = held
    atexit.register(_leave_at_exit, data)


def _leave_at_exit(data: Path) -> None:
    # A failure cannot be handled at exit; the next process that uses the server reports it.
    with suppress(PipelineError, OSError):
        leave(data)


def _used(data: Path) -> bool:
    """Whether any process uses a server."""
    try:
        with locked(_users(data), wait=False):
            return False
    except BlockingIOError:
        return True


def _users(data: Path) -> Path:
    return data.with_suffix(".users")
