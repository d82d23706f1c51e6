"""The foreign keys of a table."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.copy.target import extras
from pipeline.copy.target.extras import Extra, LeftOut
from pipeline.copy.target.keys import Planned
from pipeline.copy.target.layout import CopiedTable, listed
from pipeline.copy.target.names import Names
from pipeline.core.quoting import quoted
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import ForeignKey


def plan_references(
    table: CopiedTable, copies: Mapping[str, CopiedTable], planned: Planned
) -> None:
    """Add foreign keys to a plan.

    Args:
        copies: the tables of the copy, by folded name in the source.
    """
    names = Names(each.made for each in planned.own if each.made is not None)
    for number, key in enumerate(table.source.foreign_keys, 1):
        title = key.name or f"({', '.join(key.columns)}) to {key.parent}"
        parent = copies.get(folded(key.parent))
        if parent is None:
            reason = "the source has no such table, or it is excluded"
        elif not _is_unique(parent, key.parent_columns):
            reason = f"the referenced columns of {key.parent} are not declared unique"
        else:
            planned.references.append(_reference(table, key, parent, title, names, number))
            continue
        planned.left.append(LeftOut("foreign key", table.label, title, reason))


def _reference(
    table: CopiedTable, key: ForeignKey, parent: CopiedTable, title: str, names: Names, number: int
) -> Extra:
    here = [table.names[table.exact(name)] for name in key.columns]
    there = [parent.names[parent.exact(name)] for name in key.parent_columns]
    made = names.of(key.name or f"{table.name}_{'_'.join(here)}_fkey{number if number > 1 else ''}")
    actions = "".join(
        f" ON {event} {action}"
        for event, action in (("DELETE", key.on_delete), ("UPDATE", key.on_update))
        if action != "NO ACTION"
    )
    deferred = " DEFERRABLE INITIALLY DEFERRED" if key.deferred else ""
    return Extra(
        "foreign key",
        table.label,
        title,
        f"ALTER TABLE {table.place} ADD CONSTRAINT {quoted(made)} FOREIGN KEY ({listed(here)})"
        f" REFERENCES {parent.place} ({listed(there)}){actions}{deferred}",
        made,
        extras.orphans(table, here, parent.place, there),
        parent=(folded(parent.source.name), parent.label),
        elements=tuple(here),
        refers_to=tuple(there),
    )


def _is_unique(table: CopiedTable, columns: Sequence[str]) -> bool:
    """Whether PostgreSQL accepts a reference to these columns."""
    wanted = {folded(name) for name in columns}
    return bool(wanted) and any(
        {folded(name) for name in each} == wanted for each in _unique_sets(table)
    )


def _unique_sets(table: CopiedTable) -> Iterator[Sequence[str]]:
    source = table.source
    if source.primary_key:
        yield source.primary_key
    for unique in source.uniques:
        yield unique.columns
    for index in source.indexes:
        if index.unique and index.where is None:
            yield [part.column or "" for part in index.parts]
