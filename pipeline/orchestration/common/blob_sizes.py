"""Sizes of the BLOBs of a committed table, for the evidence of a move."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipeline.core.quoting import quoted
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target
from pipeline.reporting import evidence_page


@dataclass(frozen=True)
class BlobSizes:
    """How large the BLOBs of a column are.

    Attributes:
        column: the column.
        values: how many there are.
        bytes: all of them together.
        by_power: n -> how many have 2**n bytes or more, and less than 2**(n+1); empty ones are
            with those of one byte.
    """

    column: str
    values: int
    bytes: int
    by_power: dict[int, int]

    @property
    def histogram(self) -> list[tuple[str, int, float]]:
        """From the smallest to the largest: the sizes, how many, and percent of the most."""
        if not self.by_power:
            return []
        most = max(self.by_power.values())
        return [
            (evidence_page.between(power), count, 100 * count / most)
            for power in range(min(self.by_power), max(self.by_power) + 1)
            for count in [self.by_power.get(power, 0)]
        ]


def blob_sizes(target: Target, table: sa.Table) -> list[BlobSizes]:
    """How large the BLOBs of a committed table are; they are weighed, not read."""
    return [target.answer(question) for question in questions(table)]


def questions(table: sa.Table) -> list[Question[BlobSizes]]:
    """The question for the sizes of each column with BLOBs."""
    columns = (column for column in table.columns if isinstance(column.type, sa.LargeBinary))
    return [_ask(table, column) for column in columns]


def _ask(table: sa.Table, column: sa.Column[Any]) -> Question[BlobSizes]:
    size = f"octet_length({quoted(column.name)})"
    return Question(
        f"SELECT floor(log(2, greatest({size}, 1)))::integer AS power, count(*) AS values,"
        f" sum({size})::bigint AS bytes FROM {quoted(table.name)}"
        f" WHERE {quoted(column.name)} IS NOT NULL GROUP BY 1 ORDER BY 1",
        (),
        lambda rows: BlobSizes(
            column.name,
            sum(count for _, count, _ in rows),
            sum(total for _, _, total in rows),
            {power: count for power, count, _ in rows},
        ),
    )
