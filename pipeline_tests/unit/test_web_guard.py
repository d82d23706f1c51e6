"""The guard before the UI, asked in plain ASGI: what passes, and what is refused."""

import asyncio
import json
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from pydantic import SecretStr
from starlette.types import ASGIApp, Message

from pipeline.config import settings
from pipeline.config.setting_groups import UiSettings
from pipeline.config.web_origins import Addresses, Origin
from pipeline.core.errors import SettingsError
from pipeline.orchestration.serving.web import guard
from pipeline.orchestration.serving.web.app import application
from pipeline.orchestration.serving.web.guard import MAX_BODY, Guard
from pipeline.orchestration.serving.web.headers import StrictHeaders
from pipeline_tests.support.asgi import (
    HERE,
    JSON,
    OURS,
    PUBLIC,
    TOKEN,
    Answer,
    Header,
    ask,
    reached,
)


def guarded(
    app: ASGIApp = reached, *, listening: str = "127.0.0.1", public: str = "", token: str = TOKEN
) -> ASGIApp:
    """An application behind the guard."""
    origins = [Origin.parse(each) for each in public.split()]
    return Guard(app, Addresses.of(listening, origins), SecretStr(token))


OWN_HOSTS = [
    "localhost",
    "LOCALHOST:3000",
    "localhost.:3000",
    "127.0.0.1",
    "127.0.0.1:3000",
    "127.8.9.10:80",
    "[::1]",
    "[::1]:3000",
    "[0:0::0:1]:3000",
]
FOREIGN_HOSTS = [
    "rebind.test:3000",
    "localhost.rebind.test",
    "127.0.0.1.rebind.test",
    "evil.localhost",
    "0.0.0.0:3000",
    "[::]",
    "192.168.1.5",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "[::ffff:10.0.0.1]",
    "pipeline.example.org",
]
MALFORMED_HOSTS = [
    "",
    ":3000",
    "localhost:",
    "localhost:0",
    "localhost:65536",
    "localhost:3000:3000",
    "localhost, rebind.test",
    "localhost/",
    "localhost#",
    "http://localhost",
    "user@localhost",
    "localhost..",
    "::1",
    "[::1",
    "[127.0.0.1]",
    "[::1%lo]",
    "l\u00f6calhost",
    "localhost\x00",
]


@pytest.mark.parametrize(
    ("hosts", "status"), [(OWN_HOSTS, 200), (FOREIGN_HOSTS, 403), (MALFORMED_HOSTS, 400)]
)
def test_a_request_has_to_name_this_machine(hosts: list[str], status: int) -> None:
    for host in hosts:
        assert ask(guarded(), "GET", "/", ("hOST", host)).status == status, host


def test_a_host_that_is_absent_or_comes_twice_is_refused() -> None:
    assert ask(guarded(), "GET", "/").status == 400
    assert ask(guarded(), "GET", "/", HERE, HERE).status == 400
    assert ask(guarded(), "GET", "/", HERE, ("host", "rebind.test")).status == 400


def test_what_a_request_says_of_other_hosts_and_methods_changes_nothing() -> None:
    for name in ("X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host"):
        there = ("Host", "rebind.test")
        assert ask(guarded(), "GET", "/", there, (name, "localhost:3000")).status == 403
        assert ask(guarded(), "GET", "/", HERE, (name, "rebind.test")).status == 200
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert ask(guarded(), "POST", "/", HERE, OURS, (name, "GET")).status == 415


def test_names_that_are_set_are_the_uis_own_with_the_origins_that_are_set_for_them() -> None:
    app = guarded(public=f"{PUBLIC} http://ui.lan:8080", listening="192.0.2.7")
    cases = {
        ("pipeline.example.org", PUBLIC): 200,
        ("PIPELINE.example.org.:443", f"{PUBLIC}:443"): 200,
        # A proxy may name the UI as it knows it.
        ("127.0.0.1:3000", PUBLIC): 200,
        ("pipeline.example.org", "http://pipeline.example.org"): 403,
        ("pipeline.example.org", f"{PUBLIC}:8443"): 403,
        ("pipeline.example.org", "https://other.example.org"): 403,
        ("ui.lan:8080", "http://ui.lan:8080"): 200,
        ("ui.lan:8080", "http://ui.lan"): 403,
        ("192.0.2.7:3000", "http://192.0.2.7:3000"): 200,
        ("other.example.org", "https://other.example.org"): 403,
    }
    for (host, origin), status in cases.items():
        for method, passed in (("POST", 200), ("WEBSOCKET", 101)):
            headers = (("Host", host), ("Origin", origin), JSON)
            found = ask(app, method, "/graphql", *headers).status
            assert found == (passed if status == 200 else 403), (host, origin)


