"""Errors raised by functions of the target: which function, and which trigger called it.

The server's message does not name its origin. The context of the error names the PL/pgSQL functions
that were running, and the catalog lists the triggers that call them.
"""

import re
from dataclasses import dataclass

from pipeline.core.quoting import literal
from pipeline.core.server_errors import TRANSIENT_STATES
from pipeline.postgres.driver.statements import Ask

REMEDY = (
    "Nothing was changed. Correct the cause named above, or make the trigger do nothing where"
    " current_setting('pipeline.moving', true) is 'on'"
)
_NAME = r'(?:"(?:[^"]|"")+"|[^\s".()]+)'
_SIGNATURE = re.compile(rf"{_NAME}(?:\.{_NAME})?\([^()]*\)")
_RAISED = re.compile(r"\b(RAISE|ASSERT)$")
_COPIED = re.compile(r"^COPY [^\n]*, \S+ \d+, \S+ ([^\n:]+)", re.M)
"""The table, the line and the column that COPY reads."""
SERVER_CLASSES = ("08", "53", "57", "58", "XX")
"""Classes of SQLSTATE whose cause is the server or the session, not the running function."""


@dataclass(frozen=True)
class Context:
    """Where in the target's own functions an error occurred.

    Attributes:
        functions: the signatures of the running PL/pgSQL functions, innermost first.
        raised: whether the innermost one raised the error itself.
        column: the column whose value is wrong, if the error names one.
        constraint: the constraint or index that is violated, if the error names one.
    """

    functions: tuple[str, ...] = ()
    raised: bool = False
    column: str = ""
    constraint: str = ""

    @classmethod
    def of(cls, text: str, *, column: str = "", constraint: str = "") -> "Context":
        """Parse the context of an error; the words around the names are localized.

        Args:
            text: lines of PL/pgSQL functions, and the place within a COPY.
            column: as in the error's own field.
            constraint: as in the error's own field.
        """
        lines = text.splitlines()
        found = [
            _SIGNATURE.search(line.replace("PL/pgSQL", "", 1))
            for line in lines
            if "PL/pgSQL" in line
        ]
        raised = bool(lines) and "PL/pgSQL" in lines[0] and bool(_RAISED.search(lines[0]))
        copied = _COPIED.search(text)
        column = column or (copied[1] if copied else "")
        return cls(tuple(each[0] for each in found if each), raised, column, constraint)

    def explains(self, sqlstate: str) -> bool:
        """Whether a function, and not the server, caused an error."""
        by_server = sqlstate in TRANSIENT_STATES or sqlstate.startswith(SERVER_CLASSES)
        return self.raised or bool(self.functions and not by_server)


NO_CONTEXT = Context()
"""The context of an error that occurred in no function."""


@dataclass(frozen=True)
class Trigger:
    """A trigger and the function that it calls.

    Attributes:
        table: None for an event trigger.
    """

    name: str
    table: str | None
    function: str
    for_each_row: bool = False

    def __str__(self) -> str:
        """Describe the trigger in a message."""
        if self.table is None:
            return f"event trigger {self.name} (function {self.function})"
        return f"trigger {self.name} of {self.table} (function {self.function})"


_CALLING = """
SELECT tgname::text, tgrelid::regclass::text, (tgtype & 1) = 1 FROM pg_trigger
  WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgfoid = to_regprocedure({function})
UNION ALL SELECT evtname::text, NULL, false FROM pg_event_trigger
  WHERE evtenabled <> 'D' AND evtfoid = to_regprocedure({function}) ORDER BY 2, 1
"""

_UNMANAGED = """
SELECT tgname::text, tgrelid::regclass::text, tgfoid::regprocedure::text, (tgtype & 1) = 1
  FROM pg_trigger JOIN pg_proc AS p ON p.oid = tgfoid
  JOIN pg_class AS c ON c.oid = tgrelid
  WHERE (c.oid = to_regclass({table}) OR c.relnamespace = to_regnamespace('migration'))
  AND NOT tgisinternal AND tgenabled <> 'D'
  AND p.pronamespace::regnamespace::text NOT IN ('pipeline_functions', 'migration', 'feed')
  ORDER BY 1
"""


def calling_triggers(ask: Ask, context: Context, *, table: str = "") -> list[Trigger]:
    """The triggers that may have caused an error: those that call the innermost trigger function.

    Args:
        table: the table that was written; if several tables share a function, only its triggers are
            returned.
    """
    for function in context.functions:
        rows = ask(_CALLING.format(function=literal(function)))
        found = [Trigger(name, owner, function, *rest) for name, owner, *rest in rows]
        if found:
            own = [each for each in found if each.table and each.table.strip('"') == table]
            return own or found
    return []


def unmanaged_triggers(ask: Ask, table: str) -> list[Trigger]:
    """Triggers of a table, or of the ledger, that the pipeline did not create.

    Args:
        table: its name with its schema, quoted.
    """
    return [Trigger(*row) for row in ask(_UNMANAGED.format(table=literal(table)))]


def refusing_object(ask: Ask, context: Context, *, table: str = "") -> str:
    """The triggers or the function that refused a write; empty if no function was running."""
    found = calling_triggers(ask, context, table=table)
    if found:
        return " or ".join(map(str, found))
    return f"function {context.functions[0]}" if context.functions else ""
