"""A source with its application, a target, and an operator who cuts over and goes back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from pipeline.cutover import back, states, steps
from pipeline.cutover.gate import Answer
from pipeline.cutover.steps import Site
from pipeline.move.policies import DEFAULT
from pipeline.move.target import Target
from pipeline.resources import SourceDatabase
from pipeline.tables.content import metadata
from pipeline_tests.support import SourceFile, query

TABLES = metadata.sorted_tables
NAMES = [table.name for table in TABLES]
YES = [Answer("all else", True, "is well")]


class World:
    """A source with an application, a target, and what an operator does with them."""

    def __init__(self, source: SourceFile, url: str, folder: Path) -> None:
        """Nothing is moved yet."""
        self.source, self.url, self.folder = source, url, folder
        self.said: list[str] = []
        self.policies = DEFAULT

    @contextmanager
    def site(self) -> Iterator[Site]:
        """Both databases, under the lock."""
        sources = SourceDatabase()
        with (
            dg.build_resources({"source": sources}) as made,
            Target.connect(self.url, shown="the target") as target,
            target.lock(seconds=0),
        ):
            yield Site(
                self.source.path,
                made.source,
                target,
                TABLES,
                "cutover",
                self.policies,
                0.25,
                self.said.append,
            )

    def freeze(self, outside: Sequence[Answer] = YES) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.freeze(site, outside=outside)

    def live(self, outside: Sequence[Answer] = YES) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.go_live(site, outside=outside)

    def thaw(self) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.thaw(site)

    def close(self) -> steps.Outcome:
        """As the command."""
        with self.site() as site:
            return steps.close(site)

    def rollback(self) -> list[back.Returned]:
        """As the command."""
        with self.site() as site:
            return back.roll_back(site, self.folder / "back")

    def ask(self) -> dict[str, str]:
        """What the gate's answers say; those that are no begin with it."""
        with self.site() as site:
            found = steps.ask(site)
        return {a.question: a.says if a.yes else f"no: {a.says}" for a in found}

    @property
    def state(self) -> str:
        """Who may write."""
        with Target.connect(self.url, shown="the target") as target:
            return states.read(target).state

    def do(self, sql: str) -> None:
        """What the application does in the target."""
        query(self.url, sql)
