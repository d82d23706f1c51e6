"""Inspection of JSON texts without PostgreSQL."""

import json
import re
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LAYERS = 8
"""The most levels of double encoding; each level doubles the backslashes."""

_STRING = re.compile(r'"([^"]*)"\s*(:?)')
_BLANKS = " \t\n\r"
_LONE = re.compile("[\ud800-\udfff]")


def strings(texts: pa.Array) -> pa.Array:
    """A mask of JSON texts that are strings, without conversion to Python objects."""
    return pc.fill_null(pc.match_substring_regex(texts, f'^[{_BLANKS}]*"'), False)


def unwrap(texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Unwrap strings that contain JSON; also return a mask of them (None: no string)."""
    at = np.flatnonzero(strings(texts).to_numpy(zero_copy_only=False))
    found = [unwrapped(text) for text in texts.take(pa.array(at)).to_pylist()]
    where = np.zeros(len(texts), dtype=bool)
    where[at] = [inner is not None for inner in found]
    if not where.any():
        return texts, None
    inner = pa.array([text for text in found if text is not None], texts.type)
    mask = pa.array(where)
    return pc.replace_with_mask(texts, mask, inner), mask


def unwrapped(text: str) -> str | None:
    """The object or array in a JSON string that was encoded once or several times.

    Returns:
        None for other JSON and for strings with other content, because ``"5"`` may be meant as a
        string. PostgreSQL checks JSON that is nested too deep.
    """
    inner, refused = text, None
    for _ in range(LAYERS):
        found = _decoded(inner) if inner.lstrip(_BLANKS).startswith('"') else None
        if not isinstance(found, str):
            return None
        if refused is None and "\\u" in inner and _LONE.search(found):
            # UTF-8 has no lone surrogates; PostgreSQL rejects the string with the escape.
            refused = inner
        inner = found
        if inner.lstrip(_BLANKS).startswith(("{", "[")):
            return None if _decoded(inner) is None else refused or inner
    return None


def _decoded(text: str) -> Any:
    """Decode a JSON text, numbers as digits; None if it is not valid."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return text
    except ValueError:
        return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def mask_repeated_names(texts: pa.Array) -> pa.Array:
    """A mask of JSON texts with an object that repeats a name, of which jsonb keeps one."""
    found = [text is not None and repeats_a_name(text) for text in texts.to_pylist()]
    return pa.array(found, pa.bool_())


def repeats_a_name(text: str) -> bool:
    """Whether an object in a JSON text repeats the name of a member."""
    if "\\" not in text:
        # Most texts have no repeated name in any object.
        names = [name for name, colon in _STRING.findall(text) if colon]
        if len(set(names)) == len(names):
            return False
    repeated = []

    def members(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            repeated.append(True)

    try:
        json.loads(text, object_pairs_hook=members, parse_int=str, parse_float=str)
    except RecursionError:
        # Nested too deep to decide; an unnecessary original does no harm.
        return True
    except ValueError:
        # Not JSON, which is reported elsewhere.
        return False
    return bool(repeated)
