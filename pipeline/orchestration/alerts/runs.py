"""The alert about a finished run, from Dagster's record of it."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from pipeline.config.settings import Settings
from pipeline.orchestration.alerts.message import Alert, FailedCheck, FailedStep
from pipeline.orchestration.common import report

_EVENTS = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.RUN_FAILURE,
}


def alert_of(run: dg.DagsterRun, instance: dg.DagsterInstance, settings: Settings) -> Alert | None:
    """The alert about a finished run; None if there is nothing to report."""
    records = instance.all_logs(run.run_id, of_type=_EVENTS)
    events = [event for record in records if (event := record.dagster_event) is not None]
    failed = run.status == dg.DagsterRunStatus.FAILURE
    checks = tuple(_checks(events, settings))
    if not (failed or checks):
        return None
    blocking = any(check.severity == "ERROR" for check in checks)
    outcome = "failed" if failed else f"found {'errors' if blocking else 'warnings'}"
    link = f"{settings.alerts.ui_url}/runs/{run.run_id}" if settings.alerts.ui_url else ""
    steps = tuple(_steps(events, settings)) if failed else ()
    return Alert(
        "run_failed" if failed else "checks_failed",
        f"{run.job_name.removeprefix('__')} {outcome}",
        job=run.job_name,
        run_id=run.run_id,
        steps=steps,
        checks=checks,
        lines=() if steps else tuple(_why(events, settings)),
        link=link,
    )


def _steps(events: list[dg.DagsterEvent], settings: Settings) -> Iterator[FailedStep]:
    for event in events:
        if event.is_step_failure:
            yield FailedStep(
                event.step_key or "", settings.without_secrets(report.sentence_of(event))
            )


def _checks(events: list[dg.DagsterEvent], settings: Settings) -> Iterator[FailedCheck]:
    for table in report.tables_of(events):
        for check in table.checks.values():
            wanted = check.severity == dg.AssetCheckSeverity.ERROR or settings.alerts.warnings
            if not check.passed and wanted:
                found = settings.without_secrets(check.description or "It failed.")
                yield FailedCheck(table.name, check.check_name, check.severity.value, found)


def _why(events: list[dg.DagsterEvent], settings: Settings) -> Iterator[str]:
    """Dagster's reasons for a run that failed outside of its steps."""
    for event in events:
        if event.event_type == dg.DagsterEventType.RUN_FAILURE:
            data: Any = event.event_specific_data
            cause = data.error.message.strip() if data and data.error else ""
            yield settings.without_secrets(" ".join(filter(None, (event.message, cause))))
