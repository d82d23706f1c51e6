"""Owners and their pets in a source whose text keys have collations, moved and compared."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.declared.columns import require_one_of
from pipeline.migrations.declaration import NAMES
from pipeline.move.run.transaction import MoveResult
from pipeline.sqlite import tracking
from pipeline_tests.support.moves import move_all, sync_all
from pipeline_tests.support.plans import planned
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import query
from pipeline_tests.support.verification import broken, opened, standing

metadata = sa.MetaData(naming_convention=NAMES)
owners = sa.Table(
    "owners",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, unique=True),
    sa.Column("kind", sa.Text),
)
require_one_of(owners, "kind", "cat", "dog")
pets = sa.Table(
    "pets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner_id", sa.Text, sa.ForeignKey("owners.id", ondelete="CASCADE")),
)
TABLES = (owners, pets)


def ddl(collation: str = "", *, options: str = "", owner: str = "", more: str = "") -> str:
    """The source's schema with a collation of every text column."""
    text = f"TEXT {collation}"
    return f"""
    CREATE TABLE owners (id {text} PRIMARY KEY, name {text} UNIQUE, kind {text}{owner}) {options};
    CREATE TABLE pets (id {text} PRIMARY KEY, owner_id {text} REFERENCES owners(id)) {options};
    CREATE INDEX pets_of ON pets (owner_id);
    {more}"""


def connect(path: Path) -> sqlite3.Connection:
    """The application's connection, with a collation and a function of its own."""
    connection = sqlite3.connect(path)
    connection.create_collation(
        "unicase", lambda a, b: (a.lower() > b.lower()) - (a.lower() < b.lower())
    )
    connection.create_function("shout", 1, lambda text: f"{text}!", deterministic=True)
    return connection


@dataclass
class Kennel:
    """A source and its target."""

    path: Path
    url: str

    def run(self, script: str) -> None:
        """What the application does."""
        with closing(connect(self.path)) as connection:
            connection.executescript(script)

    def own(self, *ids: str) -> None:
        """Insert owners with these ids."""
        with closing(connect(self.path)) as connection, connection:
            rows = [(each, f"name of {each!r}", "cat") for each in ids]
            connection.executemany("INSERT INTO owners (id, name, kind) VALUES (?, ?, ?)", rows)

    def keep(self, *pairs: tuple[str, str | None]) -> None:
        """Insert pets with these ids and owners."""
        with closing(connect(self.path)) as connection, connection:
            connection.executemany("INSERT INTO pets (id, owner_id) VALUES (?, ?)", pairs)

    def track(self) -> None:
        """Let the source keep a log of its changes."""
        tracking.switch_on(self.path, TABLES)

    def move(self, **options: Any) -> dict[str, MoveResult]:
        """Move everything."""
        return move_all(self.path, self.url, tables=TABLES, **{"delete_share": 1.0, **options})

    def sync(self, *, retry_rejected: bool = False) -> dict[str, MoveResult]:
        """Move what changed."""
        return sync_all(
            self.path, self.url, tables=TABLES, delete_share=1.0, retry_rejected=retry_rejected
        )

    def ids(self, table: str) -> list[str]:
        """Keys of the target, in their bytes' order."""
        return [
            key for (key,) in query(self.url, f'SELECT id FROM {table} ORDER BY id COLLATE "C"')
        ]

    def quarantined(self, table: str) -> dict[str, Sequence[str]]:
        """The reasons of rows in quarantine by key."""
        found = query(
            self.url,
            "SELECT source_key, reasons FROM migration.quarantine WHERE table_name = %s",
            (table,),
        )
        return {key: [each["message"] for each in reasons] for key, reasons in found}

    def planned(self, folder: Path, table: str) -> dict[str, Sequence[str]]:
        """Keys that the plan says will be rejected, by reason."""
        plan = planned(SourceFile(self.path), self.url, folder, tables=TABLES)[table]
        return {each.reason: each.examples for each in plan.rejections}

    def verified(self, folder: Path) -> set[str]:
        """Names of the standing checks that fail."""
        source = opened(self.path, folder, TABLES)
        found = {table.name: standing(self.url, source, table) for table in TABLES}
        wrong = {f"{name}: {check}" for name, checks in found.items() for check in broken(checks)}
        wrong |= {f"{n}: witness" for n, checks in found.items() if not checks["witness"].passed}
        return wrong
