"""What CREATE statements say and no PRAGMA tells.

A statement comes from the catalog, so SQLite has accepted it: words that it reserves are keywords
wherever they stand without quotation marks.
"""

from dataclasses import dataclass, field

from pipeline.sqlite.structure import tokens
from pipeline.sqlite.structure.model import Check

_CONSTRAINTS = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"})
"""Words that begin a constraint of a table instead of a column."""

_OPERATORS = frozenset("|+-*/%&=<>~,.!")


@dataclass(frozen=True)
class ColumnText:
    """The definition of a column.

    Attributes:
        collation: in upper case.
        expression: what a generated column computes.
    """

    name: str
    collation: str = "BINARY"
    expression: str | None = None


@dataclass(frozen=True)
class UniqueText:
    """A UNIQUE constraint.

    Attributes:
        collations: in upper case; None for that of the column.
    """

    columns: tuple[str, ...]
    collations: tuple[str | None, ...]
    name: str | None


@dataclass(frozen=True)
class ReferenceText:
    """A foreign key."""

    name: str | None
    deferred: bool = False


@dataclass
class TableText:
    """The definition of a table; its parts are in the order of the statement."""

    columns: list[ColumnText] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    uniques: list[UniqueText] = field(default_factory=list)
    references: list[ReferenceText] = field(default_factory=list)


@dataclass(frozen=True)
class IndexText:
    """The definition of an index.

    Attributes:
        parts: columns and expressions, without COLLATE, ASC and DESC.
        where: the condition of a partial index.
    """

    parts: tuple[str, ...]
    where: str | None


def table(sql: str) -> TableText:
    """Read a CREATE TABLE statement."""
    found = TableText()
    for definition in tokens.split(tokens.words(tokens.body(sql))):
        _Definition(definition, found).read()
    return found


def index(sql: str) -> IndexText:
    """Read a CREATE INDEX statement."""
    pieces = tokens.nested(sql)
    where = [number for number, piece in enumerate(pieces) if tokens.keyword(piece) == "WHERE"]
    return IndexText(
        tuple(_part(part) for part in tokens.split(tokens.body(sql))),
        tokens.expression("".join(pieces[where[0] + 1 :])) if where else None,
    )


class _Definition:
    """The definition of a column, or a constraint of the table."""

    def __init__(self, words: list[str], into: TableText) -> None:
        self._words, self._into = words, into
        self._keywords = [tokens.keyword(word) for word in words]
        is_column = self._keywords[0] not in _CONSTRAINTS
        self._column = tokens.name(words[0]) if is_column else None
        self._reference_name: str | None = None

    def read(self) -> None:
        """Add what it says to the definition of the table."""
        collation, expression = "BINARY", None
        for at, word in enumerate(self._keywords):
            match word:
                case "COLLATE":
                    collation = tokens.name(self._words[at + 1]).upper()
                case "AS":
                    expression = self._inside(at + 1)
                case "CHECK":
                    self._into.checks.append(Check(self._inside(at + 1), self._name_of(at)))
                case "UNIQUE":
                    self._into.uniques.append(self._unique(at))
                case "FOREIGN":
                    self._reference_name = self._name_of(at)
                case "REFERENCES":
                    name = self._name_of(at) or self._reference_name
                    self._into.references.append(ReferenceText(name))
                case "DEFERRABLE" if self._into.references:
                    last = self._into.references.pop()
                    self._into.references.append(ReferenceText(last.name, self._defers(at)))
        if self._column is not None:
            self._into.columns.append(ColumnText(self._column, collation, expression))

    def _unique(self, at: int) -> UniqueText:
        name = self._name_of(at)
        if self._column is not None:
            return UniqueText((self._column,), (None,), name)
        parts = [*tokens.split(tokens.flat(self._inside(at + 1)))]
        collations = (
            tokens.name(part[2]).upper() if len(part) > 2 and _collates(part[1]) else None
            for part in parts
        )
        return UniqueText(tuple(tokens.name(part[0]) for part in parts), tuple(collations), name)

    def _defers(self, at: int) -> bool:
        words = self._keywords[at - 1 : at + 3]
        return words[0] != "NOT" and words[-2:] == ["INITIALLY", "DEFERRED"]

    def _name_of(self, at: int) -> str | None:
        """The name of the constraint that begins at a word."""
        named = at > 1 and self._keywords[at - 2] == "CONSTRAINT"
        return tokens.name(self._words[at - 1]) if named else None

    def _inside(self, at: int) -> str:
        return tokens.expression(self._words[at][1:-1])


def _part(pieces: list[str]) -> str:
    """A part of an index, without its order and, if it is that of the whole, its collation.

    COLLATE binds to a name or a call, so behind an operator it belongs to the last operand.
    """
    text, words = tokens.expression("".join(pieces)), tokens.words(pieces)
    if len(words) > 1 and _orders(words[-1]) and words[-2] not in _OPERATORS:
        text = tokens.expression(text.removesuffix(words.pop()))
    is_call = len(words) == 4 and words[1][0] == "("
    if (len(words) == 3 or is_call) and _collates(words[-2]):
        text = tokens.expression(text.removesuffix(words[-1]))
        text = tokens.expression(text.removesuffix(words[-2]))
    return text


def _orders(word: str) -> bool:
    return tokens.keyword(word) in ("ASC", "DESC")


def _collates(word: str) -> bool:
    return tokens.keyword(word) == "COLLATE"
