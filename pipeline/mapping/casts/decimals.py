"""The casts of numerics as texts, and of those without a precision or with many digits.

Arrow has no type for them, so they are texts, spelled as PostgreSQL spells them. Every digit
counts: ``1.5`` and ``1.50`` are different values of a numeric without a precision.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.mapping.casts.cast import (
    Cast,
    Converted,
    Originals,
    Rule,
    as_postgres_writes,
    is_number,
    no_nul_rule,
    shortest,
)
from pipeline.mapping.casts.numbers import finite_rule, read_decimals

_REAL = "r"
"""Begins the raw text of a real."""
_PLAIN = r"^(?P<sign>-?)0*(?P<whole>\d+)(?:\.(?P<part>\d+))?$"
_SCIENTIFIC = r"^(?P<sign>-?)(?P<first>\d)(?:\.(?P<rest>\d+))?e\+?(?P<exponent>-?\d+)$"
_LAST = r"^(?P<head>\d*?)(?P<digit>[0-8]?)(?P<nines>9*)$"
"""Digits of a number, up to the last one that can be increased, and nines."""
_MOST_WHOLE, _MOST_PART = 131_072, 16_383
"""The limits of PostgreSQL's numeric before and after the decimal point."""


def wide(precision: int | None, scale: int) -> Cast:
    """The cast of a numeric whose values are texts on the way.

    Args:
        precision: None for a numeric that keeps every digit; it has no scale.
    """

    def convert(values: pa.Array) -> Converted:
        is_real = pc.starts_with(values, _REAL)
        has_reals = pc.any(is_real).as_py()
        texts = _with_reals(values, is_real) if has_reals else values
        sign, whole, part = _parts(texts)
        if precision is None:
            written = _joined(sign, whole, part)
            # A text has another spelling, such as 007; a number has none.
            lossy = pc.not_equal(written, texts)
            lossy = pc.and_(lossy, pc.invert(is_real)) if has_reals else lossy
        else:
            whole, part, lossy = _rounded(whole, part, scale)
            written = _joined(sign, whole, part)
        most = (_MOST_WHOLE, _MOST_PART) if precision is None else (precision - scale, scale)
        if _beyond(whole, most[0]) or (pc.max(pc.binary_length(part)).as_py() or 0) > most[1]:
            raise pa.ArrowInvalid("a number has too many digits")
        lost = pc.any(lossy).as_py()
        return Converted(as_postgres_writes("numeric", written), lossy if lost else None)

    return Cast(
        storage=("text", "integer", "real"),
        sentinel="''",
        raw=pa.string(),
        rules=lambda c: _rules(c, precision, scale),
        read=lambda c: (
            f"CASE typeof({c}) WHEN 'integer' THEN CAST({c} AS TEXT)"
            f" WHEN 'real' THEN '{_REAL}' || ({shortest(c)}) ELSE {c} END"
        ),
        checked_as=lambda c: f"CAST({c} AS NUMERIC)",
        convert=convert,
        target=lambda c: f"{c}::text",
        source_form=lambda values: values.storage,
        originals=_originals,
    )


def decimal_text(precision: int, scale: int) -> Cast:
    """The cast of a numeric of at most 38 digits that takes texts as well as numbers."""
    texts, wire = wide(precision, scale), pa.decimal128(precision, scale)

    def convert(values: pa.Array) -> Converted:
        found = texts.convert(values)
        return Converted(found.values.storage.cast(wire), found.lossy)

    return replace(
        texts,
        convert=convert,
        source_form=lambda values: values,
        target_form=lambda values: read_decimals(values, wire),
    )


def _rules(c: str, precision: int | None, scale: int) -> tuple[Rule, ...]:
    is_text = f"typeof({c}) = 'text'"
    number = f"{is_text} AND {is_number(c)}"
    point = f"instr({c} || '.', '.')"
    whole, part = f"ltrim(substr({c}, 1, {point} - 1), '-0')", f"substr({c}, {point} + 1)"
    before = _MOST_WHOLE if precision is None else precision - scale
    violated = f"{number} AND length({whole}) > {before}"
    after: tuple[Rule, ...] = ()
    if precision is None:
        after = (
            Rule(
                "range",
                f"has more than {_MOST_PART:,} digits after the point",
                f"{number} AND length({part}) > {_MOST_PART}",
                cast=True,
            ),
        )
    else:
        # All digits that are kept are nines, and the next one rounds up.
        nines = f"trim({whole} || substr({part}, 1, {scale}), '9') = ''"
        full = f"length({whole}) = {before} AND length({part}) > {scale}"
        violated += (
            f" OR {number} AND {full} AND {nines} AND substr({part}, {scale + 1}, 1) >= '5'"
            f" OR typeof({c}) IN ('integer', 'real') AND abs({c} + 0.0) >= 1e{before}"
        )
    message = f"has more than {before:,} digits before the point"
    return (
        no_nul_rule(c),
        Rule("number", "is not a decimal number", f"{is_text} AND NOT {is_number(c)}", cast=True),
        replace(finite_rule(c), cast=True),
        Rule("range", message, violated, cast=True),
        *after,
    )


