"""Parts of a table by their keys; one digest covers one part."""

from dataclasses import dataclass

Key = int | str


@dataclass(frozen=True)
class KeyRange:
    """Rows with keys above ``after`` and up to ``upto``; None means no bound."""

    after: Key | None = None
    upto: Key | None = None


@dataclass(frozen=True)
class KeySet:
    """Rows with one of these keys."""

    keys: tuple[Key, ...]


Part = KeyRange | KeySet


def is_valid_key(key: object, kind: type) -> bool:
    """Whether a key of the source can be a bound of a range on both sides."""
    if kind is int:
        return isinstance(key, int)
    if not isinstance(key, bytes) or b"\0" in key:
        return False
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
