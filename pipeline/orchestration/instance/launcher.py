"""Dagster's own way to start runs, and who can tell which of them are still there.

With one run at a time, a run whose process is gone would hold up all others for ever: Dagster's
launcher cannot tell. This one asks the code server, and looks for the processes of commands; the
daemon's run monitoring then reports the run as failed.
"""

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import GetCurrentRunsResult

from pipeline.orchestration.instance import processes


class Launcher(DefaultRunLauncher):
    """Starts runs in the code server, and knows when one of them is gone."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """That it can."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether a run's process is there; where nobody can tell, it is taken to be."""
        if GRPC_INFO_TAG in run.tags:
            there = run.run_id in self._served(run)
        else:
            there = not processes.gone(run)
        if there:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "Its process was ended from outside.")

    def _served(self, run: dg.DagsterRun) -> list[str]:
        """Runs of the code server; a server that does not answer now may have this one."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        try:
            found = client and dg.deserialize_value(client.get_current_runs(), GetCurrentRunsResult)
        except DagsterUserCodeUnreachableError:
            found = None
        return [run.run_id] if found is None else list(found.current_runs)
