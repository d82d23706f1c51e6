"""What tests of the group spaces need: a source as the application writes it, sound rows."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL

from pipeline.config.settings import libpq
from pipeline.core.policies import DEFAULT, Policies
from pipeline.declared.rules import ColumnRules
from pipeline.migrations.spaces import metadata
from pipeline.move.run.transaction import MoveResult
from pipeline_tests.support.moves import move_all
from pipeline_tests.support.sources import SourceFile

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
        if ColumnRules.of(column).added:
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
) -> dict[str, MoveResult]:
    """Move as one run does, under these policies."""
    return move_all(source.path, url, tables=tables, delete_share=1, policies=policies)


def double_encoded(value: Any, times: int = 2) -> str:
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
        sa.Column("value", kind or JSONB, info=ColumnRules(**info).info),
    )


HIDDEN = ("user", "session", "account", "verification")
NOTHING = {name: None if name in HIDDEN else set() for name in NAMES}
SPACE_1 = {
    "spaces": {1},
    "space_members": {1, 2, 5},
    "messages": {1},
    "lessons": {1},
    "lesson_topics": {1},
    "progress": {1},
}
SEEN = {
    "auth1": NOTHING
    | SPACE_1
    | {"users": {1, 2}, "notes": {1, 2}, "note_blocks": {1, 2}, "notifications": {1}},
    "auth2": NOTHING
    | {name: {1, 2} for name in SPACE_1}
    | {"space_members": {1, 2, 3, 4, 5, 6}, "users": {1, 2, 3}, "notifications": {2}}
    | {"notes": {2, 4}, "note_blocks": {2, 4}},
    "auth4": NOTHING | {"users": {4}, "notifications": {4}},
    "a stranger": NOTHING,
}
"""Ids that a user sees, by table; None where he is refused."""


def ids_seen(cursor: psycopg2.extensions.cursor, table: str) -> set[object] | None:
    """What the user sees of a table; None if he is refused."""
    cursor.execute("SAVEPOINT here")
    try:
        cursor.execute(f'SELECT id FROM public."{table}"')
    except psycopg2.errors.InsufficientPrivilege:
        cursor.execute("ROLLBACK TO here")
        return None
    return {key for (key,) in cursor}


def seen(url: URL, who: str | None, role: str = "authenticated") -> dict[str, set[object] | None]:
    """Ids of all rows that a request sees, as Supabase's API makes it."""
    with closing(psycopg2.connect(libpq(url.set(username="authenticator")))) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SET LOCAL ROLE {role}")
        if who is not None:
            claims = json.dumps({"sub": who, "role": role})
            cursor.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
        return {name: ids_seen(cursor, name) for name in NAMES}


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
        row = {"id": space, "lesson_id": space, "topic_id": space, "user_id": owner}
        add(source, "progress", row)
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
