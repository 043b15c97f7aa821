"""The mail server as a channel: what arrives, over what, and what is said of a server that refuses."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients import mail, retry
from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.clients.mail import Mail, mail_of, plain_text
from wrm_pipeline.settings import SettingsError, load_settings
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.mail_server import MailServer, mail_server
from wrm_pipeline_tests.fixtures.tls import tls_context

CANARY = "s3cr3t canary/of+mail"  # pragma: allowlist secret
QUOTED = "s3cr3t%20canary%2Fof%2Bmail"
TO = ("a@example.org", "b@example.org")
ONCE = replace(retry.MAIL_POLICY, attempts=1)
TEXT = "🔴 *wrm_stations_ingest_job* failed\n```HTTP 503 &lt;x&gt;```\n*Since:* 2 runs\n<http://ui/runs/1|Open the run>"


def sender(server: MailServer, *, scheme: str = "smtp", login: str = "", **more: object) -> Mail:
    return Mail(f"{scheme}://{login}127.0.0.1:{server.port}", TO, policy=ONCE, **more)  # type: ignore[arg-type]


def test_an_alert_arrives_as_a_person_reads_it():
    with mail_server(MailServer()) as server:
        sender(server).post(TEXT)
    (message,) = server.taken
    assert message["Subject"] == "🔴 wrm_stations_ingest_job failed"
    assert (message["From"], message["To"]) == ("a@example.org", "a@example.org, b@example.org")
    assert message["Auto-Submitted"] == "auto-generated"
    assert server.recipients == [list(TO)]
    assert message.get_content().replace("\r\n", "\n") == (
        "🔴 wrm_stations_ingest_job failed\nHTTP 503 <x>\nSince: 2 runs\nOpen the run: http://ui/runs/1\n"
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("`wrm doctor` says a*b*c", "`wrm doctor` says a*b*c"),
        ("*Where:* step x, *two* words", "Where: step x, two words"),
        ("1 &lt; 2 &amp;amp; 3", "1 < 2 &amp; 3"),
    ],
)
def test_markup_is_taken_out(text, plain):
    assert plain_text(text) == plain


def test_a_subject_is_one_short_line():
    message = mail_of(f"*{'x' * 300}*\nmore", "a@example.org", TO)
    assert message["Subject"] == "x" * 120


@pytest.mark.parametrize("scheme", ["smtps", "smtp"])
def test_a_login_goes_over_tls_and_only_to_a_server_that_is_trusted(scheme, tmp_path):
    context = tls_context(tmp_path)
    kind = {"tls": context} if scheme == "smtps" else {"starttls": context}
    with mail_server(MailServer(user="me@example.org", password=CANARY), **kind) as server:
        login = f"me%40example.org:{QUOTED}@"
        sender(server, scheme=scheme, login=login, verify=str(tmp_path / "ca.pem")).post(TEXT)
        assert server.over_tls == [True]
        assert server.taken[0]["From"] == "me@example.org"
        with pytest.raises(PermanentError, match=r"certificate of 127\.0\.0\.1 not valid: self-signed") as caught:
            sender(server, scheme=scheme, login=login).post(TEXT)
        assert server.logins == 1
    assert "canary" not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"


def test_a_server_elsewhere_that_offers_no_tls_gets_nothing(monkeypatch):
    with mail_server(MailServer()) as server:
        monkeypatch.setattr(mail, "_HERE", frozenset())
        with pytest.raises(PermanentError, match=r"offers no encryption \(STARTTLS\)\. Use smtps://"):
            sender(server, login=f"me:{QUOTED}@").post(TEXT)
    assert (server.taken, server.logins) == ([], 0)


def test_a_login_that_is_refused_is_said_without_it():
    with mail_server(MailServer(user="me", password="another")) as server:  # pragma: allowlist secret
        with pytest.raises(PermanentError) as caught:
            sender(server, login=f"me:{QUOTED}@").post(TEXT)
        assert server.logins >= 1
    assert "mail send: the login is refused (code 535). Correct WRM_SMTP_URL" in str(caught.value)
    assert "canary" not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert "canary" not in repr(sender(server, login=f"me:{QUOTED}@"))


@pytest.mark.parametrize(
    ("answer", "kind", "connections", "words"),
    [
        ("451 try later", TransientError, 2, "no delivery: SMTPDataError (code 451) (gave up after 2 attempts"),
        ("554 spam", PermanentError, 1, "refused (code 554)"),
    ],
)
def test_what_the_server_says_decides_whether_it_is_asked_again(answer, kind, connections, words):
    fast = replace(retry.MAIL_POLICY, base_wait_s=0, max_wait_s=0)
    with mail_server(MailServer(answer=answer)) as server:
        with pytest.raises(kind) as caught:
            replace(sender(server), policy=fast).post(TEXT)
        assert server.connections == connections
    assert words in str(caught.value)


def test_recipients_that_are_refused_are_named_by_their_variable_and_cost_no_others():
    with mail_server(MailServer(refused=TO[:1])) as server:
        sender(server).post(TEXT)
        assert server.recipients == [[TO[1]]]
        server.refused = TO
        with pytest.raises(PermanentError, match=r"all recipients are refused \(code 550\)\. Correct WRM_MAIL_TO"):
            sender(server).post(TEXT)


def test_a_server_that_is_down_is_transient():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TransientError, match=r"connection refused by 127\.0\.0\.1:\d+"):
        sender(MailServer(port=port)).post(TEXT)


def test_a_server_that_drips_has_an_end():
    policy = replace(ONCE, attempt_s=0.4)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            accepted, _ = listening.accept()
            with accepted:
                try:
                    while True:
                        accepted.sendall(b"220-more\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(TransientError, match="mail send: no"):
            replace(sender(MailServer(port=listening.getsockname()[1])), policy=policy).post(TEXT)
        thread.join(10)
        assert not thread.is_alive()


def test_a_name_that_leads_inside_is_refused(monkeypatch):
    monkeypatch.setattr(
        "wrm_pipeline.clients.connections.socket.getaddrinfo", lambda *_a, **_k: [(0, 0, 0, "", ("10.0.0.1", 0))]
    )
    with pytest.raises(PermanentError, match=r"10\.0\.0\.1 .*WRM_PRIVATE_HOSTS"):
        Mail("smtp://mail.example.org", TO, policy=ONCE).post(TEXT)


# --- settings and `wrm alerts test` ---


def configured(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def alerts_test(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    status = main(["alerts", "test", "--json"])
    return status, {one["channel"]: one["problem"] for one in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WRM_MAIL_TO": "nobody"}, "WRM_MAIL_TO='nobody': is not a list of mail addresses"),
        ({"WRM_SMTP_URL": "http://canary@h"}, "WRM_SMTP_URL: is not a URL (not shown"),
    ],
)
def test_settings_that_cannot_work_are_refused(monkeypatch, variables, words):
    configured(monkeypatch, **variables)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


def test_each_channel_gets_a_test_message_and_says_what_happened(monkeypatch, capsys, tmp_path: Path):
    with mail_server(MailServer()) as server, FaultServer(then=Answer(404, b"")) as webhook:
        (tmp_path / "url").write_text(f"smtp://127.0.0.1:{server.port}")
        configured(monkeypatch, WRM_MAIL_TO=", ".join(TO), WRM_MAIL_FROM="wrm@example.org")
        configured(monkeypatch, WRM_SMTP_URL_FILE=str(tmp_path / "url"), WRM_ALERT_WEBHOOK_URL=webhook.url)
        status, problems = alerts_test(capsys)
        assert (status, problems["mail"]) == (1, "")
        assert problems["webhook"].startswith("webhook post: HTTP 404")
        webhook.play(then=Answer(200, b"ok"))
        assert alerts_test(capsys) == (0, {"webhook": "", "mail": ""})
        assert main(["alerts", "test"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith("mail     delivered (")
    assert len(server.taken) == 3
    assert server.taken[0]["From"] == "wrm@example.org"
    assert server.subjects[0].startswith("🔵 Test message of wrm_pipeline")


def test_an_address_without_a_server_is_said(monkeypatch, capsys):
    configured(monkeypatch, WRM_MAIL_TO="a@example.org")
    status, problems = alerts_test(capsys)
    assert (status, list(problems)) == (1, ["mail"])
    assert "no mail server is named. Set WRM_SMTP_URL or WRM_SMTP_URL_FILE" in problems["mail"]


def test_without_a_channel_it_is_said_what_to_set(environment, capsys):
    assert main(["alerts", "test"]) == 1
    assert "There is nobody to tell: set WRM_ALERT_WEBHOOK_URL, or WRM_MAIL_TO" in capsys.readouterr().out
