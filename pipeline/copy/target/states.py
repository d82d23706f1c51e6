"""What the target has of the tables of a copy, before it is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.copy.target import recording
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.errors import ShapeError
from pipeline.postgres.target import Target

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}
_STATES = """
SELECT w.number, c.relkind::text, c.relpersistence::text,
  (SELECT coalesce(string_agg(attname::text, chr(10)), '') FROM pg_attribute
    WHERE attrelid = c.oid AND attgenerated <> '' AND NOT attisdropped)
FROM unnest($1::text[]) WITH ORDINALITY AS w(place, number)
JOIN pg_class AS c ON c.oid = to_regclass(w.place)
"""


@dataclass(frozen=True)
class TableState:
    """A table of the target.

    Attributes:
        kind: PostgreSQL's letter for the kind of relation, None if there is none.
        rules: the rules of the copy that wrote it, None if there is no record.
        computed: names of its generated columns.
    """

    kind: str | None = None
    rules: str | None = None
    computed: frozenset[str] = frozenset()

    def computed_of(self, table: CopiedTable) -> dict[str, str]:
        """The generated columns that the target has, with the expressions of a plan."""
        return {n: sql for n, sql in table.computed.items() if n in self.computed}


def read(target: Target, tables: Mapping[str, CopiedTable]) -> dict[str, TableState]:
    """The states of tables, by the given names."""
    places = [table.place for table in tables.values()]
    found = {number: rest for number, *rest in target.rows(_STATES, (places,))}
    rules = {}
    if target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL"):
        labels = [table.label for table in tables.values()]
        rules = dict(
            target.rows(
                "SELECT table_name, rules FROM migration.watermarks WHERE table_name = ANY($1)",
                (labels,),
            )
        )
    states = {}
    for number, (name, table) in enumerate(tables.items(), 1):
        kind, _, computed = found.get(number, (None, None, ""))
        known = rules.get(table.label) if kind == "r" else None
        states[name] = TableState(kind, known, frozenset(filter(None, computed.split("\n"))))
    return states


def require_own(tables: Mapping[str, CopiedTable], states: Mapping[str, TableState]) -> None:
    """Refuse a target with relations that no copy wrote.

    Raises:
        ShapeError: names the first of them; nothing was changed.
    """
    for name, state in states.items():
        if state.kind is None or (state.rules is not None and recording.is_copy(state.rules)):
            continue
        what = _KINDS.get(state.kind, "a table")
        by = "was written by a migration" if state.rules is not None else "was not made by a copy"
        raise ShapeError(
            f"The target has {what} {tables[name].label} that {by}",
            remedy="Name another schema with --schema, exclude the table with --exclude, or use"
            " another database",
        )
