"""How a step ends that failed: it is tried again when the connection was lost, and only then."""

import dagster as dg

from pipeline.core.errors import PipelineError, Transient
from pipeline.orchestration.common.resources import TargetDatabase

RETRIES = 3
"""How often a step is tried again, after 1, 2 and 4 seconds."""


def try_again(
    context: dg.AssetExecutionContext, error: PipelineError, target: TargetDatabase
) -> None:
    """Try a step again, with a connection of its own, if that may help.

    Returns:
        Where another attempt cannot succeed, or there have been enough.

    Raises:
        dg.RetryRequested: there is to be another one.
    """
    if isinstance(error, Transient) and context.retry_number < RETRIES:
        target.reset()
        wait = 2**context.retry_number
        context.log.warning(f"{error} Trying again in {wait} s.")
        raise dg.RetryRequested(RETRIES, seconds_to_wait=wait) from error
