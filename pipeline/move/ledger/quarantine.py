"""Quarantine: the rows that the last move rejected, stored completely in the ledger.

Rows with unchanged values and reasons are not rewritten, so ``since`` tells how long they have been
in quarantine.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from pipeline.core.findings import Quarantined
from pipeline.declared import ledger
from pipeline.mapping.contract import Reason, Rejected, StoredValue
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.pinned_source import PinnedSource
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target

_FLUSH_BYTES = 8 * 2**20
_EXAMPLES = 5


def held_keys(target: Target, parents: Iterable[str]) -> dict[str, set[str]]:
    """Keys in quarantine, by table."""
    held: dict[str, set[str]] = {parent: set() for parent in parents}
    found = target.rows(
        "SELECT table_name, source_key FROM migration.quarantine"
        " WHERE table_name = ANY($1) AND source_key IS NOT NULL",
        (list(held),),
    )
    for parent, key in found:
        held[parent].add(key)
    return held


def row_ids(target: Target, table: str) -> set[str]:
    """Row ids of the rows in quarantine."""
    return target.answer(row_ids_question(table))


def row_ids_question(table: str) -> Question[set[str]]:
    """The question for the row ids of the rows in quarantine."""
    return Question(
        "SELECT row_id FROM migration.quarantine WHERE table_name = $1",
        (table,),
        lambda rows: {row_id for (row_id,) in rows},
    )


def fingerprints_question(table: str) -> Question[dict[str, tuple[str, str | None]]]:
    """The question for the fingerprints and keys of the rows in quarantine, by row id."""
    return Question(
        "SELECT row_id, fingerprint, source_key FROM migration.quarantine WHERE table_name = $1",
        (table,),
        lambda rows: {row_id: (fingerprint, key) for row_id, fingerprint, key in rows},
    )


def keys(target: Target, table: str) -> dict[str, str | None]:
    """Row id -> key, as text, of the rows in quarantine."""
    return dict(
        target.rows(
            "SELECT row_id, source_key FROM migration.quarantine WHERE table_name = $1", (table,)
        )
    )


def within(
    target: Target, table: str, *, row_ids: Collection[str], keys: Iterable[Any]
) -> set[str]:
    """Row ids of the rows in quarantine that have one of these row ids or keys."""
    found = target.rows(
        "SELECT row_id FROM migration.quarantine WHERE table_name = $1"
        " AND (row_id = ANY($2) OR source_key = ANY($3))",
        (table, sorted(row_ids), [str(key) for key in keys]),
    )
    return {row_id for (row_id,) in found}


def replace(
    target: Target,
    table: str,
    rejected: Iterable[Rejected],
    *,
    run_id: str,
    scope_keys: Collection[str] | None = None,
) -> int:
    """Make quarantine hold exactly these rows of a table; returns how many.

    Rows are read one at a time, so memory is bounded by one row and one batch of bytes.

    Args:
        scope_keys: row ids of the rows that may leave quarantine, None for all.
    """
    before = target.answer(fingerprints_question(table))
    seen: set[str] = set()
    waiting: list[Rejected] = []
    size = 0
    for row in rejected:
        seen.add(row.row_id)
        # Rows that a copy put there have no key, which the children of such a row need.
        if before.get(row.row_id) == (row.fingerprint, row.key):
            continue
        if row.row_id in before:
            _remove(target, table, [row.row_id])
        waiting.append(row)
        size += sum(len(value.value or b"") for value in row.values)
        if size > _FLUSH_BYTES:
            _write(target, table, waiting, run_id)
            waiting, size = [], 0
    _write(target, table, waiting, run_id)
    outdated = set(before) - seen
    _remove(
        target, table, sorted(outdated if scope_keys is None else outdated.intersection(scope_keys))
    )
    return len(seen)


def clear(target: Target, table: str) -> None:
    """Make quarantine hold no row of a table."""
    target.defer("DELETE FROM migration.quarantine WHERE table_name = $1", (table,))


def summary(target: Target, table: str) -> tuple[Quarantined, ...]:
    """Number of rows by reason, with examples; a row counts once per reason."""
    return target.answer(summary_question(table))


def summary_question(table: str, *, by_run: str | None = None) -> Question[tuple[Quarantined, ...]]:
    """The question for the number of rows by reason, with examples.

    Args:
        table: its name.
        by_run: count only the rows that this run put into quarantine.
    """
    return Question(
        "SELECT reason->>'column' AS name, reason->>'message' AS message, count(*) AS rows,"
        f" (array_agg(coalesce(source_key, row_id) ORDER BY row_id))[1:{_EXAMPLES}] AS examples"
        " FROM migration.quarantine, jsonb_array_elements(reasons) AS reason"
        " WHERE table_name = $1 AND ($2::text IS NULL OR run_id = $2)"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        (table, by_run),
        lambda found: tuple(
            Quarantined(table, message, column, rows, tuple(examples))
            for column, message, rows, examples in found
        ),
    )


def read(target: Target, table: str) -> list[Rejected]:
    """The rows in quarantine, with their values in the source."""
    rows = target.rows(
        "SELECT row_id, source_key, reasons::text FROM migration.quarantine"
        " WHERE table_name = $1 ORDER BY row_id",
        (table,),
    )
    return [
        Rejected(
            row_id,
            key,
            tuple(Reason(**reason) for reason in json.loads(reasons)),
            read_values(target, table, row_id),
        )
        for row_id, key, reasons in rows
    ]


def read_values(target: Target, table: str, row_id: str) -> tuple[StoredValue, ...]:
    """The values of a row in quarantine, as the source stored them."""
    return tuple(
        StoredValue(*value)
        for value in target.rows(
            "SELECT column_name, storage, value FROM migration.quarantine_values"
            " WHERE table_name = $1 AND row_id = $2 ORDER BY position",
            (table, row_id),
        )
    )


Digests = set[tuple[str, str, str | None]]
"""Values of a row, as (column, storage, MD5 of the value)."""


def digests(target: Target, table: str, row_ids: list[str]) -> dict[str, Digests]:
    """Digests of stored rows, by row id."""
    found: dict[str, Digests] = {}
    for row_id, column, storage, digest in target.rows(
        "SELECT row_id, column_name, storage, md5(value) FROM migration.quarantine_values"
        " WHERE table_name = $1 AND row_id = ANY($2)",
        (table, row_ids),
    ):
        found.setdefault(row_id, set()).add((column, storage, digest))
    return found


def source_digests(row: Rejected) -> Digests:
    """Digests of a row that was just read from the source."""
    return {(value.column, value.storage, _md5(value.value)) for value in row.values}


def _md5(value: bytes | None) -> str | None:
    return None if value is None else hashlib.md5(value, usedforsecurity=False).hexdigest()


def _remove(target: Target, table: str, row_ids: list[str]) -> None:
    if row_ids:
        target.defer(
            "DELETE FROM migration.quarantine WHERE table_name = $1 AND row_id = ANY($2)",
            (table, row_ids),
        )


def _write(target: Target, table: str, rows: list[Rejected], run_id: str) -> None:
    if not rows:
        return
    reasons = [json.dumps([_plain(reason) for reason in row.reasons]) for row in rows]
    target.copy(
        "quarantine",
        pa.record_batch(
            {
                "table_name": [table] * len(rows),
                "row_id": [row.row_id for row in rows],
                "source_key": pa.array([row.key for row in rows], pa.string()),
                "reasons": pa.ExtensionArray.from_storage(
                    pa.json_(pa.string()), pa.array(reasons, pa.string())
                ),
                "fingerprint": [row.fingerprint for row in rows],
                "run_id": [run_id] * len(rows),
            }
        ),
        schema=ledger.SCHEMA,
    )
    values = [(row.row_id, at, value) for row in rows for at, value in enumerate(row.values)]
    target.copy(
        "quarantine_values",
        pa.record_batch(
            {
                "table_name": [table] * len(values),
                "row_id": [row_id for row_id, _, _ in values],
                "column_name": [value.column for _, _, value in values],
                "position": pa.array([at for _, at, _ in values], pa.int32()),
                "storage": [value.storage for _, _, value in values],
                "value": pa.array([value.value for _, _, value in values], pa.binary()),
            }
        ),
        schema=ledger.SCHEMA,
    )


def _plain(reason: Reason) -> dict[str, Any]:
    return {"code": reason.code, "column": reason.column, "message": reason.message}


def renumberable(
    target: Target, live: PinnedSource, mapping: TableMapping
) -> list[tuple[Any, str | None]]:
    """Rows in quarantine whose row ids may belong to other rows later, as (row id, key)."""
    if not live.renumbers(mapping):
        return []
    return [
        (live.row_id_from(mapping, row_id), key)
        for row_id, key in keys(target, mapping.name).items()
        # Keys with replaced characters cannot be compared as text.
        if key is None or not {"\N{REPLACEMENT CHARACTER}", "\N{SYMBOL FOR NULL}"} & set(key)
    ]
