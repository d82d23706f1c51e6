"""The views of a copy, which follow all tables; one that returns other rows is left out."""

from collections.abc import Mapping

from pipeline.copy.expressions import translate
from pipeline.copy.expressions.translate import NotTranslated, TargetRelation
from pipeline.copy.expressions.trial import Trials
from pipeline.copy.expressions.view_order import ordered
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import LeftOut, attempt
from pipeline.copy.target.layout import CopiedTable
from pipeline.copy.target.names import shortened
from pipeline.core.errors import PipelineError, ShapeError
from pipeline.core.progress import waiting
from pipeline.core.quoting import literal, quoted
from pipeline.mapping.matching import folded
from pipeline.postgres.target import Target
from pipeline.sqlite.structure.model import View

_COMMENT = "Copied from SQLite"
"""Marks the views that a copy made."""


def make_all(
    target: Target, plan: CopyPlan, tables: Mapping[str, CopiedTable]
) -> tuple[list[str], list[LeftOut]]:
    """As ``make``; an error leaves out all views, because it must not cost the tables' result."""
    try:
        return make(target, plan, tables)
    except PipelineError as error:
        return [], [_left(view.name, error.problem) for view in plan.source.schema.views]


def make(
    target: Target, plan: CopyPlan, tables: Mapping[str, CopiedTable]
) -> tuple[list[str], list[LeftOut]]:
    """Create the views, in one transaction; returns the names of the carried ones, and the others.

    Args:
        tables: the tables that are in the target, by folded name.
    """
    found, refused = ordered(plan.source.schema.views, [t.source.name for t in tables.values()])
    left = [_left(name, f"it {why.reason}") for name, why in refused.items()]
    relations = {name: TargetRelation(table.place, table.targets) for name, table in tables.items()}
    made: list[str] = []
    if not found:
        return made, left
    with waiting("views"), target.transaction(), plan.source.sqlite() as connection:
        trials = Trials(target, plan.source, connection)
        for view in found:
            place = _place(plan.schema, view)
            translated = translate.view(view, relations, sql_name=place)
            if isinstance(translated, NotTranslated):
                left.append(_left(view.name, f"it {translated.reason}"))
                continue
            if _is_own(target, place) and attempt(target, f"DROP VIEW {place}") is not None:
                left.append(_left(view.name, "another view of the target reads the earlier one"))
                continue
            verdict = trials.view(view, translated)
            if not verdict.carried:
                reason = verdict.reason or ""
                whole = reason if reason[:1].isupper() else f"it {reason}"
                left.append(_left(view.name, whole))
                continue
            target.run(f"COMMENT ON VIEW {place} IS {literal(_COMMENT)}")
            relations[folded(view.name)] = translated.relation
            made.append(view.name)
    return made, left


def drop(target: Target, plan: CopyPlan) -> None:
    """Drop the views of an earlier copy, because a table that they read is made anew.

    Raises:
        ShapeError: views of others read them.
    """
    wanted = [_place(plan.schema, view) for view in plan.source.schema.views]
    places = [place for place in wanted if _is_own(target, place)]
    if places and attempt(target, f"DROP VIEW {', '.join(places)}") is not None:
        raise ShapeError(
            f"A view of the target reads views of the copy ({', '.join(places)}), which have to be"
            " made anew",
            remedy="Drop that view first, and create it again after the copy; nothing was changed",
        )


def _place(schema: str, view: View) -> str:
    return f"{quoted(schema)}.{quoted(shortened(view.name))}"


def _is_own(target: Target, place: str) -> bool:
    return bool(
        target.value(
            "SELECT coalesce(obj_description(to_regclass($1), 'pg_class'), '') = $2",
            (place, _COMMENT),
        )
    )


def _left(name: str, reason: str) -> LeftOut:
    return LeftOut("view", "", name, reason)
