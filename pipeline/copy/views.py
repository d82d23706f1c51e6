"""The views of a copy, which follow all tables; one that returns other rows is left out.

A view of an earlier copy stays if its definition is the same, with all that reads it.
"""

import hashlib
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
"""The beginning of the comment of a view that a copy made; a digest of its definition follows."""


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
            comment, before = _comment(translated.sql), _comment_of(target, place)
            outdated = before.startswith(_COMMENT) and before != comment
            if outdated and attempt(target, f"DROP VIEW {place}") is not None:
                left.append(_left(view.name, "another view of the target reads the earlier one"))
                continue
            verdict = trials.view(view, translated, exists=before == comment)
            if not verdict.carried:
                left.append(_left(view.name, verdict.reason or ""))
                continue
            target.run(f"COMMENT ON VIEW {place} IS {literal(comment)}")
            relations[folded(view.name)] = translated.relation
            made.append(view.name)
    return made, left


def drop(target: Target, plan: CopyPlan) -> None:
    """Drop the views of an earlier copy, because a table that they read is made anew.

    Raises:
        ShapeError: views of others read them.
    """
    wanted = [_place(plan.schema, view) for view in plan.source.schema.views]
    places = [place for place in wanted if _comment_of(target, place).startswith(_COMMENT)]
    if places and attempt(target, f"DROP VIEW {', '.join(places)}") is not None:
        raise ShapeError(
            f"A view of the target reads views of the copy ({', '.join(places)}), which have to be"
            " made anew",
            remedy="Drop that view first, and create it again after the copy; nothing was changed",
        )


def _place(schema: str, view: View) -> str:
    return f"{quoted(schema)}.{quoted(shortened(view.name))}"


def _comment(sql: str) -> str:
    return f"{_COMMENT} ({hashlib.sha256(sql.encode()).hexdigest()[:16]})"


def _comment_of(target: Target, place: str) -> str:
    found = "SELECT coalesce(obj_description(to_regclass($1), 'pg_class'), '')"
    return str(target.value(found, (place,)))


def _left(name: str, reason: str) -> LeftOut:
    return LeftOut("view", "", name, reason)
