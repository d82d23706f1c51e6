"""Files and folders that are accessible only to their owner from the moment they are created.

Copies of the source, backups and evidence contain data that the databases protect by privileges.
Files created here are private whatever the umask is. Files of SQLite, Dagster and other libraries
are covered by the umask of every process that starts here; journals of SQLite take the permissions
of their database file, which is therefore created here before SQLite opens it.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.core.errors import FilesError

_FOLDER, _FILE = 0o700, 0o600
_OTHERS = 0o077
_ENTERED = 0o067
"""Permissions a home must not grant; root allows its server's user, see ``unprivileged``."""
_OURS = frozenset(
    {
        *("anki", "backups", "code", "dagster", "faults", "postgres", "replaced", "reports"),
        *("snapshots", "sources", "spaces", "unfinished", "unwell"),
    }
)
"""Names of entries of a home, up to the first dot."""
_SAMPLE = "sample"
"""The end of the names of samples, one per migration."""
_PACKAGE = Path(__file__).resolve().parent.parent


def _is_installed() -> bool:
    """Whether the program was installed from a wheel; an editable install is a checkout."""
    beside = _PACKAGE.parent
    return beside.name in ("site-packages", "dist-packages") or any(
        beside.glob("pipeline-*.dist-info")
    )


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # It was deleted; the first file that is needed there reports it.
        return Path(os.environ.get("PWD") or "/")


INSTALLED = _is_installed()
"""Whether the program is installed, so that its own folder is not written."""
PROJECT = _current_folder() if INSTALLED else _PACKAGE.parent
"""The folder of .env, of relative paths and of a home that no setting names.

It is the checkout's folder, and the current one if the program is installed.
"""
FILES = _PACKAGE / "project_files" if INSTALLED else _PACKAGE.parent
"""The folder of dagster.yaml, workspace.yaml and deploy/; a wheel has a copy of them."""
_reported: set[Path] = set()


def guard_process() -> None:
    """Make files private that libraries of this process and its child processes create."""
    os.umask(_OTHERS)


def home(path: Path, *, report: Callable[[str], None] | None = None) -> Path:
    """Create the folder of all files of the pipeline, or make an existing one private.

    Its content becomes private as well, if it belongs to this user; links are not followed.

    Args:
        path: the folder.
        report: receives a warning, once per folder; standard error by default.

    Raises:
        FilesError: the folder cannot be created.
    """
    folder(path)
    with translated(path):
        found = path.stat()
        loose = found.st_mode & _ENTERED or any(map(_is_loose, path.iterdir()))
    if loose and path not in _reported:
        why = _why_shared(path, found)
        if why is None:
            if found.st_mode & _ENTERED:
                path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
            _tighten(path)
        else:
            _reported.add(path)
            (report or _print)(
                f"Other users can access PIPELINE_HOME {path}: its permissions were not changed"
                f" because {why}. Files that the pipeline creates are private; to protect the"
                " rest, use a folder for the pipeline alone."
            )
    return path


def folder(path: Path) -> Path:
    """Create a folder and missing parents; an existing folder does not change.

    Raises:
        FilesError: it cannot be created.
    """
    if path.is_dir():
        return path
    if path.parent != path:
        folder(path.parent)
    with translated(path), contextlib.suppress(FileExistsError):
        path.mkdir(_FOLDER)
    if not path.is_dir():
        error = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        raise FilesError.from_system(error, path) from error
    return path


def create(path: Path) -> Path:
    """Create an empty file, unless it exists, for SQLite to fill.

    Raises:
        FilesError: it cannot be created.
    """
    with translated(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, _FILE))
    return path


def opened(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file for writing; an existing file is made private first.

    Raises:
        FilesError: it cannot be opened.
    """
    with translated(path):
        return open(path, mode, opener=_opener, **options)


def write_text(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        FilesError: it cannot be written.
    """
    with translated(path), opened(path, "w", encoding="utf-8") as file:
        file.write(text)


def replace_text(path: Path, text: str) -> None:
    """Replace a file as a whole; a process that is killed leaves the old one.

    Raises:
        FilesError: it cannot be written.
    """
    fresh = path.with_suffix(".fresh")
    write_text(fresh, text)
    with translated(path):
        fresh.replace(path)


@dataclass(frozen=True)
class Rights:
    """Permission bits, user and group of a file that does not belong to the pipeline."""

    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: Path) -> "Rights | None":
        """Read those of a file; None if it does not exist."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return cls(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def apply(self, descriptor: int) -> None:
        """Apply them to an open file; only root can change its user."""
        uid = self.uid if os.geteuid() == 0 else -1
        # A user can only set groups of which it is a member.
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, uid, self.gid)
        os.fchmod(descriptor, self.mode)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate errors of writing a file; errors that callers handle are passed on.

    Raises:
        FilesError: the disk is full or faulty, or this user lacks a permission.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError, BlockingIOError):
        raise
    except OSError as error:
        raise FilesError.from_system(error, path) from error


def _opener(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, _FILE)
    if os.fstat(descriptor).st_mode & _OTHERS:
        os.fchmod(descriptor, _FILE)
    return descriptor


def _is_loose(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False  # a temporary file of another process
    own = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return own and found.st_uid == os.geteuid() and bool(found.st_mode & _OTHERS)


def _why_shared(path: Path, found: os.stat_result) -> str | None:
    """Why permissions of a folder must not be changed; None if they may be."""
    resolved = path.resolve()
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    inside = [PROJECT]
    with contextlib.suppress(RuntimeError):  # a user without a home
        inside.append(Path.home().resolve())
    ancestor = any(resolved in (each, *each.parents) for each in inside)
    others = any(not _is_ours(each) for each in path.iterdir() if not each.is_symlink())
    if found.st_mode & stat.S_ISVTX or ancestor or others:
        return "it contains other files"
    return None


def _is_ours(path: Path) -> bool:
    """Whether the pipeline creates entries of this name in a home."""
    name = path.name.split(".")[0]
    return name in _OURS or name == _SAMPLE or name.endswith(f"_{_SAMPLE}")


def _tighten(path: Path) -> None:
    for _, folders, files, parent in os.fwalk(path, follow_symlinks=False):
        for name in (*folders, *files):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                descriptor = os.open(name, flags, dir_fd=parent)
            except OSError:
                continue  # a link, a socket, or deleted
            try:
                found = os.fstat(descriptor)
                mode = stat.S_IMODE(found.st_mode)
                if found.st_uid == os.geteuid() and mode & _OTHERS:
                    os.fchmod(descriptor, mode & ~_OTHERS)
            finally:
                os.close(descriptor)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
