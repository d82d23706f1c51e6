"""Errors of the services."""

from typing import Self

import sqlalchemy as sa
from pydantic import ValidationError

from pipeline.core.errors import PipelineError, first_line


class NotFound(PipelineError):
    """There is no row with this id."""

    @classmethod
    def of(cls, table: str, number: int) -> Self:
        """Name the missing row."""
        return cls(f"{table} has no row {number}", remedy="Check the id")


class Refused(PipelineError):
    """A value or a key is invalid; nothing was changed."""

    @classmethod
    def by_database(cls, error: sa.exc.DBAPIError, *, where: str) -> Self:
        """The message of a database."""
        detail = getattr(getattr(error.orig, "diag", None), "message_detail", None)
        problem = first_line(str(error.orig))
        return cls(
            f"{where} rejected the change: {problem}{f' ({detail})' if detail else ''}",
            remedy="Nothing was changed; correct the value",
        )

    @classmethod
    def by_model(cls, error: ValidationError, *, where: str) -> Self:
        """The message of a model about the first invalid value."""
        return cls(f"{where}: {_first(error)}", remedy="Nothing was changed; correct the value")


class Unreadable(PipelineError):
    """A stored row contains a value that the application does not write."""

    @classmethod
    def of(cls, table: str, number: object, problem: str) -> Self:
        """Name the row and the problem."""
        return cls(f"{table} {number}: {problem}", remedy="Correct this row in the database")

    @classmethod
    def by_model(cls, table: str, number: object, error: ValidationError) -> Self:
        """Name the row and the first invalid value."""
        return cls.of(table, number, _first(error))


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
