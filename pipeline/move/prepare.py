"""A table made ready to move: matched with the source, its contract compiled, surveyed."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import sqlalchemy as sa

from pipeline.move.contract import Contract, contract_of
from pipeline.move.extract import Source, Survey
from pipeline.move.landing import Landing, match


@dataclass(frozen=True)
class Prepared:
    """A table that has been matched and surveyed, ready to move."""

    landing: Landing
    contract: Contract
    survey: Survey


def prepare(declared: sa.Table, source: Source) -> Prepared:
    """Match a table with the source and look once at every row.

    Raises:
        SourceError: the source lacks what the table needs, or cannot be read.
    """
    landing = match(declared, source.columns(declared.name))
    contract = contract_of(landing)
    return Prepared(landing, contract, source.survey(landing, contract))


class Preparer:
    """Prepares the tables of a run; while one table moves, the next ones are surveyed."""

    def __init__(self, source: Source, worker: ThreadPoolExecutor) -> None:
        """Use ``Preparer.over``."""
        self._source = source
        self._worker = worker
        self._started: dict[str, Future[Prepared]] = {}

    @classmethod
    @contextmanager
    def over(cls, source: Source) -> Iterator[Self]:
        """A preparer with a thread of its own."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        try:
            yield cls(source, worker)
        finally:
            worker.shutdown(cancel_futures=True)

    def prepared(self, table: sa.Table, *, upcoming: Iterable[sa.Table] = ()) -> Prepared:
        """A table, ready to move.

        Args:
            table: the table that moves now.
            upcoming: tables that move later in this run.

        Raises:
            SourceError: the source lacks what the table needs, or cannot be read.
        """
        for each in (table, *upcoming):
            if each.name not in self._started:
                self._started[each.name] = self._worker.submit(prepare, each, self._source)
        return self._started.pop(table.name).result()
