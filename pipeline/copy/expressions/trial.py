"""Translations are tried in the target and compared with SQLite before they are trusted.

Everything happens in the transaction of the table, which is filled already. What is refused leaves
no trace; views and indexes that are accepted stay.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import repeat
from time import monotonic
from typing import Any, Literal

import sqlalchemy as sa

from pipeline.copy.expressions.translate import TargetColumn, TranslatedView
from pipeline.copy.source.prepared import PreparedSource
from pipeline.core.errors import TargetError, Transient, first_line
from pipeline.core.quoting import counted, quoted
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target
from pipeline.sqlite.structure.model import Table, View

IN_ORDER = 50_000
"""Up to so many rows, verdicts are compared row by row; above, their numbers are compared."""

COMPARED_ROWS = 20_000
"""Up to so many rows of a view, their values are compared; above, only their number."""

VIEW_SECONDS = 10.0
"""How long each database may take for a view."""

_STEPS = 10_000
"""Instructions of SQLite between two looks at the clock."""


@dataclass(frozen=True)
class Verdict:
    """Whether something is carried to the target, and why not."""

    carried: bool
    reason: str | None = None


@dataclass(frozen=True)
class Condition:
    """A condition on the rows of a table.

    Attributes:
        source: for SQLite.
        target: for PostgreSQL.
        kind: the rows of a CHECK are those for which it is not false; those of an index are those
            for which it is true.
    """

    source: str
    target: str
    kind: Literal["check", "index"] = "check"


CARRIED = Verdict(True)


@dataclass(frozen=True)
class Trials:
    """Trials of one source in one target.

    Attributes:
        target: in the transaction that fills the tables.
        connection: of the source.
    """

    target: Target
    source: PreparedSource
    connection: sqlite3.Connection

    def conditions(
        self,
        table: Table,
        table_sql: str,
        conditions: Sequence[Condition],
        *,
        in_order: bool = True,
    ) -> list[Verdict]:
        """Compare conditions of CHECKs and partial indexes on all rows of a table.

        Args:
            table_sql: the quoted name of the table in the target.
            in_order: rows of the target lie in the order of the source's row ids.
        """
        if not conditions:
            return []
        try:
            ours = self._in_source(table, conditions)
        except sqlite3.Error as error:
            if len(conditions) > 1:
                return self._one_by_one(table, table_sql, conditions, in_order=in_order)
            return [Verdict(False, f"SQLite cannot evaluate it ({_sqlite_reason(error)})")]
        broken = [
            None if each.kind == "index" or "0" not in found else _broken(found.count("0"))
            for each, found in zip(conditions, ours, strict=True)
        ]
        try:
            theirs = self._in_target(table_sql, conditions, positions=len(ours[0]) <= IN_ORDER)
        except (DataFault, TargetError) as error:
            if isinstance(error, Transient):
                raise
            if len(conditions) > 1:
                return self._one_by_one(table, table_sql, conditions, in_order=in_order)
            return [Verdict(False, broken[0] or refusal(error))]
        return [
            Verdict(False, reason) if reason else _compared(each, one, other, in_order=in_order)
            for each, one, other, reason in zip(conditions, ours, theirs, broken, strict=True)
        ]

    def _one_by_one(
        self, table: Table, table_sql: str, conditions: Sequence[Condition], *, in_order: bool
    ) -> list[Verdict]:
        return [
            verdict
            for each in conditions
            for verdict in self.conditions(table, table_sql, [each], in_order=in_order)
        ]

    def _in_source(self, table: Table, conditions: Sequence[Condition]) -> list[str]:
        """For each condition a letter for each row, in their order."""
        letters = ", ".join(
            f"CASE WHEN ({sql}) THEN '1' WHEN NOT ({sql}) THEN '0' ELSE '-' END AS c{number}"
            for number, each in enumerate(conditions)
            for sql in (f"\n{each.source}\n",)
        )
        joined = ", ".join(f"group_concat(c{number}, '')" for number in range(len(conditions)))
        # An index would give the rows in its own order. The columns of a stand-in compare in
        # another way, so the table itself is read, in the order in which its stand-in was filled.
        order = "" if table.name in self.source.stand_ins else self.source.row_id(table)
        found = self.connection.execute(
            f"SELECT {joined} FROM (SELECT {letters} FROM {quoted(table.name)} NOT INDEXED"
            f"{f' ORDER BY {order}' if order else ''})"
        ).fetchone()
        return ["" if each is None else _text(each) for each in found]

    def _in_target(
        self, table_sql: str, conditions: Sequence[Condition], *, positions: bool
    ) -> list[str]:
        """As in the source; without positions, the letters are ordered."""
        letters = [
            f"CASE WHEN {each.target} THEN '1' WHEN NOT ({each.target}) THEN '0' ELSE '-' END"
            for each in conditions
        ]
        with self.target.savepoint(TargetError):
            if positions:
                joined = ", ".join(
                    f"coalesce(string_agg({each}, '' ORDER BY ctid), '')" for each in letters
                )
                return [
                    str(one) for one in self.target.rows(f"SELECT {joined} FROM {table_sql}")[0]
                ]
            counts = ", ".join(
                f"count(*) FILTER (WHERE {each} = '{letter}')"
                for each in letters
                for letter in "01-"
            )
            (found,) = self.target.rows(f"SELECT {counts} FROM {table_sql}")
        numbers = iter(found)
        return ["".join(letter * next(numbers) for letter in "01-") for _ in letters]

    def generated(self, table_sql: str, columns: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Compare generated columns, whose values have been moved, with their expressions.

        Args:
            table_sql: the quoted name of the table in the target.
            columns: for each its quoted name, its type in SQL, and its expression.
        """
        return [self._generated(table_sql, *each) for each in columns]

    def _generated(self, table_sql: str, name: str, kind: str, expression: str) -> Verdict:
        differ = f"SELECT count(*) FROM {table_sql} WHERE {name} IS DISTINCT FROM ({expression})"
        try:
            with self.target.savepoint(TargetError):
                count = self.target.value(differ)
            with self.target.rolled_back():
                # An expression that is not immutable is refused even if the table is empty.
                self.target.run(
                    f"CREATE TEMPORARY TABLE trial (LIKE {table_sql}) ON COMMIT DROP",
                    f"ALTER TABLE pg_temp.trial DROP COLUMN {name}, ADD COLUMN {name} {kind}"
                    f" GENERATED ALWAYS AS ({expression}) STORED",
                )
        except (DataFault, TargetError) as error:
            return _verdict_of(error)
        if count:
            return Verdict(False, f"its translation gives {counted(count, 'row')} another value")
        return CARRIED

    def statement(self, sql: str) -> Verdict:
        """Execute a statement, such as CREATE INDEX; its effect stays if it is carried."""
        try:
            with self.target.savepoint(TargetError):
                self.target.run(sql)
        except (DataFault, TargetError) as error:
            return _verdict_of(error)
        return CARRIED

    def view(self, view: View, translated: TranslatedView, *, exists: bool = False) -> Verdict:
        """Create a view, and compare its rows; it stays if they are the same.

        Args:
            exists: the target has it already.
        """
        name = translated.relation.sql
        try:
            ours = self._view_in_source(view)
        except sqlite3.Error as error:
            return Verdict(False, f"SQLite cannot evaluate it ({_sqlite_reason(error)})")
        try:
            with self.target.savepoint(TargetError):
                if not exists:
                    self.target.run(translated.sql)
                reason = self._view_in_target(name, translated, *ours)
        except (DataFault, TargetError) as error:
            return _verdict_of(error)
        if reason:
            self.target.run(f"DROP VIEW {name} CASCADE")
        return Verdict(reason is None, reason)

    def _view_in_source(self, view: View) -> tuple[int, list[tuple[Any, ...]]]:
        """The number of a view's rows, and the rows if they are few."""
        with _limited(self.connection):
            rows = self.connection.execute(f"SELECT * FROM {quoted(view.name)}")
            found = rows.fetchmany(COMPARED_ROWS + 1)
            if len(found) <= COMPARED_ROWS:
                return len(found), found
            return len(found) + sum(1 for _ in rows), []

    def _view_in_target(
        self, name: str, translated: TranslatedView, count: int, rows: list[tuple[Any, ...]]
    ) -> str | None:
        """What is different; None if nothing is."""
        with self.target.rolled_back():
            self.target.defer(f"SET LOCAL statement_timeout = {int(1000 * VIEW_SECONDS)}")
            found = self.target.value(f"SELECT count(*) FROM {name}")
            if found != count:
                return f"it returns {found:,} rows instead of {count:,}"
            if not rows:
                return None
            columns = [
                _compared_column(column) if same else f"({quoted(column.name)} IS NULL)"
                for column, same in zip(
                    translated.relation.columns.values(), translated.comparable, strict=True
                )
            ]
            theirs = self.target.rows(f"SELECT {', '.join(columns)} FROM {name}")
        same = translated.comparable
        expected = Counter(tuple(map(_comparable, row, same, repeat(False))) for row in rows)
        returned = Counter(tuple(map(_comparable, row, same, repeat(True))) for row in theirs)
        missing = (expected - returned).total()
        return f"it returns other values in {missing:,} of {count:,} rows" if missing else None


