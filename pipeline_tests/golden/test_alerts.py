"""Alerts when receivers are slow in every way that servers can be slow.

Sensors are evaluated as Dagster's daemon evaluates them; receivers are real servers on this
machine.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import dagster as dg
import pytest

from pipeline.config import settings
from pipeline.orchestration.alerts import receivers as receiving
from pipeline.orchestration.alerts import sensors
from pipeline.orchestration.alerts.delivery import NotDelivered, Receiver, deliver
from pipeline.orchestration.alerts.message import Alert
from pipeline.orchestration.alerts.receivers import Mail, Webhook
from pipeline.orchestration.alerts.sensors import Cursor
from pipeline_tests.support.commands import pipeline
from pipeline_tests.support.receivers import Hook, Mailbox, dripping

ALERT = Alert("test", "a test")
PEOPLE = ("a@example.org", ("b@example.org",))
GREETING = (b"220-mail\r\n",)
HEADERS = (b"HTTP/1.1 200 OK\r\n", b"X-Drop: 1\r\n")
SLOW = {
    "a mail server that drips its greeting": ("smtp", GREETING),
    "a mail server that drips a line": ("smtp", (b"2",)),
    "a mail server that says nothing": ("smtp", (b"",)),
    "a mail server that drips instead of encrypting": ("smtps", (b"\x16", b"\x03")),
    "a webhook that drips its headers": ("http", HEADERS),
    "a webhook that drips its status": ("http", (b"H", b"T")),
    "a webhook that says nothing": ("http", (b"",)),
    "a webhook that drips instead of encrypting": ("https", (b"\x16", b"\x03")),
}


@dg.op
def fails() -> None:
    raise ValueError("no")


@dg.job
def failing() -> None:
    fails()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance in memory."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def _fail(instance: dg.DagsterInstance) -> str:
    return failing.execute_in_process(instance=instance, raise_on_error=False).run_id


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str]:
    """Evaluate the sensor of failed runs; returns the new cursor and what it says."""
    sensor = sensors.alert_sensors(settings.load())[0]
    with dg.build_sensor_context(instance, cursor) as context:
        data = sensor.evaluate_tick(context)
    return data.cursor or "", data.skip_message or ""


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mail server that drips its greeting is configured; deliveries may take a second."""
    monkeypatch.setattr(receiving, "SECONDS", 1.0)
    with dripping(GREETING, every=0.2) as port:
        _mails(monkeypatch, port)
        yield


