"""What a backup says of itself: the file ``manifest.json``, sealed with its own SHA-256.

Its definitions of tables are executed by a restore, so a manifest that was damaged or changed
afterwards is refused like any other damaged file.
"""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.backup.errors import BackupError
from pipeline.core.messages import BACKUP_LIST, message
from pipeline.core.private import Rights

SOURCE_FILE = "source.db"
_FILE = "manifest.json"
_SEAL = "seal"


@dataclass(frozen=True)
class SourceTable:
    """A table of the SQLite file, as ``source.figures`` finds it."""

    name: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Counter:
    """A sequence of PostgreSQL: the number it gave last, and whether it gave it."""

    name: str
    last: int
    called: bool


@dataclass(frozen=True)
class TargetTable:
    """A table of the target.

    Attributes:
        schema: where it is.
        name: its name.
        there: whether it was there; if not, the rest is empty.
        only: SQL that is true of the rows that belong to the backup; empty for all.
        rows: how many.
        bytes: size of its file.
        sha256: of its file.
        digest: what the server says of all its values, see ``dump.digest``.
        columns: those that are in the file.
        definition: statements that make it again, by phase, see ``definition.PHASES``.
        counters: the sequences that it owns.
        publications: those that named it, each with the statement that puts it there again.
    """

    schema: str
    name: str
    there: bool
    only: str = ""
    rows: int = 0
    bytes: int = 0
    sha256: str = ""
    digest: str = ""
    columns: tuple[str, ...] = ()
    definition: dict[str, tuple[str, ...]] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    publications: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of its file in the backup's folder."""
        return f"{self.schema}.{self.name}.copy"

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Manifest:
    """A finished backup.

    Attributes:
        name: the backup's, which is its folder's.
        at: when it was begun.
        source: path of the SQLite file.
        source_sha256: of the copy.
        source_bytes: size of the copy.
        source_tables: all tables of the file.
        target: what people call the PostgreSQL database; holds no password.
        target_tables: those that were looked for.
        migration: whose databases these are.
        rehearsed: when both parts were restored elsewhere and found equal, None if they were not.
        source_rights: who could do what with the SQLite file; None in backups of older versions.
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
    rehearsed: datetime | None = None
    source_rights: Rights | None = None

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return self.source_bytes + sum(table.bytes for table in self.target_tables)


_MANIFEST = TypeAdapter(Manifest)


def sealed(manifest: Manifest) -> str:
    """A manifest as it is written."""
    whole = _MANIFEST.dump_python(manifest, mode="json")
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
            f"{folder} holds no backup", remedy=message("Name one that ", BACKUP_LIST, " shows")
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
        f"The manifest of {folder} is not as it was written", remedy="Take another backup"
    )
