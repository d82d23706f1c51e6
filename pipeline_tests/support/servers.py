"""PostgreSQL servers of a test's own, which it starts, restarts and kills."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.config.settings import libpq
from pipeline.postgres.embedded import postmaster
from pipeline.postgres.embedded.server import ensure_server, leave


@pytest.fixture
def own_server() -> Iterator[tuple[Path, str]]:
    """A server that the test may restart: its data and its URL."""
    folder = Path(tempfile.mkdtemp(prefix=f"own{os.getpid()}"))
    yield folder / "data", libpq(ensure_server(folder / "data"))
    leave(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)


def restart(data: Path, how: str) -> None:
    """Restart a server, with pg_ctl, as the user that it runs as."""
    subprocess.run(
        [postmaster.programs() / "pg_ctl", "-D", data, "-w", "-m", how, "restart"],
        user=data.stat().st_uid,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        timeout=60,
        check=True,
    )


def server_of(data: Path) -> int | None:
    """The process id of the server that runs on a data folder."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None
    return pid if psutil.pid_exists(pid) else None


def kill_server(data: Path) -> None:
    """Kill a server, and wait until all of its processes are gone."""
    pid = server_of(data)
    assert pid is not None
    server = psutil.Process(pid)
    parts = [server, *server.children(recursive=True)]
    server.kill()
    psutil.wait_procs(parts, timeout=20)
