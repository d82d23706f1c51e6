"""The originals of irreversibly converted values, stored in the ledger."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.findings import Lossy
from pipeline.mapping import secret
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.compare.changes import Lost
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target

_NOW = "pg_temp.pipeline_conversions"
_COLUMNS = "table_name, source_key, column_name, storage, original, kept_as"


def prepare(target: Target) -> None:
    """Start to collect originals, and discard earlier ones."""
    target.defer(f"DROP TABLE IF EXISTS {_NOW}")
    target.defer(f"CREATE TEMPORARY TABLE {_NOW} (LIKE migration.conversions) ON COMMIT DROP")


def collect(target: Target, table: str, lost: Lost) -> None:
    """Add the originals of one batch."""
    rows = len(lost.keys)
    batch = pa.record_batch(
        {
            "table_name": pa.array([table] * rows, pa.string()),
            "source_key": lost.keys,
            "column_name": pa.array([lost.column] * rows, pa.string()),
            "storage": lost.originals.storage,
            "original": lost.originals.texts,
            "kept_as": lost.kept,
        }
    )
    target.copy(_NOW.partition(".")[2], batch, temporary=True)


def replace(
    target: Target, mapping: TableMapping, *, scope_keys: Sequence[Any] | None = None
) -> None:
    """Make the ledger hold exactly the collected originals; existing rows are not rewritten.

    Args:
        scope_keys: keys of the rows that were compared, None for all.
    """
    table = mapping.name
    outdated = (
        "DELETE FROM migration.conversions c WHERE table_name = $1 AND NOT EXISTS (SELECT"
        f" FROM {_NOW} n WHERE (n.*) IS NOT DISTINCT FROM (c.*))"
    )
    if scope_keys is None:
        target.defer(outdated, (table,))
    elif scope_keys:
        texts = [str(key) for key in scope_keys]
        target.defer(f"{outdated} AND source_key = ANY($2)", (table, texts))
    target.defer(
        f"INSERT INTO migration.conversions ({_COLUMNS}) SELECT {_COLUMNS} FROM {_NOW}"
        " ON CONFLICT DO NOTHING"
    )


def clear(target: Target, table: str) -> None:
    """Make the ledger hold no originals of a table; nothing has to be prepared."""
    target.defer("DELETE FROM migration.conversions WHERE table_name = $1", (table,))


def missing_originals(
    target: Target, mapping: TableMapping, *, limit: int
) -> tuple[int, list[tuple[str, str, str | None]]]:
    """Collected originals missing in the ledger: number, and some as (key, column, original)."""
    found = target.rows(
        f"SELECT source_key, column_name, original, count(*) OVER () FROM {_NOW} AS n WHERE NOT"
        " EXISTS (SELECT FROM migration.conversions AS c WHERE c.table_name = $1 AND"
        " c.source_key = n.source_key AND c.column_name = n.column_name AND"
        " (n.storage, n.original) IS NOT DISTINCT FROM (c.storage, c.original))"
        f" ORDER BY 1, 2 LIMIT {limit}",
        (mapping.name,),
    )
    hidden = secret.columns(mapping.table)
    return found[0][3] if found else 0, [
        (key, column, secret.SHOWN if column in hidden else old) for key, column, old, _ in found
    ]


def summary(target: Target, mapping: TableMapping) -> tuple[Lossy, ...]:
    """Number of irreversibly converted values by column, with examples."""
    return target.answer(summary_question(mapping))


def summary_question(mapping: TableMapping) -> Question[tuple[Lossy, ...]]:
    """The question for the number of irreversibly converted values by column, with examples."""
    hidden = secret.columns(mapping.table)
    return Question(
        "SELECT column_name, count(*) AS values,"
        " (array_agg(source_key ORDER BY source_key))[1:3] AS keys,"
        " (array_agg(original ORDER BY source_key))[1:3] AS originals,"
        " (array_agg(kept_as ORDER BY source_key))[1:3] AS kept"
        " FROM migration.conversions WHERE table_name = $1 GROUP BY 1 ORDER BY 1",
        (mapping.name,),
        lambda found: tuple(
            Lossy(
                mapping.name,
                column,
                values,
                tuple((key, secret.SHOWN, secret.SHOWN) for key in keys)
                if column in hidden
                else tuple(zip(keys, originals, kept, strict=True)),
            )
            for column, values, keys, originals, kept in found
        ),
    )
