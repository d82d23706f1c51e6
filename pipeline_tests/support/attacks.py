"""A page of another site that tries to drive a UI, in every way that a browser offers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from selenium.webdriver import Chrome

SITES = ("evil.localhost", "127.0.0.1")
"""Names of the other site; by the second browsers take it for the UI's own, on another port."""
REBOUND = "rebind.test"
"""A name of somebody else's that leads to this machine."""
WAYS = (
    "img",
    "iframe",
    "form_urlencoded",
    "form_plain",
    "form_multipart",
    "fetch_get",
    "fetch_no_cors",
    "fetch_smuggled_type",
    "fetch_cors",
    "beacon",
    "report",
    "websocket",
)
"""What the page tries; what came of it is told apart by these names."""

_ATTACK = """
const [target, deeds, ways, done] = arguments;
const body = way => JSON.stringify({query: deeds[way]});
const url = way => `${target}/graphql?query=${encodeURIComponent(deeds[way])}`;
const form = (way, type) => {
  const sent = document.createElement("form");
  Object.assign(sent, {method: "POST", enctype: type, action: url(way), target: way});
  frames[way] = frame(way).loaded;
  const field = document.createElement("input");
  Object.assign(field, {name: "query", value: deeds[way]});
  sent.append(field);
  document.body.append(sent);
  sent.submit();
  return frames[way];
};
const frames = {};
const blank = made => {
  try { return made.contentWindow.location.href === "about:blank"; } catch { return false; }
};
const frame = way => {
  const made = document.createElement("iframe");
  made.name = way;
  made.loaded = new Promise(ended => made.onload = () => blank(made) || ended());
  document.body.append(made);
  return made;
};
const posted = (type, more) =>
  ({method: "POST", ...(type && {headers: {"Content-Type": type}}), ...more});
const tries = {
  img: way => new Promise(ended => {
    const made = new Image();
    made.onload = made.onerror = ended;
    made.src = url(way);
  }),
  iframe: way => { const made = frame(way); made.src = url(way); return made.loaded; },
  form_urlencoded: way => form(way, "application/x-www-form-urlencoded"),
  form_plain: way => form(way, "text/plain"),
  form_multipart: way => form(way, "multipart/form-data"),
  fetch_get: way => fetch(url(way), {mode: "no-cors"}),
  fetch_no_cors: way => fetch(url(way), posted("text/plain", {mode: "no-cors", body: body(way)})),
  fetch_smuggled_type: way => fetch(`${target}/graphql`,
    posted("text/plain; a=application/json", {mode: "no-cors", body: body(way)})),
  fetch_cors: way => fetch(`${target}/graphql`, posted("application/json", {body: body(way)})),
  beacon: way => navigator.sendBeacon(url(way), body(way)),
  report: way => fetch(`${target}/report_asset_materialization/${deeds[way]}`,
    posted(null, {mode: "no-cors"})),
  websocket: () => new Promise((answered, refused) => {
    const made = new WebSocket(target.replace("http", "ws") + "/graphql", "graphql-ws");
    made.onopen = () => made.send(JSON.stringify({type: "connection_init"}));
    made.onmessage = message => answered(JSON.parse(message.data).type);
    made.onerror = refused;
  }),
};
Promise.allSettled(ways.map(async way => tries[way](way))).then(all =>
  setTimeout(() => done(all[ways.indexOf("websocket")]?.value == "connection_ack"), 200));
"""


@contextmanager
def other_site() -> Iterator[int]:
    """An empty page of somebody else's, on a port of this machine."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Nice pictures</title><body></body>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def attack(browser: Chrome, page: str, target: str, deeds: dict[str, str]) -> bool:
    """Open a page and let it try everything on a UI; whether the UI took its WebSocket.

    Args:
        browser: who opens the page.
        page: its address.
        target: the UI's address.
        deeds: a mutation for each of the ways; for ``report`` an asset.
    """
    browser.get(page)
    browser.set_script_timeout(20)
    taken: bool = browser.execute_async_script(_ATTACK, target, deeds, list(WAYS))
    return taken


def posted_by_its_own_page(browser: Chrome, address: str, operation: str) -> tuple[int, str]:
    """Let a page post to the server it believes to come from; status and text of the answer."""
    browser.get(f"{address}/favicon.svg")
    script = """
    const [query, done] = arguments;
    fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"}, body: query})
      .then(async answer => done([answer.status, await answer.text()]), () => done([0, ""]));
    """
    status, text = browser.execute_async_script(script, json.dumps({"query": operation}))
    return status, text
