"""The known migrations: those of this package and of an additional folder from the settings.

Each module is imported once per process, and each ``Migration`` in it is registered. The folders
may contain other modules, such as samples; modules of the additional folder import them relatively.
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
    """Migrations in the order for display."""

    migrations: tuple[Migration, ...]

    @property
    def names(self) -> list[str]:
        """The names of all migrations."""
        return [migration.name for migration in self.migrations]

    @property
    def tables(self) -> list[sa.Table]:
        """The tables of all migrations."""
        return [table for migration in self.migrations for table in migration.tables]

    def __iter__(self) -> Iterator[Migration]:
        """All migrations."""
        return iter(self.migrations)

    def get(self, name: str) -> Migration | None:
        """Find a migration by name."""
        return next((each for each in self.migrations if each.name == name), None)

    def of(self, tables: Sequence[sa.Table]) -> Migration:
        """The migration of tables that belong together."""
        return next(each for each in self.migrations if each.metadata is tables[0].metadata)

    def holding(self, table: str) -> Migration | None:
        """Find the migration of a table by the table's name."""
        return next((each for each in self.migrations if table in each.metadata.tables), None)

    def having(self, kind: type[Beside]) -> Migration | None:
        """Find the first migration with a feature of a kind."""
        return next((each for each in self.migrations if each.declared(kind)), None)


def find(folder: Path | None = None) -> Registry:
    """Find the migrations of this package and of an additional folder.

    Raises:
        SettingsError: the folder declares no migration or cannot be imported, or two migrations
            conflict.
    """
    return _found(folder)


@functools.cache
def _found(folder: Path | None) -> Registry:
    own = _declared(_modules(pipeline.migrations))
    additional = [] if folder is None else _declared(_modules(_package(folder)))
    if folder is not None and not set(additional) - set(own):
        raise SettingsError(
            f"MIGRATIONS_FOLDER {folder} declares no migration",
            remedy="Declare a Migration in a module there, or remove the setting",
        )
    # The one with plain names comes first, because it is the default.
    own.sort(key=lambda each: not each.plain)
    registry = Registry(tuple(dict.fromkeys([*own, *additional])))
    _require_consistent(registry)
    return registry


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        name = f"{package.__name__}.{module.name}"
        try:
            yield importlib.import_module(name)
        except Exception as error:  # modules of users may raise anything
            raise SettingsError(
                f"The migration {module.name} in {next(iter(package.__path__))} cannot be imported"
                f" ({type(error).__name__}: {error})",
                remedy="Correct that module, or remove it from the folder",
            ) from error


def _package(folder: Path) -> ModuleType:
    """Make a folder a package, so that its modules can import each other relatively."""
    if not folder.is_dir():
        raise SettingsError(
            f"MIGRATIONS_FOLDER {folder} is not a folder",
            remedy="Set it to the folder with the modules of your migrations",
        )
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    package = ModuleType(f"pipeline_migrations_{digest}")
    package.__path__ = [str(folder)]
    return sys.modules.setdefault(package.__name__, package)


def _declared(modules: Iterable[ModuleType]) -> list[Migration]:
    """Migrations of modules, sorted by name; modules may import each other's."""
    values = (value for module in modules for value in vars(module).values())
    found = {value for value in values if isinstance(value, Migration)}
    return sorted(found, key=lambda each: each.name)


def _require_consistent(registry: Registry) -> None:
    """Reject invalid names and migrations that conflict.

    Raises:
        SettingsError: names the conflict or the invalid name.
    """
    for migration in registry:
        if not _NAME.fullmatch(migration.name) or not _SETTING.fullmatch(migration.setting):
            raise _unusable(
                f"the name {migration.name!r} or the setting {migration.setting!r} is not valid;"
                " write them like my_content and MY_CONTENT_URL"
            )
    first: dict[str, Migration] = {}
    for migration in registry:
        for claim in _claims(migration):
            other = first.setdefault(claim, migration)
            if other is not migration:
                raise _unusable(f"{other.name} and {migration.name} both have {claim}")


def _claims(migration: Migration) -> Iterator[str]:
    """Properties that only one migration can have."""
    yield f"the name {migration.name}"
    yield f"the setting {migration.setting}"
    yield from (f"a table {table.name}" for table in migration.tables)
    yield from (f"the feature {type(each).__name__}" for each in migration.beside)
    if migration.plain:
        yield "plain names"


def _unusable(why: str) -> SettingsError:
    return SettingsError(
        f"The migrations cannot be used together: {why}",
        remedy="Change one of their declarations",
    )
