"""The migrations there are: those of this package, and of one more folder if the settings name it.

Every module is imported once in a process, and whatever ``Migration`` it declares is taken. Other
modules, such as samples, may lie beside; a module of a further folder imports them relatively.
"""

import functools
import hashlib
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import sqlalchemy as sa

import pipeline.migrations
from pipeline.core.errors import SettingsError
from pipeline.migrations.declaration import Beside, Migration

_NAME = re.compile("[a-z][a-z0-9_]*")
_SETTING = re.compile("[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Registry:
    """Migrations in the order in which people are shown them."""

    migrations: tuple[Migration, ...]

    @property
    def names(self) -> list[str]:
        """What the migrations are called."""
        return [migration.name for migration in self.migrations]

    @property
    def tables(self) -> list[sa.Table]:
        """The tables of all migrations."""
        return [table for migration in self.migrations for table in migration.tables]

    def __iter__(self) -> Iterator[Migration]:
        """Every migration."""
        return iter(self.migrations)

    def get(self, name: str) -> Migration | None:
        """The migration of a name."""
        return next((each for each in self.migrations if each.name == name), None)

    def of(self, tables: Sequence[sa.Table]) -> Migration:
        """The migration that some tables, all of one, belong to."""
        return next(each for each in self.migrations if each.metadata is tables[0].metadata)

    def holding(self, table: str) -> Migration | None:
        """The migration that has a table of a name."""
        return next((each for each in self.migrations if table in each.metadata.tables), None)

    def having(self, kind: type[Beside]) -> Migration | None:
        """The migration beside whose tables something of a kind hangs."""
        return next((each for each in self.migrations if each.declared(kind)), None)


def find(folder: Path | None = None) -> Registry:
    """The migrations of this package, and of a further folder.

    Raises:
        SettingsError: the folder declares none, cannot be imported, or two migrations contradict
            each other.
    """
    return _found(folder)


@functools.cache
def _found(folder: Path | None) -> Registry:
    own = _declared(_modules(pipeline.migrations))
    further = [] if folder is None else _declared(_modules(_package(folder)))
    if folder is not None and not set(further) - set(own):
        raise SettingsError(
            f"MIGRATIONS_FOLDER {folder} declares no migration",
            remedy="Let a module there declare a Migration, or leave the setting out",
        )
    # The one with plain names comes first: it is the one that is meant where none is named.
    own.sort(key=lambda each: not each.plain)
    registry = Registry(tuple(dict.fromkeys([*own, *further])))
    _require_consistent(registry)
    return registry


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        name = f"{package.__name__}.{module.name}"
        try:
            yield importlib.import_module(name)
        except Exception as error:  # whatever a module of somebody else's may raise
            raise SettingsError(
                f"The migration {module.name} in {next(iter(package.__path__))} cannot be imported"
                f" ({type(error).__name__}: {error})",
                remedy="Correct that module, or move it away",
            ) from error


def _package(folder: Path) -> ModuleType:
    """A folder as a package, so that its modules can import each other relatively."""
    if not folder.is_dir():
        raise SettingsError(
            f"MIGRATIONS_FOLDER {folder} is no folder",
            remedy="Name the folder that holds the modules of your migrations",
        )
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    package = ModuleType(f"pipeline_migrations_{digest}")
    package.__path__ = [str(folder)]
    return sys.modules.setdefault(package.__name__, package)


def _declared(modules: Iterable[ModuleType]) -> list[Migration]:
    """What modules declare, by name; one of them may import what another one declares."""
    values = (value for module in modules for value in vars(module).values())
    found = {value for value in values if isinstance(value, Migration)}
    return sorted(found, key=lambda each: each.name)


def _require_consistent(registry: Registry) -> None:
    """Refuse migrations that would get into each other's way.

    Raises:
        SettingsError: says what two of them have in common, or which name cannot be used.
    """
    for migration in registry:
        if not _NAME.fullmatch(migration.name) or not _SETTING.fullmatch(migration.setting):
            raise _unusable(
                f"a migration cannot be called {migration.name!r}, with its source in"
                f" {migration.setting!r}"
            )
    first: dict[str, Migration] = {}
    for migration in registry:
        for claim in _of(migration):
            other = first.setdefault(claim, migration)
            if other is not migration:
                raise _unusable(f"{other.name} and {migration.name} both have {claim}")


def _of(migration: Migration) -> Iterator[str]:
    """What only one migration can have."""
    yield f"the name {migration.name}"
    yield f"the setting {migration.setting}"
    yield from (f"a table {table.name}" for table in migration.tables)
    yield from (f"{type(each).__name__} beside it" for each in migration.beside)
    if migration.plain:
        yield "plain names"


def _unusable(why: str) -> SettingsError:
    return SettingsError(
        f"The migrations cannot be used together: {why}",
        remedy="Change the declaration of one of them",
    )
