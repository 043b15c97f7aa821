"""Endpoints that answer with what they were sent: no client passes a credential on, however it is spelled."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access
from wrm_pipeline.clients import retry
from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.openlineage import Receiver
from wrm_pipeline.clients.postgres_dump import PostgresDatabase
from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.clients.vault import AppRole, Token, Vault
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline_tests.fixtures.canaries import SPELLINGS, shows
from wrm_pipeline_tests.fixtures.echo_servers import postgres_echo, redis_echo, tcp_server
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, Received

KEY = "AKcanary/7+Q dZx3vLm9p"[:12] + "Q7dZx3vLm9p"
SECRET = 's3cr"t&/+=%41-kQ7dZx3vLm9p'
TOKEN = "hvs.canary-kQ7dZx3vLm9p"
ONCE = retry.RetryPolicy(attempts=1, deadline_s=20, base_wait_s=0, max_wait_s=0, attempt_s=15)

Spelling = Callable[[str], str]
SPOKEN = ["plain", "percent-encoded", "repr", "JSON in JSON", "HTML", "base64 of user:password", "over lines", "middle"]


def spelled(spelling: str) -> Spelling:
    return SPELLINGS[spelling]


def said(attempt: Callable[[], object], caplog: pytest.LogCaptureFixture) -> str:
    """All that a failing call tells: the error with its causes, and the log."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is looked through
        attempt()
    return "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value.args)


def s3_echo(spelling: Spelling) -> Callable[[Received], Answer]:
    def answer(request: Received) -> Answer:
        message = escape(f"Not known: {spelling(KEY)} with {spelling(SECRET)}, sent as {request.headers}")
        body = f"<Error><Code>InvalidAccessKeyId</Code><Message>{message}</Message></Error>"
        return Answer(403, body.encode(), {"Content-Type": "application/xml"})

    return answer


def s3_of(url: str) -> S3Access:
    return S3Access("bikes", url, KEY, SECRET, "us-east-1")


