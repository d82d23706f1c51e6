"""Names for statements that may take long, for people who wait for them."""

import contextlib
import re
from contextlib import AbstractContextManager

from pipeline.core.progress import waiting

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_LONG = (
    (rf"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?({_NAME})", "building index {}"),
    (rf"ADD CONSTRAINT ({_NAME}) (?:PRIMARY KEY|UNIQUE)", "building key {}"),
    (rf"ADD CONSTRAINT ({_NAME}) (?:FOREIGN KEY|CHECK)", "checking {}"),
    (rf"VALIDATE CONSTRAINT ({_NAME})", "checking {}"),
    (rf"^ANALYZE ({_NAME})", "analyzing {}"),
    (rf"LOCK TABLE (?:ONLY )?(?:public\.)?({_NAME})", "waiting for other sessions that use {}"),
    (r"^(COMMIT)\b", "committing"),
)
_ALL = re.compile("|".join(pattern for pattern, _ in _LONG), re.MULTILINE)


def named(statement: str) -> AbstractContextManager[None]:
    """Show what a statement does while it is executed, if it may take long."""
    found = describe(statement)
    return contextlib.nullcontext() if found is None else waiting(found)


def describe(statement: str) -> str | None:
    """What statements do, in words; None if none of them takes long."""
    found = []
    for match in _ALL.finditer(statement):
        number = next(n for n, name in enumerate(match.groups()) if name is not None)
        found.append(_LONG[number][1].format((match[number + 1] or "").strip('"')))
    return ", ".join(found) or None
