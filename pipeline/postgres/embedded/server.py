"""The PostgreSQL that runs when none is given: real, local, reached by a Unix socket.

Every process that uses it holds a shared lock on a file beside its data, which the operating
system releases when the process dies. Whoever ends and finds nobody else holding it stops the
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
"""The locks by which this process keeps servers running, by data folder."""


def ensure_server(data: Path) -> URL:
    """Start the server, or find it running; this process holds it until it ends.

    Args:
        data: the server's folder, made if missing. As root the server runs as a user of its own.

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
    """Use a server no more; the last one to leave stops it."""
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
    # Nobody could act on a failure now; the next user of the server meets it and says so.
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
