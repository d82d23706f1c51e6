"""Names in the target: as the source writes them, as far as PostgreSQL can store them."""

import hashlib
from collections.abc import Iterable

from pipeline.sqlite.structure.model import Table

LONGEST = 63
"""Bytes of a name in PostgreSQL."""
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})


def shortened(name: str) -> str:
    """A name that PostgreSQL stores whole; a long one ends with a hash of the whole name."""
    raw = name.replace("\0", "").encode(errors="replace")
    if 0 < len(raw) <= LONGEST:
        return raw.decode()
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()[:8]
    kept = raw[: LONGEST - 9].decode(errors="ignore")
    return f"{kept}_{digest}"


class Names:
    """Distinct names of a schema's relations: tables, views, indexes and keys share them."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """Start with names that are in use."""
        self._taken = set(taken)

    def of(self, wanted: str) -> str:
        """A free name, the wanted one if possible."""
        name, number = shortened(wanted), 1
        while name in self._taken:
            number += 1
            name = shortened(f"{shortened(wanted)[: LONGEST - 6]}_{number}")
        self._taken.add(name)
        return name


def of_columns(table: Table) -> dict[str, str]:
    """The name in the target of each column of a table, by its name in the source."""
    taken: set[str] = set()
    found = {}
    for column in table.columns:
        name = shortened(column.name)
        while name in taken or name in _SYSTEM_COLUMNS:
            name = shortened(f"{name[: LONGEST - 1]}_")
        taken.add(name)
        found[column.name] = name
    return found
