"""Splitting of an SQL text into statements; only one statement is kept in memory."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.sqlite.dump.text import Readable

STATEMENT_BYTES = 256 * 2**20
"""The longest statement; a BLOB takes twice its size in SQL."""

_PIECE = 2**20

_WHOLE = re.compile(
    rb"""(?: [^'"`\[;/-]++ | '[^']*+' | "[^"]*+" | `[^`]*+` | \[[^\]]*+\]
       | --[^\n]*+\n | -(?!-) | /\*(?s:.*?)\*/ | /(?!\*) )*+ ;""",
    re.X,
)
"""Up to the first semicolon outside strings, names and comments."""

_SPACE = re.compile(rb"(?: \s++ | --[^\n]*+(?:\n|\Z) | /\*(?s:.*?)\*/ )*+", re.X)

_LAST = re.compile(rb"(?:COMMIT|END)(?:\s+TRANSACTION)?\s*", re.I)
"""An end that needs no semicolon."""

_TRIGGER = re.compile(rb"CREATE\s+(?:TEMP\w*\s+)?TRIGGER\b", re.I)


@dataclass(frozen=True)
class Statement:
    """One statement with its semicolon.

    Attributes:
        sql: without leading blanks and comments.
        line: the line in which it begins.
        end: its end in the text, in bytes.
    """

    sql: bytes
    line: int
    end: int


class Unfinished(Exception):
    """The text ends within a statement, or a statement is too long.

    Attributes:
        line: the line in which that statement begins.
    """

    def __init__(self, line: int, *, long: bool) -> None:
        """Create the error for a statement."""
        super().__init__(line)
        self.line = line
        self.long = long


def statements(text: Readable) -> Iterator[Statement]:
    """Yield the statements of a text, in order.

    Raises:
        Unfinished: the text ends within a statement, or a statement is too long.
    """
    buffer, line, consumed, ended = b"", 1, 0, False
    while not ended:
        # The buffer doubles, so that a long statement is scanned only a few times.
        piece = text.read(max(_PIECE, len(buffer)))
        buffer, ended, position = buffer + piece, not piece, 0
        while True:
            start = _skip(buffer, position)
            end = _end(buffer, start)
            if end is None:
                break
            line += buffer.count(b"\n", position, start)
            yield Statement(buffer[start:end], line, consumed + end)
            line += buffer.count(b"\n", start, end)
            position = end
        buffer, consumed = buffer[position:], consumed + position
        if len(buffer) > STATEMENT_BYTES:
            raise Unfinished(line, long=True)
    start = _skip(buffer, 0)
    if _LAST.fullmatch(buffer, start):
        yield Statement(b"COMMIT;", line + buffer.count(b"\n", 0, start), consumed + len(buffer))
    elif start < len(buffer):
        raise Unfinished(line + buffer.count(b"\n", 0, start), long=False)


def _skip(buffer: bytes, position: int) -> int:
    found = _SPACE.match(buffer, position)
    return found.end() if found else position


def _end(buffer: bytes, start: int) -> int | None:
    """The end of a statement; None if it is beyond the buffer."""
    end = start
    while found := _WHOLE.match(buffer, end):
        end = found.end()
        # A trigger contains statements.
        if not _TRIGGER.match(buffer, start) or sqlite3.complete_statement(
            buffer[start:end].decode(errors="replace")
        ):
            return end
    return None
