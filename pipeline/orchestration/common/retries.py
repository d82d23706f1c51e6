"""Retries of a step after a lost connection, and after no other error."""

import dagster as dg

from pipeline.core import progress
from pipeline.core.errors import PipelineError, Transient
from pipeline.orchestration.common.resources import TargetDatabase

RETRIES = 3
"""Retries of a step, within about 20 seconds, in which most servers restart."""


def wait_before(retry: int) -> int:
    """Seconds before a retry, the first of which is number 0."""
    return int(4**retry)


def raise_retry_if_transient(
    context: dg.AssetExecutionContext, error: PipelineError, target: TargetDatabase
) -> None:
    """Request a retry with a new connection if the error is transient.

    Raises:
        dg.RetryRequested: unless the error is permanent or all retries are used up.
    """
    if isinstance(error, Transient) and context.retry_number < RETRIES:
        target.reset()
        wait = wait_before(context.retry_number)
        retry = f"retry {context.retry_number + 1} of {RETRIES}"
        sentence = f"{error.problem}. Trying again in {wait} s ({retry})."
        context.log.warning(sentence)
        progress.note(sentence)
        raise dg.RetryRequested(RETRIES, seconds_to_wait=wait) from error
