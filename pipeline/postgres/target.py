"""One session with the target: transactions, savepoints, COPY in and out, one lock.

The session runs in the driver's autocommit mode and says BEGIN itself: only so can a failed
COPY be undone to a savepoint and the rest of the transaction go on.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc_postgresql
import pyarrow as pa

from pipeline.core.errors import SESSION_REFUSALS, LockedError, TargetError
from pipeline.core.place import PUBLIC, Place
from pipeline.postgres import refusals, session

"""The advisory lock that a writer of the target holds, whatever it writes."""

LOCK_SECONDS = 30.0
_SLICE_BYTES = 256 * 1024
_DATA_FAULTS = ("21", "22", "23", "2B", "44", "54")
"""Classes of SQLSTATE that refuse what was asked and leave the session whole."""


class DataFault(Exception):
    """PostgreSQL refused a value; what was sent with it can be undone to a savepoint.

    Attributes:
        sqlstate: the server's code.
        context: which functions of the target were running.
        of_value: whether a value was refused, and not a function broken.
    """

    def __init__(
        self, error: BaseException, sqlstate: str, context: refusals.Context = refusals.NOWHERE
    ) -> None:
        """Keep the code and the sentence of the server."""
        message = next((line for line in str(error).splitlines() if "ERROR:" in line), str(error))
        super().__init__(message.split("ERROR:")[-1].strip())
        self.sqlstate = sqlstate
        self.context = context
        self.of_value = context.raised or sqlstate.startswith(_DATA_FAULTS)


Another = Callable[[], AbstractContextManager["Target"]]


class Target:
    """A connection to the target; threads take turns, statement by statement.

    Every method raises ``DataFault`` when a value was refused and ``TargetError`` for the rest.

    Attributes:
        another: opens one more session with the same database.
    """

    def __init__(self, connection: Any, shown: str, another: Another, held: set[Place]) -> None:
        """Use ``Target.connect``."""
        self._held = held
        self._connection = connection
        self._shown = shown
        self.another = another
        self._cursor = connection.cursor()
        self._mine = threading.RLock()

    @classmethod
    @contextmanager
    def connect(
        cls,
        url: str,
        *,
        shown: str,
        application_name: str = "pipeline",
        held: set[Place] | None = None,
    ) -> Iterator[Self]:
        """Open a session.

        Args:
            url: a libpq URL, ``postgresql://...``.
            shown: what error messages call this database; holds no password.
            application_name: what the server's list of sessions calls this one.
            held: places that a session of the same run holds, shared by all of its sessions.
        """
        whole = session.address(url, session.MOVES, application_name=application_name)
        try:
            connection = adbc_postgresql.connect(whole, autocommit=True)
        except (adbc_driver_manager.Error, ValueError) as error:
            # Not "from error": the driver's own text may repeat the URL.
            raise TargetError.from_driver(error, where=shown, url=url) from None
        held = set() if held is None else held
        again = functools.partial(
            cls.connect, url, shown=shown, application_name=application_name, held=held
        )
        target = cls(connection, shown, again, held)
        try:
            target.run(session.statement(session.MOVES))
            yield target
        finally:
            with contextlib.suppress(adbc_driver_manager.Error):
                target._cursor.close()
                connection.close()

    def run(self, *statements: str) -> None:
        """Execute statements that return nothing."""
        for statement in statements:
            with self._translated():
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
        """COPY a batch into an existing table, by column name; None is the schema of the tables."""
        place: dict[str, Any] = {"db_schema_name": schema} if schema else {}
        if temporary:
            place = {"temporary": True}
        with self._translated():
            self._cursor.adbc_ingest(table, _in_slices(batch), mode="append", **place)

    @contextmanager
    def bounds(self, low: object, high: object) -> Iterator[None]:
        """Let queries inside ask ``current_setting('pipeline.low')`` and ``'pipeline.high'``.

        The driver streams a query by COPY only when it has no parameters, and values have no
        place in the text of a query; settings carry them. Other threads wait.
        """
        with self._mine:
            self.rows(
                "SELECT set_config('pipeline.low', $1, false),"
                " set_config('pipeline.high', $2, false)",
                (str(low), str(high)),
            )
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, or roll back on any exception."""
        # Who waited for a lock must see what was committed meanwhile, whatever the default is.
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
        """Say what stopped a transaction that was rolled back."""
        who = refusals.speaker(self.rows, fault.context)
        if who:
            problem = f"{self._shown}: {who} stopped what was written: {fault}"
            made = TargetError(problem, remedy=refusals.REMEDY)
        else:
            remedy = "Nothing was changed; correct what it names"
            made = TargetError(f"{self._shown}: {fault}", remedy=remedy)
        made.sqlstate = fault.sqlstate
        return made

    def settle(self) -> None:
        """Do now, and from here on at once, what triggers and keys defer to the commit."""
        self.run("SET CONSTRAINTS ALL IMMEDIATE")

    def mark_as_move(self) -> None:
        """Let triggers of the target know, until the transaction ends, that a move writes."""
        self.run(f"SET LOCAL {session.MOVING} = 'on'")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """One view of the whole database; what is done inside is undone at the end."""
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            yield
        except BaseException:
            with contextlib.suppress(TargetError, DataFault):
                self.run("ROLLBACK")
            raise
        self.run("ROLLBACK")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo what happens inside, within a transaction."""
        self.run("SAVEPOINT undone")
        try:
            yield
        except BaseException:
            # What went wrong is worth telling, not that the session is gone.
            with contextlib.suppress(TargetError, DataFault):
                self._undo()
            raise
        self._undo()

    def _undo(self) -> None:
        self.run("ROLLBACK TO SAVEPOINT undone", "RELEASE SAVEPOINT undone")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what happened inside on a ``DataFault``; it is raised on. Other threads wait."""
        with self._mine:
            self.run("SAVEPOINT here")
            try:
                yield
            except DataFault:
                self.run("ROLLBACK TO SAVEPOINT here", "RELEASE SAVEPOINT here")
                raise
            self.run("RELEASE SAVEPOINT here")

    @contextmanager
    def lock(self, place: Place = PUBLIC, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold a place of the target against other runs; nothing is done if this run holds it.

        Args:
            place: what is held.
            seconds: how long another run is waited for.

        Raises:
            LockedError: somebody else held it for that long; the message says who.
        """
        if place in self._held:
            yield
            return
        deadline = time.monotonic() + seconds
        while not self.value(f"SELECT pg_try_advisory_lock({place.lock_key})"):
            if time.monotonic() > deadline:
                raise LockedError(
                    f"{self._shown} is held by {self.holder(place) or 'another run'}",
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

    def holder(self, place: Place = PUBLIC) -> str | None:
        """Who holds a place of the target, None if nobody does."""
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
            with self._mine:
                yield
        except adbc_driver_manager.Error as error:
            state = getattr(error, "sqlstate", None)
            context = _context(error)
            # Not "from error": the server's further lines quote the row that it refused.
            data = state and (state.startswith(_DATA_FAULTS) or context.explains(state))
            if state and data and state not in SESSION_REFUSALS:
                raise DataFault(error, state, context) from None
            raise TargetError.from_driver(error, where=self._shown) from None


def _context(error: adbc_driver_manager.Error) -> refusals.Context:
    """Which functions of the target were running."""
    # The driver gives names as bytes.
    said = (text for name, text in error.details if "PG_DIAG_CONTEXT" in str(name))
    return refusals.Context.of(b"".join(said).decode(errors="replace"))


def _in_slices(batch: pa.RecordBatch) -> pa.RecordBatchReader:
    """A batch in pieces that fit into a socket's buffer.

    While the server takes one piece from the buffer, the driver can encode the next.
    """
    rows = max(1, batch.num_rows * _SLICE_BYTES // max(1, batch.nbytes))
    slices = [batch.slice(at, rows) for at in range(0, batch.num_rows, rows)]
    return pa.RecordBatchReader.from_batches(batch.schema, slices)
