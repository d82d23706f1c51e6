"""The group-spaces application: its tables, those of Better Auth among them, and its realtime.

Declared as the tables of ``content`` are.

Who is signed in sees the spaces of which he is an active member, with what belongs to them, and
what concerns him alone. Better Auth's ids are text, so he is known by ``sub`` of the request's
claims and not by Supabase's ``auth.uid()``, which is a UUID. Conditions are written so that
PostgreSQL asks once in a statement and finds rows by an index; what hangs on a note or a lesson is
seen with it.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.declared import access
from pipeline.declared.events import Occurs, Told
from pipeline.declared.objects import Function
from pipeline.declared.rules import ColumnRules, SharedRules, TableRules
from pipeline.migrations.declaration import NAMES, Migration, Realtime
from pipeline.migrations.spaces_sample import make_sample

_CALLER = """u.auth_provider_id =
    nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::json ->> 'sub'"""
"""A setting that was set for a transaction is empty after it, and no JSON."""

_OWN_SPACES = f"""
    SELECT m.space_id FROM public.space_members AS m JOIN public.users AS u ON u.id = m.user_id
    WHERE m.status = 'active' AND {_CALLER}"""

_ME = Function(
    "me",
    "integer",
    f"""
  RETURN (SELECT u.id FROM public.users AS u WHERE {_CALLER});
""",
)
_SPACES = Function(
    "spaces_of_me",
    "integer[]",
    f"""
  RETURN ARRAY({_OWN_SPACES});
