"""LIKE and GLOB."""

from pipeline.copy.expressions.language.values import (
    Untranslatable,
    Value,
    described,
    of_text,
    text,
    text_literal,
)

_SPECIAL = frozenset(r"\^$.|?*+()[]{}")


def like(value: Value, pattern: Value, escape: str | None) -> Value:
    """SQLite's LIKE ignores the case of ASCII letters and has no escape character of its own."""
    subject, letters = text(value), text(pattern)
    plain = letters.literal is not None and "\\" not in letters.literal
    ending = f" ESCAPE {of_text(escape).sql}" if escape else "" if plain else " ESCAPE ''"
    return Value(f"({subject.sql} ILIKE {letters.sql}{ending})", "boolean")


def glob(value: Value, pattern: Value) -> Value:
    """GLOB as a regular expression."""
    if pattern.literal is None or pattern.family != "text":
        raise Untranslatable("uses GLOB with a pattern that is not a literal")
    if value.family not in ("text", "integer", "json_value"):
        raise Untranslatable(f"uses GLOB with {described(value)}")
    return Value(f"({text(value).sql} ~ {text_literal(regular(pattern.literal))})", "boolean")


def regular(pattern: str) -> str:
    """A pattern of GLOB as a regular expression of PostgreSQL.

    Raises:
        Untranslatable: a set of characters has no end.
    """
    written, place = [], 0
    while place < len(pattern):
        letter = pattern[place]
        place += 1
        if letter == "*":
            written.append(".*")
        elif letter == "?":
            written.append(".")
        elif letter == "[":
            found, place = _characters(pattern, place)
            written.append(found)
        else:
            written.append(f"\\{letter}" if letter in _SPECIAL else letter)
    return f"^{''.join(written)}$"


def _characters(pattern: str, place: int) -> tuple[str, int]:
    """A set of characters, and the place behind it."""
    inverted = pattern[place : place + 1] == "^"
    start = place + inverted
    end = pattern.find("]", start + 1)
    if end < 0:
        raise Untranslatable("uses GLOB with a set of characters that has no end")
    # A range is kept; all other characters lose their meaning.
    letters = "".join(f"\\{each}" if each in "\\[]^" else each for each in pattern[start:end])
    return f"[{'^' if inverted else ''}{letters}]", end + 1
