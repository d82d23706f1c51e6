"""Read the statements in what a client of PostgreSQL sends without TLS."""

import struct
from collections.abc import Callable

_REQUESTS = {80877103, 80877104}
"""Codes that ask for encryption; they come before the startup message."""
_LONGEST_STARTUP = 10_000
_TEXTS_BEFORE = {ord("Q"): 0, ord("P"): 1}
"""Messages with the text of a statement: how many texts precede it."""
_length = struct.Struct(">i").unpack_from


class Statements:
    """Finds the statements of one connection; ``found`` receives the text of each.

    Rows of a COPY and parameters are not kept. Other protocols and encrypted bytes are passed over.
    """

    def __init__(self, found: Callable[[str], None]) -> None:
        """Begin before the first byte of a connection."""
        self._found = found
        self._rest = bytearray()
        self._started = False
        self._readable = True
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
        if not self._readable:
            return
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        self._rest += memoryview(data)[self._skip :]
        at = self._after_messages(0 if self._started else self._after_startup())
        self._skip = max(0, at - len(self._rest))
        del self._rest[:at]

    def _after_startup(self) -> int:
        """The end of complete messages before the first statement."""
        rest, at = self._rest, 0
        while not self._started and at + 8 <= len(rest):
            length, code = _length(rest, at)[0], _length(rest, at + 4)[0]
            if not 8 <= length <= _LONGEST_STARTUP:
                return self._give_up()
            if at + length > len(rest):
                break
            self._started = code not in _REQUESTS
            at += length
        return at

    def _after_messages(self, at: int) -> int:
        """The end of the messages that were read; beyond the bytes at hand, the rest is skipped."""
        rest, size = self._rest, len(self._rest)
        while self._started and at + 5 <= size:
            end = at + 1 + _length(rest, at + 1)[0]
            if end < at + 5:
                return self._give_up()
            if rest[at] in _TEXTS_BEFORE:
                if end > size:
                    break
                texts = bytes(rest[at + 5 : end]).split(b"\0")
                self._found(texts[_TEXTS_BEFORE[rest[at]]].decode(errors="replace"))
            at = end
        return at

    def _give_up(self) -> int:
        self._readable = self._started = False
        return len(self._rest)