FOREIGN_ORIGINS = [
    "null",
    "",
    "http://localhost",
    "http://localhost:3001",
    "https://localhost:3000",
    "http://127.0.0.1:3000",
    "http://evil.localhost:3000",
    "http://localhost:3000@rebind.test",
    "http://localhost:3000/",
    "http://localhost:3000 http://rebind.test",
    "//localhost:3000",
    "localhost:3000",
    "ws://localhost:3000",
    "file://",
    "chrome-extension://localhost:3000",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "WEBSOCKET", "OPTIONS"])
def test_a_page_of_another_origin_gets_nothing(method: str) -> None:
    for origin in FOREIGN_ORIGINS:
        authorized = ("Authorization", f"Bearer {TOKEN}")
        headers = (HERE, ("oRIGIN", origin), JSON, authorized)
        assert ask(guarded(), method, "/graphql", *headers).status == 403, origin
    assert ask(guarded(), method, "/graphql", HERE, OURS, OURS, JSON).status in (400, 403)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xe9",
    ],
)
def test_without_an_origin_a_token_is_needed(authorization: str) -> None:
    for method in ("POST", "WEBSOCKET"):
        refused = ask(guarded(), method, "/graphql", HERE, JSON, ("Authorization", authorization))
        assert refused.status == 403
        none = Guard(reached, Addresses.of("127.0.0.1", []), None)
        given = ("Authorization", authorization)
        assert ask(none, method, "/graphql", HERE, JSON, given).status == 403
    assert ask(guarded(), "GET", "/", HERE, ("Authorization", authorization)).status == 200


def test_a_script_with_the_token_needs_no_origin() -> None:
    given = ("authorization", f"bearer  {TOKEN}")
    assert ask(guarded(), "POST", "/graphql", HERE, JSON, given).status == 200
    assert ask(guarded(), "WEBSOCKET", "/graphql", HERE, given).status == 101
    assert ask(guarded(), "POST", "/graphql", HERE, JSON, given, given).status == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_other_methods_are_not_served(method: str) -> None:
    assert ask(guarded(), method, "/", HERE, OURS, JSON).status == 405


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("text/plain; a=application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("application/graphql", 415),
        ("application/jsonp", 415),
        ("application/json, text/plain", 415),
        ("", 415),
    ],
)
def test_what_is_posted_has_to_be_json(kind: str, status: int) -> None:
    for path in ("/graphql", "/report_asset_check/x", "/anything", "/graphql\n", "/Login"):
        found = ask(guarded(), "POST", path, HERE, OURS, ("CONTENT-type", kind)).status
        assert found == status, path
    assert ask(guarded(), "POST", "/graphql", HERE, OURS).status == 415


def test_the_parts_of_a_page_of_another_site_are_refused_and_links_are_followed() -> None:
    def status(*values: str) -> int:
        names = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
        given = [each for each in zip(names, values, strict=False) if each[1]]
        return ask(guarded(), "GET", "/logs/x", HERE, *given).status

    assert status("") == 200
    for site in ("same-origin", "none"):
        assert status(site, "no-cors", "image") == 200
    for site in ("cross-site", "same-site", "new-word"):
        assert status(site, "navigate", "document") == 200
        for mode, kind in (("no-cors", "image"), ("navigate", "iframe"), ("navigate", "object")):
            assert status(site, mode, kind) == 403
        assert status(site) == 403


def test_a_body_is_bounded_whether_its_length_is_told_or_not() -> None:
    headers = (HERE, OURS, JSON)
    largest = [b"x" * (MAX_BODY // 4)] * 4
    whole = ask(guarded(), "POST", "/graphql", *headers, chunks=largest)
    assert (whole.status, len(whole.body)) == (200, MAX_BODY)
    assert ask(guarded(), "POST", "/graphql", *headers, chunks=[*largest, b"x"]).status == 413
    for length in (str(MAX_BODY + 1), "9" * 50, "-1", "x", "\xb2"):
        told = ("Content-Length", length)
        assert ask(guarded(), "POST", "/graphql", *headers, told).status == 413, length


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)

    async def silent() -> Message:
        await asyncio.sleep(60)
        return {}

    head = guard.Head("POST", "/", "/", [])
    with pytest.raises(guard.Refused) as refused:
        asyncio.run(guard.body_of(head, silent))
    assert refused.value.status == 408


# Not taken from the module that is tested: one that it has lost would be missed by nobody.
STRICT = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private",
}


