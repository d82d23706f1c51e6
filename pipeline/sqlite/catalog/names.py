"""Names from the schema of a file."""


def as_text(name: object) -> str:
    """A name from the catalog; a connection for rows of the source returns text as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)
