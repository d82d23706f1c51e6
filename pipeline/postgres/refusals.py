"""What functions of the target say when they refuse what is written, and which trigger spoke.

A server's message alone does not tell where it comes from. The context of the error names the
PL/pgSQL functions that were running; the catalog knows which triggers call them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import TRANSIENT_STATES
from pipeline.core.quoting import literal

Ask = Callable[[str], Sequence[Sequence[Any]]]
"""Executes a query without parameters and returns its rows."""

REMEDY = (
    "Nothing was changed; correct what it names, or let the trigger do nothing where"
    " current_setting('pipeline.moving', true) is 'on'"
)
_NAME = r'(?:"(?:[^"]|"")+"|[^\s".()]+)'
_SIGNATURE = re.compile(rf"{_NAME}(?:\.{_NAME})?\([^()]*\)")
_RAISED = re.compile(r"\b(RAISE|ASSERT)$")
_OF_THE_SERVER = ("08", "53", "57", "58", "XX")
"""Classes of SQLSTATE that speak of the server or the session, whatever was running."""


@dataclass(frozen=True)
class Context:
    """Where in the target's own functions an error arose.

    Attributes:
        functions: the PL/pgSQL functions that were running, as the server writes them, innermost
            first.
        raised: whether the innermost one raised the error itself.
    """

    functions: tuple[str, ...] = ()
    raised: bool = False

    @classmethod
    def of(cls, text: str) -> "Context":
        """Read the context of an error; the words around the names depend on the language."""
        lines = text.splitlines()
        found = [
            _SIGNATURE.search(line.replace("PL/pgSQL", "", 1))
            for line in lines
            if "PL/pgSQL" in line
        ]
        raised = bool(lines) and "PL/pgSQL" in lines[0] and bool(_RAISED.search(lines[0]))
        return cls(tuple(each[0] for each in found if each), raised)

    def explains(self, sqlstate: str) -> bool:
        """Whether a function, and not the server, is the reason of an error."""
        passing = sqlstate in TRANSIENT_STATES or sqlstate.startswith(_OF_THE_SERVER)
        return self.raised or bool(self.functions and not passing)


NOWHERE = Context()
"""Of an error that arose in no function."""


@dataclass(frozen=True)
class Trigger:
    """A trigger that calls a function.

    Attributes:
        name: its name.
        table: the table that it watches; None for an event trigger.
        function: the function that it calls.
        of_row: whether it is called for each row.
    """

    name: str
    table: str | None
    function: str
    of_row: bool = False

    def __str__(self) -> str:
        """As people find it."""
        if self.table is None:
            return f"event trigger {self.name} (function {self.function})"
        return f"trigger {self.name} of {self.table} (function {self.function})"


_CALLING = """
SELECT tgname::text, tgrelid::regclass::text, (tgtype & 1) = 1 FROM pg_trigger
  WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgfoid = to_regprocedure({function})
UNION ALL SELECT evtname::text, NULL, false FROM pg_event_trigger
  WHERE evtenabled <> 'D' AND evtfoid = to_regprocedure({function}) ORDER BY 2, 1
"""

_OTHERS = """
SELECT tgname::text, tgrelid::regclass::text, tgfoid::regprocedure::text, (tgtype & 1) = 1
  FROM pg_trigger JOIN pg_proc AS p ON p.oid = tgfoid
  JOIN pg_class AS c ON c.oid = tgrelid
  WHERE (c.oid = to_regclass({table}) OR c.relnamespace = to_regnamespace('migration'))
  AND NOT tgisinternal AND tgenabled <> 'D'
  AND p.pronamespace::regnamespace::text NOT IN ('upkeep', 'migration', 'feed') ORDER BY 1
"""


def callers(ask: Ask, context: Context, *, table: str = "") -> list[Trigger]:
    """The triggers that may have spoken: those that call the innermost function of a trigger.

    Args:
        ask: asks the target.
        context: of the error.
        table: the table that was written; where a function serves several, its trigger is meant.
    """
    for function in context.functions:
        rows = ask(_CALLING.format(function=literal(function)))
        found = [Trigger(name, of, function, *rest) for name, of, *rest in rows]
        if found:
            own = [each for each in found if each.table and each.table.strip('"') == table]
            return own or found
    return []


def others(ask: Ask, table: str) -> list[Trigger]:
    """Triggers of a table, or of the ledger, that no part of the pipeline has made.

    Args:
        ask: asks the target.
        table: its name with its schema, quoted.
    """
    return [Trigger(*row) for row in ask(_OTHERS.format(table=literal(table)))]


def speaker(ask: Ask, context: Context, *, table: str = "") -> str:
    """Who refused, for the beginning of a sentence; empty where no function was running."""
    found = callers(ask, context, table=table)
    if found:
        return " or ".join(map(str, found))
    return f"function {context.functions[0]}" if context.functions else ""
