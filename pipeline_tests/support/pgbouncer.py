"""PgBouncer in front of a test's server, in either mode, on a port of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = {ignored}
max_client_conn = 100
default_pool_size = 20
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def pgbouncer(
    database: URL, mode: str, *, ignored: str = "options,extra_float_digits"
) -> Iterator[URL]:
    """A database as PgBouncer offers it."""
    listen = free_port()
    host = database.query.get("host") or database.host
    text = _CONFIGURATION.format(
        host=host,
        port=database.port or 5432,
        user=database.username,
        listen=listen,
        mode=mode,
        ignored=ignored,
    )
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer"))
    (folder / "pgbouncer.ini").write_text(text)
    owner = Path(str(host)).stat()
    for each in (folder, folder / "pgbouncer.ini"):
        os.chown(each, owner.st_uid, owner.st_gid)
    # As the user of the server, because neither runs as root.
    process = subprocess.Popen(
        [PROGRAM, "-q", folder / "pgbouncer.ini"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    url = URL.create(
        "postgresql+psycopg2", database.username, None, "127.0.0.1", listen, database.database
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", listen), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)
