"""The known migrations: those of this package, of the user's folder and of installed packages.

Each module is imported once per process, and each ``Migration`` in it is registered. The folders
may contain other modules, such as samples; modules of the user's folder import them relatively.
"""

import functools
import hashlib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import sqlalchemy as sa
from sqlalchemy.schema import sort_tables_and_constraints

import pipeline.migrations
from pipeline.core.errors import SettingsError
from pipeline.core.private import PROJECT
from pipeline.migrations.declaration import Beside, Migration, is_step_name

_NAME = re.compile("[a-z][a-z0-9_]*")
_SETTING = re.compile("[A-Z][A-Z0-9_]*")


FOLDER = "migrations"
"""The folder of the user's migrations, in the project's folder."""
GROUP = "pipeline.migrations"
"""The entry points by which an installed package offers a migration, or a module with some."""
_DECLARES = re.compile(rb"^\s*(?:from|import)\s+pipeline\.migrations\b", re.MULTILINE)
"""What a module imports that declares a migration; other programs have such a folder as well."""


@dataclass(frozen=True)
class Registry:
    """Migrations in the order for display.

    Attributes:
        own: names of those of this package.
    """

    migrations: tuple[Migration, ...]
    own: frozenset[str] = frozenset()

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

    def selected(
        self, names: Sequence[str], *, is_set: Callable[[Migration], object]
    ) -> list[Migration]:
        """The migrations of these names, in this order; without names, those to load by default.

        Args:
            is_set: whether the source of a migration is set; a package's own is then in use.
        """
        if names:
            known = {migration.name: migration for migration in self}
            return [known[name] for name in names]
        others = any(each.name not in self.own for each in self)
        return [m for m in self if not others or m.name not in self.own or is_set(m)]

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


def find(folder: Path | None = None, *, wanted: frozenset[str] = frozenset()) -> Registry:
    """Find all migrations.

    One of this package is left out if another migration has a table of the same name.

    Args:
        folder: of the user's modules, all of which are imported. If it is None, modules of
            ``FOLDER`` in the project's folder are imported if they declare migrations.
        wanted: names of migrations that are never left out.

    Raises:
        SettingsError: the folder declares no migration or cannot be imported, or two migrations
            conflict.
    """
    return _found(folder, wanted)


@functools.cache
def _found(folder: Path | None, wanted: frozenset[str]) -> Registry:
    own = _declared(_modules(pipeline.migrations))
    others = [*(_declared(_of_folder(folder))), *_installed()]
    if folder is not None and not set(others) - set(own) and any(folder.glob("*.py")):
        raise SettingsError(
            f"MIGRATIONS_FOLDER {folder} declares no migration",
            remedy="Declare a Migration in a module there, or remove the setting",
        )
    taken = {name for migration in others for name in migration.metadata.tables}
    own = [m for m in own if m.name in wanted or not taken & m.metadata.tables.keys()]
    # The one with plain names comes first, because it is the default.
    own.sort(key=lambda each: not each.plain)
    names = frozenset(each.name for each in own)
    registry = Registry(tuple(dict.fromkeys([*own, *others])), names)
    _require_consistent(registry)
    return registry


def _of_folder(folder: Path | None) -> Iterator[ModuleType]:
    if folder is not None:
        return _modules(_package(folder))
    usual = PROJECT / FOLDER
    names = {
        path.stem
        for path in (usual.glob("*.py") if usual.is_dir() else ())
        if _DECLARES.search(path.read_bytes())
    }
    return _modules(_package(usual), only=names) if names else iter(())


def _installed() -> list[Migration]:
    """The migrations of installed packages."""
    found: list[Migration] = []
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        with _imported(f"{point.name} ({point.value}) of an installed package"):
            loaded = point.load()
        if isinstance(loaded, Migration):
            found.append(loaded)
        elif isinstance(loaded, ModuleType):
            found += _declared([loaded])
        else:
            raise SettingsError(
                f"The entry point {point.name} ({point.value}) of {GROUP} is no migration",
                remedy="Name a Migration, or a module with some, or uninstall that package",
            )
    return found


def _modules(package: ModuleType, *, only: set[str] | None = None) -> Iterator[ModuleType]:
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        if only is None or module.name in only:
            with _imported(f"{module.name} in {next(iter(package.__path__))}"):
                found = importlib.import_module(f"{package.__name__}.{module.name}")
            yield found


@contextmanager
def _imported(name: str) -> Iterator[None]:
    """Report any error of somebody else's module by the name of the migration."""
    try:
        yield
    except Exception as error:  # modules of users may raise anything
        raise SettingsError(
            f"The migration {name} cannot be imported ({type(error).__name__}: {error})",
            remedy="Correct that module, or remove it",
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
        _require_possible(migration)
    first: dict[str, Migration] = {}
    for migration in registry:
        for claim in _claims(migration):
            other = first.setdefault(claim, migration)
            if other is not migration:
                raise _unusable(f"{other.name} and {migration.name} both have {claim}")


def _require_possible(migration: Migration) -> None:
    """Reject tables and foreign keys that a migration cannot have.

    Raises:
        SettingsError: names the tables.
    """
    for table in migration.metadata.tables.values():
        if not is_step_name(table.name):
            raise SettingsError(
                f"Dagster cannot name a step after the table {table.name!r} of {migration.name}",
                remedy="Leave it out of the declaration",
            )
        for key in table.foreign_key_constraints:
            parent = key.referred_table
            if [each.column for each in key.elements] != [*parent.primary_key.columns]:
                columns = ", ".join(column.name for column in key.columns)
                raise SettingsError(
                    f"The foreign key ({columns}) of {table.name} in {migration.name} does not"
                    f" refer to the primary key of {parent.name}, which is not supported",
                    remedy="Leave it out of the declaration; its columns move without it",
                )
    circle = [key for key in _circular(migration) if key.referred_table is not key.table]
    if circle:
        names = " and ".join(sorted({key.table.name for key in circle}))
        raise SettingsError(
            f"The tables {names} of {migration.name} refer to each other in a circle, so none"
            " can be moved before the other",
            remedy="Leave one of these foreign keys out of the declaration",
        )


def _circular(migration: Migration) -> Iterable[sa.ForeignKeyConstraint]:
    """The foreign keys for which the tables have no order."""
    tables = list(migration.metadata.tables.values())
    ordered: list[tuple[object, Iterable[sa.ForeignKeyConstraint]]]
    ordered = sort_tables_and_constraints(tables)  # type: ignore[no-untyped-call]
    return ordered[-1][1]


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
        remedy="Change one of their declarations, or leave one out of MIGRATIONS",
    )
