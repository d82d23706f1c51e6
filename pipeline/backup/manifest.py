"""The manifest of a backup: the file ``manifest.json``, sealed with its own SHA-256.

A restore executes the table definitions in it, so a manifest that was damaged or changed later is
refused like any other damaged file.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, TypeAdapter

from pipeline.backup.errors import BackupError
from pipeline.core.messages import BACKUP_LIST, message
from pipeline.core.private import Rights

SOURCE_FILE = "source.db"
_FILE = "manifest.json"
_SEAL = "seal"


@dataclass(frozen=True)
class SourceTable:
    """A table of the SQLite file; ``source.figures`` computes the digest."""

    name: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Counter:
    """A sequence of PostgreSQL: its ``last_value`` and ``is_called``."""

    name: str
    last: int
    called: bool


@dataclass(frozen=True)
class TargetTable:
    """A table of the target.

    Attributes:
        existed: if not, the following fields are empty.
        only: an SQL condition for the rows that belong to the backup; empty for all.
        bytes: size of its file.
        sha256: of its file.
        digest: of all values in the database, see ``dump.digest``.
        columns: those in the file.
        definition: statements that recreate the table, by phase, see ``definition.PHASES``.
        counters: the sequences that it owns.
        publications: those that listed it, each with the statement that adds it again.
        stored_as: the table's name when its file was written; empty if unchanged.
    """

    schema: str
    name: str
    existed: Annotated[bool, Field(alias="there")]
    only: str = ""
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    digest: str = ""
    columns: tuple[str, ...] = ()
    definition: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    publications: dict[str, str] = field(default_factory=dict)
    stored_as: str = ""

    @property
    def file(self) -> str:
        """The name of its file in the backup's folder."""
        return f"{self.schema}.{self.stored_as or self.name}.copy"

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Manifest:
    """A finished backup.

    Attributes:
        name: also the name of its folder.
        at: when the backup was started.
        source: path of the SQLite file.
        source_sha256: of the copy.
        source_bytes: size of the copy.
        target: the PostgreSQL database as messages show it; contains no password.
        target_tables: the requested tables; some may not have existed.
        restore_verified: when both parts were restored elsewhere and found equal, None if they were
            not; ``restore_verified`` in manifests of older versions.
        source_rights: owner and mode of the SQLite file; None in backups of older versions.
    """

    name: str
    at: datetime
    source: str
    source_sha256: str
    source_bytes: int
    source_tables: tuple[SourceTable, ...]
    target: str
    target_tables: tuple[TargetTable, ...]
    migration: str = "content"
    restore_verified: Annotated[
        datetime | None, Field(validation_alias=AliasChoices("restore_verified", "rehearsed"))
    ] = None
    source_rights: Rights | None = None

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self.source_bytes + sum(table.bytes for table in self.target_tables)


_MANIFEST = TypeAdapter(Manifest)


def sealed(manifest: Manifest) -> str:
    """A manifest as JSON with its seal."""
    whole = _MANIFEST.dump_python(manifest, mode="json", by_alias=True)
    return json.dumps(whole | {_SEAL: _seal(whole)}, ensure_ascii=False, indent=1)


def read(folder: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        BackupError: there is none, it belongs to another folder, or it is damaged.
    """
    try:
        whole = json.loads((folder / _FILE).read_bytes())
        seal = whole.pop(_SEAL)
        manifest = _MANIFEST.validate_python(whole)
    except FileNotFoundError as error:
        raise BackupError(
            f"{folder} contains no backup",
            remedy=message("Run ", BACKUP_LIST, " to list the backups"),
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder) from error
    if seal != _seal(whole) or manifest.name != folder.name:
        raise _damaged(folder)
    return manifest


def path_in(folder: Path) -> Path:
    """Where a folder's manifest is."""
    return folder / _FILE


def _seal(whole: dict[str, object]) -> str:
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(folder: Path) -> BackupError:
    return BackupError(
        f"The manifest of {folder} is damaged or was changed", remedy="Take another backup"
    )
