"""What real libraries raise at real sockets, reduced to the cause."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from wrm_pipeline.clients.causes import MAX_LENGTH, cause_of, host_and_port, is_certificate_error
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline_tests.fixtures.fault_server import RESET, FaultServer
from wrm_pipeline_tests.fixtures.raw_server import raw_server
from wrm_pipeline_tests.fixtures.tls import tls_context

WAIT_S = 0.2


def by_requests(host: str, port: int, scheme: str) -> None:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{scheme}://{host}:{port}/", timeout=WAIT_S)


def by_urllib3(host: str, port: int, scheme: str) -> None:
    import urllib3

    urllib3.PoolManager(timeout=WAIT_S, retries=0).request("GET", f"{scheme}://{host}:{port}/")


def by_botocore(host: str, port: int, scheme: str) -> None:
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=WAIT_S, read_timeout=WAIT_S, retries={"total_max_attempts": 1}, proxies={})
    boto3.session.Session().client(
        "s3",
        endpoint_url=f"{scheme}://{host}:{port}",
        region_name="x",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=config,
    ).list_buckets()


def by_redis(host: str, port: int, scheme: str) -> None:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    redis.Redis(
        host=host,
        port=port,
        ssl=scheme == "https",
        socket_timeout=WAIT_S,
        socket_connect_timeout=WAIT_S,
        retry=Retry(NoBackoff(), 0),
    ).ping()


def by_psycopg2(host: str, port: int, scheme: str) -> None:
    import psycopg2

    mode = "require" if scheme == "https" else "disable"
    psycopg2.connect(host=host, port=port, user="u", dbname="d", connect_timeout=2, sslmode=mode)


def by_psycopg(host: str, port: int, scheme: str) -> None:
    import psycopg

    mode = "require" if scheme == "https" else "disable"
    psycopg.connect(host=host, port=port, user="u", dbname="d", connect_timeout=2, sslmode=mode)


HTTP = [by_requests, by_urllib3, by_botocore]
ALL = [*HTTP, by_redis, by_psycopg2, by_psycopg]


def cause(ask: Callable[[str, int, str], None], port: int, *, host: str = "127.0.0.1", scheme: str = "http") -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whichever library
        ask(host, port, scheme)
    return cause_of(caught.value)


@pytest.fixture(scope="module")
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def silent_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


@pytest.mark.parametrize("ask", ALL)
def test_a_closed_port(ask, closed_port):
    assert cause(ask, closed_port) == f"connection refused by 127.0.0.1:{closed_port}"


@pytest.mark.parametrize("ask", [*HTTP, by_redis, by_psycopg])  # libpq would ask this machine's name servers
def test_a_name_that_does_not_exist(ask, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert cause(ask, 80, host="gone.invalid") == "cannot resolve gone.invalid"


def test_a_name_that_libpq_could_not_resolve():
    import psycopg2

    error = psycopg2.OperationalError(
        'could not translate host name "gone.invalid" to address: Name or service not known'
    )
    assert cause_of(error) == "cannot resolve gone.invalid"


@pytest.mark.parametrize("ask", HTTP)
def test_a_server_that_says_nothing(ask, silent_port):
    assert cause(ask, silent_port) == (
        "no answer from 127.0.0.1" if ask is by_botocore else "no answer from 127.0.0.1 within 0.2 s"
    )


def test_a_redis_that_says_nothing(silent_port):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        by_redis("127.0.0.1", silent_port, "http")
    assert cause_of(caught.value, "127.0.0.1", silent_port, waited_s=WAIT_S) == "no answer from 127.0.0.1 within 0.2 s"


@pytest.mark.parametrize("ask", HTTP)
def test_a_server_that_hangs_up(ask):
    with FaultServer() as server:
        server.play(then=RESET)
        assert cause(ask, host_and_port(server.url)[1] or 0) == "connection closed by 127.0.0.1"


@pytest.mark.parametrize("ask", [*HTTP, by_redis])
def test_a_certificate_of_a_ca_that_nobody_knows(ask, tmp_path):
    with raw_server(lambda _head: [], tls=tls_context(tmp_path)) as server:
        port = host_and_port(server.url)[1] or 0
        text = cause(ask, port, scheme="https")
        assert text == "certificate of 127.0.0.1 not valid: self-signed certificate"


@pytest.mark.parametrize("ask", HTTP)
def test_a_server_without_tls(ask):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])

        def answer_at_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        threading.Thread(target=answer_at_once, daemon=True).start()
        assert cause(ask, port, scheme="https") == f"no TLS with 127.0.0.1:{port}: wrong version number"


def test_what_postgres_says_is_kept_without_what_libpq_puts_before_it():
    import psycopg2

    said = (
        'connection to server at "127.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "u"\n'
    )
    assert cause_of(psycopg2.OperationalError(said)) == 'password authentication failed for user "u"'


def test_an_exception_that_nobody_knows_keeps_its_type_and_is_cut():
    assert cause_of(KeyError("x")) == "KeyError: 'x'"
    assert len(cause_of(ValueError("x" * 10_000))) == MAX_LENGTH


def test_the_full_text_is_in_the_debug_log_without_secrets(caplog, closed_port):
    remember_secret("s3cr3t-of-the-cause")
    with caplog.at_level(logging.DEBUG, "wrm_pipeline.clients.causes"):
        error = ConnectionRefusedError(111, "Connection refused; sent s3cr3t-of-the-cause")
        assert cause_of(error, "db", closed_port) == f"connection refused by db:{closed_port}"
    [record] = caplog.records
    assert "ConnectionRefusedError: [Errno 111] Connection refused" in record.getMessage()
    assert "s3cr3t" not in record.getMessage()


def test_a_certificate_error_is_found_in_what_an_exception_wraps():
    import ssl

    outer = OSError("failed")
    outer.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    assert is_certificate_error(outer)
    assert not is_certificate_error(ssl.SSLError("wrong version number"))


def test_an_earlier_error_in_whose_handler_another_one_occurred_is_not_the_cause():
    error = ConnectionRefusedError(111, "Connection refused")
    error.__context__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert cause_of(error, "second", 80) == "connection refused by second:80"