def test_every_answer_has_strict_headers_and_keeps_its_own_policy() -> None:
    for method in ("GET", "DELETE"):
        found = ask(StrictHeaders(guarded()), method, "/", HERE).headers
        assert {name: found.get(name) for name in STRICT} == {
            name: [value] for name, value in STRICT.items()
        }
        assert found["permissions-policy"][0].startswith("camera=(), geolocation=(), ")
        policy = set(found["content-security-policy"][0].split("; "))
        assert policy >= {
            f"{kind} 'none'" for kind in ("frame-ancestors", "object-src", "base-uri")
        }
        assert policy >= {f"{kind} 'self'" for kind in ("form-action", "connect-src")}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole UI, without code."""
    folder = str(tmp_path_factory.mktemp("instance"))
    with (
        dg.DagsterInstance.local_temp(folder) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
    ):
        yield application(context, UiSettings(token=SecretStr(TOKEN)), listening="127.0.0.1")


def post(ui: ASGIApp, body: object, *headers: Header, path: str = "/graphql") -> Answer:
    """Post JSON as a page of the UI's does; servers hand names of headers on in lower case."""
    sent = [(name.lower(), value) for name, value in (HERE, OURS, JSON, *headers)]
    return ask(ui, "POST", path, *sent, chunks=[json.dumps(body).encode()])


def test_dagster_executes_what_a_page_of_the_ui_posts(ui: ASGIApp) -> None:
    answer = post(ui, {"query": "{ version }"})
    assert (answer.status, answer.text[:20]) == (200, '{"data":{"version":"')


def test_nothing_is_executed_by_get(ui: ASGIApp) -> None:
    for path in ("/graphql", "/graphql\n", "/graphql/", "//graphql"):
        for accept in ("text/html", "*/*", "application/json"):
            for query in ("query=%7B%20version%20%7D", "query=mutation%7Ba%7D"):
                found = ask(ui, "GET", path, HERE, ("Accept", accept), query=query)
                assert '"data"' not in found.text
                assert '"errors"' not in found.text
    assert ask(ui, "GET", "/graphql", HERE, query="query=%7Bversion%7D").status == 405


@pytest.mark.parametrize(
    "body",
    [
        [{"query": "{ version }"}],
        "{ version }",
        None,
        {},
        {"query": None},
        {"query": ["{ version }"]},
        {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}},
    ],
)
def test_what_is_no_single_operation_is_refused(ui: ASGIApp, body: object) -> None:
    assert post(ui, body).status == 400
    headers = (HERE, OURS, JSON)
    for text in (b"", b"{", b"\xff", b"[" * 100_000):
        assert ask(ui, "POST", "/graphql", *headers, chunks=[text]).status == 400
    # Neither does the address say what to execute where the body does not.
    sent = ask(ui, "POST", "/graphql", *headers, chunks=[b"{}"], query="query=%7Bversion%7D")
    assert sent.status == 400


def test_every_route_that_changes_something_asks_who_sends_it(ui: ASGIApp) -> None:
    app: Any = ui
    routes = app.app.app.app.routes
    changing = {each.path for each in routes if "POST" in (getattr(each, "methods", None) or ())}
    assert changing == {
        "/graphql",
        "/report_asset_materialization/{asset_key:path}",
        "/report_asset_check/{asset_key:path}",
        "/report_asset_observation/{asset_key:path}",
    }
    assert not any("notebook" in each.path for each in routes)
    for kind in ("materialization", "check", "observation"):
        path = f"/report_asset_{kind}/x"
        assert ask(ui, "POST", path, HERE, JSON).status == 403
        assert ask(ui, "POST", path, HERE, OURS, query="passed=true").status == 415
        # This is the page that shows an asset of that name.
        assert ask(ui, "GET", path, HERE, query="passed=true").text.startswith("<!DOCTYPE html>")
    assert post(ui, {}, path="/report_asset_materialization/x").status == 200


WRONG = {
    "UI_ORIGIN": ["pipeline.example.org", "https://pipeline.example.org/path", "null", "*"],
    "UI_TOKEN": ["s3cr3t", "s3cr3t" * 5, "s3cr3t" * 8 + " ", "s3cr3té" * 8],
    "UI_PASSWORD": ["s3cr3t"],
    "UI_SESSION_HOURS": ["0", "nan", "1000"],
    "UI_USER_HEADER": ["X User", "X-User:"],
    "UI_PROXIES": ["example.org", "10.0.0.1/8"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_cannot_be_used_is_named_without_its_secret(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in WRONG[name]:
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"^{name} cannot be used") as error:
            settings.load()
        assert "s3cr3t" not in str(error.value)
