"""Errors of the Arrow driver: refused values, and everything else."""

from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager

from pipeline.core.errors import TargetError
from pipeline.core.server_errors import SESSION_REFUSALS
from pipeline.postgres.driver import refusals
from pipeline.postgres.driver.statements import Ask

_DATA_FAULTS = ("21", "22", "23", "2B", "44", "54")
"""Classes of SQLSTATE that refuse a statement and leave the session usable."""


class DataFault(Exception):
    """PostgreSQL refused a value; the statement can be rolled back to a savepoint.

    Attributes:
        context: which functions of the target were running.
        value_refused: a value was refused; False if a function is broken.
    """

    def __init__(
        self, error: BaseException, sqlstate: str, context: refusals.Context = refusals.NO_CONTEXT
    ) -> None:
        """Keep the server's error code and message."""
        message = next((line for line in str(error).splitlines() if "ERROR:" in line), str(error))
        super().__init__(message.split("ERROR:")[-1].strip())
        self.sqlstate = sqlstate
        self.context = context
        self.value_refused = context.raised or sqlstate.startswith(_DATA_FAULTS)


class FaultBefore(Exception):
    """A deferred statement was refused before another one that was to be undone alone.

    Not a ``DataFault``, because nobody who expects a fault of the later statement may handle it.

    Attributes:
        fault: the server's error.
    """

    def __init__(self, fault: DataFault) -> None:
        """Keep the error."""
        super().__init__(str(fault))
        self.fault = fault


@contextmanager
def earlier() -> Iterator[None]:
    """Faults inside are those of statements before a savepoint."""
    try:
        yield
    except DataFault as fault:
        raise FaultBefore(fault) from fault


@contextmanager
def translated(shown: str, sent: str = "", *, url: str = "") -> Iterator[None]:
    """Raise ``DataFault`` when a value is refused, and ``TargetError`` for all other errors.

    Args:
        shown: the name of the database in messages.
        sent: the statement, which the driver repeats in its messages.
        url: its password is removed from messages.
    """
    try:
        yield
    except adbc_driver_manager.Error as error:
        refused = _Refused(error, sent)
        state = refused.sqlstate
        context = refusals.Context.of(
            _detail(error, "PG_DIAG_CONTEXT"),
            column=_detail(error, "PG_DIAG_COLUMN_NAME"),
            constraint=_detail(error, "PG_DIAG_CONSTRAINT_NAME"),
        )
        # Not "from error": further lines of the server's message quote the refused row.
        data = state and (state.startswith(_DATA_FAULTS) or context.explains(state))
        if state and data and state not in SESSION_REFUSALS:
            raise DataFault(refused, state, context) from None
        # Not "from error": the driver's message may contain the URL, too.
        raise TargetError.from_driver(refused, where=shown, url=url) from None


def stopped(ask: Ask, fault: DataFault, shown: str) -> TargetError:
    """The error for a transaction that was rolled back because of a fault."""
    origin = refusals.refusing_object(ask, fault.context)
    if origin:
        error = TargetError(
            f"{shown}: {origin} rejected the write: {fault}", remedy=refusals.REMEDY
        )
    else:
        remedy = "Nothing was changed. Correct the cause named above"
        error = TargetError(f"{shown}: {fault}", remedy=remedy)
    error.sqlstate = fault.sqlstate
    return error


class _Refused(Exception):
    """An error of the driver without the statement, which it repeats."""

    def __init__(self, error: adbc_driver_manager.Error, sent: str) -> None:
        primary = _detail(error, "PG_DIAG_MESSAGE_PRIMARY")
        repeated = f"Failed to execute query '{sent}': "
        super().__init__(f"ERROR: {primary}" if primary else str(error).replace(repeated, ""))
        self.sqlstate = getattr(error, "sqlstate", None)


def _detail(error: adbc_driver_manager.Error, field: str) -> str:
    """A field of the server's message; empty if it has none."""
    # The driver returns names as bytes.
    texts = (text for name, text in error.details if field in str(name))
    return b"".join(texts).decode(errors="replace")
