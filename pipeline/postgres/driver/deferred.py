"""Statements that wait for the next call of a session, because nobody needs their answer."""

_CONTROL = ("BEGIN ", "SET LOCAL ", "SAVEPOINT ", "RELEASE SAVEPOINT ", "ROLLBACK TO SAVEPOINT ")
"""Statements that the server has no reason to refuse."""


class Deferred:
    """The waiting statements of one session, in order."""

    def __init__(self) -> None:
        """Start without statements."""
        self._waiting: list[str] = []

    def __bool__(self) -> bool:
        """Whether a statement waits."""
        return bool(self._waiting)

    @property
    def fallible(self) -> bool:
        """Whether the server may refuse one of them."""
        return not all(statement.startswith(_CONTROL) for statement in self._waiting)

    @property
    def can_follow_a_query(self) -> bool:
        """Whether all of them only release savepoints, which a query may precede."""
        return all(statement.startswith("RELEASE SAVEPOINT ") for statement in self._waiting)

    @property
    def begins(self) -> bool:
        """Whether the transaction has not begun yet."""
        return any(statement.startswith("BEGIN ") for statement in self._waiting)

    def add(self, statement: str) -> None:
        """Let a statement wait."""
        self._waiting.append(statement)

    def taken(self, *statements: str) -> str:
        """All waiting statements, which wait no longer, followed by others, as one script."""
        script = ";\n".join((*self._waiting, *statements))
        self._waiting.clear()
        return script

    def drop_if_last(self, statement: str) -> bool:
        """Drop a statement if nothing was deferred or sent after it."""
        if self._waiting[-1:] != [statement]:
            return False
        self._waiting.pop()
        return True

    def undo(self, savepoint: str) -> None:
        """Forget what was deferred since a savepoint, and roll back to it if it was sent."""
        begin = f"SAVEPOINT {savepoint}"
        if begin in self._waiting:
            # The last one; an earlier one of this name is released by a waiting statement.
            while self._waiting.pop() != begin:
                pass
        else:
            self._waiting[:] = [f"ROLLBACK TO {begin}", f"RELEASE {begin}"]

    def clear(self) -> None:
        """Forget all statements."""
        self._waiting.clear()
