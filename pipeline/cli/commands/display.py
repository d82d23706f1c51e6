"""What a command shows while it works: bars, and what it waits for.

On a terminal, the display appears once something has taken half a second, and disappears when it is
done. Elsewhere, one line on standard error names what has taken ten seconds.
"""

import os
import sys
import threading
from contextvars import ContextVar, Token
from typing import Any, Self, TextIO

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from pipeline.cli.commands import terminal
from pipeline.core import progress
from pipeline.core.progress import LongWaits
from pipeline.core.quoting import share, size
from pipeline.reporting import grids, layout

_APPEARS_SECONDS = 0.5
_LINE_SECONDS = 10.0
_WIDE, _MEDIUM = 120, 60
_shown: "ContextVar[Display | None]" = ContextVar("shown", default=None)


def say(text: str, *, style: str = "") -> None:
    """Print a line of the result at once; what shows the progress stays below it."""
    shown = _shown.get()
    if shown is None:
        terminal.say(text, style=style)
    else:
        shown.say(text, style=style)


class Display:
    """A bar for each table and phase, and a line for the present wait; used as a context manager.

    It draws on the terminal itself, because Dagster captures the output of steps.
    """

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._terminal = _duplicate(sys.stdout)
        self._errors = _duplicate(sys.stderr)
        console = grids.console_on(self._terminal)
        on_terminal = self._terminal is not None and self._terminal.isatty()
        self._drawn = on_terminal and not console.is_dumb_terminal
        self._bars = Progress(
            *_columns(grids.medium_of(console).width or 0),
            console=console,
            transient=True,
            disable=not self._drawn,
        )
        self._lock = threading.Lock()
        self._waiting = self._bars.add_task("", total=None, figures="", share="", visible=False)
        self._tasks: dict[tuple[str, str], Any] = {}
        self._appears: threading.Timer | None = None
        self._lines = LongWaits(self._line, seconds=_LINE_SECONDS)
        self._token: Token[Display | None]

    def __enter__(self) -> Self:
        """Wait for something to show."""
        self._token = _shown.set(self)
        if not self._drawn:
            self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        _shown.reset(self._token)
        self._disappear()
        if not self._drawn:
            self._lines.__exit__()
        for stream in (self._terminal, self._errors):
            if stream is not None:
                stream.close()

    def __call__(self, made: progress.Progress) -> None:
        """Update the bar of a phase."""
        if not self._drawn:
            return
        name = (made.table, made.phase)
        rate = size(round(made.bytes / max(made.seconds, 1e-3)))
        figures = f"{made.rows:,}/{made.of_rows:,}  {rate}/s"
        part = share(made.rows, made.of_rows, digits=0) if made.of_rows else ""
        with self._lock:
            if name not in self._tasks:
                label = f"{made.table}, {made.phase}"
                self._tasks[name] = self._bars.add_task(
                    label, total=made.of_rows, figures="", share=""
                )
            self._bars.update(self._tasks[name], completed=made.rows, figures=figures, share=part)

    def waits(self, what: str | None) -> None:
        """Show what is waited for; without any wait, the display disappears."""
        if not self._drawn:
            self._lines.waits(what)
        elif what is None:
            self._disappear()
        else:
            self._bars.reset(self._waiting, description=what, visible=True)
            if self._appears is None:
                self._appears = threading.Timer(_APPEARS_SECONDS, self._appear)
                self._appears.daemon = True
                self._appears.start()

    def note(self, sentence: str) -> None:
        """Print a line above the bars, or on standard error."""
        if self._drawn:
            self._bars.console.print(sentence, markup=False, soft_wrap=True)
        else:
            self._line(sentence)

    def say(self, text: str, *, style: str = "") -> None:
        """Print a line of the result above the bars; bars of finished phases disappear."""
        if not self._drawn:
            terminal.say(text, style=style)
            sys.stdout.flush()
            return
        with self._lock:
            finished = {task.id for task in self._bars.tasks if task.finished}
            for name in [name for name, task in self._tasks.items() if task in finished]:
                self._bars.remove_task(self._tasks.pop(name))
        console = self._bars.console
        medium = grids.medium_of(console)
        for line in layout.wrapped(medium.shown(text), medium.width or len(text)):
            console.print(Text(line, style=style), soft_wrap=True)

    def _line(self, sentence: str) -> None:
        if self._errors is not None:
            print(sentence, file=self._errors, flush=True)

    def _appear(self) -> None:
        with self._lock:
            if self._appears is not None:
                self._bars.start()

    def _disappear(self) -> None:
        with self._lock:
            if self._appears is not None:
                self._appears.cancel()
                self._appears = None
                self._bars.stop()
                for task in self._tasks.values():
                    self._bars.remove_task(task)
                self._tasks.clear()


def _columns(width: int) -> list[ProgressColumn]:
    """The parts of a line: on a narrow terminal no bar; only names may be shortened."""
    description = TextColumn(
        "{task.description}", markup=False, table_column=Column(ratio=1, overflow="fold")
    )
    field = "figures" if width >= _MEDIUM else "share"
    figures = TextColumn(f"{{task.fields[{field}]}}", table_column=Column(no_wrap=True))
    bar = [BarColumn()] if width >= _WIDE else []
    return [description, *bar, figures, TimeElapsedColumn()]


def _duplicate(stream: TextIO | None) -> TextIO | None:
    """A standard stream of its own; None if it is closed."""
    try:
        return None if stream is None else os.fdopen(os.dup(stream.fileno()), "w", errors="replace")
    except (OSError, ValueError):
        return None
