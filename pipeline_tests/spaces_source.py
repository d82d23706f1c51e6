"""A source of group spaces as Drizzle makes it, with people in two spaces."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipeline.tables.spaces import metadata
from pipeline_tests.support import SourceFile

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
AT = "2024-01-15T09:30:00.000Z"

_PLAIN = {"created_at": AT, "updated_at": AT}
DEFAULTS: dict[str, dict[str, Any]] = {
    "users": {},
    "spaces": {"owner_id": 1},
    "space_members": {"role": "member", "status": "active"},
    "messages": {"user_id": 1, "content": "สวัสดี", "attachments": "[]"},
    "notes": {"author_id": 1, "title": "note", "status": "published"},
    "note_blocks": {"type": "text", "content": "{}", "position": 0},
    "lessons": {"title": "lesson", "availability": "always"},
    "lesson_topics": {"title": "topic", "position": 0},
    "progress": {"user_id": 1, "status": "completed"},
    "notifications": {"type": "hello", "payload": "{}", "read": 0},
    "user": {"name": "somebody", "email_verified": 1},
    "session": {"expires_at": AT},
    "account": {"account_id": "a", "provider_id": "credential"},
    "verification": {"identifier": "i", "value": "v", "expires_at": AT},
}


def make(path: Path, *, unique: bool = True) -> SourceFile:
    """An empty source; without ``unique`` it lets values come twice."""
    return SourceFile.make(path, ";".join(_ddl(table, unique=unique) for table in TABLES))


def add(source: SourceFile, table: str, *rows: dict[str, Any]) -> None:
    """Insert rows; what a row does not say is sound."""
    dates = {name: AT for name in _PLAIN if name in metadata.tables[table].columns}
    for row in rows:
        whole = dates | DEFAULTS[table] | row
        names, marks = ", ".join(whole), ", ".join("?" * len(whole))
        source.run(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', list(whole.values()))


def add_users(source: SourceFile, *ids: int) -> None:
    """People whose account, address and name are told by their number."""
    rows = [{"id": i, "auth_provider_id": f"auth{i}", "email": f"{i}@example.org"} for i in ids]
    add(source, "users", *rows)


def add_two_spaces(source: SourceFile) -> None:
    """Users 1 and 2 are in space 1, 2 and 3 in space 2; 4 is invited to 1 and has left 2."""
    add_users(source, 1, 2, 3, 4)
    for space, owner in ((1, 1), (2, 3)):
        add(source, "spaces", {"id": space, "owner_id": owner, "name": "s", "slug": f"s{space}"})
        add(source, "messages", {"id": space, "space_id": space, "user_id": owner})
        add(source, "lessons", {"id": space, "space_id": space})
        add(source, "lesson_topics", {"id": space, "lesson_id": space})
        add(source, "progress", {"id": space, "lesson_id": space, "user_id": owner})
        for at, status in enumerate(("draft", "published")):
            note = 2 * space + at - 1
            row = {"id": note, "space_id": space, "author_id": owner, "status": status}
            add(source, "notes", row)
            add(source, "note_blocks", {"id": note, "note_id": note})
    members = [(1, 1, "active"), (1, 2, "active"), (2, 2, "active"), (2, 3, "active")]
    members += [(1, 4, "invited"), (2, 4, "left")]
    for at, (space, user, status) in enumerate(members, start=1):
        row = {"id": at, "space_id": space, "user_id": user, "status": status}
        add(source, "space_members", row)
    for user in (1, 2, 3, 4):
        add(source, "notifications", {"id": user, "user_id": user})
        add(source, "user", {"id": f"auth{user}", "email": f"{user}@example.org"})
        add(source, "session", {"id": f"s{user}", "token": f"t{user}", "user_id": f"auth{user}"})


def _ddl(table: sa.Table, *, unique: bool) -> str:
    columns = [
        f'"{column.name}" {_kind(column)}' + " NOT NULL" * (not column.nullable)
        for column in table.columns
        if not column.info.get("added")
    ]
    made = [f'CREATE TABLE "{table.name}" ({", ".join(columns)})']
    for each in table.constraints:
        if unique and isinstance(each, sa.UniqueConstraint):
            names = ", ".join(f'"{column.name}"' for column in each.columns)
            made.append(f'CREATE UNIQUE INDEX "{each.name}" ON "{table.name}" ({names})')
    return ";".join(made)


def _kind(column: sa.Column[Any]) -> str:
    number = isinstance(column.type, sa.Integer | sa.Boolean)
    key = " PRIMARY KEY" + " AUTOINCREMENT" * number if column.primary_key else ""
    return ("INTEGER" if number else "TEXT") + key
