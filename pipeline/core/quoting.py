"""Names and texts as SQL writes them, on both sides."""


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever it is made of."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