""",
)
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
"""Who is signed in learns nothing of how others sign in."""

_WHOLE_SPACE = "r.space_id"


def _among(function: Function) -> str:
    return f"= ANY ((SELECT {function.call})::integer[])"


def _seen(rows: str) -> tuple[access.Access, ...]:
    """Only these rows are seen by who is signed in."""
    return (
        access.Access("service_role", access.ALL),
        access.Access("authenticated", access.READ, rows),
    )


_OF_SPACE = _seen(f"space_id {_among(_SPACES)}")
_OF_LESSON = _seen("lesson_id = ANY (ARRAY(SELECT l.id FROM public.lessons AS l))")
_OF_NOTE = _seen("note_id = ANY (ARRAY(SELECT n.id FROM public.notes AS n))")
_OWN = _seen(f"user_id = (SELECT {_ME.call})")


def _id() -> sa.Column[int]:
    return sa.Column(
        "id",
        sa.Integer,
        primary_key=True,
        info=ColumnRules("Survives the move; addresses of pages hold it.").info,
    )


def _text_id() -> sa.Column[str]:
    return sa.Column(
        "id",
        sa.Text,
        primary_key=True,
        info=ColumnRules("Survives the move, byte for byte.").info,
    )


def _refers_to(name: str, parent: str, *, optional: bool = False) -> sa.Column[int]:
    return sa.Column(
        name,
        sa.Integer,
        sa.ForeignKey(f"{parent}.id", ondelete="SET NULL" if optional else "CASCADE"),
        nullable=optional,
        info=ColumnRules(f"The row of {parent} that this one belongs to.").info,
    )


def _text(name: str, *, optional: bool = False, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=optional, server_default=default)


def _secret(name: str, *, optional: bool = False) -> sa.Column[str]:
    return sa.Column(
        name,
        sa.Text,
        nullable=optional,
        info=ColumnRules("A secret, moved byte for byte and shown nowhere.", secret=True).info,
    )


def _json(name: str, description: str) -> sa.Column[Any]:
    return sa.Column(name, JSONB, info=ColumnRules(description, double_encoded=True).info)


def _moment(name: str, description: str, *, now: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        nullable=not now,
        server_default=sa.text("now()") if now else None,
        info=ColumnRules(description).info,
    )


def _created() -> sa.Column[Any]:
    return _moment("created_at", "When the row was made.", now=True)


def _updated() -> sa.Column[Any]:
    return _moment("updated_at", "When the row last changed; a trigger sets it.", now=True)


def _position() -> sa.Column[int]:
    return sa.Column("position", sa.Integer, nullable=False, server_default=sa.text("0"))


def _index(name: str, parent: str, *columns: str) -> sa.Index:
    """An index by which rows of a parent are found; PostgreSQL makes none for foreign keys."""
    return sa.Index(f"idx_{name}", *(metadata.tables[parent].c[column] for column in columns))


def _one_of(table: sa.Table, column: str, *values: str) -> None:
    table.append_constraint(sa.CheckConstraint(table.c[column].in_(values), name=column))


def _info(
    description: str,
    *,
    stamp: bool = True,
    changed_by: str = "updated_at",
    told: Told | None = None,
    rights: Sequence[access.Access] | None = None,
) -> dict[str, Any]:
    return TableRules(
        description,
        changed_by=changed_by,
        stamp="updated_at" if stamp else None,
        told=told,
        access=tuple(rights or ()),
    ).info


users = sa.Table(
    "users",
    metadata,
    _id(),
    sa.Column("auth_provider_id", sa.Text, nullable=False, unique=True),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    _text("name", optional=True),
    _text("avatar_url", optional=True),
    _text("bio", optional=True),
    _created(),
    _updated(),
    info=_info(
        "People of the application, as its pages show them.", rights=_seen(f"id {_among(_PEOPLE)}")
    ),
)

spaces = sa.Table(
    "spaces",
    metadata,
    _id(),
    _refers_to("owner_id", "users"),
    _text("name"),
    sa.Column("slug", sa.Text, nullable=False, unique=True),
    _text("description", optional=True),
    _text("cover_image_url", optional=True),
    _text("theme_color", optional=True),
    sa.Column(
        "enable_realtime",
        sa.Boolean,
        nullable=False,
        server_default=sa.true(),
        info=ColumnRules("Whether changes in the space are told.", added=True).info,
    ),
    _created(),
    _updated(),
    info=_info("Groups that learn together.", rights=_seen(f"id {_among(_SPACES)}")),
)
_index("spaces_owner", "spaces", "owner_id")

space_members = sa.Table(
    "space_members",
    metadata,
    _id(),
    _refers_to("space_id", "spaces"),
    _refers_to("user_id", "users"),
    _text("role", default="member"),
    _text("status", default="active"),
    _created(),
    _updated(),
    sa.UniqueConstraint("space_id", "user_id"),
    info=_info(
        "Who belongs to which space.",
        rights=_OF_SPACE,
        told=Told(
            ("id", "space_id", "user_id", "role", "status", "created_at", "updated_at"),
            space=_WHOLE_SPACE,
            events=(Occurs("member:changed", ("INSERT", "UPDATE", "DELETE")),),
            old_rows=True,
        ),
    ),
)
_one_of(space_members, "role", "owner", "admin", "member")
_one_of(space_members, "status", "active", "invited", "left")
_index("space_members_user", "space_members", "user_id")

messages = sa.Table(
    "messages",
    metadata,
    _id(),
    _refers_to("space_id", "spaces"),
    _refers_to("user_id", "users"),
    _text("content"),
    _json("attachments", "A list of what hangs on the message."),
    _created(),
    _updated(),
    info=_info(
        "What is said in a space.",
        rights=_OF_SPACE,
        told=Told(
            (
                "id",
                "space_id",
                "user_id",
                "content",
                "attachments",
                "created_at",
                "updated_at",
            ),
            space=_WHOLE_SPACE,
            events=(Occurs("message:new", ("INSERT",)),),
        ),
    ),
)
_index("messages_space", "messages", "space_id", "created_at")
_index("messages_user", "messages", "user_id")

notes = sa.Table(
    "notes",
    metadata,
    _id(),
    _refers_to("space_id", "spaces"),
    _refers_to("author_id", "users"),
    _text("title"),
    _text("status", default="draft"),
    _refers_to("assigned_to", "users", optional=True),
    _moment("due_at", "When it is due."),
    _moment("published_at", "When it was published."),
    _created(),
    _updated(),
    info=_info(
        "Notes of a space, drafts and published ones.",
        rights=_seen(
            f"space_id {_among(_SPACES)} AND (status <> 'draft' OR author_id = (SELECT {_ME.call}))"
        ),
        told=Told(
            (
                "id",
                "space_id",
                "author_id",
                "title",
                "status",
                "assigned_to",
                "due_at",
                "published_at",
                "created_at",
                "updated_at",
            ),
            space=_WHOLE_SPACE,
            events=(
                Occurs("note:published", ("INSERT",), "new.status = 'published'"),
                Occurs(
                    "note:published",
                    ("UPDATE",),
                    "new.status = 'published' AND old.status <> 'published'",
                ),
            ),
            old_rows=True,
        ),
    ),
)
_one_of(notes, "status", "draft", "published")
_index("notes_space", "notes", "space_id")
_index("notes_author", "notes", "author_id")
_index("notes_assigned", "notes", "assigned_to")

note_blocks = sa.Table(
    "note_blocks",
    metadata,
    _id(),
    _refers_to("note_id", "notes"),
    _text("type"),
    _json("content", "What the block holds, by its type."),
    _position(),
    _created(),
    _updated(),
    info=_info(
        "Texts, tasks and links of which a note is made.",
        rights=_OF_NOTE,
        told=Told(
            ("id", "note_id", "type", "content", "position", "created_at", "updated_at"),
            space="(SELECT n.space_id FROM public.notes AS n WHERE n.id = r.note_id)",
        ),
    ),
)
_one_of(note_blocks, "type", "text", "todo", "link")
_index("note_blocks_note", "note_blocks", "note_id", "position")

lessons = sa.Table(
    "lessons",
    metadata,
    _id(),
    _refers_to("space_id", "spaces"),
    _text("title"),
    _text("description", optional=True),
    _text("cover_image_url", optional=True),
    _text("availability", default="always"),
    _moment("available_at", "From when it can be taken."),
    _created(),
    _updated(),
    info=_info("Lessons of a space.", rights=_OF_SPACE),
)
_one_of(lessons, "availability", "always", "date", "prereq")
_index("lessons_space", "lessons", "space_id")

lesson_topics = sa.Table(
    "lesson_topics",
    metadata,
    _id(),
    _refers_to("lesson_id", "lessons"),
    _text("title"),
    _text("body", optional=True),
    _text("youtube_url", optional=True),
    _position(),
    _created(),
    _updated(),
    info=_info("The parts of a lesson.", rights=_OF_LESSON),
)
_index("lesson_topics_lesson", "lesson_topics", "lesson_id", "position")

progress = sa.Table(
    "progress",
    metadata,
    _id(),
    _refers_to("user_id", "users"),
    _refers_to("lesson_id", "lessons"),
    sa.Column("topic_id", sa.Integer, sa.ForeignKey("lesson_topics.id", ondelete="CASCADE")),
    _text("status", default="not_started"),
    _updated(),
    info=_info(
        "How far who has come in which lesson.",
        rights=_OF_LESSON,
        told=Told(
            ("id", "user_id", "lesson_id", "topic_id", "status", "updated_at"),
            space="(SELECT l.space_id FROM public.lessons AS l WHERE l.id = r.lesson_id)",
            events=(Occurs("progress:updated", ("INSERT", "UPDATE")),),
        ),
    ),
)
_one_of(progress, "status", "not_started", "in_progress", "completed")
_index("progress_user", "progress", "user_id")
_index("progress_lesson", "progress", "lesson_id")
_index("progress_topic", "progress", "topic_id")

notifications = sa.Table(
    "notifications",
    metadata,
    _id(),
    _refers_to("user_id", "users"),
    _text("type"),
    _json("payload", "What happened, by its type."),
    sa.Column("read", sa.Boolean, nullable=False, server_default=sa.false()),
    _created(),
    info=_info(
        "What a person is to be told.",
        rights=_OWN,
        stamp=False,
        changed_by="created_at",
        told=Told(
            ("id", "user_id", "type", "payload", "read", "created_at"),
            user="r.user_id",
        ),
    ),
)
_index("notifications_user", "notifications", "user_id", "created_at")

auth_user = sa.Table(
    "user",
    metadata,
    _text_id(),
    _text("name"),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    sa.Column("email_verified", sa.Boolean, nullable=False, server_default=sa.false()),
    _text("image", optional=True),
    _created(),
    _updated(),
    info=_info("Better Auth: who can sign in.", rights=_HIDDEN),
)


def _of_user() -> sa.Column[str]:
    return sa.Column(
        "user_id", sa.Text, sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False
    )


auth_session = sa.Table(
    "session",
    metadata,
    _text_id(),
    _moment("expires_at", "Until when it is valid."),
    sa.Column(
        "token",
        sa.Text,
        nullable=False,
        unique=True,
        info=ColumnRules("What the browser shows to be known again.", secret=True).info,
    ),
    _text("ip_address", optional=True),
    _text("user_agent", optional=True),
    _of_user(),
    _created(),
    _updated(),
    info=_info("Better Auth: who is signed in, and until when.", rights=_HIDDEN),
)
_index("session_user", "session", "user_id")

auth_account = sa.Table(
    "account",
    metadata,
    _text_id(),
    _text("account_id"),
    _text("provider_id"),
    _of_user(),
    _secret("access_token", optional=True),
    _secret("refresh_token", optional=True),
    _secret("id_token", optional=True),
    _moment("access_token_expires_at", "Until when the access token is valid."),
    _moment("refresh_token_expires_at", "Until when the refresh token is valid."),
    _text("scope", optional=True),
    _secret("password", optional=True),
    _created(),
    _updated(),
    info=_info("Better Auth: by what a user signs in.", rights=_HIDDEN),
)
_index("account_user", "account", "user_id")

auth_verification = sa.Table(
    "verification",
    metadata,
    _text_id(),
    _text("identifier"),
    _secret("value"),
    _moment("expires_at", "Until when it is valid."),
    _created(),
    _updated(),
    info=_info("Better Auth: codes and links that wait to be used.", rights=_HIDDEN),
)
_index("verification_identifier", "verification", "identifier")

SPACES = Migration(
    "spaces",
    metadata,
    setting="SPACES_DATABASE_URL",
    make_sample=make_sample,
    owners=("team:group-spaces",),
    beside=(Realtime(),),
)
"""The group-spaces application."""
