"""Units that commit together: a table, or tables that refer to each other in a circle."""

from collections.abc import Iterator, Mapping

from pipeline.mapping.matching import folded
from pipeline.sqlite.structure.model import Schema, Table


def units(schema: Schema) -> list[tuple[Table, ...]]:
    """All tables, parents first; tables of a circle are one unit, in the order of the schema.

    Tarjan's algorithm, without recursion, because chains of tables may be long.
    """
    known = {folded(table.name): table.name for table in schema.tables}
    parents = {table.name: _parents(known, table) for table in schema.tables}
    found: list[tuple[Table, ...]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: list[str] = []
    for start, first in parents.items():
        if start in number:
            continue
        path: list[tuple[str, Iterator[str]]] = []
        _enter(start, number, lowest, open_)
        path.append((start, iter(first)))
        while path:
            name, others = path[-1]
            other = next(others, None)
            if other is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    at = open_.index(name)
                    together = set(open_[at:])
                    del open_[at:]
                    found.append(tuple(t for t in schema.tables if t.name in together))
            elif other not in number:
                _enter(other, number, lowest, open_)
                path.append((other, iter(parents[other])))
            elif other in open_:
                lowest[name] = min(lowest[name], number[other])
    return found


def _enter(name: str, number: dict[str, int], lowest: dict[str, int], open_: list[str]) -> None:
    number[name] = lowest[name] = len(number)
    open_.append(name)


def _parents(known: Mapping[str, str], table: Table) -> list[str]:
    named = (known.get(folded(key.parent)) for key in table.foreign_keys)
    return sorted({name for name in named if name is not None and name != table.name})
