"""Casts of unusual forms: words for booleans, values of several classes."""

import hashlib
import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.quoting import literal
from pipeline.mapping.casts.cast import Cast, Converted, Originals, Rule, shortest

_FAMILY = (("t", "true"), ("f", "false"))


def word_boolean(true: str, false: str) -> Cast:
    """The cast of a boolean that is one of two words; 0 and 1 are accepted as well."""
    trues, falses = {_lower(true), "1"}, {_lower(false), "0"}
    if trues & set(_FAMILY[0]) and falses & set(_FAMILY[1]):
        trues, falses = trues | {*_FAMILY[0]}, falses | {*_FAMILY[1]}
    given = pa.array(sorted(trues)), pa.array(sorted({*trues, *falses}))

    def rules(c: str) -> tuple[Rule, ...]:
        violated = f"lower(CAST({c} AS TEXT)) NOT IN ({_listed(given[1])})"
        return (Rule("range", f"is neither {true} nor {false}", violated, cast=True),)

    def convert(values: pa.Array) -> Converted:
        lower = pc.ascii_lower(values)
        if pc.any(pc.and_(values.is_valid(), pc.invert(pc.is_in(lower, given[1])))).as_py():
            raise pa.ArrowInvalid(f"a value is neither {true} nor {false}")
        missing = pa.scalar(None, pa.bool_())
        return Converted(pc.if_else(values.is_valid(), pc.is_in(lower, given[0]), missing))

    return Cast(
        storage=("text", "integer"),
        sentinel="''",
        raw=pa.string(),
        rules=rules,
        read=lambda c: f"CASE typeof({c}) WHEN 'integer' THEN CAST({c} AS TEXT) ELSE {c} END",
        checked_as=lambda c: f"(lower(CAST({c} AS TEXT)) IN ({_listed(given[0])}))",
        convert=convert,
    )


def _lower(word: str) -> str:
    """A word as SQLite's lower() returns it, which changes ASCII letters only."""
    return word.encode().lower().decode()


def _listed(words: pa.Array) -> str:
    return ", ".join(map(literal, words.to_pylist()))


_TAG = "\0"
"""Begins the raw text of a number; a text of the source that begins so is rejected."""
_CLASSES = {"i": "integer", "r": "real", "t": "text", "b": "blob"}


def mixed_text(*, numeric: bool) -> Cast:
    """The cast of a text column that also takes numbers, as the texts that identify them.

    Args:
        numeric: the storage class of each value follows from its text, so nothing is lost.
    """

    def convert(values: pa.Array) -> Converted:
        values.validate(full=True)
        tagged = pc.starts_with(values, _TAG)
        texts = pc.if_else(tagged, pc.utf8_slice_codeunits(values, 2), values)
        reals = pc.starts_with(values, _TAG + "r")
        return Converted(_exact(texts, reals), None if numeric else tagged)

    def originals(raw: pa.Array) -> Originals:
        return Originals(_classes(raw, 1), pc.utf8_slice_codeunits(raw, 2))

    return Cast(
        storage=("text", "integer", "real"),
        sentinel="''",
        raw=pa.string(),
        rules=lambda c: (
            Rule(
                "nul",
                "holds a NUL character",
                f"typeof({c}) = 'text' AND instr({c}, char(0)) > 0",
                always=True,
            ),
        ),
        read=lambda c: (
            f"CASE typeof({c}) WHEN 'integer' THEN char(0) || 'i' || {c}"
            f" WHEN 'real' THEN char(0) || 'r' || {shortest(c)} ELSE {c} END"
        ),
        convert=convert,
        originals=originals,
    )


def _exact(texts: pa.Array, reals: pa.Array) -> pa.Array:
    """Texts with those of reals written anew: SQLite's 17th digit depends on its version."""
    reals = reals.fill_null(False)
    if not reals.true_count:
        return texts
    written = [_real_text(float(text)) for text in texts.filter(reals).to_pylist()]
    return pc.replace_with_mask(texts, reals, pa.array(written, texts.type))


def _real_text(value: float) -> str:
    """The shortest text of 15 to 17 digits that identifies a double, in SQLite's notation."""
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    texts = (f"{value:.{digits}g}" for digits in (15, 16, 17))
    mantissa, letter, power = next(text for text in texts if float(text) == value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{letter}{power}"


def _classes(raw: pa.Array, at: int) -> pa.Array:
    """The storage classes that letters at a position name."""
    letters = pc.utf8_slice_codeunits(raw, at, at + 1).to_pylist()
    return pa.array([_CLASSES.get(letter, "null") for letter in letters], pa.string())


def md5_hashes(values: pa.Array) -> pa.Array:
    """MD5 of each BLOB, in the form of PostgreSQL's ``md5()``; NULL stays NULL."""
    _, offsets, data = values.buffers()
    if not len(values):
        return pa.array([], pa.string())
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    view = memoryview(data or b"")
    sums = [
        hashlib.md5(view[a:b], usedforsecurity=False).hexdigest()
        for a, b in pairwise(ends.tolist())
    ]
    found = pa.array(sums, pa.string())
    if not values.null_count:
        return found
    return pc.if_else(values.is_valid(), found, pa.scalar(None, pa.string()))


def _mixed_bytes_convert(values: pa.Array) -> Converted:
    tags = pc.binary_slice(values, 0, 1)
    bare = pc.binary_replace_slice(values, 0, 1, b"")
    found = _exact(bare, pc.equal(tags, pa.scalar(b"r")))
    return Converted(found, pc.not_equal(tags, pa.scalar(b"b")))


def _mixed_bytes_originals(raw: pa.Array) -> Originals:
    """The storage classes; the bytes themselves are unchanged in the target."""
    letters = pc.binary_slice(raw, 0, 1).cast(pa.string())
    return Originals(_classes(letters, 0), pa.nulls(len(raw), pa.string()))


def _tagged_bytes(c: str) -> str:
    def tagged(letter: str, value: str) -> str:
        return f"CAST('{letter}' || {value} AS BLOB)"

    return (
        f"CASE typeof({c}) WHEN 'null' THEN NULL WHEN 'integer' THEN {tagged('i', c)}"
        f" WHEN 'real' THEN {tagged('r', shortest(c))} WHEN 'text' THEN {tagged('t', c)}"
        f" ELSE {tagged('b', c)} END"
    )


MIXED_BYTES = Cast(
    storage=("blob", "text", "integer", "real"),
    sentinel="x'00'",
    raw=pa.binary(),
    read=_tagged_bytes,
    convert=_mixed_bytes_convert,
    target=lambda c: f"md5({c})",
    source_form=md5_hashes,
    originals=_mixed_bytes_originals,
)
