"""Commands for operation: the long-running services, their health, and alerts."""

import signal
import subprocess
import sys
import time
from typing import Annotated

import typer

from pipeline.cli.commands.terminal import complain, console, loading_dagster, say
from pipeline.config import environment, settings
from pipeline.core import private
from pipeline.core.errors import SettingsError
from pipeline.orchestration.alerts.delivery import deliver
from pipeline.orchestration.alerts.message import Alert
from pipeline.orchestration.alerts.receivers import receivers
from pipeline.orchestration.serving import services
from pipeline.orchestration.serving.components import Component
from pipeline.reporting import grids
from pipeline.reporting.layout import Grid

alert = typer.Typer(no_args_is_help=True, help="Test the alerts about failed runs and checks.")


def dev(
    port: Annotated[int, typer.Option(help="Port of the UI, on 127.0.0.1.")] = 3000,
) -> None:
    """Run the Dagster UI and its daemon until Ctrl-C."""
    # Dagster is loaded only where it is needed.
    with loading_dagster():
        from pipeline.cli.commands import job_runs
    job_runs.prepare_server()
    loaded = settings.load()
    for migration in loaded.enabled:
        if not loaded.source_url(migration):
            environment.source_file(loaded, migration)
    loaded = settings.load(ui_host="127.0.0.1", ui_port=port)
    services.keep_sockets_private()
    processes = [
        subprocess.Popen(services.command(part, loaded, home=private.FILES), cwd=private.PROJECT)
        for part in (services.Service.WEBSERVER, services.Service.DAEMON)
    ]
    say(f"Dagster UI on http://127.0.0.1:{port} (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.3)
        raise SettingsError(
            f"The Dagster UI or its daemon has stopped; port {port} may be in use",
            remedy="Read the lines above, or choose another port with --port",
        )
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def serve(
    part: Annotated[services.Service, typer.Argument(help="The service to run.")],
) -> None:
    """Run a long-running service: code server, webserver or daemon."""
    services.serve(part, settings.load())


def health(
    which: Annotated[
        list[Component] | None, typer.Argument(help="Check only these components.")
    ] = None,
    tell: Annotated[
        bool, typer.Option("--alert", help="Send an alert about components that have newly failed.")
    ] = False,
) -> None:
    """Check the long-running services; the exit code is 1 if one of them is failing."""
    # Dagster is loaded only where it is needed.
    with loading_dagster():
        from pipeline.orchestration.serving import health as examined

    loaded = settings.load()
    found = examined.readings(loaded, which or [])
    rows = [(each.component, "ok" if each.ok else "failing", each.detail) for each in found]
    grids.show(console, Grid("", ("", "", ""), rows, styles=(1, grids.STATES)))
    if tell:
        for error in examined.send_changes(loaded, found, receivers(loaded.alerts)):
            complain(str(error))
    raise typer.Exit(0 if all(reading.ok for reading in found) else 1)


@alert.callback()
def alerting() -> None:
    """Keep ``test`` a subcommand, although it is the only one."""


@alert.command("test")
def alert_test() -> None:
    """Send a test alert to every receiver."""
    loaded = settings.load()
    link = loaded.alerts.ui_url or ""
    tried = Alert("test", "test alert", lines=("Nothing has failed.",), link=link)
    who = receivers(loaded.alerts)
    if not who:
        raise SettingsError(
            "No receiver of alerts is configured",
            remedy="Set ALERT_WEBHOOK_URL, or ALERT_SMTP_URL with ALERT_FROM and ALERT_TO",
        )
    refused = 0
    for delivery in deliver([(receiver, [tried]) for receiver in who]):
        if delivery.error is None:
            say(f"sent to {delivery.receiver.shown}")
        else:
            refused += 1
            complain(str(delivery.error))
    raise typer.Exit(1 if refused else 0)
