"""What the services refuse, as types whose text says what and what to do."""

from typing import Self

import sqlalchemy as sa
from pydantic import ValidationError

from pipeline.core.errors import PipelineError, first_line


class NotFound(PipelineError):
    """There is no row with this id."""

    @classmethod
    def of(cls, table: str, number: int) -> Self:
        """Name the row that is not there."""
        return cls(f"{table} has no row {number}", remedy="Check the id")


class Refused(PipelineError):
    """A value or a key that cannot be taken; nothing was changed."""

    @classmethod
    def by_database(cls, error: sa.exc.DBAPIError, *, where: str) -> Self:
        """What a database said when it refused."""
        detail = getattr(getattr(error.orig, "diag", None), "message_detail", None)
        said = first_line(str(error.orig))
        return cls(
            f"{where} refused: {said}{f' ({detail})' if detail else ''}",
            remedy="Nothing was changed; correct the value",
        )

    @classmethod
    def by_model(cls, error: ValidationError, *, where: str) -> Self:
        """What a model said of the first value that it refused."""
        return cls(f"{where}: {_first(error)}", remedy="Nothing was changed; correct the value")


class Unreadable(PipelineError):
    """A row is there, but something in it is not what the application writes."""

    @classmethod
    def of(cls, table: str, number: object, problem: str) -> Self:
        """Name the row, and what is wrong with it."""
        return cls(f"{table} {number}: {problem}", remedy="Correct it in the database")

    @classmethod
    def by_model(cls, table: str, number: object, error: ValidationError) -> Self:
        """Name the row, and what its model said of the first value that it refused."""
        return cls.of(table, number, _first(error))


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
