"""A page of another site, opened in a real browser beside the UI, starts and changes nothing.

The same page is let loose on Dagster's webserver as it is, where it succeeds: that it attacks is
not taken on trust. What it tries is to record a materialization, which needs no code to be loaded.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from uuid import uuid4

import dagster as dg
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from pydantic import SecretStr
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.ui import WebDriverWait
from starlette.types import ASGIApp

from pipeline.config.setting_groups import UiSettings
from pipeline.orchestration.serving.web.app import application
from pipeline_tests.support.attacks import (
    REBOUND,
    SITES,
    WAYS,
    attack,
    other_site,
    posted_by_its_own_page,
)
from pipeline_tests.support.browser import LONELY, Programs

DEED = """
mutation {{ reportRunlessAssetEvents(eventParams: {{
  eventType: ASSET_MATERIALIZATION, assetKey: {{ path: ["{key}"] }} }}) {{ __typename }} }}
"""
HARMLESS = {"fetch_cors", "iframe", "websocket"}
"""Browsers ask before the first; the second gets a page to type in, the third an open line."""


@pytest.fixture(scope="module")
def browser(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser that is led to this machine by a name of somebody else's."""
    options = ChromeOptions()
    options.binary_location = programs.browser
    profile = tmp_path_factory.mktemp("profile")
    resolved = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    for option in (*LONELY, resolved, f"--user-data-dir={profile}"):
        options.add_argument(option)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        started = Chrome(options, ChromeService(programs.driver))
        try:
            yield started
        finally:
            with suppress(WebDriverException):
                started.quit()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance without runs and code."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as made:
        yield made


@pytest.fixture(scope="module")
def context(instance: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """What Dagster's webserver works on."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as made:
        yield made


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """An application on a port of this machine; yields its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def bare(context: WorkspaceProcessContext) -> Iterator[str]:
    """Dagster's webserver as it is."""
    with served(create_app_from_workspace_process_context(context)) as address:
        yield address


@pytest.fixture(scope="module")
def guarded(context: WorkspaceProcessContext) -> Iterator[str]:
    """The same as it is served by this project."""
    with served(application(context, UiSettings(), listening="127.0.0.1")) as address:
        yield address


@pytest.fixture(scope="module", params=SITES)
def page(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a page of somebody else's."""
    with other_site() as port:
        yield f"http://{request.param}:{port}/"


def deeds() -> dict[str, str]:
    """A mutation for each way, which can be told from all others."""
    run = uuid4().hex
    return {strategy: DEED.format(key=f"{strategy}_{run}") for strategy in WAYS} | {
        "report": f"report_{run}"
    }


def done(instance: dg.DagsterInstance, tried: dict[str, str]) -> set[str]:
    """The ways that led to their end."""
    keys = {key.to_user_string() for key in instance.get_asset_keys()}
    return {strategy for strategy, deed in tried.items() if any(key in deed for key in keys)}


def test_dagsters_own_webserver_obeys_a_page_of_another_site(
    browser: Chrome, bare: str, page: str, instance: dg.DagsterInstance
) -> None:
    tried, obeyed = deeds(), set(WAYS) - HARMLESS
    assert attack(browser, page, bare, tried)
    deadline = time.monotonic() + 10  # nobody tells a page when its beacon has arrived
    while done(instance, tried) != obeyed and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done(instance, tried) == obeyed


def test_ours_obeys_none(
    browser: Chrome, guarded: str, page: str, instance: dg.DagsterInstance
) -> None:
    tried = deeds()
    assert not attack(browser, page, guarded, tried)
    assert done(instance, tried) == set()


def test_a_page_whose_name_was_led_to_this_machine_is_obeyed_by_dagsters_own_alone(
    browser: Chrome, bare: str, guarded: str, instance: dg.DagsterInstance
) -> None:
    for address, status, obeyed in ((bare, 200, {"fetch"}), (guarded, 403, set())):
        tried = {"fetch": deeds()["fetch_cors"]}
        named = address.replace("127.0.0.1", REBOUND)
        assert posted_by_its_own_page(browser, named, tried["fetch"])[0] == status
        assert done(instance, tried) == obeyed


def test_a_page_of_the_uis_own_posts_and_listens_and_nothing_else_is_obeyed_either(
    browser: Chrome, guarded: str, instance: dg.DagsterInstance
) -> None:
    for address in (guarded, guarded.replace("127.0.0.1", "localhost")):
        tried = deeds()
        assert attack(browser, f"{address}/favicon.svg", address, tried)
        assert done(instance, tried) == {"fetch_cors"}


def test_a_person_logs_in_and_pages_of_other_sites_gain_nothing_by_that(
    browser: Chrome, context: WorkspaceProcessContext, page: str, instance: dg.DagsterInstance
) -> None:
    ui = UiSettings(password=SecretStr("a password of some length"))
    with served(application(context, ui, listening="127.0.0.1")) as locked:
        browser.get(page)
        browser.execute_script(f"location = '{locked}/graphql'")
        field = WebDriverWait(browser, 30).until(lambda it: it.find_element("name", "password"))
        field.send_keys("a password of some length\n")
        WebDriverWait(browser, 30).until(lambda it: "GraphiQL" in it.title)
        assert browser.current_url == f"{locked}/graphql"
        assert posted_by_its_own_page(browser, locked, "{ version }")[0] == 200
        tried = deeds()
        assert not attack(browser, page, locked, tried)
        assert done(instance, tried) == set()
        # A link from there leads to the page and not to the form.
        browser.execute_script(f"location = '{locked}/graphql'")
        WebDriverWait(browser, 30).until(lambda it: "GraphiQL" in it.title)


ODD = {
    "an address of somebody else's in the first line": (
        b"GET http://rebind.test/graphql?query=%7Bversion%7D HTTP/1.1\r\nHost: rebind.test\r\n\r\n",
        b"403",
    ),
    "and ours in the second": (
        b"GET http://rebind.test/graphql?query=%7Bversion%7D HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"4",
    ),
    "no host": (b"GET / HTTP/1.0\r\n\r\n", b"400"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: localhost\r\nhost: rebind.test\r\n\r\n", b"400"),
    "a body without an end": (
        b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        * 17,
        b"413",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_no_browser_sends_is_refused_by_the_server_itself(case: str, guarded: str) -> None:
    request, status = ODD[case]
    with socket.create_connection(("127.0.0.1", int(guarded.rpartition(":")[2])), 10) as sent:
        sent.sendall(request)
        version, answered, *_ = sent.recv(4096).split(maxsplit=2)
    assert version.startswith(b"HTTP/1.")
    assert answered.startswith(status)
