"""What a table and its columns hold, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pipeline.copy.census.formats import Form
from pipeline.copy.source.reading import RowRange
from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import Table


@dataclass(frozen=True)
class ColumnFacts:
    """What a column holds.

    Attributes:
        lowest: the lowest integer.
        highest: the highest integer.
        infinite: the number of reals that are infinite.
        longest: characters of the longest text that PostgreSQL can store.
        unstorable: texts that PostgreSQL cannot store; these have a NUL, or invalid UTF-8.
        nul: texts with a NUL.
        forms: the number of values of each form that the column's type or name asks for. Texts that
            PostgreSQL cannot store have no form.
        exception: the first text without any of these forms, shortened.
        words: the different texts, if the type asks for them and they are few.
        sampled: forms that all of the first texts have; they are a hint only.
        misfits: rows that a type given by the user does not take; None if none was given.
        examples: a few values, shortened.
    """

    name: str
    nulls: int = 0
    integers: int = 0
    reals: int = 0
    texts: int = 0
    blobs: int = 0
    lowest: int | None = None
    highest: int | None = None
    infinite: int = 0
    longest: int = 0
    unstorable: int = 0
    nul: int = 0
    forms: Mapping[Form, int] = field(default_factory=lambda: MappingProxyType({}))
    exception: str | None = None
    words: tuple[str, ...] | None = None
    sampled: frozenset[Form] = frozenset()
    misfits: int | None = None
    examples: tuple[str, ...] = ()

    @property
    def values(self) -> int:
        """The number of values other than NULL."""
        return self.integers + self.reals + self.texts + self.blobs

    @property
    def storable(self) -> int:
        """The number of texts that PostgreSQL can store."""
        return self.texts - self.unstorable

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return self.integers == self.values and self.within(0, 1)

    def within(self, low: int, high: int) -> bool:
        """Whether all integers lie between two ends, both included."""
        return self.lowest is None or (self.lowest >= low and (self.highest or 0) <= high)

    def count(self, *forms: Form) -> int:
        """The number of values that have one of these forms; no text has two of them."""
        return sum(self.forms.get(form, 0) for form in forms)


def merged(facts: Sequence[ColumnFacts]) -> ColumnFacts:
    """The facts of several columns together, without their hints."""
    lows = [each.lowest for each in facts if each.lowest is not None]
    highs = [each.highest for each in facts if each.highest is not None]
    forms = frozenset(facts[0].forms).union(*(each.forms for each in facts))
    words = {word for each in facts for word in each.words or ()}
    return ColumnFacts(
        facts[0].name,
        nulls=sum(each.nulls for each in facts),
        integers=sum(each.integers for each in facts),
        reals=sum(each.reals for each in facts),
        texts=sum(each.texts for each in facts),
        blobs=sum(each.blobs for each in facts),
        lowest=min(lows, default=None),
        highest=max(highs, default=None),
        infinite=sum(each.infinite for each in facts),
        longest=max(each.longest for each in facts),
        unstorable=sum(each.unstorable for each in facts),
        nul=sum(each.nul for each in facts),
        forms={form: sum(each.count(form) for each in facts) for form in forms},
        exception=next((each.exception for each in facts if each.exception is not None), None),
        words=tuple(sorted(words)) if all(each.words for each in facts if each.texts) else None,
    )


@dataclass(frozen=True)
class TableCensus:
    """What a table holds.

    Attributes:
        bytes: the size of its values.
        ranges: all rows, in ascending order of their row ids.
        columns: in the order of the table.
    """

    table: Table
    rows: int
    bytes: int
    ranges: tuple[RowRange, ...]
    columns: tuple[ColumnFacts, ...]

    def column(self, name: str) -> ColumnFacts:
        """The facts of a column, in any case."""
        return next(each for each in self.columns if folded(each.name) == folded(name))
