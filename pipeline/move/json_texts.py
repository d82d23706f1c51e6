"""What can be told of a JSON text without PostgreSQL."""

import json
import re
from typing import Any

import pyarrow as pa

_STRING = re.compile(r'"([^"]*)"\s*(:?)')


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
