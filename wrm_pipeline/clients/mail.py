"""The mail server for alerts, an alternative to the webhook: over TLS, with the policy for outgoing requests.

Nothing is sent unencrypted except to this machine: `smtps://` is TLS from the start, `smtp://` requires STARTTLS.
"""

import html
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

from wrm_pipeline.clients import outgoing, retry
from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.connections import Wire, dial, secured, tls_context
from wrm_pipeline.clients.errors import CertificateError, ExternalError, PermanentError, TransientError
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

TARGET = "mail"
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0

_DEFAULT_PORTS = {"smtp": 587, "smtps": 465}
_REMEDY = "Correct WRM_SMTP_URL (or smtp_url at wrm/alerts in Vault)"
_SUBJECT_LENGTH = 120
_HERE = frozenset({"127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server, and the recipients.

    Attributes:
        url: ``smtp://`` or ``smtps://``, with user and password; in no repr.
        to: Addresses.
        sender: Of messages; empty: the URL's user if that is an address, else the first of `to`.
        private_hosts: Hosts whose names may have private addresses.
        verify: Of certificates; see `tls_context`.
    """

    url: str = field(repr=False)
    to: Sequence[str]
    sender: str = ""
    policy: retry.RetryPolicy = retry.MAIL_POLICY
    private_hosts: frozenset[str] = frozenset()
    verify: bool | str = True

    def __post_init__(self) -> None:
        remember_secret(self.url)

    def post(self, text: str) -> None:
        """Send one message, given in Slack's markup; takes at most 15 s.

        Raises:
            TransientError: no answer, or the server asks to try later, until attempts or time ran out.
            PermanentError: refused: login, sender, recipients, or no TLS.
        """
        parts = urlsplit(self.url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        message = mail_of(text, self.sender or (user if "@" in user else self.to[0]), self.to)

        def attempt() -> None:
            failure: ExternalError
            try:
                self._send(message, user, password)
            except smtplib.SMTPException as error:
                failure = _refusal(error)
            except OSError as error:
                cause = cause_of(error, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])
                if isinstance(error, ssl.SSLCertVerificationError):
                    remedy = "Check the host, its certificate and the clock"
                    failure = CertificateError(cause, TARGET, "send", remedy=remedy)
                else:
                    failure = TransientError(cause, TARGET, "send")
            else:
                return
            # Not in the handler: the library's exception quotes what was sent.
            raise failure

        retry.call(attempt, target=TARGET, operation="send", policy=self.policy)

    def _send(self, message: EmailMessage, user: str, password: str) -> None:
        parts = urlsplit(self.url)
        host, is_tls = parts.hostname or "", parts.scheme == "smtps"
        until = time.monotonic() + self.policy.attempt_s
        way = outgoing.Policy(
            TARGET, 0, CONNECT_TIMEOUT_S, READ_TIMEOUT_S, self.policy.attempt_s,
            private_hosts=self.private_hosts, verify=self.verify, remedy=_REMEDY,
        )  # fmt: skip
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        try:
            left = until - time.monotonic()
            addresses = outgoing.permitted_addresses(way, host, port, configured=True, within_s=left)
        except outgoing.AddressError as error:
            remedy = f"If that host is your own, add it to WRM_PRIVATE_HOSTS. {_REMEDY}"
            raise _permanent(str(error), remedy) from None
        opened = dial(addresses, port, connect_s=CONNECT_TIMEOUT_S, until=until)
        is_here = opened.getpeername()[0] in _HERE
        client = _Conversation(until)
        try:
            client.use(self._secured(opened, host, until) if is_tls else opened)
            client.greet()
            client.ehlo_or_helo_if_needed()
            if not is_tls and client.has_extn("starttls"):
                client.ask("STARTTLS", 220)
                client.use(self._secured(opened, host, until))
                client.ehlo()
            elif not is_tls and not is_here:
                raise _permanent("the server offers no encryption (STARTTLS)", "Use smtps://, or another server")
            if user:
                client.login(user, password)
            if refused := client.send_message(message):
                _log.warning("The mail server refused %s of %s recipients", len(refused), len(self.to))
            client.docmd("QUIT")
        finally:
            client.end()

    def _secured(self, opened: socket.socket, host: str, until: float) -> socket.socket:
        left = min(CONNECT_TIMEOUT_S, until - time.monotonic())
        return secured(opened, tls_context(self.verify), host, within_s=left)


class _Conversation(smtplib.SMTP):
    """smtplib's client over our connection: each wait and the whole conversation have a deadline."""

    def __init__(self, until: float) -> None:
        super().__init__(local_hostname=socket.gethostname() or "localhost")
        self._until = until
        self._wire: Wire | None = None

    def use(self, opened: socket.socket) -> None:
        """Use this connection from now on, from the beginning of the protocol."""
        self._wire = Wire(opened)
        self._wire.begin(self._until, READ_TIMEOUT_S)
        connection: Any = self._wire  # has what smtplib uses
        self.sock, self.file = connection, None
        self.ehlo_resp = self.helo_resp = None
        self.esmtp_features, self.does_esmtp = {}, False

    def greet(self) -> None:
        """Read the server's greeting."""
        code, text = self.getreply()
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)

    def ask(self, command: str, expected: int) -> None:
        """Send a command."""
        code, text = self.docmd(command)
        if code != expected:
            raise smtplib.SMTPResponseException(code, text)

    def end(self) -> None:
        """End the connection."""
        if self._wire is not None:
            self._wire.end()


def _refusal(error: smtplib.SMTPException) -> ExternalError:
    if isinstance(error, smtplib.SMTPAuthenticationError) and not _is_transient(error.smtp_code):
        return _permanent(f"the login is refused (code {error.smtp_code})", _REMEDY)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return _permanent("the server takes no login", _REMEDY)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = {code for code, _ in error.recipients.values()}
        kind = TransientError if all(map(_is_transient, codes)) else PermanentError
        return kind(f"all recipients are refused (code {min(codes)})", TARGET, "send", "", "Correct WRM_MAIL_TO")
    if isinstance(error, smtplib.SMTPResponseException) and not _is_transient(error.smtp_code):
        remedy = "Correct WRM_MAIL_FROM" if isinstance(error, smtplib.SMTPSenderRefused) else _REMEDY
        return _permanent(f"refused (code {error.smtp_code})", remedy)
    code = f" (code {error.smtp_code})" if isinstance(error, smtplib.SMTPResponseException) else ""
    return TransientError(f"no delivery: {type(error).__name__}{code}", TARGET, "send")


def _is_transient(code: int) -> bool:
    return 400 <= code < 500 or code < 0


def _permanent(problem: str, remedy: str) -> PermanentError:
    return PermanentError(problem, TARGET, "send", remedy=remedy)


def mail_of(text: str, sender: str, to: Sequence[str]) -> EmailMessage:
    """A message in Slack's markup as a mail in plain text; the first line is its subject."""
    plain = plain_text(text)
    message = EmailMessage()
    message["Subject"] = " ".join(plain.partition("\n")[0].split())[:_SUBJECT_LENGTH]
    message["From"], message["To"] = sender, ", ".join(to)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain="wrm-pipeline.invalid")
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(plain)
    return message


def plain_text(text: str) -> str:
    """Slack's markup as plain text: links become `text: address`."""
    text = re.sub(r"<([^|<>]+)\|([^<>]*)>", r"\2: \1", text)
    text = text.replace("```", "")
    text = re.sub(r"(?<!\w)\*([^*\n]+)\*(?!\w)", r"\1", text)
    return html.unescape(text)
