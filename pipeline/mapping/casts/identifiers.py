"""Casts of UUIDs and of enumerated texts."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.quoting import literal
from pipeline.mapping.casts.cast import Cast, Converted, Rule, as_postgres_writes

_LENGTHS = (8, 4, 4, 4, 12)
_UUID = r"^(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32})$"
_CANONICAL = r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_HEX = r"^(.{8})(.{4})(.{4})(.{4})(.{12})$"


def _hyphenated(digits: str) -> str:
    """SQL for 32 hex digits with hyphens."""
    starts = [1 + sum(_LENGTHS[:at]) for at in range(len(_LENGTHS))]
    # The last part has no end, so that a BLOB that is too long stays too long.
    ends = [f", {length}" for length in _LENGTHS[:-1]] + [""]
    parts = (f"substr({digits}, {start}{end})" for start, end in zip(starts, ends, strict=True))
    return " || '-' || ".join(parts)


def _digits(c: str) -> str:
    return f"lower(replace({c}, '-', ''))"


def _uuid_rules(c: str) -> tuple[Rule, ...]:
    digits, hyphens = f"replace({c}, '-', '')", "-".join("?" * length for length in _LENGTHS)
    accepted = (
        f"length({digits}) = 32 AND {digits} NOT GLOB '*[^0-9a-fA-F]*'"
        f" AND (length({c}) = 32 OR {c} GLOB '{hyphens}')"
    )
    return (
        Rule(
            "uuid",
            "is not a UUID",
            f"typeof({c}) = 'text' AND (instr({c}, char(0)) OR NOT ({accepted}))",
            cast=True,
        ),
        Rule("uuid", "is not 16 bytes", f"typeof({c}) = 'blob' AND length({c}) <> 16", cast=True),
    )


def _uuid_convert(values: pa.Array) -> Converted:
    if pc.all(pc.match_substring_regex(values, _CANONICAL), min_count=0).as_py():
        return Converted(as_postgres_writes("uuid", values))
    digits = pc.replace_substring(pc.ascii_lower(values), "-", "")
    fits = pc.match_substring_regex(values, _UUID)
    if not pc.all(fits, min_count=0).as_py():
        raise pa.ArrowInvalid("a value is not a UUID")
    written = pc.replace_substring_regex(digits, _HEX, r"\1-\2-\3-\4-\5")
    other = pc.not_equal(written, values)
    lossy = other if pc.any(other).as_py() else None
    return Converted(as_postgres_writes("uuid", written), lossy)


UUID = Cast(
    storage=("text", "blob"),
    sentinel="''",
    raw=pa.string(),
    rules=_uuid_rules,
    checked_as=lambda c: (
        f"(CASE typeof({c}) WHEN 'blob' THEN {_hyphenated(f'lower(hex({c}))')}"
        f" ELSE {_hyphenated(_digits(c))} END)"
    ),
    read=lambda c: (
        f"CASE typeof({c}) WHEN 'blob' THEN {_hyphenated(f'lower(hex({c}))')} ELSE {c} END"
    ),
    convert=_uuid_convert,
    target=lambda c: f"{c}::text",
    source_form=lambda values: values.storage,
)
"""Sixteen bytes, or hex digits with or without hyphens."""


def word(words: tuple[str, ...]) -> Cast:
    """The cast of a text that is one of these words."""
    known = pa.array([*words, None], pa.string())
    listed = ", ".join(map(literal, words))

    def convert(values: pa.Array) -> Converted:
        if not pc.all(pc.is_in(values, known), min_count=0).as_py():
            raise pa.ArrowInvalid(f"a text is none of {listed}")
        return Converted(values)

    return Cast(
        storage=("text",),
        sentinel="''",
        raw=pa.string(),
        rules=lambda c: (
            Rule(
                "range",
                f"is none of {listed}",
                f"typeof({c}) = 'text' AND {c} COLLATE BINARY NOT IN ({listed})",
                cast=True,
            ),
        ),
        convert=convert,
    )
