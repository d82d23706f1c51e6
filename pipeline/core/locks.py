"""Locks between processes of one machine, and temporary folders of runs."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.core import private


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[int]:
    """Hold the lock of a file; the operating system releases it when the process dies.

    Yields:
        The file descriptor; a process that inherits it also holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is False.
        FilesError: the file cannot be created.
    """
    with private.opened(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """Create the folder of a run, and remove folders of runs that were killed.

    ``parent`` contains nothing but such folders.

    Raises:
        FilesError: the folder cannot be created.
    """
    private.folder(parent)
    folder = parent / name
    with ExitStack() as held:
        # One run at a time removes and creates folders.
        with locked(parent.with_suffix(".lock"), wait=True):
            for old in parent.iterdir():
                # The run still holds the lock, or it has just removed its folder.
                in_use_or_deleted = suppress(BlockingIOError, FileNotFoundError)
                with in_use_or_deleted, locked(old / "lock", wait=False):
                    shutil.rmtree(old, ignore_errors=True)
            private.folder(folder)
            held.enter_context(locked(folder / "lock", wait=False))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
