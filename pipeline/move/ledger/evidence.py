"""Evidence in the ledger: the figures and digests of each proof, by run and table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.postgres.target import Target

_WRITE = """
INSERT INTO migration.evidence
  (run_id, table_name, source_rows, target_rows, quarantined_rows, digests)
  VALUES ($1, $2, $3, $4, $5, $6::jsonb)
ON CONFLICT (run_id, table_name) DO UPDATE SET proven_at = now(),
  source_rows = EXCLUDED.source_rows, target_rows = EXCLUDED.target_rows,
  quarantined_rows = EXCLUDED.quarantined_rows, digests = EXCLUDED.digests
"""


@dataclass(frozen=True)
class Evidence:
    """What was proven of a table.

    Attributes:
        digests: of the target's columns, by name.
    """

    source_rows: int
    target_rows: int
    quarantined_rows: int
    digests: Mapping[str, str]


def write(target: Target, table: str, proven: Evidence, *, run_id: str) -> None:
    """Store the evidence of a table in its transaction."""
    figures = (proven.source_rows, proven.target_rows, proven.quarantined_rows)
    target.defer(_WRITE, (run_id, table, *figures, json.dumps(dict(proven.digests))))
