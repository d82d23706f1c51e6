"""Open connections to a private copy, which one user after the other borrows.

A connection reads the whole schema when it is opened, which takes longer than to read a small
table.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closeable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Close it."""
        ...


Connection = TypeVar("Connection", bound=Closeable)


class Pool(Generic[Connection]):
    """Connections of one kind; as many as are used at the same time."""

    def __init__(self) -> None:
        """Start without connections."""
        self._idle: list[Connection] = []
        self._turn = threading.Lock()

    @contextmanager
    def borrowed(self, connect: Callable[[], Connection]) -> Iterator[Connection]:
        """An idle connection, or a new one. After an error it is closed, and not used again."""
        with self._turn:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._turn:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._turn:
            while self._idle:
                self._idle.pop().close()
