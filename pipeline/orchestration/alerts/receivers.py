"""Send alerts to a webhook and by mail, within a time limit and without exposing a secret.

The message of a failing library may repeat a URL or password. An error therefore names only the
receiver and the kind of failure, and has no cause.
"""

import contextlib
import ipaddress
import logging
import smtplib
import socket
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from pipeline.config.setting_groups import AlertSettings
from pipeline.core.errors import SettingsError
from pipeline.orchestration.alerts.delivery import SECONDS, Deadline, NotDelivered, Receiver
from pipeline.orchestration.alerts.message import Alert

_PORTS = {"smtp": 587, "smtps": 465}
_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")
"""Events of httpcore that return a new stream."""


@dataclass(frozen=True)
class Webhook:
    """A URL that accepts JSON; the URL often is a secret itself."""

    url: str
    seconds: float = SECONDS
    name: str = "webhook"

    def __repr__(self) -> str:
        """Only the host."""
        return f"<{self.shown}>"

    @property
    def shown(self) -> str:
        """Only the host."""
        return f"the webhook at {urlsplit(self.url).hostname}"

    def send(self, alert: Alert) -> None:
        """Post the alert as JSON; any status 2xx counts as delivered."""
        # httpx would log the whole URL.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        with Deadline(self.seconds) as deadline:
            why = self._post(alert, deadline)
        if not why:
            return
        if deadline.over:
            why = f"did not answer within {self.seconds:,g} s"
        raise NotDelivered(f"T{self.shown[1:]} {why}", remedy="Check ALERT_WEBHOOK_URL")

    def _post(self, alert: Alert, deadline: Deadline) -> str:
        """Post the alert; returns why it was not accepted, or nothing."""

        def watch(event: str, info: dict[str, Any]) -> None:
            if event in _CONNECTED:
                deadline.watch(info["return_value"].get_extra_info("socket"))

        try:
            # The body of the answer is not read; it may be endless.
            with (
                httpx.Client(timeout=self.seconds) as client,
                client.stream(
                    "POST", self.url, json=alert.data, extensions={"trace": watch}
                ) as answer,
            ):
                return "" if answer.is_success else f"answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
            return f"did not answer ({type(error).__name__})"


@dataclass(frozen=True)
class Mail:
    """Mail to people; the URL contains the password of the mail server."""

    url: str
    sender: str
    to: tuple[str, ...]
    seconds: float = SECONDS
    name: str = "mail"

    def __repr__(self) -> str:
        """Only the host."""
        return f"<{self.shown}>"

    @property
    def shown(self) -> str:
        """Only the host."""
        return f"the mail server {urlsplit(self.url).hostname}"

    def send(self, alert: Alert) -> None:
        """Send the alert as plain text, encrypted if the server supports it."""
        with Deadline(self.seconds) as deadline:
            why = self._hand_over(alert, deadline)
        if not why:
            return
        if deadline.over:
            why = f"did not accept the mail within {self.seconds:,g} s"
        remedy = "Check ALERT_SMTP_URL, ALERT_FROM and ALERT_TO"
        raise NotDelivered(f"T{self.shown[1:]} {why}", remedy=remedy)

    def _hand_over(self, alert: Alert, deadline: Deadline) -> str:
        """Send the mail; returns why it was not accepted, or nothing."""
        try:
            with contextlib.closing(self._connected(deadline)) as server:
                server.send_message(self._message(alert))
                # The mail is accepted, whatever the server answers now.
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()
                return ""
        except smtplib.SMTPResponseException as error:
            return f"rejected the mail ({type(error).__name__}, code {error.smtp_code})"
        except (smtplib.SMTPException, OSError) as error:
            return f"did not accept the mail ({type(error).__name__})"

    def _connected(self, deadline: Deadline) -> smtplib.SMTP:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        context = ssl.create_default_context()
        encrypted = parts.scheme == "smtps"
        server = _Server(host, port, deadline=deadline, context=context if encrypted else None)
        try:
            server.ehlo()
            if not encrypted and server.has_extn("starttls"):
                server.starttls(context=context)
                deadline.watch(_socket_of(server))
                encrypted = True
            if parts.username:
                if not (encrypted or _is_this_machine(server)):
                    raise ssl.SSLError("a password is not sent in the clear")
                server.login(unquote(parts.username), unquote(parts.password or ""))
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[pipeline] {alert.headline}"
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="pipeline")
        message.set_content(alert.text)
        return message


class _Server(smtplib.SMTP):
    """A mail server whose connection is watched before the server says anything."""

    def __init__(
        self, host: str, port: int, *, deadline: Deadline, context: ssl.SSLContext | None
    ) -> None:
        """Connect, encrypted from the start if there is a ``context``."""
        self._deadline, self._context = deadline, context
        super().__init__(host, port, timeout=deadline.seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        try:
            self._deadline.watch(connection)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_hostname=host)
                self._deadline.watch(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def receivers(settings: AlertSettings) -> list[Receiver]:
    """The configured receivers.

    Raises:
        SettingsError: a mail server is set without addresses, or addresses without a server.
    """
    found: list[Receiver] = []
    if settings.webhook_url is not None:
        found.append(Webhook(settings.webhook_url.get_secret_value(), SECONDS))
    given = {
        "ALERT_SMTP_URL": settings.smtp_url,
        "ALERT_FROM": settings.sender,
        "ALERT_TO": settings.to,
    }
    lacking = [name for name, value in given.items() if not value]
    if len(lacking) == len(given):
        return found
    to = tuple(person.strip() for person in (settings.to or "").split(",") if person.strip())
    if settings.smtp_url is None or settings.sender is None or not to:
        raise SettingsError(
            f"Mail also needs {', '.join(lacking or ['ALERT_TO'])}",
            remedy="Set ALERT_SMTP_URL, ALERT_FROM and ALERT_TO, or none of them",
        )
    if not all(person.isprintable() and "@" in person for person in (settings.sender, *to)):
        raise SettingsError(
            "ALERT_FROM or ALERT_TO is not an address", remedy="Write them like ops@example.org"
        )
    return [*found, Mail(settings.smtp_url.get_secret_value(), settings.sender, to, SECONDS)]


def _socket_of(server: smtplib.SMTP) -> socket.socket:
    if not isinstance(server.sock, socket.socket):
        raise smtplib.SMTPServerDisconnected
    return server.sock


def _is_this_machine(server: smtplib.SMTP) -> bool:
    return ipaddress.ip_address(_socket_of(server).getpeername()[0]).is_loopback