@pytest.mark.parametrize("spelling", SPOKEN)
def test_s3(spelling: str, caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer(then=s3_echo(spelled(spelling))) as server:
        access = s3_of(server.url)
        store = s3_object_store(
            bucket=access.bucket,
            endpoint_url=access.endpoint_url,
            access_key_id=access.access_key_id,
            secret_access_key=access.secret_access_key,
            region_name="us-east-1",
            policy=ONCE,
        )
        text = said(lambda: store.get("x"), caplog)
    assert "Not known: ***" in text or "***" in text
    assert "403" in text
    assert not shows(text, KEY)
    assert not shows(text, SECRET)


@pytest.mark.parametrize("spelling", SPOKEN)
def test_duckdbs_httpfs(spelling: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    database = AnalyticsDatabase(tmp_path / "analytics.duckdb")
    with database.refresh():
        pass
    with FaultServer(then=s3_echo(spelled(spelling))) as server:
        database = AnalyticsDatabase(database.path, s3_of(server.url))

        def read() -> None:
            with database.reading() as connection:
                connection.execute("FROM read_parquet('s3://bikes/x.parquet')")

        text = said(read, caplog)
    assert not shows(text, KEY)
    assert not shows(text, SECRET)


@pytest.mark.parametrize("spelling", SPOKEN)
@pytest.mark.parametrize("status", [400, 403, 500])
def test_vault(spelling: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    def echo(request: Received) -> Answer:
        sent = request.headers.get("x-vault-token") or json.loads(request.body or b"{}").get("secret_id", "")
        return Answer(status, json.dumps({"errors": [f"invalid token {spelled(spelling)(sent)}"]}).encode())

    with FaultServer(then=echo) as server:
        for login in (Token(lambda: TOKEN), AppRole(lambda: "role-of-canaries", lambda: TOKEN)):
            text = said(lambda login=login: Vault(server.url, login, policy=ONCE).read("wrm/s3"), caplog)  # type: ignore[misc]
            assert "invalid token" in text
            assert not shows(text, TOKEN)
        assert len(server.requests) == 2


def test_vault_that_answers_with_the_token_as_the_path_of_a_redirect(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer(then=lambda r: Answer(307, b"", {"Location": f"/{r.headers['x-vault-token']}"})) as server:
        text = said(lambda: Vault(server.url, Token(lambda: TOKEN), policy=ONCE).read("wrm/s3"), caplog)
        assert len(server.requests) == 1
    assert not shows(text, TOKEN)


@pytest.mark.parametrize("where", ["user", "query"])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, b"no"),
        Answer(404, b"no"),
        Answer(200, b"x" * 100, {"Content-Length": "50"}),
        Answer(reset=True),
        Answer(302, b"", {"Location": "/?token=kQ7dZx3vLm9p-canary"}),
        Answer(302, b"", {"Location": "http://feed:kQ7dZx3vLm9p-canary@[::1/"}),
        Answer(302, b"", {"Location": "ftp://kQ7dZx3vLm9p-canary/"}),
    ],
    ids=["500", "404", "short", "reset", "circle", "no URL", "ftp"],
)
def test_the_feed(where: str, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer(then=answer) as server:
        host = server.url.removeprefix("http://")
        url = f"http://{host}/?scheme=w&token=kQ7dZx3vLm9p-canary"
        if where == "user":
            url = f"http://feed:kQ7dZx3vLm9p-canary@{host}/?scheme=w"
        feed = Feed(url, max_bytes=40, policy=ONCE)
        assert not shows(repr(feed), "kQ7dZx3vLm9p-canary")
        text = said(feed.fetch, caplog)
    assert not shows(text, "kQ7dZx3vLm9p-canary"), text


@pytest.mark.parametrize(
    "spelling", ["plain", "percent-encoded", "JSON", "HTML", "base64 of user:password", "over lines"]
)
def test_a_body_in_which_the_feed_quotes_our_credential_is_kept_without_it(spelling: str) -> None:
    token = "kQ7dZx3vLm9p/canary&1"
    quoted = f"# {spelled(spelling)(token)}\r\n\xff".encode("latin-1")
    with FaultServer(then=Answer(200, quoted)) as server:
        body = Feed(f"{server.url}/?scheme=w&token=kQ7dZx3vLm9p%2Fcanary%261", policy=ONCE).fetch().body
        assert not shows(body.decode("latin-1"), token)
        assert body.startswith(b"# ")
        assert body.endswith(b"\r\n\xff")
        assert Feed(server.url, policy=ONCE).fetch().body == quoted, "without a credential the very bytes"


def test_a_body_that_does_not_quote_it_is_the_very_bytes() -> None:
    served = b"#id,name\r\n15001,scheme feed kQ7dZx3v \xff\x00\n"
    with FaultServer(then=Answer(200, served)) as server:
        host = server.url.removeprefix("http://")
        assert Feed(f"http://feed:scheme@{host}/?token=kQ7dZx3vLm9p-canary", policy=ONCE).fetch().body == served


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_the_webhook(status: int, caplog: pytest.LogCaptureFixture) -> None:
    def echo(request: Received) -> Answer:
        return Answer(status, f"no hook {request.path}".encode(), {"Location": request.path})

    with FaultServer(then=echo) as server:
        hook = Webhook(f"{server.url}/services/T0/B0/kQ7dZx3vLm9p-canary?key=mQ7dZx3vLm9p-canary", policy=ONCE)
        text = said(lambda: hook.post("hello"), caplog)
    assert f"HTTP {status}" in text
    assert not shows(text, "kQ7dZx3vLm9p-canary")
    assert not shows(text, "mQ7dZx3vLm9p-canary")


@pytest.mark.parametrize(
    "key", ["kQ7dZx3vLm9p-canary", "kQ7dZx3vLm9p\ncanary", "kQ7dZx3vLm9p-canary\n", "kQ7dZx3ł-canary"]
)
def test_the_receiver_of_lineage(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """A line break in the key: the settings refuse it; one that comes another way is not shown and not tried again."""

    def echo(request: Received) -> Answer:
        return Answer(
            401, request.headers["authorization"].encode(), {"WWW-Authenticate": request.headers["authorization"]}
        )

    with FaultServer(then=echo) as server:
        receiver = Receiver(server.url, key, policy=retry.LINEAGE_POLICY)
        text = said(lambda: receiver.post(b"{}"), caplog)
        assert len(server.requests) <= 1
    assert not shows(text, key)


# --- Servers that are no HTTP ---------------------------------------------------------------------------------------


def test_redis(caplog: pytest.LogCaptureFixture) -> None:
    with tcp_server(redis_echo) as port:
        text = said(connect_redis(f"redis://:kQ7dZx3vLm9p-canary@127.0.0.1:{port}/0").ping, caplog)
    assert "unknown command" in text
    assert not shows(text, "kQ7dZx3vLm9p-canary")


def test_postgresql(caplog: pytest.LogCaptureFixture) -> None:
    with tcp_server(postgres_echo) as port:
        database = PostgresDatabase("127.0.0.1", port, "dagster", "wrm", "kQ7dZx3vLm9p-canary")
        text = said(database.tables, caplog)
        assert "password authentication failed with" in text
        assert not shows(text, "kQ7dZx3vLm9p-canary")
        text = said(lambda: database.dump(Path("/nowhere/x")), caplog)
    assert not shows(text, "kQ7dZx3vLm9p-canary")


def test_an_error_keeps_what_is_no_secret() -> None:
    error = ExternalError("HTTP 403 no", "s3", "get", f"raw/dt={date(2025, 8, 21)}/x.txt", "Check the S3 keys", 403)
    assert str(error) == "s3 get raw/dt=2025-08-21/x.txt: HTTP 403 no. Check the S3 keys"
