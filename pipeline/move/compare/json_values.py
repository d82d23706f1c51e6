"""Whether JSON texts of both sides mean the same, as PostgreSQL's jsonb sees it.

A source text that is a string of JSON and may hold JSON is handed over as the source has it, and
PostgreSQL unwraps it by its own reading. So the proof trusts nothing of what the move unwrapped.
"""

import numpy as np
import pyarrow as pa

from pipeline.mapping.json_texts import LAYERS
from pipeline.postgres.target import DataFault, Target

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
  -- What a string holds is no JSON; if the text is none itself, this raises again.
  RETURN given::jsonb;
END
$body$
"""


def prepare(target: Target) -> None:
    """Make what unwraps, for as long as the session or the transaction lasts."""
    target.run(_UNWRAPPED)


def unequal(
    target: Target,
    source: pa.Array,
    there: pa.Array,
    asked: pa.Array,
    *,
    double_encoded: bool = False,
) -> pa.Array:
    """Where two columns of JSON texts differ in meaning, among the places that are asked for.

    Args:
        target: the session; where strings are unwrapped, ``prepare`` was called in it.
        source: texts of the source.
        there: texts of the target.
        asked: where to look.
        double_encoded: strings of the source that hold JSON are unwrapped.
    """
    form = "pg_temp.pipeline_unwrapped(a)" if double_encoded else "a::jsonb"
    at = np.flatnonzero(asked.to_numpy(zero_copy_only=False))
    ours, theirs = source.take(pa.array(at)).to_pylist(), there.take(pa.array(at)).to_pylist()
    really = np.zeros(len(source), dtype=bool)
    really[at[_unequal_at(target, ours, theirs, form)]] = True
    return pa.array(really)


def _unequal_at(
    target: Target, ours: list[str | None], theirs: list[str | None], form: str
) -> list[int]:
    """Positions at which two lists of JSON texts differ; what jsonb refuses differs from all."""
    try:
        with target.savepoint():
            found = target.rows(
                "SELECT (n - 1)::integer"
                " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS t(a, b, n)"
                f" WHERE {form} IS DISTINCT FROM b::jsonb",
                (ours, theirs),
            )
    except DataFault:
        half = len(ours) // 2
        if not half:
            return [0]
        later = _unequal_at(target, ours[half:], theirs[half:], form)
        earlier = _unequal_at(target, ours[:half], theirs[:half], form)
        return [*earlier, *(half + n for n in later)]
    return [n for (n,) in found]
