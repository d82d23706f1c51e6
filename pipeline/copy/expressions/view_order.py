"""The order in which views are created: those that others read come first."""

from collections.abc import Iterable, Sequence

from sqlglot import exp

from pipeline.copy.expressions.language import parsing
from pipeline.copy.expressions.language.values import Untranslatable
from pipeline.copy.expressions.translate import NotTranslated
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import View


def ordered(
    views: Sequence[View], tables: Iterable[str]
) -> tuple[list[View], dict[str, NotTranslated]]:
    """Views in the order of their creation, and those that cannot be created, by name.

    Args:
        tables: names of the tables that were copied.
    """
    refused: dict[str, NotTranslated] = {}
    reads: dict[str, set[str]] = {}
    for view in views:
        try:
            reads[folded(view.name)] = read_by(view.sql)
        except Untranslatable as reason:
            refused[view.name] = NotTranslated(str(reason))
    done, names = {folded(name) for name in tables}, {folded(view.name) for view in views}
    waiting = [view for view in views if view.name not in refused]
    found: list[View] = []
    while ready := [view for view in waiting if reads[folded(view.name)] <= done]:
        found += ready
        done |= {folded(view.name) for view in ready}
        waiting = [view for view in waiting if view not in ready]
    for view in waiting:
        refused[view.name] = NotTranslated(_reason(view, reads[folded(view.name)] - done, names))
    return found, refused


def _reason(view: View, lacking: set[str], views: set[str]) -> str:
    missing = sorted(lacking - views)
    if missing:
        return f"reads {missing[0]}, which was not copied"
    if folded(view.name) in lacking:
        return "reads itself"
    return f"reads the view {min(lacking)}, which is not carried"


def read_by(sql: str) -> set[str]:
    """Folded names of the tables and views that a view reads.

    Raises:
        Untranslatable: the view cannot be read.
    """
    tree = parsing.view(sql)
    common = {folded(each.alias) for each in tree.find_all(exp.CTE)}
    tables = (each for each in tree.find_all(exp.Table) if isinstance(each.this, exp.Identifier))
    return {folded(each.name) for each in tables} - common
