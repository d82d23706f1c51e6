"""One session with the target: transactions, savepoints, COPY in both directions, one lock.

The session uses the driver's autocommit mode and sends BEGIN itself. This is the only way to roll a
failed COPY back to a savepoint and continue the transaction.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import adbc_driver_manager
import pyarrow as pa

from pipeline.core.errors import LockedError, TargetError
from pipeline.core.place import PUBLIC, Place
from pipeline.core.progress import waiting
from pipeline.core.server_errors import SESSION_REFUSALS
from pipeline.postgres import arrow_driver, descriptions, refusals, session

LOCK_SECONDS = 30.0
_SLICE_BYTES = 256 * 1024
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


Another = Callable[[], AbstractContextManager["Target"]]


class Target:
    """A connection to the target; threads share it, one statement at a time.

    Every method raises ``DataFault`` when a value is refused and ``TargetError`` for all other
    errors.
    """

    def __init__(self, connection: Any, shown: str, another: Another, held: set[Place]) -> None:
        """Use ``Target.connect``."""
        self._held = held
        self._connection = connection
        self._shown = shown
        self.another = another
        self._cursor = connection.cursor()
        self._turn = threading.RLock()

    @classmethod
    @contextmanager
    def connect(
        cls,
        url: str,
        *,
        shown: str,
        application_name: str = "pipeline",
        held: set[Place] | None = None,
        mark: int | None = None,
    ) -> Iterator[Self]:
        """Open a session.

        Args:
            shown: the name of this database in messages; contains no password.
            application_name: the name of this session in ``pg_stat_activity``.
            held: places locked by a session of the same run, shared by all of its sessions.
            mark: number that all sessions of a run share, for ``end_marked``.
        """
        whole = session.address(url, session.MOVES, application_name=application_name)
        try:
            with waiting(f"connecting to {shown}"):
                connection = arrow_driver.connect(whole)
        except (adbc_driver_manager.Error, ValueError) as error:
            # Not "from error": the driver's message may contain the URL.
            raise TargetError.from_driver(error, where=shown, url=url) from None
        held = set() if held is None else held
        again = functools.partial(
            cls.connect, url, shown=shown, application_name=application_name, held=held, mark=mark
        )
        target = cls(connection, shown, again, held)
        try:
            marked = "" if mark is None else f"; SELECT pg_advisory_lock_shared({mark})"
            target.run(session.statement(session.MOVES) + marked)
            yield target
        finally:
            with contextlib.suppress(adbc_driver_manager.Error):
                target._cursor.close()
                connection.close()

    def run(self, *statements: str) -> None:
        """Execute statements that return nothing."""
        for statement in statements:
            with descriptions.named(statement), self._translated():
                self._cursor.executescript(statement)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a query for few rows."""
        table = self.arrow(sql, parameters)
        columns = [column.to_pylist() for column in table.columns]
        return list(zip(*columns, strict=True))

    def value(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        """Execute a query for one value."""
        return self.rows(sql, parameters)[0][0]

    def arrow(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Execute a query; the result is held in memory."""
        with self._translated(), self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetch_arrow_table()

    def copy(
        self,
        table: str,
        batch: pa.RecordBatch,
        *,
        schema: str | None = None,
        temporary: bool = False,
    ) -> None:
        """COPY a batch into an existing table, by column name; ``public`` if no schema is given."""
        place: dict[str, Any] = {"db_schema_name": schema} if schema else {}
        if temporary:
            place = {"temporary": True}
        with self._translated():
            self._cursor.adbc_ingest(table, _in_slices(batch), mode="append", **place)

    @contextmanager
    def bounds(self, low: object, high: object) -> Iterator[None]:
        """Set ``current_setting('pipeline.low')`` and ``'pipeline.high'`` for queries inside.

        The driver streams a query by COPY only if it has no parameters. Settings pass the values
        instead, so that they do not appear in the text of the query. Other threads wait.
        """
        with self._turn:
            self.rows(
                "SELECT set_config('pipeline.low', $1, false),"
                " set_config('pipeline.high', $2, false)",
                (str(low), str(high)),
            )
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, or roll back on any exception."""
        # After waiting for a lock, the transaction must see rows committed in the meantime.
        self.run("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            yield
            self.run("COMMIT")
        except BaseException as error:
            with contextlib.suppress(TargetError, DataFault):
                self.run("ROLLBACK")
            if isinstance(error, DataFault):
                raise self._stopped(error) from error
            raise

    def _stopped(self, fault: DataFault) -> TargetError:
        """The error for a transaction that was rolled back."""
        origin = refusals.refusing_object(self.rows, fault.context)
        if origin:
            problem = f"{self._shown}: {origin} rejected the write: {fault}"
            error = TargetError(problem, remedy=refusals.REMEDY)
        else:
            remedy = "Nothing was changed. Correct the cause named above"
            error = TargetError(f"{self._shown}: {fault}", remedy=remedy)
        error.sqlstate = fault.sqlstate
        return error

    def run_deferred_constraints(self) -> None:
        """Run deferred triggers and constraint checks now; later ones run immediately."""
        self.run("SET CONSTRAINTS ALL IMMEDIATE")

    def mark_as_move(self) -> None:
        """Tell triggers of the target, until the transaction ends, that a move writes."""
        self.run(f"SET LOCAL {session.MOVING} = 'on'")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """A transaction with one view of the whole database; it is rolled back at the end."""
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            yield
        except BaseException:
            with contextlib.suppress(TargetError, DataFault):
                self.run("ROLLBACK")
            raise
        self.run("ROLLBACK")

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Roll back everything done inside; the surrounding transaction continues."""
        self.run("SAVEPOINT undone")
        try:
            yield
        except BaseException:
            # Report the original error, not a lost session.
            with contextlib.suppress(TargetError, DataFault):
                self._undo()
            raise
        self._undo()

    def _undo(self) -> None:
        self.run("ROLLBACK TO SAVEPOINT undone", "RELEASE SAVEPOINT undone")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Roll back what was done inside on a ``DataFault``, and raise it. Other threads wait."""
        with self._turn:
            self.run("SAVEPOINT here")
            try:
                yield
            except DataFault:
                self.run("ROLLBACK TO SAVEPOINT here", "RELEASE SAVEPOINT here")
                raise
            self.run("RELEASE SAVEPOINT here")

    @contextmanager
    def lock(self, place: Place = PUBLIC, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Lock a place of the target against other runs, unless this run has locked it already.

        Args:
            seconds: how long to wait for another run.

        Raises:
            LockedError: another run still holds the lock; the message names it.
        """
        if place in self._held:
            yield
            return
        deadline = time.monotonic() + seconds
        with waiting("waiting for another run"):
            while not self.value(f"SELECT pg_try_advisory_lock({place.lock_key})"):
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"{self._shown} is in use by {self.holder(place) or 'another run'}",
                        remedy="Wait until that run ends, then run again",
                    )
                time.sleep(0.2)
        self._held.add(place)
        try:
            yield
        finally:
            self._held.discard(place)
            with contextlib.suppress(TargetError):
                self.rows(f"SELECT pg_advisory_unlock({place.lock_key})")

    def end_marked(self, mark: int) -> None:
        """End all other sessions with a mark; they are rolled back."""
        self.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
            f" AND classid = {mark >> 32} AND objid = {mark & 0xFFFFFFFF} AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND pid <> pg_backend_pid()"
        )

    def holder(self, place: Place = PUBLIC) -> str | None:
        """The run that holds the lock of a place, for messages; None if it is free."""
        found = self.rows(
            "SELECT a.pid, coalesce(host(a.client_addr), 'a local socket'),"
            " to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') FROM pg_locks l"
            " JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND l.classid = {place.lock_key >> 32} AND l.objid = {place.lock_key & 0xFFFFFFFF}"
        )
        if not found:
            return None
        pid, host, since = found[0]
        return f"another run (server process {pid}, from {host}, connected since {since} UTC)"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except adbc_driver_manager.Error as error:
            state = getattr(error, "sqlstate", None)
            context = _context(error)
            # Not "from error": further lines of the server's message quote the refused row.
            data = state and (state.startswith(_DATA_FAULTS) or context.explains(state))
            if state and data and state not in SESSION_REFUSALS:
                raise DataFault(error, state, context) from None
            raise TargetError.from_driver(error, where=self._shown) from None


def _context(error: adbc_driver_manager.Error) -> refusals.Context:
    """Which functions of the target were running."""
    # The driver returns names as bytes.
    details = (text for name, text in error.details if "PG_DIAG_CONTEXT" in str(name))
    return refusals.Context.of(b"".join(details).decode(errors="replace"))


def _in_slices(batch: pa.RecordBatch) -> pa.RecordBatchReader:
    """A batch in slices that fit into a socket's buffer.

    While the server reads one slice from the buffer, the driver can encode the next.
    """
    rows = max(1, batch.num_rows * _SLICE_BYTES // max(1, batch.nbytes))
    slices = [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]
    return pa.RecordBatchReader.from_batches(batch.schema, slices)
