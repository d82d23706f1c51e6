"""Moments that are finer than the unit of the source, rounded before a rollback writes them."""

from pipeline.core.quoting import quoted
from pipeline.cutover import reverse
from pipeline.cutover.source.changed_rows import Replayed
from pipeline.postgres.target import Target


def round_moments(target: Target, found: Replayed) -> dict[str, int]:
    """Round moments that will be written to the source down to its unit, in the target too.

    Moments that the application did not write keep the fractions that the source has.

    Returns:
        The number of rounded moments, by column.
    """
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    rounded = {}
    for column in found.mapping.columns:
        whole, name = reverse.whole(column), quoted(column.name)
        keys = [*found.inserted, *found.updated.get(column.name, [])]
        if whole is None or not keys:
            continue
        target.mark_as_move()
        changed = target.rows(
            f"UPDATE {table} SET {name} = {whole} WHERE {key} = ANY($1) AND {name} <> {whole}"
            f" AND isfinite({name}) RETURNING 1",
            (keys,),
        )
        if changed:
            rounded[column.name] = len(changed)
    return rounded
