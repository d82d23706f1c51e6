"""Files and folders that only their owner may enter, from the moment they are made.

Copies of the source, backups and evidence hold what the databases guard by their own rights. What
is made here is private whatever the umask is. SQLite, Dagster and other libraries make files of
their own: the umask of every process that starts here covers those, and a file that is made before
SQLite opens it gives its rights to the journals beside it.
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
"""What a home must not allow; root lets its server's user pass, see ``unprivileged``."""
_OURS = frozenset(
    {
        *("anki", "backups", "code", "dagster", "faults", "postgres", "replaced", "reports"),
        *("snapshots", "sources", "spaces", "unfinished", "unwell"),
    }
)
"""How names of entries of a home begin, up to their first point."""
_SAMPLE = "sample"
"""How those of samples end; each migration has one."""
_PROJECT = Path(__file__).resolve().parent.parent.parent
_told: set[Path] = set()


def guard_process() -> None:
    """Let libraries of this process, and the processes that it starts, make private files."""
    os.umask(_OTHERS)


def home(path: Path, *, say: Callable[[str], None] | None = None) -> Path:
    """Make the folder of all files of the pipeline, or close one that others can enter.

    What lies in it is closed as well, as far as it belongs to this user; no link is followed.

    Args:
        path: the folder.
        say: gets the message, once per folder; standard error by default.

    Raises:
        FilesError: the folder cannot be made.
    """
    folder(path)
    with translated(path):
        found = path.stat()
        loose = found.st_mode & _ENTERED or any(map(_is_loose, path.iterdir()))
    if loose and path not in _told:
        why = _why_shared(path, found)
        if why is None:
            if found.st_mode & _ENTERED:
                path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
            _tighten(path)
        else:
            _told.add(path)
            (say or _say)(
                f"Other users can enter PIPELINE_HOME {path}: its permissions were left as they"
                f" are, because {why}. Files that the pipeline creates are private; to protect the"
                " rest, use a folder for the pipeline alone."
            )
    return path


def folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing; one that is there stays as it is.

    Raises:
        FilesError: it cannot be made.
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
    """Make an empty file, where there is none, that SQLite then fills.

    Raises:
        FilesError: it cannot be made.
    """
    with translated(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, _FILE))
    return path


def opened(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file to write it; one that is there is closed to others first.

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


@dataclass(frozen=True)
class Rights:
    """Who may do what with a file that is not the pipeline's own.

    Attributes:
        mode: its permission bits.
        uid: its user.
        gid: its group.
    """

    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, path: Path) -> "Rights | None":
        """Those of a file, None where there is none."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return cls(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def give(self, row_id: int) -> None:
        """Give them to an open file; only root can give it to another user."""
        uid = self.uid if os.geteuid() == 0 else -1
        # A group that this user is not in cannot be given either.
        with contextlib.suppress(PermissionError):
            os.fchown(row_id, uid, self.gid)
        os.fchmod(row_id, self.mode)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Say in one sentence why a file cannot be written; what callers expect passes.

    Raises:
        FilesError: the disk is full or broken, or this user lacks a right.
    """
    try:
        yield
    except (FileExistsError, FileNotFoundError, BlockingIOError):
        raise
    except OSError as error:
        raise FilesError.from_system(error, path) from error


def _opener(path: str, flags: int) -> int:
    row_id = os.open(path, flags, _FILE)
    if os.fstat(row_id).st_mode & _OTHERS:
        os.fchmod(row_id, _FILE)
    return row_id


def _is_loose(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False  # a file that another process needed for a moment
    own = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return own and found.st_uid == os.geteuid() and bool(found.st_mode & _OTHERS)


def _why_shared(path: Path, found: os.stat_result) -> str | None:
    """Why a folder is not the pipeline's own to close; None where it is."""
    there = path.resolve()
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    inside = [_PROJECT]
    with contextlib.suppress(RuntimeError):  # a user without a home
        inside.append(Path.home().resolve())
    ancestor = any(there in (each, *each.parents) for each in inside)
    others = any(not _is_ours(each) for each in path.iterdir() if not each.is_symlink())
    if found.st_mode & stat.S_ISVTX or ancestor or others:
        return "it holds more than the pipeline's files"
    return None


def _is_ours(path: Path) -> bool:
    """Whether an entry of a home has a name that the pipeline gives."""
    name = path.name.split(".")[0]
    return name in _OURS or name == _SAMPLE or name.endswith(f"_{_SAMPLE}")


def _tighten(path: Path) -> None:
    for _, folders, files, at in os.fwalk(path, follow_symlinks=False):
        for name in (*folders, *files):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                row_id = os.open(name, flags, dir_fd=at)
            except OSError:
                continue  # a link, a socket, or gone
            try:
                found = os.fstat(row_id)
                mode = stat.S_IMODE(found.st_mode)
                if found.st_uid == os.geteuid() and mode & _OTHERS:
                    os.fchmod(row_id, mode & ~_OTHERS)
            finally:
                os.close(row_id)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
