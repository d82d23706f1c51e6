"""A sample source: a small SQLite file with the schema of the group-spaces application.

A few users learn Thai in three spaces: members, messages, notes, lessons, progress and credentials.
As in the application, dates are ISO text, booleans are 0 and 1, and JSON is text that is sometimes
encoded twice. Rows with ids from 9001 have one fault each. The same seed produces the same rows.
"""

import json
import random
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.migrations.sample_file import Row, insert, numbered, write

SCHEMA = """
CREATE TABLE `users` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `auth_provider_id` text NOT NULL, `email` text NOT NULL, `name` text, `avatar_url` text,
    `bio` text, `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE UNIQUE INDEX `users_auth_provider_id_unique` ON `users` (`auth_provider_id`);
CREATE UNIQUE INDEX `users_email_unique` ON `users` (`email`);
CREATE TABLE `spaces` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `owner_id` integer NOT NULL REFERENCES `users`(`id`), `name` text NOT NULL,
    `slug` text NOT NULL, `description` text, `cover_image_url` text, `theme_color` text,
    `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE UNIQUE INDEX `spaces_slug_unique` ON `spaces` (`slug`);
CREATE TABLE `space_members` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `space_id` integer NOT NULL REFERENCES `spaces`(`id`),
    `user_id` integer NOT NULL REFERENCES `users`(`id`), `role` text DEFAULT 'member' NOT NULL,
    `status` text DEFAULT 'active' NOT NULL, `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
CREATE TABLE `messages` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `space_id` integer NOT NULL REFERENCES `spaces`(`id`),
    `user_id` integer NOT NULL REFERENCES `users`(`id`), `content` text NOT NULL,
    `attachments` text, `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE TABLE `notes` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `space_id` integer NOT NULL REFERENCES `spaces`(`id`),
    `author_id` integer NOT NULL REFERENCES `users`(`id`), `title` text NOT NULL,
    `status` text DEFAULT 'draft' NOT NULL, `assigned_to` integer REFERENCES `users`(`id`),
    `due_at` text, `published_at` text, `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE TABLE `note_blocks` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `note_id` integer NOT NULL REFERENCES `notes`(`id`), `type` text NOT NULL, `content` text,
    `position` integer DEFAULT 0 NOT NULL, `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE TABLE `lessons` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `space_id` integer NOT NULL REFERENCES `spaces`(`id`), `title` text NOT NULL,
    `description` text, `cover_image_url` text, `availability` text DEFAULT 'always' NOT NULL,
    `available_at` text, `created_at` text NOT NULL, `updated_at` text NOT NULL);
CREATE TABLE `lesson_topics` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `lesson_id` integer NOT NULL REFERENCES `lessons`(`id`), `title` text NOT NULL, `body` text,
    `youtube_url` text, `position` integer DEFAULT 0 NOT NULL, `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
CREATE TABLE `progress` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `user_id` integer NOT NULL REFERENCES `users`(`id`),
    `lesson_id` integer NOT NULL REFERENCES `lessons`(`id`),
    `topic_id` integer REFERENCES `lesson_topics`(`id`),
    `status` text DEFAULT 'not_started' NOT NULL, `updated_at` text NOT NULL);
CREATE TABLE `notifications` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
    `user_id` integer NOT NULL REFERENCES `users`(`id`), `type` text NOT NULL, `payload` text,
    `read` integer DEFAULT 0 NOT NULL, `created_at` text NOT NULL);
CREATE TABLE `user` (`id` text PRIMARY KEY NOT NULL, `name` text NOT NULL, `email` text NOT NULL,
    `email_verified` integer DEFAULT 0 NOT NULL, `image` text, `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
CREATE UNIQUE INDEX `user_email_unique` ON `user` (`email`);
CREATE TABLE `session` (`id` text PRIMARY KEY NOT NULL, `expires_at` text NOT NULL,
    `token` text NOT NULL, `ip_address` text, `user_agent` text,
    `user_id` text NOT NULL REFERENCES `user`(`id`), `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
CREATE UNIQUE INDEX `session_token_unique` ON `session` (`token`);
CREATE TABLE `account` (`id` text PRIMARY KEY NOT NULL, `account_id` text NOT NULL,
    `provider_id` text NOT NULL, `user_id` text NOT NULL REFERENCES `user`(`id`),
    `access_token` text, `refresh_token` text, `id_token` text, `access_token_expires_at` text,
    `refresh_token_expires_at` text, `scope` text, `password` text, `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
CREATE TABLE `verification` (`id` text PRIMARY KEY NOT NULL, `identifier` text NOT NULL,
    `value` text NOT NULL, `expires_at` text NOT NULL, `created_at` text NOT NULL,
    `updated_at` text NOT NULL);
"""
"""The schema in the form that Drizzle creates for libSQL."""

