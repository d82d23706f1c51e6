"""How a step ends that failed: it is tried again when the connection was lost, and only then."""

from typing import NoReturn

import dagster as dg

from pipeline.move.errors import PipelineError, Transient
from pipeline.resources import TargetDatabase

RETRIES = 3
"""How often a step is tried again, after 1, 2 and 4 seconds."""


def worthwhile(context: dg.AssetExecutionContext, error: PipelineError) -> bool:
    """Whether another attempt may succeed, and there have not been too many."""
    return isinstance(error, Transient) and context.retry_number < RETRIES


def again(
    context: dg.AssetExecutionContext, error: PipelineError, target: TargetDatabase
) -> NoReturn:
    """Try a step again, with a connection of its own.

    Raises:
        dg.RetryRequested: always.
    """
    target.reset()
    wait = 2**context.retry_number
    context.log.warning(f"{error} Trying again in {wait} s.")
    raise dg.RetryRequested(RETRIES, seconds_to_wait=wait) from error
