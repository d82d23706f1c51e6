"""Who is let in to the UI: by password and session, by token, or by a proxy that names somebody."""

import time
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.types import ASGIApp

from pipeline.config.setting_groups import UiSettings
from pipeline.config.web_origins import Addresses
from pipeline.orchestration.serving.web import login
from pipeline.orchestration.serving.web.guard import Guard
from pipeline.orchestration.serving.web.login import ATTEMPT_SECONDS, ATTEMPTS, Login, Sessions
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

PHRASE = "correct horse & battery staple"
FORM = ("Content-Type", "application/x-www-form-urlencoded")
PERSON = ("Accept", "text/html")


def site(**given: Any) -> ASGIApp:
    """A site behind guard and login, with these settings."""
    ui = UiSettings(**{"password": PHRASE, "token": TOKEN} | given)
    inner = Login(reached, ui, Sessions(ui.session_hours))
    return Guard(inner, Addresses.of("127.0.0.1", ui.origin), ui.token)


def log_in(
    app: ASGIApp, password: str = PHRASE, *headers: Header, onward: str = "/runs?a=1"
) -> Answer:
    """Fill in the form."""
    sent = urlencode({"password": password, "next": onward}).encode()
    return ask(app, "POST", "/login", *(headers or (HERE, OURS)), FORM, chunks=[sent])


def cookie(answer: Answer) -> tuple[Header, set[str]]:
    """What a browser keeps of an answer, as it sends it back, and its attributes."""
    (kept,) = answer.headers["set-cookie"]
    pair, *attributes = kept.split("; ")
    return ("Cookie", pair), {each.lower() for each in attributes}


def test_who_has_no_session_gets_a_form_and_nothing_else() -> None:
    app = site()
    for path, query in (("/", ""), ("/runs/x", 'a="><script>'), ("/download_debug/x", "")):
        form = ask(app, "GET", path, HERE, PERSON, query=query)
        assert form.status == 401
        assert 'action="/login"' in form.text
        assert "<script>" not in form.text
        assert f'value="{path}' in form.text
    assert ask(app, "GET", "/", HERE).status == 401
    assert ask(app, "POST", "/graphql", HERE, OURS, JSON).status == 401
    assert ask(app, "POST", "/report_asset_check/x", HERE, OURS, JSON).status == 401
    assert ask(app, "WEBSOCKET", "/graphql", HERE, OURS).status == 403
    assert ask(app, "GET", "/dagit_info", HERE, PERSON).status == 401


def test_probes_learn_whether_the_server_answers() -> None:
    assert ask(site(), "GET", "/server_info", HERE).status == 200
    assert ask(site(), "POST", "/server_info", HERE, OURS, JSON).status == 401


def test_the_password_opens_a_session_that_lasts_until_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = site(session_hours=2)
    let_in = log_in(app)
    assert (let_in.status, let_in.headers["location"]) == (303, ["/runs?a=1"])
    mine, attributes = cookie(let_in)
    assert attributes == {"httponly", "samesite=strict", "path=/", "max-age=7200"}
    for method, headers, status in (
        ("GET", (), 200),
        ("POST", (OURS, JSON), 200),
        ("WEBSOCKET", (OURS,), 101),
    ):
        assert ask(app, method, "/graphql", HERE, mine, *headers).status == status
    others = ("Cookie", f'a=b; "; \x01; {mine[1]}; pipeline2=x')
    assert ask(app, "GET", "/", HERE, others).status == 200
    # A session is no leave for pages of other sites.
    theirs = ("Origin", "http://localhost:8000")
    assert ask(app, "POST", "/graphql", HERE, mine, theirs, JSON).status == 403
    now = time.monotonic()
    monkeypatch.setattr(login.time, "monotonic", lambda: now + 2 * 3600 + 1)
    assert ask(app, "GET", "/", HERE, mine).status == 401


def test_where_people_come_by_tls_the_cookie_goes_by_nothing_else() -> None:
    app = site(origin=PUBLIC)
    there = (("Host", "pipeline.example.org"), ("Origin", PUBLIC))
    mine, attributes = cookie(log_in(app, PHRASE, *there))
    assert "secure" in attributes
    assert mine[1].startswith("__Host-pipeline=")
    assert ask(app, "GET", "/", there[0], mine).status == 200
    # What a neighbour of the same domain can set is not looked at.
    renamed = ("Cookie", mine[1].removeprefix("__Host-"))
    assert ask(app, "GET", "/", there[0], renamed).status == 401


