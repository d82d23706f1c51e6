"""Statements that create a table of a model, in one of the many ways to write them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from pipeline.core.quoting import literal, quoted
from pipeline.sqlite.structure.model import Column, ForeignKey, Index, IndexPart, Table

RESERVED = frozenset({"as", "check", "constraint", "default", "primary"})
BLANKS = (" ", "\n", "\t\f", " /* CHECK (x), ' */ ", " -- COLLATE ')\n", "\r\n", "/**/")


@dataclass(frozen=True)
class Name:
    """A name; a reference to one may be in another case."""

    text: str
    is_reference: bool = True


@dataclass(frozen=True)
class Sql:
    """A text that stays as it is."""

    text: str


Words = list[str | Name | Sql]
"""A string holds keywords and signs, which have no case."""


def statements(table: Table, *, seed: int) -> Iterator[str]:
    """The statements that create a table and its indexes."""
    random = Random(seed)
    yield written(_table(table), random)
    for index in table.indexes:
        yield written(_index(table, index), random)


def written(words: Words, random: Random) -> str:
    """A statement in random quotation marks and case, with random comments."""
    texts = (text for word in words for text in _texts(word, random))
    return "".join(random.choice(BLANKS) + text for text in texts)


def _texts(word: str | Name | Sql, random: Random) -> Iterable[str]:
    if isinstance(word, Sql):
        return [word.text]
    if isinstance(word, str):
        return [_in_any_case(each, random) for each in word.split()]
    name = _in_any_case(word.text, random) if word.is_reference else word.text
    ways = [quoted(name), f"`{name.replace('`', '``')}`", literal(name)]
    if "]" not in name:
        ways.append(f"[{name}]")
    if re.fullmatch("[a-z_]+", name, re.I) and name.lower() not in RESERVED:
        ways.append(name)
    return [random.choice(ways)]


def _in_any_case(text: str, random: Random) -> str:
    def turned(letter: str) -> str:
        return random.choice((letter.lower(), letter.upper())) if letter.isascii() else letter

    return "".join(map(turned, text))


def _table(table: Table) -> Words:
    parts = [_column(table, column) for column in table.columns]
    if table.primary_key and not table.is_row_id:
        parts.append(["PRIMARY KEY", *_collated(table.primary_key, table.key_collations)])
    parts += [
        [*_named(unique.name), "UNIQUE", *_collated(unique.columns, unique.collations)]
        for unique in table.uniques
    ]
    parts += [[*_named(check.name), "CHECK (", Sql(check.sql), ")"] for check in table.checks]
    parts += [_reference(table, key) for key in table.foreign_keys]
    options: list[Words] = [["WITHOUT ROWID"]] * table.without_rowid + [["STRICT"]] * table.strict
    return ["CREATE TABLE", Name(table.name, False), "(", *_joined(parts), ")", *_joined(options)]


def _column(table: Table, column: Column) -> Words:
    words: Words = [Name(column.name, False), Sql(column.declared)]
    if column.name in table.primary_key and table.is_row_id:
        words += ["PRIMARY KEY", "AUTOINCREMENT" if table.autoincrement else ""]
    words += ["COLLATE", Name(column.collation)]
    if column.default is not None:
        words += ["DEFAULT (", Sql(column.default), ")"]
    if column.not_null:
        words.append("NOT NULL")
    if column.expression is not None:
        words += ["GENERATED ALWAYS AS (", Sql(column.expression), ")", str(column.generated)]
    return words


def _reference(table: Table, key: ForeignKey) -> Words:
    # Names of a parent that does not exist are read as they are written.
    exists = key.parent == table.name
    own = _list([Name(name)] for name in key.columns)
    others = _list([Name(name, exists)] for name in key.parent_columns)
    return [
        *(*_named(key.name), "FOREIGN KEY", *own, "REFERENCES", Name(key.parent, exists)),
        *(others if key.parent_columns else []),
        f"ON DELETE {key.on_delete} ON UPDATE {key.on_update}",
        "DEFERRABLE INITIALLY DEFERRED" if key.deferred else "NOT DEFERRABLE",
    ]


def _index(table: Table, index: Index) -> Words:
    return [
        f"CREATE {'UNIQUE' if index.unique else ''} INDEX",
        *(Name(index.name, False), "ON", Name(table.name), *_list(map(_part, index.parts))),
        *(["WHERE", Sql(index.where)] if index.where is not None else []),
    ]


def _part(part: IndexPart) -> Words:
    order = "DESC" if part.descending else "ASC"
    if part.column is None:
        return [Sql(str(part.expression)), "COLLATE", Name(part.collation), order]
    return [Name(part.column), "COLLATE", Name(part.collation), order]


def _named(name: str | None) -> Words:
    return [] if name is None else ["CONSTRAINT", Name(name, False)]


def _collated(names: Sequence[str], collations: Sequence[str]) -> Words:
    pairs = zip(names, collations, strict=True)
    return _list([Name(name), "COLLATE", Name(collation)] for name, collation in pairs)


def _list(parts: Iterable[Words]) -> Words:
    return ["(", *_joined(parts), ")"]


def _joined(parts: Iterable[Words]) -> Words:
    words: Words = []
    for part in parts:
        words += [",", *part] if words else part
    return words
