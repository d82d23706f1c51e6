"""Sequences of the target, which continue after every id that the source has assigned."""

from pipeline.core.quoting import quoted
from pipeline.mapping.casts.types import largest_integer
from pipeline.move.context.move_context import MoveContext
from pipeline.move.proof import constraints


def advance(context: MoveContext) -> str | None:
    """Advance the sequence past all ids that ever were in the source; never move it back."""
    mapping, ranges = context.mapping, context.survey.ranges
    sequence = constraints.find_sequence(context.target, mapping)
    if sequence is not None:
        assigned = context.source.last_assigned(mapping.table.name)
        constraints.require_ids_fit(mapping, assigned)
        # Ids of rows outside a subset must not be assigned either.
        ids = (0, ranges[-1].last if ranges else 0, context.scope.largest or 0, assigned)
        # A key that is too large for the target must not exhaust the sequence.
        largest = max(each for each in ids if each <= largest_integer(mapping.key.type))
        context.target.defer(
            f"SELECT setval($1::regclass, m) FROM (SELECT greatest($2,"
            f" max({quoted(mapping.key.name)})) AS m FROM {quoted(mapping.name)}) AS t,"
            f" {sequence} AS s WHERE m > s.last_value OR m = s.last_value AND NOT s.is_called",
            (sequence, largest),
        )
    return sequence