def test_logging_out_ends_the_session_on_the_server() -> None:
    app = site()
    mine, _ = cookie(log_in(app))
    assert "Log out" in ask(app, "GET", "/login", HERE, PERSON, mine).text
    out = ask(app, "POST", "/logout", HERE, OURS, FORM, mine)
    assert (out.status, out.headers["location"]) == (303, ["/login"])
    assert ask(app, "GET", "/", HERE, mine).status == 401
    assert "password" in ask(app, "GET", "/login", HERE, PERSON, mine).text


def test_nobody_guesses_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    app = site()
    mine, _ = cookie(log_in(app))
    for wrong in ("", PHRASE[:-1], PHRASE + "x", PHRASE.upper(), "\u0e01") * (ATTEMPTS // 5):
        refused = log_in(app, wrong)
        assert (refused.status, "set-cookie" in refused.headers) == (401, False)
    late = log_in(app)
    assert (late.status, late.headers["retry-after"]) == (429, ["60"])
    assert ask(app, "GET", "/", HERE, mine).status == 200
    now = time.monotonic()
    monkeypatch.setattr(login.time, "monotonic", lambda: now + ATTEMPT_SECONDS + 1)
    assert log_in(app).status == 303


@pytest.mark.parametrize(
    "onward",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "/\t/evil.test",
        "/a\r\nSet-Cookie: b",
        "",
    ],
)
def test_a_login_leads_to_no_other_site(onward: str) -> None:
    let_in = log_in(site(), onward=onward)
    assert (let_in.status, let_in.headers["location"]) == (303, ["/"])


def test_the_form_is_taken_from_pages_of_the_uis_own_alone() -> None:
    for sender in (
        (HERE,),
        (HERE, ("Origin", "null")),
        (HERE, ("Origin", "http://evil.localhost")),
    ):
        assert log_in(site(), PHRASE, *sender).status == 403
    sent = (HERE, OURS, JSON)
    assert ask(site(), "POST", "/login", *sent, chunks=[b"{}"]).status == 415


def test_a_link_from_elsewhere_is_followed_once_more_by_a_page_of_its_own() -> None:
    """Browsers keep a strict cookie back on it."""
    foreign = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    headers = (HERE, PERSON, *foreign, ("Sec-Fetch-Dest", "document"))
    again = ask(site(), "GET", "/runs/x", *headers)
    assert 'http-equiv="refresh"' in again.text
    assert "password" not in again.text


def test_the_token_takes_the_place_of_a_login_for_scripts() -> None:
    given = ("Authorization", f"Bearer {TOKEN}")
    assert ask(site(), "GET", "/logs/x", HERE, given).status == 200
    assert ask(site(), "POST", "/graphql", HERE, given, JSON).status == 200
    assert ask(site(), "WEBSOCKET", "/graphql", HERE, given).status == 101
    assert ask(site(token=None), "GET", "/logs/x", HERE, given).status == 401


NAMED = ("x-remote-user", "ann")
PROXIED: dict[str, tuple[dict[str, Any], tuple[Header, ...], str, int]] = {
    "a proxy names somebody": ({}, (NAMED,), "127.0.0.1", 200),
    "by IPv6": ({}, (NAMED,), "::1", 200),
    "by IPv4 within IPv6": ({}, (NAMED,), "::ffff:127.0.0.1", 200),
    "a proxy names nobody": ({}, (("X-Remote-User", " "),), "127.0.0.1", 401),
    "nobody is named": ({}, (), "127.0.0.1", 401),
    "two are named": ({}, (NAMED, NAMED), "127.0.0.1", 400),
    "somebody else says so": ({}, (NAMED,), "192.0.2.1", 401),
    "a proxy that is set": ({"proxies": "192.0.2.0/24"}, (NAMED,), "192.0.2.1", 200),
    "one that is not": ({"proxies": "192.0.2.0/24"}, (NAMED,), "127.0.0.1", 401),
    "no header is set": ({"user_header": None, "password": PHRASE}, (NAMED,), "127.0.0.1", 401),
}


@pytest.mark.parametrize("case", PROXIED)
def test_a_proxy_is_believed_where_it_is_set_and_nobody_else(case: str) -> None:
    given, headers, client, status = PROXIED[case]
    app = site(**{"password": None, "token": None, "user_header": "X-Remote-User"} | given)
    assert ask(app, "GET", "/", HERE, *headers, client=client).status == status


def test_without_a_login_everybody_is_let_in() -> None:
    assert ask(site(password=None), "GET", "/", HERE).status == 200
    assert ask(site(password=None), "GET", "/login", HERE).status == 200


def test_sessions_do_not_fill_the_memory() -> None:
    sessions = Sessions(1.0)
    first, *_, last = [sessions.start() for _ in range(login._MAX_SESSIONS + 1)]
    assert (sessions.lasts(first), sessions.lasts(last)) == (False, True)
