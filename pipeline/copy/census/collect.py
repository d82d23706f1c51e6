"""Facts of one column, collected batch by batch from Arrow arrays, one for each storage class."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.copy.census.declared import Declared, meaning
from pipeline.copy.census.facts import ColumnFacts
from pipeline.copy.census.formats import PATTERNS, REFUSED, Form, asked, fits_jsonb, sampled
from pipeline.declared.forms import UNITS
from pipeline.mapping.contract import is_utf8
from pipeline.mapping.plausible import FIRST, LAST, number_at
from pipeline.sqlite.structure.model import Column

_EXAMPLES, _SHOWN = 3, 40
_HEAD = 100
"""The number of texts of a sample."""
_MOST_WORDS = 4
_EXACT = 2**53
_DIGITS, _SMALLEST = 30, 1e-30
"""The casts of DECIMAL(p,s) take doubles between these, with 30 digits before the point."""


@dataclass
class ColumnCollector:
    """Collects the facts of a column.

    Attributes:
        also: forms to count in addition to those that the type and the name ask for.
    """

    column: Column
    also: frozenset[Form] = frozenset()
    declared: Declared = field(init=False)
    forms: frozenset[Form] = field(init=False)
    integers: int = 0
    reals: int = 0
    texts: int = 0
    blobs: int = 0
    infinite: int = 0
    longest: int = 0
    unstorable: int = 0
    nul: int = 0
    ends: tuple[int, int] | None = None
    counts: dict[Form, int] = field(default_factory=dict)
    exception: str | None = None
    words: set[str] | None = field(default_factory=set)
    sampled: frozenset[Form] | None = None
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find out what to count."""
        self.declared = meaning(self.column.declared)
        self.forms = asked(self.column, self.declared) | self.also

    def add_integers(self, values: pa.Array) -> None:
        """Add integers; other values are NULL."""
        if len(values) == values.null_count:
            return
        self.integers += len(values) - values.null_count
        ends = pc.min_max(values).as_py()
        low, high = self.ends or (ends["min"], ends["max"])
        self.ends = min(low, ends["min"]), max(high, ends["max"])
        if "exact" in self.forms:
            in_double = pc.and_(pc.greater_equal(values, -_EXACT), pc.less_equal(values, _EXACT))
            doubles = pc.if_else(in_double, values, None).cast(pa.float64())
            self._count("exact", self._exact(doubles))
        self._count_moments(values)
        self._note("integer", values)

    def add_reals(self, values: pa.Array) -> None:
        """Add reals; other values are NULL."""
        if len(values) == values.null_count:
            return
        self.reals += len(values) - values.null_count
        self.infinite += _sum(pc.is_inf(values))
        if "exact" in self.forms:
            self._count("exact", self._exact(values))
        self._count_moments(values)
        self._note("real", values)

    def add_texts(self, values: pa.Array) -> None:
        """Add texts, which may be invalid UTF-8; other values are NULL."""
        if len(values) == values.null_count:
            return
        self.texts += len(values) - values.null_count
        texts = self._storable(values)
        if len(texts) == texts.null_count:
            return
        self.longest = max(self.longest, _longest(texts))
        if self.sampled is None:
            head = texts.drop_null().slice(0, _HEAD)
            self.sampled = sampled(head.to_pylist())
        self._count_forms(texts)
        if "words" in self.forms and self.words is not None:
            self._add_words(texts)
        self._note("text", texts)

    def add_blobs(self, sizes: pa.Array) -> None:
        """Add BLOBs, given by their sizes; other values are NULL."""
        self.blobs += len(sizes) - sizes.null_count

    def facts(self, rows: int, *, misfits: int | None = None) -> ColumnFacts:
        """The result for a number of rows."""
        values = self.integers + self.reals + self.texts + self.blobs
        low, high = self.ends or (None, None)
        words = self.words if self.texts > self.unstorable else None
        return ColumnFacts(
            self.column.name,
            nulls=rows - values,
            integers=self.integers,
            reals=self.reals,
            texts=self.texts,
            blobs=self.blobs,
            lowest=low,
            highest=high,
            infinite=self.infinite,
            longest=self.longest,
            unstorable=self.unstorable,
            nul=self.nul,
            forms={form: self.counts.get(form, 0) for form in sorted(self.forms - {"words"})},
            exception=self.exception,
            words=tuple(sorted(words)) if words else None,
            sampled=self.sampled or frozenset(),
            misfits=misfits,
            examples=tuple(self._all_examples()),
        )

    def _all_examples(self) -> Iterator[str]:
        for storage in ("integer", "real", "text"):
            yield from self.examples.get(storage, ())

    def _limit(self) -> int:
        return int(10 ** ((self.declared.precision or 0) - (self.declared.scale or 0)))

    def _exact(self, values: pa.Array) -> pa.Array:
        """Doubles that the cast of the declared DECIMAL(p,s) does not change."""
        factor, size = 10.0 ** (self.declared.scale or 0), pc.abs(values)
        scaled = pc.multiply(values, factor)
        limit = min(float(self._limit()), 10.0**_DIGITS)
        whole = pc.equal(pc.divide(pc.round(scaled), factor), values)
        fits = pc.and_(
            pc.less(size, limit), pc.or_(pc.equal(size, 0.0), pc.greater_equal(size, _SMALLEST))
        )
        return pc.and_(whole, fits)

    def _count_moments(self, values: pa.Array) -> None:
        if "positive" not in self.forms:
            return
        self._count("positive", pc.greater(values, 0))
        for unit in UNITS:
            # Arrow does not compare large integers with fractions.
            first, last = (math.ceil(number_at(end, unit)) for end in (FIRST, LAST))
            self._count(unit, pc.and_(pc.greater_equal(values, first), pc.less(values, last)))

    def _storable(self, values: pa.Array) -> pa.Array:
        """The texts that PostgreSQL can store; others become NULL."""
        raw = values.cast(pa.binary())
        bad = nul = pc.fill_null(pc.match_substring(raw, b"\0"), False)
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            wrong = [each is not None and not is_utf8(each) for each in raw.to_pylist()]
            bad = pc.or_(nul, pa.array(wrong))
        unstorable = _sum(bad)
        if not unstorable:
            return values
        self.nul += _sum(nul)
        self.unstorable += unstorable
        return pc.if_else(bad, pa.scalar(None, pa.binary()), raw).cast(pa.string())

    def _count(self, form: Form, mask: pa.Array) -> None:
        self.counts[form] = self.counts.get(form, 0) + _sum(mask)

    def _count_forms(self, texts: pa.Array) -> None:
        """Count the forms of texts; each text has the first form that it matches."""
        forms = [form for form in (*PATTERNS, "json") if form in self.forms]
        if not forms:
            return
        left = texts.is_valid()
        for form in forms:
            mask = _json_mask(texts) if form == "json" else _mask(texts, form)
            self._count(form, pc.and_(left, mask))
            left = pc.and_not(left, pc.fill_null(mask, False))
            if not pc.any(left).as_py():
                return
        if self.exception is None:
            self.exception = _shown(texts[pc.index(left, pa.scalar(True)).as_py()].as_py())

    def _add_words(self, texts: pa.Array) -> None:
        for values in (texts.drop_null().slice(0, _HEAD), texts.drop_null()):
            words = (self.words or set()) | set(pc.unique(values).slice(0, _HEAD).to_pylist())
            if len(words) > _MOST_WORDS:
                self.words = None
                return
        self.words = words

    def _note(self, storage: str, values: pa.Array) -> None:
        if storage in self.examples:
            return
        head = pc.unique(values.drop_null().slice(0, _HEAD)).slice(0, _EXAMPLES).to_pylist()
        self.examples[storage] = tuple(
            repr(value) if storage == "real" else _shown(str(value)) for value in head
        )


def _sum(mask: pa.Array) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _longest(texts: pa.Array) -> int:
    return int(pc.max(pc.utf8_length(texts)).as_py() or 0)


def _json_mask(texts: pa.Array) -> pa.Array:
    """Texts that jsonb takes; each different text is decoded once."""
    encoded = texts.dictionary_encode()
    good = [text is not None and fits_jsonb(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(good, pa.bool_()).take(encoded.indices)


def _mask(texts: pa.Array, form: Form) -> pa.Array:
    found = pc.match_substring_regex(texts, f"^(?:{PATTERNS[form]})$")
    refused = REFUSED.get(form)
    if refused is None or not _sum(found):
        return found
    return pc.and_not(found, pc.match_substring_regex(texts, f"^(?:{refused})$"))


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
