"""What a table has besides its rows: keys, constraints, indexes, defaults, identities.

Extras follow the rows. One that the rows do not meet, or that PostgreSQL does not accept, is left
out and named; it never costs a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.copy.expressions.trial import Condition, Trials, refusal
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import TargetError, Transient
from pipeline.core.quoting import quoted
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

NOT_MET = ("23502", "23503", "23505", "23514")
"""Codes of the server for rows that do not meet a constraint."""
_TOO_LONG = "54000"
Kind = Literal[
    "primary key",
    "unique",
    "check",
    "foreign key",
    "index",
    "default",
    "identity",
    "not null",
    "generated column",
    "view",
    "trigger",
    "table",
    "virtual table",
    "name",
]


@dataclass(frozen=True)
class Extra:
    """A property of a table, and the statement that makes it.

    Attributes:
        name: its name in the source, or what it belongs to, for people.
        made: the name of the constraint or index in the target; None if it has none.
        counting: SQL that counts the rows that do not meet it, if the server refuses it.
        condition: its condition on rows, which both databases have to judge alike.
        column: in the target, if it is a property of one column.
        again: what a table that has it needs after new rows.
        parent: the folded name and the label of the table that a foreign key refers to.
        elements: columns or expressions of a key or index, as SQL.
        refers_to: the referenced columns of a foreign key, as SQL.
    """

    kind: Kind
    table: str
    name: str
    statement: str
    made: str | None = None
    counting: str | None = None
    condition: Condition | None = None
    column: str | None = None
    again: str | None = None
    parent: tuple[str, str] | None = None
    elements: tuple[str, ...] = ()
    refers_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """Something of the source that the target does not have, and why."""

    kind: Kind
    table: str
    name: str
    reason: str

    @property
    def sentence(self) -> str:
        """What is missing, for people."""
        of = f"{self.table}, " if self.table else ""
        return f"{of}{self.kind} {self.name}: {self.reason}"


def attempt(target: Target, *statements: str) -> DataFault | TargetError | None:
    """Execute statements; returns the error for which all of them were undone, if any.

    Raises:
        Transient: the connection was lost.
    """
    try:
        with target.savepoint(TargetError):
            target.run(*statements)
    except Transient:
        raise
    except (DataFault, TargetError) as error:
        return error
    return None


def make(
    target: Target, table: CopiedTable, extras: Sequence[Extra], held: Mapping[str, int]
) -> list[LeftOut]:
    """Make extras of a table; returns those that were left out.

    Args:
        target: a session in a transaction.
        held: the number of rows in quarantine of each table, by its folded name.
    """
    if not extras or attempt(target, *_at_once(table, extras)) is None:
        return []
    left = []
    for each in extras:
        error = attempt(target, each.statement)
        if error is not None:
            reason = _reason(target, each, error, held)
            left.append(LeftOut(each.kind, each.table, each.name, reason))
    return left


def _at_once(table: CopiedTable, extras: Sequence[Extra]) -> Iterator[str]:
    """Statements that make all extras, with one for all changes of the table.

    Indexes come first, because a foreign key may need one.
    """
    alter = f"ALTER TABLE {table.place} "
    changes = [each.statement for each in extras if each.statement.startswith(alter)]
    yield from (each.statement for each in extras if not each.statement.startswith(alter))
    if changes:
        yield alter + ", ".join(change.removeprefix(alter) for change in changes)


def judge(
    trials: Trials, table: CopiedTable, extras: Sequence[Extra], *, in_order: bool
) -> tuple[list[Extra], list[LeftOut]]:
    """Extras whose conditions both databases judge alike, and the others.

    Args:
        in_order: rows of the target lie in the order of the source's row ids.
    """
    conditional = [each for each in extras if each.condition is not None]
    conditions = [each.condition for each in conditional if each.condition is not None]
    verdicts = trials.conditions(table.source, table.place, conditions, in_order=in_order)
    wrong = {
        id(each): verdict.reason or ""
        for each, verdict in zip(conditional, verdicts, strict=True)
        if not verdict.carried
    }
    left = [
        LeftOut(each.kind, each.table, each.name, wrong[id(each)])
        for each in conditional
        if id(each) in wrong
    ]
    return [each for each in extras if id(each) not in wrong], left


def _reason(
    target: Target, extra: Extra, error: DataFault | TargetError, held: Mapping[str, int]
) -> str:
    if extra.counting is not None and error.sqlstate in NOT_MET:
        count = int(target.value(extra.counting))
        rows = "1 row does" if count == 1 else f"{count:,} rows do"
        parent, label = extra.parent or ("", "")
        kept = held.get(parent, 0)
        are = "row of {} is" if kept == 1 else "rows of {} are"
        because = f", and {kept:,} {are.format(label)} in quarantine" if kept else ""
        return f"{rows} not meet it{because}"
    if error.sqlstate == _TOO_LONG:
        return f"a value is too long for an index; {refusal(error)}"
    return refusal(error)


def missing(target: Target, table: CopiedTable, extras: Sequence[Extra]) -> list[Extra]:
    """The constraints and indexes that an existing table lacks."""
    if not extras:
        return []
    found = target.rows(
        "SELECT conname::text FROM pg_constraint WHERE conrelid = to_regclass($1)"
        " UNION SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c"
        " ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1)",
        (table.place,),
    )
    there = {name for (name,) in found}
    return [each for each in extras if each.made is not None and each.made not in there]


def orphans(
    child: CopiedTable, columns: Sequence[str], parent: str, parent_columns: Sequence[str]
) -> str:
    """SQL that counts the rows without a parent."""
    there = " AND ".join(f"c.{quoted(name)} IS NOT NULL" for name in columns)
    same = " AND ".join(
        f"p.{quoted(theirs)} = c.{quoted(ours)}"
        for ours, theirs in zip(columns, parent_columns, strict=True)
    )
    return (
        f"SELECT count(*) FROM {child.place} AS c WHERE {there}"
        f" AND NOT EXISTS (SELECT FROM {parent} AS p WHERE {same})"
    )


def repeated(table: CopiedTable, elements: Sequence[str], where: str = "true") -> str:
    """SQL that counts the rows whose values another row has as well.

    Args:
        elements: of the key or index, as SQL.
        where: the condition of a partial index.
    """
    names = ", ".join(elements)
    known = " AND ".join([f"({where})", *(f"{each} IS NOT NULL" for each in elements)])
    return (
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM {table.place} WHERE {known}"
        f" GROUP BY {names} HAVING count(*) > 1) AS r"
    )
