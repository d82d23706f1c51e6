"""The group-spaces application: its tables, those of Better Auth, and its realtime events.

The declarations follow those of ``content``.

An authenticated user sees the spaces in which the user is an active member, the rows of these
spaces, and the user's own rows. Better Auth's ids are text, so users are identified by ``sub`` of
the request's claims and not by Supabase's ``auth.uid()``, which is a UUID. PostgreSQL evaluates the
conditions once per statement and finds rows by an index. Rows of a note or a lesson are visible
with the note or the lesson.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.declared import access, better_auth
from pipeline.declared.columns import (
    add_index,
    created_at,
    double_encoded_json,
    integer_id,
    moment,
    reference,
    require_one_of,
    text,
    updated_at,
)
from pipeline.declared.events import EventRule, PublishedChanges
from pipeline.declared.functions import Function
from pipeline.declared.rules import ColumnRules, SharedRules, TableRules
from pipeline.migrations.declaration import NAMES, Migration, Realtime
from pipeline.migrations.spaces_sample import make_sample

_CALLER = """u.auth_provider_id =
    nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::json ->> 'sub'"""
"""After a transaction, a setting of the transaction is empty, which is not valid JSON."""

_OWN_SPACES = f"""
    SELECT m.space_id FROM public.space_members AS m JOIN public.users AS u ON u.id = m.user_id
    WHERE m.status = 'active' AND {_CALLER}"""

_ME = Function(
    "me", "integer", f"\n  RETURN (SELECT u.id FROM public.users AS u WHERE {_CALLER});\n"
)
_SPACES = Function("spaces_of_me", "integer[]", f"\n  RETURN ARRAY({_OWN_SPACES});\n")
_PEOPLE = Function(
    "people_of_me",
    "integer[]",
    f"""
  RETURN ARRAY(
    SELECT u.id FROM public.users AS u WHERE {_CALLER}
    UNION SELECT o.user_id FROM public.space_members AS o
    WHERE o.status = 'active' AND o.space_id IN ({_OWN_SPACES}));