def _broken(count: int) -> str:
    return f"{counted(count, 'row')} of the source {'breaks' if count == 1 else 'break'} it"


def _compared(condition: Condition, ours: str, theirs: str, *, in_order: bool) -> Verdict:
    """Whether both databases judge the rows alike."""
    decisive = "0" if condition.kind == "check" else "1"
    if in_order and len(ours) <= IN_ORDER and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        count = sum((one == decisive) != (other == decisive) for one, other in pairs)
    else:
        count = abs(ours.count(decisive) - theirs.count(decisive))
    if not count and len(ours) == len(theirs):
        return CARRIED
    return Verdict(False, f"PostgreSQL judges {counted(count, 'row')} otherwise")


@contextmanager
def _limited(connection: sqlite3.Connection) -> Iterator[None]:
    """Stop statements of SQLite after some time."""
    end = monotonic() + VIEW_SECONDS
    connection.set_progress_handler(lambda: monotonic() > end, _STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def _verdict_of(error: DataFault | TargetError) -> Verdict:
    if isinstance(error, Transient):
        raise error
    return Verdict(False, refusal(error))


def refusal(error: DataFault | TargetError) -> str:
    """Why PostgreSQL refuses something, for people."""
    if error.sqlstate == "57014":
        return f"PostgreSQL needs more than {VIEW_SECONDS:g} s for it"
    text = error.problem.partition(": ")[2] if isinstance(error, TargetError) else str(error)
    return f"PostgreSQL refuses it ({first_line(text)})"


def _sqlite_reason(error: sqlite3.Error) -> str:
    if str(error) == "interrupted":
        return f"it takes more than {VIEW_SECONDS:g} s"
    return str(error)


def _compared_column(column: TargetColumn) -> str:
    """A column of a view as SQL; numbers as SQLite calculates with them."""
    is_number = isinstance(column.kind, sa.Numeric)
    return f"{quoted(column.name)}{'::double precision' if is_number else ''}"


def _comparable(value: Any, same: bool, nulls: bool) -> object:
    """A value of either database in a form that is equal for equal values.

    Args:
        value: of either database.
        same: the values can be compared; otherwise only whether they are NULL.
        nulls: of values that cannot be compared, this is whether they are NULL.
    """
    if not same:
        return value if nulls else value is None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return str(int(number)) if number.is_integer() else f"{number:.10g}"
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
