"""Prepare the process: encoding of file names, and standard streams.

Python decodes file names in the locale's encoding. If that is not UTF-8, a Thai path becomes text
that no database accepts, so the process restarts in Python's UTF-8 mode. Standard streams may be
closed, limited to ASCII, or closed by the reader before the command ends; a command survives all
of these.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.core.errors import PipelineError

INTERRUPTED = 130
"""The exit code of a command that was ended with Ctrl-C, as shells expect it."""


class OutputError(PipelineError):
    """The output of a command cannot be written."""


class _Output(io.TextIOWrapper):
    """Standard output that escapes characters it cannot encode and ignores a closed pipe.

    A command continues without a reader, so that its work is not left half done.
    """

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OutputError: the disk is full.
        """
        with self._translated():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write the buffer.

        Raises:
            OutputError: the disk is full.
        """
        with self._translated():
            super().flush()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # The buffer would fail again when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise OutputError(
                    f"The output cannot be written ({error.strerror})",
                    remedy="Free disk space, or redirect the output",
                ) from error


def adapt() -> None:
    """Decode file names as UTF-8, and make the standard streams safe to write."""
    _read_names_as_utf8()
    _open_closed_streams()
    sys.stdout = _Output(
        sys.stdout.buffer,
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=sys.stdout.isatty(),
    )


def announce() -> None:
    """Show on a terminal that the command has started, because loading it takes a second."""
    if (terminal := _terminal()) and not sys.argv[1].startswith("-"):
        terminal.write(f"pipeline {sys.argv[1]}: starting")
        terminal.flush()


@contextmanager
def interruptible() -> Iterator[None]:
    """Say what Ctrl-C leaves behind, in place of a traceback."""
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
    except SystemExit as ended:
        if ended.code != INTERRUPTED:
            raise
        interrupted = True
    if interrupted:
        print(
            "Interrupted. What was proven before is kept; the rest is unchanged. Run the command"
            " again to continue.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)


def erase() -> None:
    """Remove what ``announce`` has shown."""
    if terminal := _terminal():
        terminal.write("\r\x1b[2K")
        terminal.flush()


def _terminal() -> TextIO | None:
    """A standard stream that is a terminal on which a line can be erased."""
    if os.environ.get("TERM", "dumb") == "dumb" or len(sys.argv) < 2:
        return None
    return next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)


def _read_names_as_utf8() -> None:
    """Restart in UTF-8 mode if the locale is not UTF-8; the output keeps the locale's encoding."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, again)  # noqa: S606  # no shell is wanted


def _open_closed_streams() -> None:
    """Open closed standard streams on the null device; the next file would take their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = open(number, mode)  # noqa: PTH123, SIM115  # it stays open until the end
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
