"""A text of SQL, statement by statement, without holding more of it than one statement."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

STATEMENT_BYTES = 256 * 2**20
"""The longest statement that is read; a row whose BLOB has half of that makes one."""

_PIECE = 2**20

_WHOLE = re.compile(
    rb"""(?: [^'"`\[;/-]++ | '[^']*+' | "[^"]*+" | `[^`]*+` | \[[^\]]*+\]
       | --[^\n]*+\n | -(?!-) | /\*(?s:.*?)\*/ | /(?!\*) )*+ ;""",
    re.X,
)
"""To the first semicolon that is in no string, name or comment."""

_SPACE = re.compile(rb"(?: \s++ | --[^\n]*+(?:\n|\Z) | /\*(?s:.*?)\*/ )*+", re.X)

_TRIGGER = re.compile(rb"CREATE\s+(?:TEMP\w*\s+)?TRIGGER\b", re.I)


@dataclass(frozen=True)
class Statement:
    """One statement with its semicolon.

    Attributes:
        sql: without what stands before it.
        line: of the text, where it begins.
        end: how many bytes of the text are behind us.
    """

    sql: bytes
    line: int
    end: int


class Unfinished(Exception):
    """The text ends within a statement, or one is too long.

    Attributes:
        line: where that statement begins.
        long: whether it is too long.
    """

    def __init__(self, line: int, *, long: bool) -> None:
        """Say where."""
        super().__init__(line)
        self.line = line
        self.long = long


def statements(text: BinaryIO) -> Iterator[Statement]:
    """Yield the statements of a text, in order.

    Raises:
        Unfinished: the text ends within a statement, or one is too long.
    """
    held, line, behind, ended = b"", 1, 0, False
    while not ended:
        # As much again as is held, so that a long statement is looked at few times.
        piece = text.read(max(_PIECE, len(held)))
        held, ended, at = held + piece, not piece, 0
        while True:
            begins = _skip(held, at)
            to = _end(held, begins)
            if to is None:
                break
            line += held.count(b"\n", at, begins)
            yield Statement(held[begins:to], line, behind + to)
            line += held.count(b"\n", begins, to)
            at = to
        held, behind = held[at:], behind + at
        if len(held) > STATEMENT_BYTES:
            raise Unfinished(line, long=True)
    begins = _skip(held, 0)
    if begins < len(held):
        raise Unfinished(line + held.count(b"\n", 0, begins), long=False)


def _skip(held: bytes, at: int) -> int:
    found = _SPACE.match(held, at)
    return found.end() if found else at


def _end(held: bytes, begins: int) -> int | None:
    """Where a statement ends; None where more of the text is needed to tell."""
    to = begins
    while found := _WHOLE.match(held, to):
        to = found.end()
        # A trigger has statements within.
        if not _TRIGGER.match(held, begins) or sqlite3.complete_statement(
            held[begins:to].decode(errors="replace")
        ):
            return to
    return None