_FLAWS = """
INSERT INTO space_members VALUES
    -- The target takes owner, admin and member.
    (9001, 1, 7, 'guest', 'active', '2025-03-04T08:00:00.000Z', '2025-03-04T08:00:00.000Z'),
    -- This person is a member of this space already.
    (9002, 1, 1, 'member', 'active', '2025-03-04T08:01:00.000Z', '2025-03-04T08:01:00.000Z');
INSERT INTO messages VALUES
    -- Space 99999 does not exist.
    (9001, 99999, 1, 'Is anybody there?', NULL, '2025-03-05T08:00:00.000Z',
     '2025-03-05T08:00:00.000Z'),
    -- attachments are no JSON.
    (9002, 1, 1, 'Look at this.', '[{name: "cat.png"}]', '2025-03-05T08:01:00.000Z',
     '2025-03-05T08:01:00.000Z'),
    -- updated_at is no date.
    (9003, 1, 2, 'See you on Tuesday.', '[]', '2025-03-05T08:02:00.000Z', 'yesterday');
INSERT INTO note_blocks VALUES
    -- The target takes text, todo and link.
    (9001, 1, 'image', '{"url": "https://example.org/cat.png"}', 9, '2025-03-06T08:00:00.000Z',
     '2025-03-06T08:00:00.000Z');
INSERT INTO notifications VALUES
    -- A truth value is 0 or 1.
    (9001, 1, 'mention', '{"message_id": 1}', 2, '2025-03-07T08:00:00.000Z');
"""

_PEOPLE = ["Somchai", "Malee", "Nok", "Anong", "Kittisak", "Ploy", "Ann", "ใบเตย"]
_SPACES = [("Thai from zero", "thai-from-zero"), ("อ่านเขียน", "read-and-write"), ("Tones", "tones")]
_TALK = [
    "สวัสดีครับ 🙏",
    "How do I say “see you tomorrow”?",
    "พรุ่งนี้เจอกันนะคะ",
    "The falling tone of ไม่ is still hard for me.",
    "Listen to the second recording, it helped me.",
    "ขอบคุณมาก!",
]
_LESSONS = ["Greetings", "Numbers", "At the market", "Five tones"]
_START = datetime(2025, 1, 6, 9, 30, tzinfo=UTC)


def make_sample(path: Path, *, seed: int = 11) -> None:
    """Create a sample source with fourteen tables, faulty rows included.

    Raises:
        FileExistsError: the path exists; it does not change.
    """
    write(path, lambda source: _fill(source, random.Random(seed)))


def _fill(source: sqlite3.Connection, rng: random.Random) -> None:
    source.executescript(SCHEMA)
    people = range(1, len(_PEOPLE) + 1)
    insert(source, "user", [_auth_user(rng, i) for i in people])
    insert(source, "session", [_session(rng, i) for i in people])
    insert(source, "account", [_account(rng, i) for i in people])
    expires = _stamp(_START + timedelta(days=400))
    insert(
        source,
        "verification",
        [("ver_1", "ann@example.org", _token(rng), expires, *_stamps(rng))],
    )
    insert(source, "users", numbered(_user(rng, i) for i in people))
    insert(source, "spaces", [_space(rng, i) for i in range(1, len(_SPACES) + 1)])
    members = _members(rng)
    insert(source, "space_members", numbered(members))
    together = [(space, user) for space, user, *_ in members]
    insert(source, "messages", numbered(_message(rng, together) for _ in range(180)))
    notes = [_note(rng, together) for _ in range(24)]
    insert(source, "notes", numbered(notes))
    insert(
        source,
        "note_blocks",
        numbered(_block(rng, note, at) for note in range(1, 25) for at in range(3)),
    )
    lessons = [(space, title) for space in (1, 2, 3) for title in _LESSONS]
    insert(source, "lessons", numbered(_lesson(rng, *lesson) for lesson in lessons))
    topics = [(lesson, at) for lesson in range(1, len(lessons) + 1) for at in range(3)]
    insert(source, "lesson_topics", numbered(_topic(rng, *topic) for topic in topics))
    insert(source, "progress", numbered(_progress(rng, topics) for _ in range(60)))
    insert(source, "notifications", numbered(_notification(rng) for _ in range(40)))
    source.executescript(_FLAWS)


