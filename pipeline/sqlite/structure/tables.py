"""Ordinary tables, from PRAGMAs and from the statements that created them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipeline.mapping.matching import folded
from pipeline.sqlite.structure import definitions, tokens
from pipeline.sqlite.structure.definitions import IndexText, ReferenceText, TableText
from pipeline.sqlite.structure.model import (
    Column,
    ForeignKey,
    Generated,
    Index,
    IndexPart,
    Table,
    Unique,
)
from pipeline.sqlite.structure.pragmas import (
    ColumnRow,
    IndexRow,
    ObjectRow,
    ReferenceRow,
    TableRow,
)

_GENERATED: dict[int, Generated] = {2: "virtual", 3: "stored"}
"""Values of ``hidden`` in ``table_xinfo`` for generated columns."""


@dataclass(frozen=True)
class Facts:
    """What the catalog tells of a table; ``statements`` are those of indexes, by name."""

    catalog: ObjectRow
    row: TableRow
    columns: list[ColumnRow]
    indexes: list[IndexRow]
    references: list[ReferenceRow]
    statements: Mapping[str, str]


def table(facts: Facts) -> Table:
    """A table; the parents of its foreign keys are as written."""
    text = definitions.table(facts.catalog.sql)
    columns = tuple(_columns(facts.columns, text))
    keys = sorted((row.key, row.name) for row in facts.columns if row.key)
    primary = tuple(name for _, name in keys)
    of_key = next((index for index in facts.indexes if index.origin == "pk"), None)
    collations = {name: collation for name, collation, _ in of_key.parts} if of_key else {}
    return Table(
        name=facts.catalog.name,
        columns=columns,
        primary_key=primary,
        key_collations=tuple(collations.get(name, "BINARY") for name in primary),
        is_row_id=bool(primary) and of_key is None,
        autoincrement=tokens.has_keyword(facts.catalog.sql, "AUTOINCREMENT"),
        without_rowid=facts.row.without_rowid,
        strict=facts.row.strict,
        uniques=tuple(_uniques(facts.indexes, text, columns)),
        checks=tuple(text.checks),
        foreign_keys=tuple(_foreign_keys(facts.references, text.references)),
        indexes=tuple(
            _index(index, definitions.index(facts.statements[index.name]))
            for index in facts.indexes
            if index.name in facts.statements
        ),
    )


def resolved(tables: Iterable[Table]) -> list[Table]:
    """Tables whose foreign keys name parents and their columns as these declare them."""
    given = list(tables)
    parents = {folded(table.name): table for table in given}
    return [
        replace(
            table,
            foreign_keys=tuple(
                _resolved(key, parents.get(folded(key.parent))) for key in table.foreign_keys
            ),
        )
        for table in given
    ]


def _columns(rows: list[ColumnRow], text: TableText) -> Iterator[Column]:
    texts = {folded(column.name): column for column in text.columns}
    for row in rows:
        column = texts[folded(row.name)]
        yield Column(
            name=row.name,
            declared=row.declared,
            not_null=row.not_null,
            default=None if row.default is None else tokens.expression(row.default),
            collation=column.collation,
            generated=_GENERATED.get(row.hidden),
            expression=column.expression,
        )


def _uniques(
    indexes: list[IndexRow], text: TableText, columns: tuple[Column, ...]
) -> Iterator[Unique]:
    """Constraints with an index of their own; SQLite creates none for one that repeats another."""
    declared = {folded(column.name): column.collation for column in columns}
    rest = {
        tuple((folded(str(name)), collation) for name, collation, _ in index.parts): index
        for index in indexes
        if index.origin == "u"
    }
    for unique in text.uniques:
        names = [folded(name) for name in unique.columns]
        collations = [
            collation or declared[name]
            for name, collation in zip(names, unique.collations, strict=True)
        ]
        index = rest.pop(tuple(zip(names, collations, strict=True)), None)
        if index is not None:
            parts = [str(name) for name, _, _ in index.parts]
            yield Unique(tuple(parts), tuple(collations), unique.name)


def _foreign_keys(rows: list[ReferenceRow], texts: list[ReferenceText]) -> Iterator[ForeignKey]:
    for row, text in zip(rows, texts, strict=True):
        yield ForeignKey(
            columns=row.columns,
            parent=row.parent,
            parent_columns=tuple(name for name in row.parent_columns if name is not None),
            on_delete=row.on_delete,
            on_update=row.on_update,
            deferred=text.deferred,
            name=text.name,
        )


def _resolved(key: ForeignKey, parent: Table | None) -> ForeignKey:
    if parent is None:
        return key
    names = {folded(column.name): column.name for column in parent.columns}
    columns = tuple(names.get(folded(name), name) for name in key.parent_columns)
    if not columns and len(parent.primary_key) == len(key.columns):
        columns = parent.primary_key
    return replace(key, parent=parent.name, parent_columns=columns)


def _index(row: IndexRow, text: IndexText) -> Index:
    parts = tuple(
        IndexPart(name, None if name is not None else expression, collation, descending)
        for (name, collation, descending), expression in zip(row.parts, text.parts, strict=True)
    )
    return Index(row.name, parts, row.unique, text.where)
