"""Dagster's application with the guard, and the server that runs it."""

import json
from http import HTTPStatus
from pathlib import Path

import dagster as dg
import uvicorn
from dagster._core.workspace.context import (
    IWorkspaceProcessContext,
    WorkspaceProcessContext,
    WorkspaceRequestContext,
)
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pipeline.config.setting_groups import UiSettings
from pipeline.config.settings import Settings
from pipeline.config.web_origins import Addresses
from pipeline.orchestration.serving.web.guard import MAX_BODY, Guard
from pipeline.orchestration.serving.web.headers import StrictHeaders
from pipeline.orchestration.serving.web.login import Login, Sessions

Context = IWorkspaceProcessContext[WorkspaceRequestContext]

_NOTEBOOKS = ("/notebook", "/dagit/notebook")
_STATEMENT_MILLISECONDS = 15_000
_POOL_SECONDS = 3600
_POOL_OVERFLOW = 20
_POLL_MILLISECONDS = 2000
"""Interval at which pages poll assets. These values are those of Dagster's own command."""


class Webserver(DagsterWebserver[Context, WorkspaceRequestContext]):
    """Dagster's webserver, which executes nothing that arrives by GET."""

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """The page GraphiQL for a person, and one operation for a POST of JSON."""
        if request.method == "POST":
            return await self._operation(request)
        # Dagster makes the same test, and otherwise executes ?query=.
        if "text/html" not in request.headers.get("Accept", ""):
            return _refused(HTTPStatus.METHOD_NOT_ALLOWED, "Send operations by POST.")
        page: Response = await super().graphql_http_endpoint(request)
        return page

    async def _operation(self, request: Request) -> Response:
        # Dagster would look for the query in the URL if the body is not JSON.
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _refused(HTTPStatus.BAD_REQUEST, "The body is not JSON.")
        match asked:
            case {"query": str(query)}:
                return await self.execute_graphql_request(
                    request, query, asked.get("variables"), asked.get("operationName")
                )
        return _refused(HTTPStatus.BAD_REQUEST, "Send one operation, as an object with query.")

    def build_routes(self) -> list[BaseRoute]:
        """Dagster's routes without notebooks, whose pages would run with the UI's origin."""
        routes: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]
        return [each for each in routes if getattr(each, "path", None) not in _NOTEBOOKS]


def _refused(status: HTTPStatus, detail: str) -> Response:
    return PlainTextResponse(f"{detail}\n", status)


def application(context: Context, ui: UiSettings, *, listening: str) -> ASGIApp:
    """The UI with login, guard and headers.

    Args:
        context: Dagster's instance and code.
        ui: settings of login and origin.
        listening: the address that the server listens on.
    """
    dagster: ASGIApp = Webserver(context, "", _POLL_MILLISECONDS).create_asgi_app()
    return StrictHeaders(
        Guard(
            Login(dagster, ui, Sessions(ui.session_hours)),
            Addresses.of(listening, ui.origin),
            ui.token,
        )
    )


def serve(settings: Settings, *, workspace: Path) -> None:
    """Serve the UI until SIGTERM; ``workspace`` is the file that names the code."""
    configure_loggers(formatter="colored", log_level="INFO")
    setup_interrupt_handlers()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MILLISECONDS, _POOL_SECONDS, _POOL_OVERFLOW)
        with WorkspaceProcessContext(
            instance, WorkspaceFileTarget([str(workspace)]), version=__version__
        ) as context:
            uvicorn.run(
                application(context, settings.ui, listening=settings.ui_host),
                host=settings.ui_host,
                port=settings.ui_port,
                log_level="warning",
                # Only the login evaluates headers of proxies, and only if a setting allows it.
                proxy_headers=False,
                server_header=False,
                ws_max_size=MAX_BODY,
            )
