"""The options of a run: one configuration for all its tables, a resource in the launchpad."""

from typing import Any

import dagster as dg
from pydantic import Field

from pipeline.core.errors import SettingsError
from pipeline.move.run.scope import ChangesOnly, Everything, Scope, Subset

_KEY = "options"


class RunOptions(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Which rows a run moves, and how thoroughly it verifies."""

    only_changes: bool = Field(
        default=False,
        description=(
            "Move only what changed in the source since the last run. Where the changes cannot be"
            " determined, the run compares every value."
        ),
    )
    retry_rejected: bool = Field(
        default=False,
        description="Try quarantined rows again even if the source has not changed.",
    )
    only_content: list[int] = Field(
        default=[],
        description="Move only the rows of the root table with these ids, and the rows that"
        " belong to them.",
    )
    limit: int | None = Field(
        default=None,
        description="Move only the first rows of the root table, at most this many, and the rows"
        " that belong to them.",
    )
    deep: bool = Field(
        default=False,
        description="Verification only: the check witness reads every row, not a sample.",
    )

    @property
    def scope(self) -> Scope:
        """Which rows move.

        Raises:
            SettingsError: the options contradict each other.
        """
        subset = Subset.of(self.only_content, self.limit)
        if subset is not None and (self.only_changes or self.retry_rejected):
            raise SettingsError(
                "A subset cannot be combined with a sync or a redrive",
                remedy="Leave out only_changes and retry_rejected, or only_content and limit",
            )
        if subset is not None:
            return subset
        return ChangesOnly(self.retry_rejected) if self.only_changes else Everything()


def resource() -> dict[str, RunOptions]:
    """The resource under the name that the steps ask for."""
    return {_KEY: RunOptions()}


def run_config(**options: Any) -> dict[str, Any]:
    """A run's configuration with these options; the others keep their defaults."""
    return {"resources": {_KEY: {"config": options}}}
