"""Locks between processes of one machine, and folders that end with their process."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.core import private


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[int]:
    """Hold a file's lock, which the operating system lets go when the process dies.

    Yields:
        The open file; a process that inherits it holds the lock as well.

    Raises:
        BlockingIOError: somebody else holds it, and ``wait`` is False.
        FilesError: the file cannot be made.
    """
    with private.opened(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder of one run; folders of runs that were killed are cleared away.

    Args:
        parent: holds such folders and nothing else.
        name: the folder's name.

    Raises:
        FilesError: it cannot be made.
    """
    private.folder(parent)
    folder = parent / name
    with ExitStack() as held:
        # One run at a time clears and makes folders.
        with locked(parent.with_suffix(".lock"), wait=True):
            for old in parent.iterdir():
                # Held by a run that goes on, or just cleared away by one that ended.
                held_or_gone = suppress(BlockingIOError, FileNotFoundError)
                with held_or_gone, locked(old / "lock", wait=False):
                    shutil.rmtree(old, ignore_errors=True)
            private.folder(folder)
            held.enter_context(locked(folder / "lock", wait=False))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
