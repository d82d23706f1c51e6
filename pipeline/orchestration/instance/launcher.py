"""Dagster's run launcher, extended to detect runs whose process no longer exists.

With one run at a time, such a run would block all others for ever, because Dagster's launcher
cannot detect it. This one asks the code server and looks up the processes of commands; the daemon's
run monitoring then reports the run as failed.
"""

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import GetCurrentRunsResult

from pipeline.orchestration.instance import processes


class Launcher(DefaultRunLauncher):
    """Starts runs in the code server and detects lost ones."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always true."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run exists; if unknown, it counts as existing."""
        if GRPC_INFO_TAG in run.tags:
            exists = run.run_id in self._served(run)
        else:
            exists = not processes.gone(run)
        if exists:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "Its process no longer exists.")

    def _served(self, run: dg.DagsterRun) -> list[str]:
        """Runs of the code server; includes this run if the server does not answer."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        try:
            found = client and dg.deserialize_value(client.get_current_runs(), GetCurrentRunsResult)
        except DagsterUserCodeUnreachableError:
            found = None
        return [run.run_id] if found is None else list(found.current_runs)
