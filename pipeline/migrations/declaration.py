"""The words in which a migration is declared.

A migration is one module with a ``Migration``; ``registry`` finds it. Settings, commands, jobs,
assets and messages follow from it. What hangs beside its tables is declared by ``beside``; the
parts of the project that build it look for the kinds that they know.
"""

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
"""PostgreSQL's own names for constraints, so that declared and hand-written DDL agree."""


@dataclass(frozen=True)
class Beside:
    """Something that hangs beside a migration's tables; of each kind there is one at most."""


@dataclass(frozen=True)
class Search(Beside):
    """Indexes by which these tables are searched; each sync ends with them."""

    tables: tuple[sa.Table, ...]


@dataclass(frozen=True)
class Anki(Beside):
    """Notes in Anki that follow the tables; the gate of a cut-over asks whether they do."""


@dataclass(frozen=True)
class Realtime(Beside):
    """The feed of changes and its channels; the gate of a cut-over asks whether events arrive."""


Kind = TypeVar("Kind", bound=Beside)


@dataclass(frozen=True, eq=False)
class Migration:
    """Tables that move together, parents before children.

    Attributes:
        name: what commands, groups of assets and the ledger call it.
        metadata: its tables; no name occurs in two migrations.
        setting: the variable that names its source.
        make_sample: makes a small source where none is named.
        owners: who owns its assets.
        beside: what hangs beside its tables.
        plain: its assets, jobs and commands have plain names, without its own; at most one
            migration has those.
    """

    name: str
    metadata: sa.MetaData
    setting: str
    make_sample: Callable[[Path], None]
    owners: tuple[str, ...]
    beside: tuple[Beside, ...] = ()
    plain: bool = False

    @property
    def tables(self) -> list[sa.Table]:
        """Its tables, parents before children."""
        return self.metadata.sorted_tables

    @property
    def sample(self) -> str:
        """The name of the file that is made where no source is named."""
        return self.named("sample.db")

    def named(self, what: str) -> str:
        """The name of its asset, step, job or file of a kind that every migration has."""
        return what if self.plain else f"{self.name}_{what}"

    @property
    def address(self) -> Address:
        """How sentences that are about it name commands and its source."""
        return Address("" if self.plain else self.name, self.setting)

    def declared(self, kind: type[Kind]) -> Kind | None:
        """What of a kind hangs beside its tables; None if nothing does."""
        return next((each for each in self.beside if isinstance(each, kind)), None)