def _parts(texts: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Sign, digits before the point without leading zeros, and digits after it."""
    found = pc.extract_regex(texts, _PLAIN)
    if found.null_count != texts.null_count:
        raise pa.ArrowInvalid("a text is not a decimal number")
    sign, whole, part = (pc.struct_field(found, name) for name in ("sign", "whole", "part"))
    return sign, whole, part


def _joined(sign: pa.Array, whole: pa.Array, part: pa.Array) -> pa.Array:
    """A number as PostgreSQL writes it; zero has no sign."""
    zero = pc.and_(pc.equal(whole, "0"), pc.equal(pc.utf8_ltrim(part, "0"), ""))
    point = pc.if_else(pc.equal(part, ""), "", ".")
    return pc.binary_join_element_wise(pc.if_else(zero, "", sign), whole, point, part, "")


def _beyond(whole: pa.Array, most: int) -> bool:
    if most == 0:
        return bool(pc.any(pc.not_equal(whole, "0")).as_py())
    return (pc.max(pc.binary_length(whole)).as_py() or 0) > most


def _rounded(whole: pa.Array, part: pa.Array, scale: int) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Digits rounded to a scale, halves away from zero, and a mask of those that changed."""
    more = pc.utf8_slice_codeunits(part, scale)
    kept = pc.utf8_rpad(pc.utf8_slice_codeunits(part, 0, scale), scale, "0")
    digits = pc.binary_join_element_wise(whole, kept, "")
    up = pc.fill_null(pc.greater_equal(pc.utf8_slice_codeunits(more, 0, 1), "5"), False)
    if pc.any(up).as_py():
        digits = pc.replace_with_mask(digits, up, _increased(digits.filter(up)))
    whole, kept = _cut(digits, pc.subtract(pc.binary_length(digits), scale))
    return whole, kept, pc.match_substring_regex(more, "[1-9]")


def _increased(digits: pa.Array) -> pa.Array:
    """Whole numbers plus one."""
    parts = pc.extract_regex(digits, _LAST)
    head, digit, nines = (pc.struct_field(parts, name) for name in ("head", "digit", "nines"))
    next_ = pc.add(pc.if_else(pc.equal(digit, ""), "0", digit).cast(pa.int8()), 1)
    zeros = pc.binary_repeat("0", pc.binary_length(nines))
    return pc.binary_join_element_wise(head, next_.cast(pa.string()), zeros, "")


def _cut(texts: pa.Array, places: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Each ASCII text, up to a place and from there."""
    texts = pa.concat_arrays([pc.fill_null(texts, "")])
    _, offsets, data = texts.buffers()
    count = len(texts)
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + count + 1]
    both = np.empty(2 * count + 1, np.int32)
    both[0::2] = ends
    both[1::2] = ends[:-1] + pc.fill_null(places, 0).to_numpy(zero_copy_only=False)
    halves = pa.Array.from_buffers(pa.string(), 2 * count, [None, pa.py_buffer(both), data])
    at = np.arange(0, 2 * count, 2)
    valid = places.is_valid()
    missing = pa.scalar(None, pa.string())
    left, right = (pc.if_else(valid, halves.take(pa.array(n)), missing) for n in (at, at + 1))
    return left, right


def _with_reals(values: pa.Array, is_real: pa.Array) -> pa.Array:
    """Raw texts in which reals are decimal numbers, in the fewest digits that identify them."""
    chosen = pc.fill_null(is_real, False)
    reals = pc.utf8_slice_codeunits(values.filter(chosen), len(_REAL)).cast(pa.float64())
    if not pc.all(pc.is_finite(reals)).as_py():
        raise pa.ArrowInvalid("a number is infinite")
    texts = reals.cast(pa.string())
    scientific = pc.match_substring(texts, "e")
    if pc.any(scientific).as_py():
        plain = _without_exponent(texts.filter(scientific))
        texts = pc.replace_with_mask(texts, scientific, plain)
    return pc.replace_with_mask(values, chosen, texts)


def _without_exponent(texts: pa.Array) -> pa.Array:
    parts = pc.extract_regex(texts, _SCIENTIFIC)
    sign, first, rest = (pc.struct_field(parts, name) for name in ("sign", "first", "rest"))
    point = pc.add(pc.struct_field(parts, "exponent").cast(pa.int32()), 1)
    digits = pc.binary_join_element_wise(first, rest, "")
    before = pc.max_element_wise(pc.subtract(1, point), 0)
    after = pc.max_element_wise(pc.subtract(point, pc.binary_length(digits)), 0)
    zeros = (pc.binary_repeat("0", count) for count in (before, after))
    padded = pc.binary_join_element_wise(next(zeros), digits, next(zeros), "")
    whole, part = _cut(padded, pc.max_element_wise(point, 1))
    return _joined(sign, whole, part)


def _originals(raw: pa.Array) -> Originals:
    is_real = pc.starts_with(raw, _REAL)
    texts = pc.if_else(is_real, pc.utf8_slice_codeunits(raw, len(_REAL)), raw)
    return Originals(pc.coalesce(pc.if_else(is_real, "real", "text"), pa.scalar("null")), texts)
