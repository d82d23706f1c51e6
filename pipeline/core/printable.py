"""Texts of the source as they may be shown: a terminal obeys nothing in them."""

import json
import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control, format (directions, joiners), surrogate, line, paragraph."""


def printable(text: str) -> str:
    """A text with all that a terminal would obey, or that hides or turns letters, spelled out.

    It is spelled as in JSON, so that a JSON text of one line stays what it is.
    """
    if text.isprintable():
        return text
    return "".join(
        json.dumps(letter)[1:-1] if unicodedata.category(letter) in _UNSEEN else letter
        for letter in text
    )
