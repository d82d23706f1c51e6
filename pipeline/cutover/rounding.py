"""Moments that are finer than the unit of the source, before a rollback writes them there."""

from pipeline.core.quoting import quoted
from pipeline.cutover import reverse
from pipeline.cutover.steps import CutoverContext
from pipeline.declared import forms
from pipeline.move.reading.source_view import SourceView


def round_moments(context: CutoverContext, source: SourceView) -> None:
    """Round moments of the target down to the unit in which the source writes them."""
    target = context.target
    for table in context.tables:
        mapping = source.match(table, context.options.policies)
        for column in mapping.columns:
            whole, name = reverse.whole(column), quoted(column.name)
            if whole is None:
                continue
            target.mark_as_move()
            changed = target.rows(
                f"UPDATE {quoted(table.name)} SET {name} = {whole} WHERE {name} <> {whole}"
                f" AND isfinite({name}) RETURNING 1"
            )
            if changed:
                unit = str(forms.form_of(column.type)).replace("_", " ")
                context.log(
                    f"{table.name}.{column.name}: {len(changed):,} moments were rounded down,"
                    f" because the source has {unit}"
                )
