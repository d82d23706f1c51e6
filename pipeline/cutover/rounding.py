"""Values that the source cannot hold as they are, changed before a rollback writes them."""

from pipeline.core.quoting import quoted
from pipeline.cutover import reverse
from pipeline.cutover.source.changed_rows import Replayed
from pipeline.declared.kinds import is_wide
from pipeline.mapping.casts.cast import affinity
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
        keys = found.written_keys(column.name)
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


def trim_numbers(target: Target, found: Replayed) -> None:
    """Remove zeros at the end of numbers that SQLite will store as numbers, in the target too.

    A column with the affinity of text or BLOBs keeps every digit.
    """
    table, key = quoted(found.mapping.name), quoted(found.mapping.key.name)
    for column in found.mapping.columns:
        name, keys = quoted(column.name), found.written_keys(column.name)
        as_text = affinity(found.mapping.declared[column.name]) in ("TEXT", "BLOB")
        # A numeric with a precision and a scale always has the same number of digits.
        if as_text or not (is_wide(column.type) and column.type.precision is None) or not keys:  # type: ignore[attr-defined]
            continue
        target.mark_as_move()
        target.rows(
            f"UPDATE {table} SET {name} = trim_scale({name}) WHERE {key} = ANY($1)"
            f" AND scale({name}) <> min_scale({name}) RETURNING 1",
            (keys,),
        )
