"""Send alerts to a webhook and by mail, within a time limit and without exposing a secret.

The message of a failing library may repeat a URL or password. An error therefore names only the
receiver and the kind of failure, and has no cause.
"""

import ipaddress
import logging
import smtplib
import socket
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

from pipeline.config.setting_groups import AlertSettings
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.orchestration.alerts.message import Alert

SECONDS = 10.0
"""Seconds that a receiver may take to connect, and for each answer."""
_PORTS = {"smtp": 587, "smtps": 465}


class NotDelivered(PipelineError):
    """A receiver did not accept an alert; a later attempt may succeed."""


class Receiver(Protocol):
    """A receiver of alerts."""

    @property
    def name(self) -> str:
        """Its name in stored cursors."""

    @property
    def shown(self) -> str:
        """Its name for people, without a secret."""

    def send(self, alert: Alert) -> None:
        """Send an alert.

        Raises:
            NotDelivered: the receiver did not accept it.
        """


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
        why = ""
        try:
            # The body of the answer is not read; it may be endless.
            with httpx.stream("POST", self.url, json=alert.data, timeout=self.seconds) as answer:
                if answer.is_success:
                    return
                why = f"answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            why = f"did not answer ({type(error).__name__})"
        raise NotDelivered(f"T{self.shown[1:]} {why}", remedy="Check ALERT_WEBHOOK_URL")


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
        why = ""
        try:
            with self._connected() as server:
                server.send_message(self._message(alert))
                return
        except smtplib.SMTPResponseException as error:
            why = f"rejected the mail ({type(error).__name__}, code {error.smtp_code})"
        except (smtplib.SMTPException, OSError) as error:
            why = f"did not accept the mail ({type(error).__name__})"
        remedy = "Check ALERT_SMTP_URL, ALERT_FROM and ALERT_TO"
        raise NotDelivered(f"T{self.shown[1:]} {why}", remedy=remedy)

    def _connected(self) -> smtplib.SMTP:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        context = ssl.create_default_context()
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, port, timeout=self.seconds, context=context
            )
        else:
            server = smtplib.SMTP(host, port, timeout=self.seconds)
        try:
            server.ehlo()
            encrypted = parts.scheme == "smtps"
            if not encrypted and server.has_extn("starttls"):
                server.starttls(context=context)
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


def receivers(settings: AlertSettings) -> list[Receiver]:
    """The configured receivers.

    Raises:
        SettingsError: a mail server is set without addresses, or addresses without a server.
    """
    found: list[Receiver] = []
    if settings.webhook_url is not None:
        found.append(Webhook(settings.webhook_url.get_secret_value()))
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
    return [*found, Mail(settings.smtp_url.get_secret_value(), settings.sender, to)]


def _is_this_machine(server: smtplib.SMTP) -> bool:
    if not isinstance(server.sock, socket.socket):
        return False
    return ipaddress.ip_address(server.sock.getpeername()[0]).is_loopback