""",
)

metadata = sa.MetaData(
    naming_convention=NAMES,
    info=SharedRules(access=access.DEFAULT, moments="iso", functions=(_ME, _SPACES, _PEOPLE)).info,
)

_HIDDEN = (access.Access("service_role", access.ALL),)
"""Authenticated users cannot read credentials."""


def _among(function: Function) -> str:
    return f"= ANY ((SELECT {function.call})::integer[])"


def _visible(rows: str) -> tuple[access.Access, ...]:
    """Authenticated users see only these rows."""
    return (
        access.Access("service_role", access.ALL),
        access.Access("authenticated", access.READ, rows),
    )


_OF_SPACE = _visible(f"space_id {_among(_SPACES)}")
_OF_LESSON = _visible("lesson_id = ANY (ARRAY(SELECT l.id FROM public.lessons AS l))")
_OF_NOTE = _visible("note_id = ANY (ARRAY(SELECT n.id FROM public.notes AS n))")
_OWN = _visible(f"user_id = (SELECT {_ME.call})")


def _id() -> sa.Column[int]:
    return integer_id("Unchanged by the migration; URLs of pages contain it.")


def _position() -> sa.Column[int]:
    return sa.Column("position", sa.Integer, nullable=False, server_default=sa.text("0"))


def _info(
    description: str,
    *,
    stamp: bool = True,
    changed_by: str | None = "updated_at",
    published: PublishedChanges | None = None,
    rights: Sequence[access.Access] | None = None,
) -> dict[str, Any]:
    return TableRules(
        description,
        changed_by=changed_by,
        stamp="updated_at" if stamp else None,
        published=published,
        access=tuple(rights or ()),
    ).info


users = sa.Table(
    "users",
    metadata,
    _id(),
    text("auth_provider_id", unique=True),
    text("email", unique=True),
    text("name", nullable=True),
    text("avatar_url", nullable=True),
    text("bio", nullable=True),
    created_at(),
    updated_at(),
    info=_info(
        "Users with the profile that the pages show.", rights=_visible(f"id {_among(_PEOPLE)}")
    ),
)

spaces = sa.Table(
    "spaces",
    metadata,
    _id(),
    reference("owner_id", "users"),
    text("name"),
    text("slug", unique=True),
    text("description", nullable=True),
    text("cover_image_url", nullable=True),
    text("theme_color", nullable=True),
    sa.Column(
        "enable_realtime",
        sa.Boolean,
        nullable=False,
        server_default=sa.true(),
        info=ColumnRules("Whether changes in the space are published.", added=True).info,
    ),
    created_at(),
    updated_at(),
    info=_info("Learning groups.", rights=_visible(f"id {_among(_SPACES)}")),
)
add_index(spaces, "spaces_owner", "owner_id")

space_members = sa.Table(
    "space_members",
    metadata,
    _id(),
    reference("space_id", "spaces"),
    reference("user_id", "users"),
    text("role", default="member"),
    text("status", default="active"),
    created_at(),
    updated_at(),
    sa.UniqueConstraint("space_id", "user_id"),
    info=_info(
        "Members of spaces.",
        rights=_OF_SPACE,
        published=PublishedChanges(
            ("id", "space_id", "user_id", "role", "status", "created_at", "updated_at"),
            path=("space_id",),
            events=(EventRule("member:changed", ("INSERT", "UPDATE", "DELETE")),),
            old_rows=True,
        ),
    ),
)
require_one_of(space_members, "role", "owner", "admin", "member")
require_one_of(space_members, "status", "active", "invited", "left")
add_index(space_members, "space_members_user", "user_id")

messages = sa.Table(
    "messages",
    metadata,
    _id(),
    reference("space_id", "spaces"),
    reference("user_id", "users"),
    text("content"),
    double_encoded_json("attachments", "A list of attached files."),
    created_at(),
    updated_at(),
    info=_info(
        "Messages in a space.",
        rights=_OF_SPACE,
        published=PublishedChanges(
            ("id", "space_id", "user_id", "content", "attachments", "created_at", "updated_at"),
            path=("space_id",),
            events=(EventRule("message:new", ("INSERT",)),),
        ),
    ),
)
add_index(messages, "messages_space", "space_id", "created_at")
add_index(messages, "messages_user", "user_id")

notes = sa.Table(
    "notes",
    metadata,
    _id(),
    reference("space_id", "spaces"),
    reference("author_id", "users"),
    text("title"),
    text("status", default="draft"),
    reference("assigned_to", "users", nullable=True, ondelete="SET NULL"),
    moment("due_at", "When it is due."),
    moment("published_at", "When it was published."),
    created_at(),
    updated_at(),
    info=_info(
        "Notes of a space, drafts included.",
        rights=_visible(
            f"space_id {_among(_SPACES)} AND (status <> 'draft' OR author_id = (SELECT {_ME.call}))"
        ),
        published=PublishedChanges(
            (
                *("id", "space_id", "author_id", "title", "status", "assigned_to", "due_at"),
                *("published_at", "created_at", "updated_at"),
            ),
            path=("space_id",),
            events=(
                EventRule("note:published", ("INSERT",), "new.status = 'published'"),
                EventRule(
                    "note:published",
                    ("UPDATE",),
                    "new.status = 'published' AND old.status <> 'published'",
                ),
            ),
            old_rows=True,
        ),
    ),
)
require_one_of(notes, "status", "draft", "published")
add_index(notes, "notes_space", "space_id")
add_index(notes, "notes_author", "author_id")
add_index(notes, "notes_assigned", "assigned_to")

note_blocks = sa.Table(
    "note_blocks",
    metadata,
    _id(),
    reference("note_id", "notes"),
    text("type"),
    double_encoded_json("content", "The content, depending on the type."),
    _position(),
    created_at(),
    updated_at(),
    info=_info(
        "Texts, tasks and links of a note.",
        rights=_OF_NOTE,
        published=PublishedChanges(
            ("id", "note_id", "type", "content", "position", "created_at", "updated_at"),
            path=("note_id", "space_id"),
        ),
    ),
)
require_one_of(note_blocks, "type", "text", "todo", "link")
add_index(note_blocks, "note_blocks_note", "note_id", "position")

lessons = sa.Table(
    "lessons",
    metadata,
    _id(),
    reference("space_id", "spaces"),
    text("title"),
    text("description", nullable=True),
    text("cover_image_url", nullable=True),
    text("availability", default="always"),
    moment("available_at", "When the lesson becomes available."),
    created_at(),
    updated_at(),
    info=_info("Lessons of a space.", rights=_OF_SPACE),
)
require_one_of(lessons, "availability", "always", "date", "prereq")
add_index(lessons, "lessons_space", "space_id")

lesson_topics = sa.Table(
    "lesson_topics",
    metadata,
    _id(),
    reference("lesson_id", "lessons"),
    text("title"),
    text("body", nullable=True),
    text("youtube_url", nullable=True),
    _position(),
    created_at(),
    updated_at(),
    info=_info("The parts of a lesson.", rights=_OF_LESSON),
)
add_index(lesson_topics, "lesson_topics_lesson", "lesson_id", "position")

progress = sa.Table(
    "progress",
    metadata,
    _id(),
    reference("user_id", "users"),
    reference("lesson_id", "lessons"),
    sa.Column("topic_id", sa.Integer, sa.ForeignKey("lesson_topics.id", ondelete="CASCADE")),
    text("status", default="not_started"),
    updated_at(),
    info=_info(
        "Progress of users in lessons.",
        rights=_OF_LESSON,
        published=PublishedChanges(
            ("id", "user_id", "lesson_id", "topic_id", "status", "updated_at"),
            path=("lesson_id", "space_id"),
            events=(EventRule("progress:updated", ("INSERT", "UPDATE")),),
        ),
    ),
)
require_one_of(progress, "status", "not_started", "in_progress", "completed")
add_index(progress, "progress_user", "user_id")
add_index(progress, "progress_lesson", "lesson_id")
add_index(progress, "progress_topic", "topic_id")

notifications = sa.Table(
    "notifications",
    metadata,
    _id(),
    reference("user_id", "users"),
    text("type"),
    double_encoded_json("payload", "Details of the event, depending on the type."),
    sa.Column("read", sa.Boolean, nullable=False, server_default=sa.false()),
    created_at(),
    info=_info(
        "Notifications of users.",
        rights=_OWN,
        stamp=False,
        # No date changes when a notification is read.
        changed_by=None,
        published=PublishedChanges(
            ("id", "user_id", "type", "payload", "read", "created_at"), user="r.user_id"
        ),
    ),
)
add_index(notifications, "notifications_user", "user_id", "created_at")

better_auth.declare(metadata, access=_HIDDEN)

SPACES = Migration(
    "spaces",
    metadata,
    setting="SPACES_DATABASE_URL",
    make_sample=make_sample,
    owners=("team:group-spaces",),
    beside=(Realtime(),),
)
"""The group-spaces application."""
