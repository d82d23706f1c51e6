"""One session with the target: transactions, savepoints, COPY in both directions, one lock.

The session uses the driver's autocommit mode and sends BEGIN itself. This is the only way to roll a
failed COPY back to a savepoint and continue the transaction.

The server may be far away, so a call costs one round trip; only COPY and bound parameters cost
more. Statements whose answer is not needed wait for the next call. ``run`` sends them with its own
statements; a query or a COPY sends them first, in one more round trip. Their errors are raised
there.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import adbc_driver_manager
import pyarrow as pa

from pipeline.core.errors import TargetError, Transient
from pipeline.core.place import PUBLIC, Place
from pipeline.core.quoting import quoted
from pipeline.postgres import arrow_session, descriptions, session
from pipeline.postgres.driver import arrow_driver, locks, texts
from pipeline.postgres.driver.arrow_driver import USE_COPY, in_slices
from pipeline.postgres.driver.deferred import Deferred
from pipeline.postgres.driver.faults import DataFault, FaultBefore, earlier, stopped, translated
from pipeline.postgres.driver.statements import Answer, Question, Rows, combined, inline, separated

LOCK_SECONDS = 30.0
Another = Callable[..., AbstractContextManager["Target"]]


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
        self._deferred = Deferred()
        self._known: dict[Question[Any], Rows] = {}
        self._in_transaction = False
        self._depth = 0

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
            mark: number that all sessions of a run share, for ``locks.end_marked``.
        """
        connection, pooled = arrow_session.open_session(
            url, shown=shown, application_name=application_name, mark=mark
        )
        held = set() if held is None else held
        again = functools.partial(
            cls.connect, url, shown=shown, application_name=application_name, held=held, mark=mark
        )
        target = cls(connection, shown, again, held)
        try:
            yield target
        finally:
            with contextlib.suppress(adbc_driver_manager.Error):
                if pooled:
                    # The server's session outlives the connection.
                    target._cursor.executescript("ROLLBACK; SELECT pg_advisory_unlock_all()")
                target._cursor.close()
                connection.close()

    @staticmethod
    def open_ahead(url: str, *, application_name: str = "pipeline") -> None:
        """Begin to connect in the background; the next ``connect`` with these arguments goes on."""
        arrow_driver.open_ahead(
            session.address(url, session.MOVES, application_name=application_name)
        )

    def run(self, *statements: str) -> None:
        """Execute statements that return nothing, all in one round trip.

        Outside a transaction they form one.
        """
        if not statements:
            return
        with self._turn:
            script = self._deferred.taken(*statements)
            with self._whole(), descriptions.named(script), translated(self._shown, script):
                self._cursor.executescript(script)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Outside a transaction, nobody can undo and go on after a ``DataFault``."""
        try:
            yield
        except DataFault as fault:
            if self._in_transaction:
                raise
            raise stopped(self.rows, fault, self._shown) from fault

    def defer(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """Execute a statement that returns nothing with the next call, which raises its errors.

        The end of a transaction is such a call; outside a transaction, the statement is executed
        at once.
        """
        with self._turn:
            self._deferred.add(inline(sql, parameters))
            if not self._in_transaction:
                self._send_deferred()

    @contextmanager
    def prefetched(self, *questions: Question[Any], risky: bool = False) -> Iterator[None]:
        """Ask several questions in one round trip.

        Inside, ``answer`` returns what was true at the beginning, whatever is written meanwhile. In
        a block within another one, questions of the outer one are not asked again.

        Args:
            risky: the server may refuse a question; then each is asked by itself, when its answer
                is needed. The session must be in a transaction.
        """
        before = self._known
        new = [each for each in questions if each not in before]
        self._known = before | (self._ask_risky(*new) if risky else self._ask(*new))
        try:
            yield
        finally:
            self._known = before

    def answer(self, question: Question[Answer]) -> Answer:
        """Ask a question, unless its answer was prefetched."""
        known = self._known if question in self._known else self._ask(question)
        return question.read(known[question])

    def _ask_risky(self, *questions: Question[Any]) -> dict[Question[Any], Rows]:
        try:
            with self.savepoint(TargetError):
                return self._ask(*questions)
        except Transient:
            raise
        except (DataFault, TargetError):
            return {}

    def _ask(self, *questions: Question[Any]) -> dict[Question[Any], Rows]:
        different = list(dict.fromkeys(questions))
        if not different:
            return {}
        with self._whole():
            ((found,),) = _rows(self._fetch(combined(different)))
        return dict(zip(different, separated(found), strict=True))

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement that returns few rows.

        Args:
            parameters: names, keys and figures, which become part of the statement.
        """
        return _rows(self._fetch(inline(sql, parameters)))

    def value(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        """Execute a query for one value."""
        return self.rows(sql, parameters)[0][0]

    def bound(self, sql: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        """Execute a statement with values of rows, which never become part of its text."""
        return _rows(self._fetch(sql, parameters))

    def arrow(
        self, sql: str, parameters: Sequence[object] = (), *, streamed: bool = False
    ) -> pa.Table:
        """Execute a query for rows as columns, which are held in memory.

        Args:
            parameters: see ``rows``.
            streamed: read by COPY, which needs three round trips and half of the memory.
        """
        return self._fetch(inline(sql, parameters), copy=streamed)

    def _fetch(
        self, sql: str, parameters: Sequence[object] | None = None, *, copy: bool = False
    ) -> pa.Table:
        with self._turn:
            if not self._deferred.can_follow_a_query:
                self._send_deferred()
            with translated(self._shown, sql), self._connection.cursor() as cursor:
                if not copy:
                    cursor.adbc_statement.set_options(**{USE_COPY: "false"})
                cursor.execute(sql, parameters)
                return cursor.fetch_arrow_table()

    def _send_deferred(self) -> None:
        if self._deferred:
            self.run(self._deferred.taken())

    def copy(
        self,
        table: str,
        batch: pa.RecordBatch,
        *,
        schema: str | None = None,
        temporary: bool = False,
    ) -> None:
        """COPY a batch into an existing table, by column name; ``public`` if no schema is given."""
        place = {"temporary": True} if temporary else {"db_schema_name": schema} if schema else {}
        encoded, as_texts = texts.encoded(batch)
        if not as_texts:
            self._ingest(table, encoded, place)
            return
        name = f"{'pg_temp' if temporary else quoted(schema or 'public')}.{quoted(table)}"
        self.run(*texts.stage(name, encoded, as_texts))
        self._ingest(texts.STAGE_NAME, encoded, {"temporary": True})
        self.run(*texts.unstage(name, encoded, as_texts))

    def _ingest(self, table: str, batch: pa.RecordBatch, place: Any) -> None:
        with self._turn:
            self._send_deferred()
            with translated(self._shown):
                self._cursor.adbc_ingest(table, in_slices(batch), mode="append", **place)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end, or roll back on any exception."""
        # After waiting for a lock, the transaction must see rows committed in the meantime.
        self._begin("READ COMMITTED")
        try:
            yield
            # A transaction with an error would answer COMMIT with a rollback and no error.
            self.run("SELECT", "COMMIT")
            self._in_transaction = False
        except BaseException as error:
            self._roll_back()
            fault = error.fault if isinstance(error, FaultBefore) else error
            if isinstance(fault, DataFault):
                raise stopped(self.rows, fault, self._shown) from error
            raise

    def run_deferred_constraints(self) -> None:
        """Run deferred triggers and constraint checks before the next statement."""
        self.defer("SET CONSTRAINTS ALL IMMEDIATE")

    def mark_as_move(self) -> None:
        """Tell triggers of the target, until the transaction ends, that a move writes."""
        self.defer(f"SET LOCAL {session.MOVING} = 'on'")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """A transaction with one view of the whole database; it is rolled back at the end."""
        self._begin("REPEATABLE READ")
        try:
            yield
        finally:
            self._roll_back()

    def _begin(self, isolation: str) -> None:
        self._in_transaction = True
        self.defer(f"BEGIN ISOLATION LEVEL {isolation}")

    def _roll_back(self) -> None:
        # Report the original error, not a lost session.
        with self._turn, contextlib.suppress(TargetError, DataFault):
            self._in_transaction, begun = False, not self._deferred.begins
            self._deferred.clear()
            if begun:
                self.run("ROLLBACK")

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Roll back everything done inside; the surrounding transaction continues."""
        with self._point() as point:
            try:
                yield
            finally:
                self._deferred.undo(point)

    @contextmanager
    def _point(self) -> Iterator[str]:
        """Begin a savepoint; its name differs from those of all savepoints around it."""
        self._depth += 1
        try:
            fallible = self._deferred.fallible
            self.defer(f"SAVEPOINT point_{self._depth}")
            if fallible:
                with earlier():
                    self._send_deferred()
            yield f"point_{self._depth}"
        finally:
            self._depth -= 1

    @contextmanager
    def savepoint(self, *others: type[TargetError]) -> Iterator[None]:
        """Roll back what was done inside on a ``DataFault``, and raise it. Other threads wait.

        Args:
            others: errors that are rolled back, too, unless they are transient.
        """
        if not self._in_transaction:
            yield
            return
        with self._turn, self._point() as point:
            try:
                yield
                if self._deferred.drop_if_last(f"SAVEPOINT {point}"):
                    return
                self._send_deferred()
            except (DataFault, TargetError) as error:
                if isinstance(error, (DataFault, *others)) and not isinstance(error, Transient):
                    self._deferred.undo(point)
                raise
            self.defer(f"RELEASE SAVEPOINT {point}")

    def lock(
        self, place: Place = PUBLIC, *, seconds: float = LOCK_SECONDS
    ) -> AbstractContextManager[None]:
        """Lock a place of the target against other runs, unless this run has locked it already.

        Args:
            seconds: how long to wait for another run.

        Raises:
            LockedError: another run still holds the lock; the message names it.
        """
        return locks.locked(self.rows, place, self._held, shown=self._shown, seconds=seconds)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
