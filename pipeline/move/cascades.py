"""Rows that went with their parent: noted until their own table has looked at them."""

from collections.abc import Sequence
from typing import Any

from pipeline.move.landing import Landing
from pipeline.move.target import Target


def note(target: Target, table: str, keys: Sequence[Any], *, parent: str) -> None:
    """Note keys of rows that are about to go with their parent."""
    target.rows(
        "INSERT INTO migration.cascaded (table_name, target_key, parent)"
        " SELECT $1, unnest($2::text[]), $3 ON CONFLICT DO NOTHING RETURNING 1",
        (table, [str(key) for key in keys], parent),
    )


def keys(target: Target, landing: Landing) -> list[Any]:
    """Keys that were noted of a table, as the source writes them."""
    found = target.rows(
        "SELECT target_key FROM migration.cascaded WHERE table_name = $1", (landing.name,)
    )
    kind = landing.key.type.python_type
    return [kind(key) for (key,) in found]


def forget(target: Target, table: str) -> int:
    """Forget what was noted of a table that has looked at it; returns how many rows that were."""
    gone = target.rows("DELETE FROM migration.cascaded WHERE table_name = $1 RETURNING 1", (table,))
    return len(gone)
