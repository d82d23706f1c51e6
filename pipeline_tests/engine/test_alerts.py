"""Alerts: who is told of which run, once, whatever the receivers do, and never with a secret.

Runs fail for real in a real target; sensors are evaluated on its record of runs as Dagster's daemon
evaluates them, and receivers are real servers on this machine.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
from sqlalchemy.engine import URL

from pipeline.config import settings
from pipeline.config.settings import libpq
from pipeline.core.errors import SettingsError
from pipeline.orchestration import runs
from pipeline.orchestration.alerts import receivers as receiving
from pipeline.orchestration.alerts import sensors
from pipeline.orchestration.alerts.delivery import NotDelivered, Receiver
from pipeline.orchestration.alerts.message import Alert, FailedCheck, FailedStep
from pipeline.orchestration.alerts.receivers import Mail, Webhook
from pipeline.orchestration.alerts.runs import alert_of
from pipeline.orchestration.alerts.sensors import PENDING, TRIES, Cursor, Due
from pipeline.orchestration.definitions import defs
from pipeline_tests.support.commands import pipeline, usable
from pipeline_tests.support.receivers import PASSWORD, Hook, Mailbox
from pipeline_tests.support.runs import use
from pipeline_tests.support.sources import SourceFile
from pipeline_tests.support.targets import CHANGE_ON_INSERT, query

TRIED = Alert("test", "a test", lines=("Nothing has failed. ข้าว",), link="https://ui.example/")
HIDDEN = ("s3cr3t", "pa55")


@dataclass(frozen=True)
class Recorded:
    """A target with a record of three runs, and the settings that name it.

    Attributes:
        well: `migrate` moved everything but one row.
        failed: `migrate`, of which a table's proof failed.
        found: a run that succeeded, with a failed check.
    """

    variables: dict[str, str]
    well: str
    failed: str
    found: str


@dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="checked")])
def checked() -> dg.MaterializeResult:  # type: ignore[type-arg]
    """An asset whose check fails without blocking."""
    return dg.MaterializeResult(
        check_results=[dg.AssetCheckResult(passed=False, check_name="sound", description="no")]
    )


@pytest.fixture(scope="module")
def recorded(server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Three runs in a database of their own."""
    folder = tmp_path_factory.mktemp("recorded")
    source = SourceFile.make(folder / "source.db")
    source.add_family(contents=1)
    source.add("learning_content", {"id": 7, "tags": "no json"})
    with closing(psycopg2.connect(libpq(server))) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE alerts")
        url = libpq(server.set(database="alerts"))
        variables = usable(source, url, folder)
        with pytest.MonkeyPatch.context() as patch:
            use(patch, variables)
            with runs.instance() as instance:
                well = runs.run("migrate", opened=instance).run_id
                found = dg.materialize([checked], instance=instance)
                assert found.success
                query(url, CHANGE_ON_INSERT)
                for ident in (2, 3):
                    source.run("DELETE FROM content_fragments WHERE id = ?", (ident,))
                    source.add("content_fragments", {"id": ident})
                query(url, "TRUNCATE content_fragments CASCADE")
                failed = runs.run("migrate", opened=instance)
                assert not failed.success
        yield Recorded(variables, well, failed.run_id, found.run_id)
        connection.cursor().execute("DROP DATABASE alerts WITH (FORCE)")


