"""Columns that foreign keys join, directly or through others; they need one type."""

from collections.abc import Iterator

from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import ForeignKey, Schema, Table

Place = tuple[str, str]
"""A table and a column, by their names."""


def groups(schema: Schema) -> tuple[tuple[Place, ...], ...]:
    """All columns of all tables; those that foreign keys join are in one group."""
    tables = {folded(table.name): table for table in schema.tables}
    leader = {
        (table.name, c.name): (table.name, c.name) for table in schema.tables for c in table.columns
    }

    def find(place: Place) -> Place:
        while leader[place] != place:
            place = leader[place]
        return place

    for table in schema.tables:
        for key in table.foreign_keys:
            for child, parent in _pairs(table, tables.get(folded(key.parent)), key):
                leader[find(child)] = find(parent)
    members: dict[Place, list[Place]] = {}
    for place in leader:
        members.setdefault(find(place), []).append(place)
    return tuple(map(tuple, members.values()))


def _pairs(table: Table, parent: Table | None, key: ForeignKey) -> Iterator[tuple[Place, Place]]:
    """The columns of a foreign key with those that they refer to, as far as they exist."""
    if parent is None or len(key.columns) != len(key.parent_columns):
        return
    for column, other in zip(key.columns, key.parent_columns, strict=True):
        pair = _place(table, column), _place(parent, other)
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _place(table: Table, column: str) -> Place | None:
    found = (each.name for each in table.columns if folded(each.name) == folded(column))
    name = next(found, None)
    return None if name is None else (table.name, name)
