"""What tests of the group spaces need: a source as the application writes it, sound rows."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.migrations.spaces import metadata
from pipeline.move.extract import Source
from pipeline.move.mover import Mover
from pipeline.move.policies import DEFAULT, Policies
from pipeline.move.snapshot import take_snapshot
from pipeline.move.target import Target
from pipeline.move.transaction import Move
from pipeline_tests.support import SourceFile

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
MOMENT = "2024-01-15T09:30:00.000Z"
LATER = "2024-02-01T08:00:00.000Z"

_SOUND: dict[str, dict[str, Any]] = {
    "users": {"auth_provider_id": "u1", "email": "a@example.org", "name": "Anong"},
    "spaces": {"owner_id": 1, "name": "Thai", "slug": "thai"},
    "space_members": {"space_id": 1, "user_id": 1, "role": "owner", "status": "active"},
    "messages": {"space_id": 1, "user_id": 1, "content": "สวัสดี"},
    "notes": {"space_id": 1, "author_id": 1, "title": "verbs", "status": "draft"},
    "note_blocks": {"note_id": 1, "type": "text", "content": '{"text":"กิน"}', "position": 0},
    "lessons": {"space_id": 1, "title": "tones", "availability": "always"},
    "lesson_topics": {"lesson_id": 1, "title": "mid tone", "position": 0},
    "progress": {"user_id": 1, "lesson_id": 1, "topic_id": 1, "status": "not_started"},
    "notifications": {"user_id": 1, "type": "invited", "payload": "{}", "read": 0},
    "user": {"id": "Ab1", "name": "Anong", "email": "a@example.org", "email_verified": 1},
    "session": {"id": "s1", "expires_at": LATER, "token": "t1", "user_id": "Ab1"},
    "account": {"id": "a1", "account_id": "1", "provider_id": "mail", "user_id": "Ab1"},
    "verification": {"id": "v1", "identifier": "a@example.org", "value": "c1"},
}


def ddl(tables: Sequence[sa.Table] = TABLES, *, unique: bool = True) -> str:
    """The application's own schema of tables, as Drizzle makes it for SQLite."""
    return "".join(_ddl(table, unique=unique) for table in tables)


def _ddl(table: sa.Table, *, unique: bool) -> str:
    lines = []
    for column in table.columns:
        if column.info.get("added"):
            continue
        number = isinstance(column.type, sa.Integer | sa.Boolean)
        line = f'"{column.name}" {"INTEGER" if number else "TEXT"}'
        if column.primary_key:
            line += " PRIMARY KEY AUTOINCREMENT" if number else " PRIMARY KEY NOT NULL"
        lines.append(line)
    if unique:
        lines += [
            f"UNIQUE ({', '.join(column.name for column in each.columns)})"
            for each in table.constraints
            if isinstance(each, sa.UniqueConstraint)
        ]
    return f'CREATE TABLE "{table.name}" ({", ".join(lines)});\n'


def make(path: Path, *, unique: bool = True, tables: Sequence[sa.Table] = TABLES) -> SourceFile:
    """An empty source."""
    return SourceFile.make(path, ddl(tables, unique=unique))


def add(source: SourceFile, table: str, *rows: dict[str, Any]) -> None:
    """Insert rows; what a row does not say is sound. Without rows, one sound row."""
    dates = {
        column: MOMENT
        for column in ("created_at", "updated_at")
        if column in metadata.tables[table].columns
    }
    for row in rows or ({},):
        whole = {**dates, **_SOUND[table], **row}
        names = ", ".join(f'"{name}"' for name in whole)
        marks = ", ".join("?" * len(whole))
        source.run(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', list(whole.values()))


def fill(source: SourceFile) -> SourceFile:
    """A sound row of every table."""
    for name in NAMES:
        add(source, name)
    return source


def move(
    source: SourceFile,
    url: str,
    *,
    tables: Sequence[sa.Table] = TABLES,
    policies: Policies = DEFAULT,
) -> dict[str, Move]:
    """Move as one run does, under these policies."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Source(take_snapshot(source.path, Path(folder) / "s.db", tables=tables))
        with (
            Target.connect(url, shown="the target") as target,
            Mover.over(copy, target, run_id="test", delete_share=1, policies=policies) as mover,
        ):
            return {
                table.name: mover.move(table, upcoming=tables[at + 1 :])
                for at, table in enumerate(tables)
            }


def doubled(value: Any, times: int = 2) -> str:
    """A value as JSON.stringify gives it that many times over."""
    text = value
    for _ in range(times):
        text = json.dumps(text, ensure_ascii=False, separators=(",", ":"))
    return str(text)


def one_column(kind: Any = None, **info: Any) -> sa.Table:
    """A table ``t`` of a key and one column ``value``."""
    return sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", kind or JSONB, info=info),
    )
