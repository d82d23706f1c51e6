"""What a process needs of its surroundings before it does anything: file names and streams.

Python reads file names in the locale's encoding. Where that is not UTF-8, a Thai path becomes text
that no database takes, so the process starts again in Python's UTF-8 mode. Standard streams may be
closed, may know only ASCII, and may end before the command does; none of that fails a command.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import PipelineError


class OutputError(PipelineError):
    """What a command prints cannot be written."""


class _Output(io.TextIOWrapper):
    """Standard output: a letter that it does not know is escaped, a reader may leave early.

    Without a reader the command goes on: what it does is not half done because nobody looks.
    """

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OutputError: there is no room for it.
        """
        with self._translated():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered.

        Raises:
            OutputError: there is no room for it.
        """
        with self._translated():
            super().flush()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is still buffered would fail again when the process ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise OutputError(
                    f"The output cannot be written ({error.strerror})",
                    remedy="Free some space, or send the output elsewhere",
                ) from error


def adapt() -> None:
    """Read file names as UTF-8, and write to streams that cannot fail on a letter."""
    _read_names_as_utf8()
    _open_closed_streams()
    sys.stdout = _Output(
        sys.stdout.buffer,
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=sys.stdout.isatty(),
    )


def _read_names_as_utf8() -> None:
    """Start again in UTF-8 mode where the locale says otherwise; output stays the locale's."""
    if sys.getfilesystemencoding() == "utf-8":
        return
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, again)  # noqa: S606  # no shell is wanted


def _open_closed_streams() -> None:
    """Open closed standard streams on the null device, or the next file would take their place."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = open(number, mode)  # noqa: PTH123, SIM115  # it stays open until the end
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