def _mails(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("ALERT_SMTP_URL", f"smtp://127.0.0.1:{port}")
    monkeypatch.setenv("ALERT_FROM", PEOPLE[0])
    monkeypatch.setenv("ALERT_TO", PEOPLE[1][0])


def test_a_delivery_has_one_deadline_whatever_the_receiver_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as servers:
        waiting: list[tuple[Receiver, list[Alert]]] = []
        for name, (scheme, drops) in SLOW.items():
            url = f"{scheme}://127.0.0.1:{servers.enter_context(dripping(drops, every=0.1))}"
            receiver: Receiver = (
                Webhook(url, 0.8, name) if "http" in scheme else Mail(url, *PEOPLE, 0.8, name)
            )
            waiting.append((receiver, [ALERT]))
        started = time.monotonic()
        found = {each.receiver.name: str(each.error) for each in deliver(waiting)}
        seconds = time.monotonic() - started
        # Their connections were ended, so no thread is left behind.
        until = time.monotonic() + 2
        while any("(_send)" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < until
            time.sleep(0.02)
    assert seconds < 1.7
    assert found.keys() == SLOW.keys()
    for name, error in found.items():
        host = "127.0.0.1"
        if "webhook" in name:
            assert error.startswith(f"The webhook at {host} did not answer"), name
        else:
            assert error.startswith(f"The mail server {host} did not accept the mail"), name
    drips = [name for name in SLOW if "encrypting" not in name and "nothing" not in name]
    assert all("within 0.8 s" in found[name] for name in drips), found


def test_a_slow_receiver_neither_delays_the_other_one_nor_loses_the_cursor(
    instance: dg.DagsterInstance, hook: Hook, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    runs = [_fail(instance)]
    cursor = '{"told": 0}'
    for _ in range(2):
        started = time.monotonic()
        cursor, said = _tick(instance, cursor)
        assert time.monotonic() - started < 4
        assert f"Sent the alert about run {runs[-1]} to webhook." in said
        assert (
            f"Run {runs[-1]}: The mail server 127.0.0.1 did not accept the mail within 1 s." in said
        )
        assert [alert["run_id"] for alert in hook.alerts] == runs
        runs.append(_fail(instance))
    due = Cursor.model_validate_json(cursor).due
    assert [list(left) for left in due.values()] == [["mail"], ["mail"]]


def test_who_has_confirmed_is_not_told_again_though_the_tick_did_not_end(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Webhook):
        def send(self, alert: Alert) -> None:
            until = time.monotonic() + 5
            while not hook.alerts and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.2)
            raise RuntimeError("a bug")

    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    run = _fail(instance)
    cursor = '{"told": 0}'
    with monkeypatch.context() as patch:
        broken = Broken(hook.url, name="broken")
        patch.setattr(sensors, "receivers", lambda given: [*receiving.receivers(given), broken])
        with pytest.raises(RuntimeError, match="a bug"):
            _tick(instance, cursor)
    cursor, said = _tick(instance, cursor)
    assert [alert["run_id"] for alert in hook.alerts] == [run]
    assert "Sent" not in said
    # A cursor that somebody resets is used as it is.
    _tick(instance, '{"told": 0}')
    assert len(hook.alerts) == 2


def test_a_mail_that_was_accepted_counts_whatever_follows(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "SECONDS", 1.0)
    mails = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with closing(connection), connection.makefile("rwb", buffering=0) as lines:
            lines.write(b"220 mail\r\n")
            for answer in (b"250 mail", b"250 ok", b"250 ok", b"354 go"):
                lines.readline()
                lines.write(answer + b"\r\n")
            while (line := lines.readline()) != b".\r\n":
                mails.append(line)
            lines.write(b"250 accepted\r\n")
            lines.readline()
            # QUIT gets no answer that ends.
            while True:
                try:
                    lines.write(b"221-\r\n")
                except OSError:
                    return
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        _mails(monkeypatch, listening.getsockname()[1])
        run = _fail(instance)
        cursor, said = _tick(instance, '{"told": 0}')
        server.join(5)
    assert said == f"Sent the alert about run {run} to mail."
    assert any(run.encode() in line for line in mails)
    assert Cursor.model_validate_json(cursor).due == {}


def test_an_event_that_is_stored_late_with_a_smaller_id_is_told_and_the_others_are_not_again(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    late, early = _fail(instance), _fail(instance)
    event = dg.DagsterEventType.RUN_FAILURE
    ids = {
        record.run_id: record.storage_id
        for record in instance.fetch_run_status_changes(event, limit=9).records
    }
    # As after a tick that could see only the second.
    told = Cursor(told=ids[late] - 1, recent={ids[early]: time.time()})
    cursor, _ = _tick(instance, told.model_dump_json())
    assert [alert["run_id"] for alert in hook.alerts] == [late]
    after = Cursor.model_validate_json(cursor)
    assert after.recent.keys() == {ids[late], ids[early]}
    settled = after.model_copy(update={"recent": dict.fromkeys(after.recent, 1.0)})
    cursor, _ = _tick(instance, settled.model_dump_json())
    assert Cursor.model_validate_json(cursor) == Cursor(told=ids[early])
    assert len(hook.alerts) == 1


def test_every_receiver_gets_its_alerts_in_order_and_stops_at_the_first_that_fails(
    hook: Hook, mailbox: Mailbox
) -> None:
    mailbox.refuses = "550 no"
    alerts = [Alert("test", f"number {number}") for number in range(3)]
    who: list[Receiver] = [Webhook(hook.url), Mail(f"smtp://127.0.0.1:{mailbox.port}", *PEOPLE)]
    found = list(deliver([(receiver, alerts) for receiver in who], seconds=5))
    by_name = {
        name: [
            (each.alert.headline, each.error is None)
            for each in found
            if each.receiver.name == name
        ]
        for name in ("webhook", "mail")
    }
    assert by_name == {
        "webhook": [(alert.headline, True) for alert in alerts],
        "mail": [("number 0", False)],
    }
    assert [alert["text"] for alert in hook.alerts] == [alert.text for alert in alerts]
    assert all(isinstance(each.error, NotDelivered | None) for each in found)


@pytest.mark.slow
def test_alert_test_ends_soon(tmp_path: object, hook: Hook) -> None:
    with dripping(GREETING, every=3) as mail, dripping(HEADERS, every=3) as web:
        started = time.monotonic()
        ran = pipeline(
            *("alert", "test"),
            PIPELINE_HOME=tmp_path,
            ALERT_WEBHOOK_URL=f"http://127.0.0.1:{web}/",
            ALERT_SMTP_URL=f"smtp://127.0.0.1:{mail}",
            ALERT_FROM=PEOPLE[0],
            ALERT_TO=PEOPLE[1][0],
        )
    assert ran.code == 1
    assert time.monotonic() - started < 50
    assert "The webhook at 127.0.0.1 did not answer within 20 s" in ran.err
    assert "The mail server 127.0.0.1 did not accept the mail within 20 s" in ran.err
