"""What the services refuse, as types whose text says what and what to do."""

from typing import Self

import sqlalchemy as sa

from pipeline.move.errors import PipelineError, first_line


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
