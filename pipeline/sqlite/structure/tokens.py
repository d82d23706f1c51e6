"""Words of a statement, as SQLite divides it."""

import re
from collections.abc import Iterator

_PIECE = re.compile(
    r"""[^'"`\[()/-]++ | '(?:[^']|'')*+' | "(?:[^"]|"")*+" | `(?:[^`]|``)*+` | \[[^\]]*+\]
      | --[^\n]*+ | /\*.*?(?:\*/|\Z) | .""",
    re.X | re.S,
)
"""Strings, names in quotation marks, comments, parentheses, and what is between them."""

_WORD = re.compile(
    r"[ \t\n\f\r\ufeff]++|[A-Za-z0-9_$\x80-\U0010ffff]++|.",
    re.S,
)
"""To SQLite, every character beyond ASCII belongs to a name, even a blank; only a byte order mark
does not begin one."""

_BLANKS = " \t\n\f\r\ufeff"
_QUOTES = "'\"`"
_MARKS = _QUOTES + "["


def flat(sql: str) -> list[str]:
    """The words of a statement, without blanks and comments; a parenthesis is a word."""
    return words([word for piece in _pieces(sql) for word in _divided(piece)])


def nested(sql: str) -> list[str]:
    """The words of a text and the blanks between them; what parentheses enclose is one word.

    Together they are the text, with a blank for each comment.
    """
    return _nested(_pieces(sql))


def body(sql: str) -> list[str]:
    """What the first parentheses of a statement enclose, as ``nested``."""
    pieces = _pieces(sql)
    return _nested(pieces[pieces.index("(") + 1 :])


def words(pieces: list[str]) -> list[str]:
    """Without blanks."""
    return [piece for piece in pieces if piece[0] not in _BLANKS]


def split(pieces: list[str]) -> Iterator[list[str]]:
    """Parts between commas."""
    begins = 0
    for number, piece in enumerate(pieces):
        if piece == ",":
            yield pieces[begins:number]
            begins = number + 1
    yield pieces[begins:]


def keyword(word: str) -> str:
    """A word in upper case; a name in quotation marks keeps them and equals no keyword."""
    return word.upper() if word.isascii() else word


def has_keyword(sql: str, reserved: str) -> bool:
    """Whether a statement contains a word that SQLite reserves, given in upper case."""
    return reserved in sql.upper() and any(
        reserved in map(keyword, _divided(piece))
        for piece in _pieces(sql)
        if reserved in piece.upper()
    )


def name(word: str) -> str:
    """A name without its quotation marks."""
    mark = word[0]
    if mark == "[":
        return word[1:-1]
    return word[1:-1].replace(2 * mark, mark) if mark in _QUOTES and len(word) > 1 else word


def expression(text: str) -> str:
    """An expression without comments and outer blanks."""
    if "--" in text or "/*" in text:
        text = "".join(_pieces(text))
    return text.strip(_BLANKS)


def _pieces(sql: str) -> list[str]:
    return [" " if piece[:2] in ("--", "/*") else piece for piece in _PIECE.findall(sql)]


def _divided(piece: str) -> list[str]:
    return [piece] if piece[0] in _MARKS else _WORD.findall(piece)


def _nested(pieces: list[str]) -> list[str]:
    """Divide pieces as ``nested``, up to a parenthesis that closes what surrounds them."""
    found: list[str] = []
    group: list[str] = []
    depth = 0
    for piece in pieces:
        depth += piece == "("
        if depth:
            group.append(piece)
            depth -= piece == ")"
            if not depth:
                found.append("".join(group))
                group = []
        elif piece == ")":
            break
        else:
            found += _divided(piece)
    return found
