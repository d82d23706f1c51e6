"""What can be told of a JSON text without PostgreSQL."""

import json
import re
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LAYERS = 8
"""So many strings may lie around a JSON text; every one doubles the backslashes of the next."""

_STRING = re.compile(r'"([^"]*)"\s*(:?)')
_BLANKS = " \t\n\r"
_LONE = re.compile("[\ud800-\udfff]")


def strings(texts: pa.Array) -> pa.Array:
    """Where a JSON text is a string; the cheap test before any value becomes a Python object."""
    return pc.fill_null(pc.match_substring_regex(texts, f'^[{_BLANKS}]*"'), False)


def unwrap(texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Texts with those strings unwrapped that hold JSON, and where that is (None: nowhere)."""
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
    """The object or array that a JSON string holds, however often it was written as a string.

    Returns:
        None for what is no string, and for a string that holds anything else: whether ``"5"`` was
        meant as a number nobody can tell. What is nested too deep is left to PostgreSQL to judge.
    """
    inner, refused = text, None
    for _ in range(LAYERS):
        found = _decoded(inner) if inner.lstrip(_BLANKS).startswith('"') else None
        if not isinstance(found, str):
            return None
        if refused is None and "\\u" in inner and _LONE.search(found):
            # Half a letter has no place in UTF-8; PostgreSQL refuses the string that spells it.
            refused = inner
        inner = found
        if inner.lstrip(_BLANKS).startswith(("{", "[")):
            return None if _decoded(inner) is None else refused or inner
    return None


def _decoded(text: str) -> Any:
    """What a JSON text says, numbers as their digits; None where it is not valid."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        return text
    except ValueError:
        return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def repeating(texts: pa.Array) -> pa.Array:
    """Where an object in a JSON text says the name of a member twice, of which jsonb keeps one."""
    found = [text is not None and repeats_a_name(text) for text in texts.to_pylist()]
    return pa.array(found, pa.bool_())


def repeats_a_name(text: str) -> bool:
    """Whether an object in a JSON text says the name of a member twice."""
    if "\\" not in text:
        # Most texts have no name twice at all, in whatever object.
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
        # Too deep to be sure: keeping an original too many does no harm.
        return True
    except ValueError:
        # No JSON at all, which is said elsewhere.
        return False
    return bool(repeated)
