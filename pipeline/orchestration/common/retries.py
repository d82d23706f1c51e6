"""Retries of a step after a lost connection, and after no other error."""

import dagster as dg

from pipeline.core.errors import PipelineError, Transient
from pipeline.orchestration.common.resources import TargetDatabase

RETRIES = 3
"""Retries of a step, after 1, 2 and 4 seconds."""


def raise_retry_if_transient(
    context: dg.AssetExecutionContext, error: PipelineError, target: TargetDatabase
) -> None:
    """Request a retry with a new connection if the error is transient.

    Raises:
        dg.RetryRequested: unless the error is permanent or all retries are used up.
    """
    if isinstance(error, Transient) and context.retry_number < RETRIES:
        target.reset()
        wait = 2**context.retry_number
        context.log.warning(f"{error} Trying again in {wait} s.")
        raise dg.RetryRequested(RETRIES, seconds_to_wait=wait) from error
