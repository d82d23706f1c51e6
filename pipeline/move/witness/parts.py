"""Parts of a table, by their keys: what one digest covers."""

from dataclasses import dataclass

Key = int | str


@dataclass(frozen=True)
class KeyRange:
    """Rows whose keys lie above ``after`` and not above ``upto``; None means no bound."""

    after: Key | None = None
    upto: Key | None = None


@dataclass(frozen=True)
class KeySet:
    """Rows that have one of these keys."""

    keys: tuple[Key, ...]


Part = KeyRange | KeySet


def sound(key: object, kind: type) -> bool:
    """Whether a key of the source can be the bound of a range on both sides."""
    if kind is int:
        return isinstance(key, int)
    if not isinstance(key, bytes) or b"\0" in key:
        return False
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
