"""Rows that went with their parent, or lost it: noted until their own table has looked at them."""

from collections.abc import Sequence
from typing import Any

from pipeline.mapping.table_mapping import TableMapping
from pipeline.postgres.target import Target

STAYED = ""
"""Noted as the parent of rows that stay without it."""


def note(target: Target, table: str, keys: Sequence[Any], *, parent: str) -> None:
    """Note keys of rows that are about to go with their parent, or to lose it (``STAYED``)."""
    target.rows(
        "INSERT INTO migration.cascaded AS c (table_name, target_key, parent)"
        " SELECT $1, unnest($2::text[]), $3 ON CONFLICT (table_name, target_key)"
        f" DO UPDATE SET parent = EXCLUDED.parent WHERE c.parent = '{STAYED}' RETURNING 1",
        (table, [str(key) for key in keys], parent),
    )


def keys(target: Target, mapping: TableMapping) -> list[Any]:
    """Keys that were noted of a table, as the source writes them."""
    found = target.rows(
        "SELECT target_key FROM migration.cascaded WHERE table_name = $1", (mapping.name,)
    )
    kind = mapping.key.type.python_type
    return [kind(key) for (key,) in found]


def forget(target: Target, table: str) -> int:
    """Forget what was noted of a table that has looked at it; returns how many rows had gone."""
    noted = target.rows(
        "DELETE FROM migration.cascaded WHERE table_name = $1 RETURNING parent", (table,)
    )
    return sum(parent != STAYED for (parent,) in noted)
