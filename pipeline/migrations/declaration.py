"""The vocabulary for declaring a migration.

A migration is a module with a ``Migration``, which ``registry`` finds. Its settings, commands,
jobs, assets and messages follow from the declaration. ``beside`` declares features in addition to
the tables; the code of a feature looks for its own kind.
"""

import functools
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from pipeline.core.messages import Address

NAMES = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "uq": "%(table_name)s_%(column_0_name)s_key",
}
"""PostgreSQL's default names of constraints, so that declared and hand-written DDL are equal."""


@dataclass(frozen=True)
class Beside:
    """A feature in addition to a migration's tables, at most one of each kind."""


@dataclass(frozen=True)
class Search(Beside):
    """Search indexes of these tables, which each sync updates."""

    tables: tuple[sa.Table, ...]


@dataclass(frozen=True)
class Anki(Beside):
    """Notes in Anki that follow the tables; the gate of a cut-over checks them."""


@dataclass(frozen=True)
class Realtime(Beside):
    """The feed of changes and its channels; the gate of a cut-over checks that events arrive."""


_RESERVED = frozenset(
    {
        *keyword.kwlist,
        *("context", "conf", "config", "meta", "arg_dict", "dict", "input_arg_dict"),
        *("output_arg_dict", "int", "str", "float", "bool", "input", "output", "type"),
    }
)
"""Names that Dagster does not give to steps, which are named after tables."""

Kind = TypeVar("Kind", bound=Beside)


def is_step_name(table: str) -> bool:
    """Whether Dagster can name a step after a table."""
    return re.fullmatch("[A-Za-z0-9_]+", table) is not None and table not in _RESERVED


@dataclass(frozen=True, eq=False)
class Migration:
    """Tables that move together, parents before children.

    Attributes:
        name: the name in commands, groups of assets and the ledger.
        metadata: the tables; a table name occurs in one migration only.
        setting: the variable that names the source.
        source: the URL of the source if the variable is not set, such as ``sqlite:///app.db``.
        make_sample: creates a small source if none is named; None if one must be named.
        owners: the owners of the assets.
        beside: features in addition to the tables.
        stays: further tables of the application that stay in SQLite on purpose.
        plain: assets, jobs and commands have names without that of the migration; at most one
            migration is plain.
    """

    name: str
    metadata: sa.MetaData
    setting: str
    make_sample: Callable[[Path], None] | None = None
    owners: tuple[str, ...] = ()
    source: str | None = None
    beside: tuple[Beside, ...] = ()
    stays: tuple[str, ...] = ()
    plain: bool = False

    @functools.cached_property
    def tables(self) -> list[sa.Table]:
        """The tables, parents before children."""
        return self.metadata.sorted_tables

    @property
    def sample(self) -> str:
        """The file name of the sample."""
        return self.named("sample.db")

    def named(self, what: str) -> str:
        """The name of an asset, step, job or file that every migration has."""
        return what if self.plain else f"{self.name}_{what}"

    @property
    def address(self) -> Address:
        """The form of commands and of the source setting in sentences about this migration."""
        return Address("" if self.plain else self.name, self.setting)

    def declared(self, kind: type[Kind]) -> Kind | None:
        """The feature of a kind, None if the migration has none."""
        return next((each for each in self.beside if isinstance(each, kind)), None)