def _auth_user(rng: random.Random, i: int) -> Row:
    return f"usr_{i:02}", _PEOPLE[i - 1], f"person{i}@example.org", i % 2, None, *_stamps(rng)


def _session(rng: random.Random, i: int) -> Row:
    expires = _stamp(_START + timedelta(days=rng.randrange(300, 900)))
    return f"ses_{i:02}", expires, _token(rng), "198.51.100.7", None, f"usr_{i:02}", *_stamps(rng)


def _account(rng: random.Random, i: int) -> Row:
    hashed = f"{_token(rng)}:{_token(rng)}{_token(rng)}"
    nothing = (None,) * 6
    user = f"usr_{i:02}"
    return f"acc_{i:02}", user, "credential", user, *nothing, hashed, *_stamps(rng)


def _user(rng: random.Random, i: int) -> Row:
    bio = rng.choice(["Learning since 2019.", "ครูภาษาไทย", None])
    return f"usr_{i:02}", f"person{i}@example.org", _PEOPLE[i - 1], None, bio, *_stamps(rng)


def _space(rng: random.Random, i: int) -> Row:
    name, slug = _SPACES[i - 1]
    return i, i, name, slug, None, None, rng.choice(["#0ea5e9", "#f97316", None]), *_stamps(rng)


def _members(rng: random.Random) -> list[Row]:
    found: list[Row] = []
    for space in range(1, len(_SPACES) + 1):
        for user in sorted({space, *rng.sample(range(1, 7), 4)}):
            role = "owner" if user == space else rng.choice(["admin", "member", "member"])
            status = "active" if role == "owner" else rng.choice(["active", "active", "invited"])
            found.append((space, user, role, status, *_stamps(rng)))
    return found


def _message(rng: random.Random, together: Sequence[tuple[object, object]]) -> Row:
    files = [{"name": "cat.png", "bytes": rng.randrange(1000, 90000)}] * rng.choice([0, 0, 1, 2])
    return *rng.choice(together), rng.choice(_TALK), _json(rng, files), *_stamps(rng)


def _note(rng: random.Random, together: Sequence[tuple[object, object]]) -> Row:
    space, author = rng.choice(together)
    made, changed = _stamps(rng)
    status, at = rng.choice([("draft", None), ("published", changed), ("published", changed)])
    return space, author, f"Notes on {rng.choice(_LESSONS)}", status, None, None, at, made, changed


def _block(rng: random.Random, note: int, at: int) -> Row:
    kind = ("text", "todo", "link")[at]
    content = {
        "text": {"text": rng.choice(_TALK)},
        "todo": {"text": "Practise", "done": rng.random() < 0.5},
        "link": {"url": "https://example.org/tones", "title": "Tones"},
    }[kind]
    return note, kind, _json(rng, content), at, *_stamps(rng)


def _lesson(rng: random.Random, space: int, title: str) -> Row:
    when = rng.choice([None, _stamp(_START + timedelta(days=rng.randrange(500)))])
    return space, title, None, None, "date" if when else "always", when, *_stamps(rng)


def _topic(rng: random.Random, lesson: int, at: int) -> Row:
    return lesson, f"Part {at + 1}", rng.choice(_TALK), None, at, *_stamps(rng)


def _progress(rng: random.Random, topics: Sequence[tuple[int, int]]) -> Row:
    at = rng.randrange(len(topics))
    lesson, status = topics[at][0], rng.choice(["not_started", "in_progress", "completed"])
    return rng.randint(1, len(_PEOPLE)), lesson, rng.choice([at + 1, None]), status, _stamps(rng)[1]


def _notification(rng: random.Random) -> Row:
    kind = rng.choice(["mention", "invited", "published"])
    payload = _json(rng, {"message_id": rng.randint(1, 180)})
    return rng.randint(1, len(_PEOPLE)), kind, payload, rng.randint(0, 1), _stamps(rng)[0]


def _json(rng: random.Random, value: object) -> str | None:
    """The JSON of a value, sometimes encoded twice, sometimes NULL."""
    once = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return rng.choices([once, json.dumps(once, ensure_ascii=False), None], weights=[80, 12, 8])[0]


def _token(rng: random.Random) -> str:
    return rng.randbytes(16).hex()


def _stamps(rng: random.Random) -> tuple[str, str]:
    made = _START + timedelta(milliseconds=rng.randrange(200 * 86_400_000))
    return _stamp(made), _stamp(made + timedelta(milliseconds=rng.randrange(30 * 86_400_000)))


def _stamp(moment: datetime) -> str:
    """A date in the format of JavaScript."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