@pytest.fixture
def instance(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance in that target, which the settings name."""
    use(monkeypatch, recorded.variables)
    with dg.DagsterInstance.get() as opened:
        yield opened


@dataclass
class Sensor:
    """A sensor that keeps its cursor from tick to tick, as the daemon does."""

    name: str
    instance: dg.DagsterInstance
    cursor: str | None = '{"told": 0}'

    def tick(self) -> str:
        """Let it look; returns what it says."""
        sensor = next(each for each in defs.sensors or () if each.name == self.name)
        with dg.build_sensor_context(self.instance, self.cursor, definitions=defs) as context:
            data = sensor.evaluate_tick(context)
        assert not data.run_requests
        self.cursor = data.cursor
        return data.skip_message or ""

    def later(self) -> None:
        """Let the pauses before further tries be over."""
        cursor = Cursor.model_validate_json(self.cursor or "")
        for left in cursor.due.values():
            for due in left.values():
                due.after = 0
        self.cursor = cursor.model_dump_json()


def leaks(text: str) -> set[str]:
    """The pieces of secrets that a text holds."""
    return {piece for piece in HIDDEN if piece in text}


def test_a_run_that_failed_is_told_with_its_step_its_checks_and_a_link(
    instance: dg.DagsterInstance, recorded: Recorded, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("ALERT_UI_URL", "https://ui.example/")
    sensor = Sensor("run_failed", instance)
    assert sensor.tick() == f"Sent the alert about run {recorded.failed} to webhook."
    (alert,) = hook.alerts
    assert (alert["kind"], alert["job"], alert["run_id"]) == (
        "run_failed",
        "migrate",
        recorded.failed,
    )
    assert [step["step"] for step in alert["failed_steps"]] == ["content_fragments"]
    assert "the proof failed (digests, witness)" in alert["failed_steps"][0]["sentence"]
    check, witness = alert["failed_checks"]
    assert witness["check"] == "witness"
    assert (check["asset"], check["check"], check["severity"]) == (
        "content_fragments",
        "digests",
        "ERROR",
    )
    assert "changed on the way" in check["found"]
    assert alert["link"] == f"https://ui.example/runs/{recorded.failed}"
    assert alert["text"].splitlines()[0] == "migrate failed"
    assert {alert["link"], f"run {recorded.failed}"} <= set(alert["text"].splitlines())


def test_a_run_is_told_once(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    sensor = Sensor("run_failed", instance)
    sensor.tick()
    assert sensor.tick() == "No alert is due."
    assert len(hook.alerts) == 1


def test_a_blocking_check_that_failed_is_told_though_its_run_did_not_fail(
    instance: dg.DagsterInstance, recorded: Recorded, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    Sensor("checks_failed", instance).tick()
    (alert,) = hook.alerts
    assert (alert["kind"], alert["run_id"], alert["failed_steps"]) == (
        "checks_failed",
        recorded.found,
        [],
    )
    assert alert["text"].startswith("ephemeral_asset_job__ found errors\n")
    (check,) = alert["failed_checks"]
    assert (check["asset"], check["check"], check["severity"]) == ("checked", "sound", "ERROR")


def test_warnings_are_told_only_when_they_are_asked_for(
    instance: dg.DagsterInstance, recorded: Recorded, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("ALERT_WARNINGS", "true")
    Sensor("checks_failed", instance).tick()
    by_run = {alert["run_id"]: alert for alert in hook.alerts}
    assert set(by_run) == {recorded.well, recorded.found}
    warned = by_run[recorded.well]["failed_checks"]
    assert {check["severity"] for check in warned} == {"WARN"}
    assert ("learning_content", "quarantine") in {(each["asset"], each["check"]) for each in warned}
    assert "quarantine of learning_content (warning): " in by_run[recorded.well]["text"]


def test_what_failed_before_the_first_tick_is_not_told(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    for cursor in (None, "no cursor of ours"):
        sensor = Sensor("run_failed", instance, cursor)
        sensor.tick()
        sensor.tick()
    assert hook.asked == 0


def test_a_receiver_that_is_down_does_not_stop_the_other_and_is_tried_again_later(
    instance: dg.DagsterInstance,
    recorded: Recorded,
    hook: Hook,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    _mails(monkeypatch, f"smtp://localhost:{mailbox.port}")
    hook.status = 503
    sensor = Sensor("run_failed", instance)
    said = sensor.tick()
    assert f"Sent the alert about run {recorded.failed} to mail." in said
    assert "The webhook at 127.0.0.1 answered 503" in said
    assert "The next attempt is in 60 s." in said
    assert leaks(said + (sensor.cursor or "")) == set()
    sensor.tick()
    assert hook.asked == 1, "the pause was not over"
    hook.status = 200
    sensor.later()
    sensor.tick()
    assert [alert["run_id"] for alert in hook.alerts] == [recorded.failed]
    assert len(mailbox.mails) == 1


def test_a_receiver_that_stays_down_is_given_up(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    hook.status = 500
    sensor = Sensor("run_failed", instance)
    said = []
    for _ in range(TRIES + 2):
        said.append(sensor.tick())
        sensor.later()
    assert hook.asked == TRIES
    assert "The alert was discarded." in said[TRIES - 1]
    assert said[TRIES] == "No alert is due."


def test_in_one_tick_a_receiver_that_is_down_is_asked_once(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    monkeypatch.setenv("ALERT_WARNINGS", "true")
    hook.status = 500
    sensor = Sensor("checks_failed", instance)
    sensor.tick()
    assert hook.asked == 1
    assert len(Cursor.model_validate_json(sensor.cursor or "").due) == 2
    hook.status = 200
    sensor.later()
    sensor.tick()
    assert len(hook.alerts) == 2


def test_the_number_of_alerts_that_wait_is_bounded(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    due = {f"run {number}": {"webhook": Due(after=2e10)} for number in range(PENDING + 5)}
    newest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
    cursor = Cursor(told=newest[0].storage_id, due=due)
    sensor = Sensor("run_failed", instance, cursor.model_dump_json())
    sensor.tick()
    left = Cursor.model_validate_json(sensor.cursor or "").due
    assert list(left) == [f"run {number}" for number in range(5, PENDING + 5)]


def test_what_waits_for_a_receiver_that_there_is_no_more_or_of_a_forgotten_run_is_dropped(
    instance: dg.DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", hook.url)
    gone = "00000000-0000-4000-8000-000000000000"
    cursor = Cursor(told=2**60, due={gone: {"webhook": Due()}, "other": {"mail": Due()}})
    sensor = Sensor("run_failed", instance, cursor.model_dump_json())
    sensor.tick()
    assert (Cursor.model_validate_json(sensor.cursor or "").due, hook.asked) == ({}, 0)


def test_without_a_receiver_the_sensors_are_off_and_say_so(instance: dg.DagsterInstance) -> None:
    assert "set ALERT_WEBHOOK_URL or ALERT_SMTP_URL" in Sensor("run_failed", instance).tick()
    made = sensors.alert_sensors(settings.load())
    assert [(each.name, each.default_status) for each in made] == [
        ("run_failed", dg.DefaultSensorStatus.STOPPED),
        ("checks_failed", dg.DefaultSensorStatus.STOPPED),
    ]


def test_with_a_receiver_the_sensors_run_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://hooks.example/x")
    made = sensors.alert_sensors(settings.load())
    assert {each.default_status for each in made} == {dg.DefaultSensorStatus.RUNNING}


@dg.op
def tells_a_secret() -> None:
    raise ValueError(
        "no way to postgresql://u:s3cr3t%40pa55@h/d or https://hooks.example/s3cr3t"
        " with s3cr3t@pa55"
    )


@dg.job
def telling() -> None:
    tells_a_secret()


def test_a_sentence_that_holds_a_secret_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:s3cr3t%40pa55@h/d")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://hooks.example/s3cr3t")
    with dg.DagsterInstance.ephemeral() as instance:
        ran = telling.execute_in_process(instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(ran.run_id)
        assert run is not None
        alert = alert_of(run, instance, settings.load())
    assert alert is not None
    assert leaks(f"{alert} {alert.data}") == set()
    said = "tells_a_secret failed because of a bug in the pipeline (ValueError: no way to"
    assert alert.steps[0].sentence.startswith(said)


def test_a_run_that_failed_outside_of_its_steps_is_told_with_what_dagster_says() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(telling)
        instance.report_run_failed(run, "The process of this run no longer exists.")
        failed = instance.get_run_by_id(run.run_id)
        assert failed is not None
        alert = alert_of(failed, instance, settings.load())
    assert alert is not None
    assert "The process of this run no longer exists." in alert.text


def test_a_long_alert_is_cut() -> None:
    steps = tuple(FailedStep(f"step {number}", "x" * 5_000) for number in range(50))
    checks = tuple(FailedCheck("table", str(number), "WARN", "y") for number in range(50))
    alert = Alert("run_failed", "much failed", run_id="1", steps=steps, checks=checks)
    assert (len(alert.data["failed_steps"]), len(alert.data["failed_checks"])) == (20, 20)
    assert "and 60 more" in alert.text.splitlines()
    assert len(alert.text) < 15_000


def test_a_mail_says_it_in_plain_text(mailbox: Mailbox) -> None:
    to = ("ops@example.org", "dev@example.org")
    Mail(f"smtp://localhost:{mailbox.port}", "pipeline@example.org", to).send(TRIED)
    (envelope,) = mailbox.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("pipeline@example.org", list(to))
    assert isinstance(envelope.content, bytes)
    mail = message_from_bytes(envelope.content, policy=policy.default)
    assert (mail["Subject"], mail["To"]) == ("[pipeline] a test", ", ".join(to))
    assert mail.get_content().splitlines() == TRIED.text.splitlines()  # type: ignore[attr-defined]


def test_a_password_goes_encrypted_to_a_mail_server(encrypted: Mailbox) -> None:
    url = f"smtp://me:s3cr3t%40pa55@localhost:{encrypted.port}"
    Mail(url, "a@example.org", ("b@example.org",)).send(TRIED)
    assert encrypted.logins == [("me", PASSWORD, True)]
    assert len(encrypted.mails) == 1


def test_a_mail_server_whose_certificate_is_not_known_gets_nothing(
    encrypted: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    url = f"smtp://me:s3cr3t%40pa55@localhost:{encrypted.port}"
    with pytest.raises(NotDelivered, match="SSLCertVerificationError"):
        Mail(url, "a@example.org", ("b@example.org",)).send(TRIED)
    assert (encrypted.logins, encrypted.mails) == ([], [])


def test_a_password_is_not_sent_in_the_clear_to_another_machine(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail(f"smtp://me:{PASSWORD}@localhost:{mailbox.port}", "a@example.org", ("b@c.org",))
    mail.send(TRIED)
    assert mailbox.logins == [("me", PASSWORD, False)], "this machine is no danger"
    monkeypatch.setattr(receiving, "_is_this_machine", lambda _: False)
    with pytest.raises(NotDelivered):
        mail.send(TRIED)
    assert len(mailbox.logins) == 1


def failing(hook: Hook, mailbox: Mailbox) -> dict[str, tuple[Receiver, str]]:
    """Receivers that do not take an alert, and what is said of them."""
    smtp = f"localhost:{mailbox.port}"
    people = ("a@example.org", ("b@example.org",))
    mailbox.refuses = f"550 {PASSWORD} is nobody"
    return {
        "refused": (Webhook(hook.url), "answered 403"),
        "too slow": (Webhook(hook.url, seconds=0.1), "did not answer within 0.1 s"),
        "nobody there": (Webhook("http://u:s3cr3t@127.0.0.1:1/s3cr3t"), "ConnectError"),
        "no such host": (Webhook("http://nowhere.invalid/s3cr3t"), "nowhere.invalid did not"),
        "wrong password": (Mail(f"smtp://me:s3cr3t@{smtp}", *people), "code 535"),
        "recipient refused": (Mail(f"smtp://{smtp}", *people), "SMTPRecipientsRefused"),
        "no mail server": (Mail("smtp://me:s3cr3t@127.0.0.1:1", *people), "Refused"),
        "not encrypted": (Mail(f"smtps://me:s3cr3t@{smtp}", *people), "SSLError"),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("refused", "too slow", "nobody there", "no such host"),
        *("wrong password", "recipient refused", "no mail server", "not encrypted"),
    ],
)
def test_a_receiver_that_fails_is_named_without_a_secret(
    case: str, hook: Hook, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    receiver, said = failing(hook, mailbox)[case]
    hook.status, hook.wait = 403, 0.3 if case == "too slow" else 0.0
    # What is logged anywhere at this level, our own and others'.
    caplog.set_level(logging.INFO)
    with pytest.raises(NotDelivered) as failed:
        receiver.send(TRIED)
    assert said in str(failed.value)
    whole = "".join(traceback.format_exception(failed.value)) + repr(receiver) + caplog.text
    assert leaks(whole) == set()
    # Dagster keeps the chain of causes as well, whether it would be printed or not.
    assert leaks(str(failed.value.__cause__) + str(failed.value.__context__)) == set()


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no webhook": ({"WEBHOOK_URL": "hooks.example/s3cr3t"}, "ALERT_WEBHOOK_URL cannot be used"),
    "a space in it": ({"WEBHOOK_URL": "https://h/s3cr3t x"}, "ALERT_WEBHOOK_URL cannot be used"),
    "no mail server": ({"SMTP_URL": "s3cr3t"}, "ALERT_SMTP_URL cannot be used"),
    "no port": ({"SMTP_URL": "smtp://me:s3cr3t@h:pa55"}, "ALERT_SMTP_URL cannot be used"),
    "no address of the UI": ({"UI_URL": "ui.example"}, "ALERT_UI_URL cannot be used"),
    "no people": ({"SMTP_URL": "smtp://me:s3cr3t@h"}, "Mail also needs ALERT_FROM, ALERT_TO"),
    "no server": ({"FROM": "a@b.org", "TO": "c@d.org"}, "Mail also needs ALERT_SMTP_URL"),
    "people without name": (
        {"SMTP_URL": "smtp://h", "FROM": "a@b.org", "TO": "c@d.org, somebody"},
        "is not an address",
    ),
    "neither yes nor no": ({"WARNINGS": "some"}, "ALERT_WARNINGS cannot be used"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_setting_that_is_wrong_is_named_without_what_it_holds(
    given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"ALERT_{name}", value)
    with pytest.raises(SettingsError) as failed:
        receiving.receivers(settings.load().alerts)
    assert said in str(failed.value)
    assert leaks("".join(traceback.format_exception(failed.value))) == set()


def test_alert_test_tells_everybody_and_fails_when_one_cannot_be_told(
    hook: Hook, mailbox: Mailbox, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"PIPELINE_HOME": tmp_path, "ALERT_WEBHOOK_URL": hook.url}
    given |= {"ALERT_SMTP_URL": f"smtp://localhost:{mailbox.port}"}
    given |= {"ALERT_FROM": "a@example.org", "ALERT_TO": "b@example.org"}
    hook.status = 410
    ran = pipeline("alert", "test", **given)
    assert (ran.code, len(mailbox.mails)) == (1, 1)
    assert ran.out == "sent to the mail server localhost\n"
    assert "The webhook at 127.0.0.1 answered 410. Check ALERT_WEBHOOK_URL." in ran.err
    assert leaks(ran.out + ran.err) == set()


def _mails(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {"SMTP_URL": url, "FROM": "a@example.org", "TO": "b@example.org"}.items():
        monkeypatch.setenv(f"ALERT_{name}", value)
