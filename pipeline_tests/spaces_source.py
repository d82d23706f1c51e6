"""A source of group spaces with people in two of them."""

from pipeline_tests.spaces_world import add
from pipeline_tests.support import SourceFile


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
