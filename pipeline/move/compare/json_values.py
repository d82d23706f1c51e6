"""Compare JSON texts of both sides by meaning, as PostgreSQL's jsonb does.

A JSON string of the source that may contain JSON is sent unchanged, and PostgreSQL unwraps it
itself. The proof therefore does not depend on the unwrapping of the move.
"""

import numpy as np
import pyarrow as pa

from pipeline.mapping.casts.json_texts import LAYERS
from pipeline.postgres.driver.faults import DataFault
from pipeline.postgres.target import Target

_UNWRAPPED = f"""
CREATE OR REPLACE FUNCTION pg_temp.pipeline_unwrapped(given text) RETURNS jsonb
LANGUAGE plpgsql AS $body$
DECLARE
  whole constant jsonb := given::jsonb;
  inside jsonb := whole;
BEGIN
  FOR layer IN 1..{LAYERS} LOOP
    EXIT WHEN jsonb_typeof(inside) <> 'string';
    inside := (inside #>> '{{}}')::jsonb;
  END LOOP;
  RETURN CASE WHEN jsonb_typeof(inside) IN ('object', 'array') THEN inside ELSE whole END;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  -- The string does not contain JSON; if the text itself is no JSON, this raises again.
  RETURN given::jsonb;
END
$body$
"""


def unequal(
    session: Target,
    source: pa.Array,
    target: pa.Array,
    selected: pa.Array,
    *,
    double_encoded: bool = False,
) -> pa.Array:
    """The mask of the selected JSON texts that differ in meaning.

    Args:
        selected: mask of the texts to compare.
        double_encoded: unwrap strings of the source that contain JSON.
    """
    form = "a::jsonb"
    if double_encoded:
        session.run(_UNWRAPPED)
        form = "pg_temp.pipeline_unwrapped(a)"
    positions = np.flatnonzero(selected.to_numpy(zero_copy_only=False))
    taken = pa.array(positions)
    left, right = source.take(taken).to_pylist(), target.take(taken).to_pylist()
    differs = np.zeros(len(source), dtype=bool)
    differs[positions[_differing_positions(session, left, right, form)]] = True
    return pa.array(differs)


def _differing_positions(
    session: Target, left: list[str | None], right: list[str | None], form: str
) -> list[int]:
    """Positions at which two lists of JSON texts differ; a text that jsonb refuses differs."""
    try:
        with session.savepoint():
            found = session.bound(
                "SELECT (n - 1)::integer"
                " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(a, b, n)"
                f" WHERE {form} IS DISTINCT FROM b::jsonb",
                (left, right),
            )
    except DataFault:
        half = len(left) // 2
        if not half:
            return [0]
        later = _differing_positions(session, left[half:], right[half:], form)
        earlier = _differing_positions(session, left[:half], right[:half], form)
        return [*earlier, *(half + n for n in later)]
    return [n for (n,) in found]
