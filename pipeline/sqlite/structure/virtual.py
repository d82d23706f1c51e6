"""Virtual tables, and the tables in which their modules store data."""

import re
from collections.abc import Iterable, Mapping

from pipeline.mapping.matching import folded
from pipeline.sqlite.structure import tokens
from pipeline.sqlite.structure.model import VirtualTable

_STORES = {
    "fts3": r"content|segments|segdir|docsize|stat",
    "fts4": r"content|segments|segdir|docsize|stat",
    "fts5": r"data|idx|content|docsize|config",
    "rtree": r"node|parent|rowid",
    "rtree_i32": r"node|parent|rowid",
    "geopoly": r"node|parent|rowid",
    "spellfix1": r"vocab",
    "vec0": r"chunks|rowids|info|auxiliary|(?:vector_chunks|metadatachunks|metadatatext)\d+",
}
"""What the names of a module's tables end with, in case this SQLite does not have the module."""


def tables(statements: Mapping[str, str], kinds: Mapping[str, str]) -> list[VirtualTable]:
    """Virtual tables.

    Args:
        statements: those that created them, by name.
        kinds: of all tables, as ``table_list`` tells them.
    """
    modules = {name: _module(sql) for name, sql in statements.items()}
    owners = {
        name: owner
        for name, kind in kinds.items()
        if kind in ("table", "shadow")
        and (owner := _owner(name, modules, is_shadow=kind == "shadow")) is not None
    }
    return [
        VirtualTable(
            name, modules[name], sql, tuple(each for each in owners if owners[each] == name)
        )
        for name, sql in statements.items()
    ]


def _module(sql: str) -> str:
    words = tokens.flat(sql)
    using = next(at for at, word in enumerate(words) if tokens.keyword(word) == "USING")
    return tokens.name(words[using + 1]).lower()


def _owner(name: str, modules: Mapping[str, str], *, is_shadow: bool) -> str | None:
    """The virtual table that a table belongs to; the one with the longest name, if several fit."""
    for owner in _longest_first(modules):
        prefix = f"{folded(owner)}_"
        rest = folded(name).removeprefix(prefix)
        if folded(name).startswith(prefix) and (
            is_shadow or re.fullmatch(_STORES.get(modules[owner], "(?!)"), rest)
        ):
            return owner
    return None


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=len, reverse=True)
