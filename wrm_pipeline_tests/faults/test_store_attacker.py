"""The object store's endpoint as an attacker: wherever it leads, nobody goes; whatever it says, it ends.

The three that ask it are boto3, the bulk reader and DuckDB's httpfs. Left to themselves, DuckDB follows every redirect,
to services of this machine as well, and boto3 asks for the bucket's region until Python's stack is full.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import duckdb
import pytest

from wrm_pipeline.analytics.database import S3Access, give_s3_access
from wrm_pipeline.clients.endpoint_proxy import MAX_CONNECTIONS, EndpointProxy
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.clients.outgoing import place_of
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline_tests.faults.attacks import DAMAGED, ENDLESS, answer
from wrm_pipeline_tests.fixtures.canaries import Hunt, canary
from wrm_pipeline_tests.fixtures.raw_server import RawServer, raw_server
from wrm_pipeline_tests.fixtures.tls import tls_context
from wrm_pipeline_tests.integration.conftest import wait_until

REFUSED, GIVEN_UP, TAKEN = "not followed, and the other server heard nothing", "given up in time", "answered"
MUTATION = "graphql?query=mutation{wipeAssets(assetPartitionRanges:[]){__typename}}"
KEYS = {"access_key_id": canary("store key"), "secret_access_key": canary("store secret")}
ONCE = RetryPolicy(attempts=1, deadline_s=1, base_wait_s=0.01, max_wait_s=0.01, attempt_s=0.5)
PATIENT_S = 60
SOON_S = 8  # ONCE's second, and loading boto3 on a busy machine; the servers never end
WHAT_IT_HOLDS = b"what only this machine may read"

ASK = {
    "get": lambda store: store.get("k"),
    "stat": lambda store: store.stat("k"),
    "list": lambda store: list(store.list("raw/")),
    "put": lambda store: store.put("k", b"body"),
    "delete": lambda store: store.delete("k"),
}


@pytest.fixture
def victim() -> Iterator[RawServer]:
    """Another service of this machine, which would answer as S3 does."""
    head = ('ETag: "x"', "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT", f"Content-Length: {len(WHAT_IT_HOLDS)}")
    with raw_server(lambda _head: [answer(WHAT_IT_HOLDS, *head)], "127.0.0.2") as server:
        yield server


@contextlib.contextmanager
def endpoint(say: Callable[[bytes], list[bytes]]) -> Iterator[tuple[RawServer, str]]:
    with raw_server(say) as server:
        yield server, f"http://127.0.0.1:{server.port}"


def store_at(url: str, deadline_s: float = ONCE.deadline_s) -> S3ObjectStore:
    policy = replace(ONCE, deadline_s=deadline_s)
    return s3_object_store(bucket="lake", endpoint_url=url, policy=policy, read_timeout_s=0.6, **KEYS)


def by_duckdb(url: str, key: str = "k") -> bytes:
    with duckdb.connect() as connection:
        give_s3_access(connection, S3Access("lake", url, region_name=None, **KEYS))
        connection.execute("SET http_retries = 0")
        connection.execute("SET http_timeout = 10")
        found = connection.execute(f"SELECT content FROM read_blob('s3://lake/{key}')").fetchone()
        return bytes(found[0])


def error(code: str, more: str = "", status: str = "301 Moved Permanently", *headers: str) -> Callable[[str], bytes]:
    def say(elsewhere: str) -> bytes:
        text = f"<Error><Code>{code}</Code><Message>m</Message>{more}</Error>".replace("{elsewhere}", elsewhere)
        filled = [header.replace("{elsewhere}", elsewhere) for header in headers]
        return answer(
            text.encode(), "Content-Type: application/xml", f"Content-Length: {len(text)}", *filled, status=status
        )

    return say


def location(status: str, target: str = "http://{elsewhere}/" + MUTATION) -> Callable[[str], bytes]:
    return lambda elsewhere: answer(
        b"", f"Location: {target.replace('{elsewhere}', elsewhere)}", "Content-Length: 0", status=status
    )


REGION = "x-amz-bucket-region: "
LEADS = {
    **{f"{status} with a Location": location(status) for status in ("301 M", "302 F", "303 S", "307 T", "308 P")},
    "300 with a Location": location("300 Multiple Choices"),
    "a Location without a scheme": location("302 Found", "//{elsewhere}/" + MUTATION),
    "a Location with credentials": location("302 Found", "http://a:b@{elsewhere}/"),
    "a Location that is a file": location("302 Found", "file:///etc/hostname"),
    "a Location by ftp": location("302 Found", "ftp://{elsewhere}/"),
    "a Location by gopher": location("302 Found", "gopher://{elsewhere}/_GET%20/"),
    "a Location by dict": location("302 Found", "dict://{elsewhere}/stat"),
    "PermanentRedirect with an Endpoint": error("PermanentRedirect", "<Endpoint>{elsewhere}</Endpoint>"),
    "TemporaryRedirect with an Endpoint": error(
        "TemporaryRedirect", "<Endpoint>{elsewhere}</Endpoint><Bucket>lake</Bucket>", "307 Temporary Redirect"
    ),
    "PermanentRedirect with an Endpoint and a Location": error(
        "PermanentRedirect", "<Endpoint>{elsewhere}</Endpoint>", "301 M", "Location: http://{elsewhere}/"
    ),
    "301 without anything": lambda _elsewhere: answer(b"", "Content-Length: 0", status="301 M"),
    "another region": error("PermanentRedirect", "", "301 M", f"{REGION}eu-central-1"),
    "a region that is a host": error("PermanentRedirect", "", "301 M", REGION + "{elsewhere}"),
    "a region with an at sign": error("PermanentRedirect", "", "301 M", REGION + "x@{elsewhere}/#"),
    "a region with a slash": error("PermanentRedirect", "", "400 B", REGION + "{elsewhere}/x?"),
    "a region in the error": error("AuthorizationHeaderMalformed", "<Region>{elsewhere}</Region>", "400 B"),
    "another region in the error": error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>", "400 B"),
    "a location constraint": error("IllegalLocationConstraintException", "<Region>af-south-1</Region>", "400 B"),
}


@pytest.mark.parametrize("kind", LEADS)
def test_boto3_goes_nowhere_else(victim, report, kind):
    report(f"boto3: {kind}", REFUSED)
    elsewhere = f"127.0.0.2:{victim.port}"
    with endpoint(lambda _head: [LEADS[kind](elsewhere)]) as (server, url):
        for ask in ASK.values():
            server.heads.clear()
            with pytest.raises(ExternalError) as caught:
                ask(store_at(url))
            assert not isinstance(caught.value, RecursionError)
            assert "s3://lake/" in str(caught.value)
            assert len(server.heads) <= 3, "once more for another region, and once to ask for it"
    assert victim.connections == 0


@pytest.mark.parametrize("kind", LEADS)
def test_the_bulk_reader_goes_nowhere_else(victim, report, kind):
    report(f"bulk reader: {kind}", REFUSED)
    elsewhere = f"127.0.0.2:{victim.port}"
    with endpoint(lambda _head: [LEADS[kind](elsewhere)]) as (server, url):
        assert store_at(url)._bulk.get("k") is None
        assert len(server.heads) == 1
    assert victim.connections == 0


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.0/8,localhost"], ids=["", "NO_PROXY"])
@pytest.mark.parametrize("kind", LEADS)
def test_duckdb_goes_nowhere_else(victim, report, monkeypatch, kind, no_proxy):
    report(f"DuckDB{' with NO_PROXY' if no_proxy else ''}: {kind}", REFUSED)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, no_proxy)
    elsewhere = f"127.0.0.2:{victim.port}"
    with endpoint(lambda _head: [LEADS[kind](elsewhere)]) as (_, url), pytest.raises(duckdb.Error) as caught:
        by_duckdb(url)
    assert victim.connections == 0
    assert "mutation" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_is_asked(victim, report, monkeypatch, proxy):
    report(f"{proxy} in the environment", TAKEN)
    monkeypatch.setenv(proxy, f"http://127.0.0.2:{victim.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    say = lambda _head: [  # noqa: E731
        answer(b"body", 'ETag: "x"', "Content-Length: 4", "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT")
    ]
    with endpoint(say) as (_, url):
        store = store_at(url, PATIENT_S)
        assert [store.get("k"), store._bulk.get("k"), by_duckdb(url)] == [b"body"] * 3
    assert victim.connections == 0


def test_a_request_for_another_region_is_signed_for_it_and_sent_to_the_same_host(report):
    report("the region that the store names", TAKEN)

    def say(head: bytes) -> list[bytes]:
        if b"/eu-west-1/s3/" in head:
            return [answer(b"body", 'ETag: "x"', "Content-Length: 4")]
        return [LEADS["another region in the error"]("")]

    with endpoint(say) as (server, url):
        assert store_at(url, PATIENT_S).get("k") == b"body"
    assert [head.partition(b" HTTP")[0] for head in server.heads] == [b"GET /lake/k"] * 2


def test_credentials_in_the_endpoint_do_not_replace_the_signature(report):
    report("user and password in S3_ENDPOINT_URL", TAKEN)
    with endpoint(lambda _head: [answer(b"body", 'ETag: "x"', "Content-Length: 4")]) as (server, url):
        store = store_at(url.replace("://", "://me:word@"), PATIENT_S)
        assert [store.get("k"), store._bulk.get("k")] == [b"body"] * 2
    assert all(b"Authorization: AWS4-HMAC-SHA256 Credential=" in head for head in server.heads)


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.1"], ids=["", "NO_PROXY"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_from_https_to_nowhere_else(victim, report, monkeypatch, tmp_path, scheme, no_proxy):
    report(f"DuckDB{' with NO_PROXY' if no_proxy else ''}: from https to {scheme} on another port", REFUSED)
    tls = tls_context(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, no_proxy)
    found = answer(b"body", 'ETag: "x"', "Content-Length: 4", "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT")
    with raw_server(lambda _head: [found], tls=tls) as other:
        port = other.port if scheme == "https" else victim.port
        leads = location("302 Found", f"{scheme}://127.0.0.{1 if scheme == 'https' else 2}:{port}/")("")
        with raw_server(lambda head: [leads if b"/led" in head else found], tls=tls) as server:
            url = server.url.removesuffix("/feed")
            assert by_duckdb(url) == store_at(url, PATIENT_S).get("k") == store_at(url)._bulk.get("k") == b"body"
            with pytest.raises(duckdb.Error):
                by_duckdb(url, "led")
    assert (victim.connections, other.connections) == (0, 0)


@pytest.mark.parametrize("trusted", [None, "another CA"])
def test_a_certificate_that_nobody_vouches_for_is_refused_by_all_three(report, monkeypatch, tmp_path, trusted):
    report(f"a certificate of its own, {trusted or 'no CA'} configured", "refused")
    (tmp_path / "other").mkdir()
    tls_context(tmp_path / "other")
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "other" / "ca.pem"))
    with raw_server(
        lambda _head: [answer(b"body", 'ETag: "x"', "Content-Length: 4")], tls=tls_context(tmp_path)
    ) as server:
        url = server.url.removesuffix("/feed")
        with pytest.raises(PermanentError, match="not valid: self-signed certificate"):
            store_at(url).get("k")
        assert store_at(url)._bulk.get("k") is None
        with pytest.raises(duckdb.Error):
            by_duckdb(url)
    assert server.heads in ([], [b""] * len(server.heads))


# --- how it drips, and how much it brings ---


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_given_up(report, kind):
    report(f"boto3 and the bulk reader: {kind}", GIVEN_UP)
    with endpoint(ENDLESS[kind]) as (_, url):
        store = store_at(url)
        for ask in (lambda: list(store.list("")), lambda: store.put("k", b"x" * 100_000)):
            started = time.monotonic()
            with pytest.raises(ExternalError, match="s3://lake"):
                ask()
            assert time.monotonic() - started < SOON_S


@pytest.mark.parametrize("kind", [kind for kind in DAMAGED if "204" not in kind and kind != "a part"])
def test_what_is_not_an_answer_is_an_error_in_plain_words(report, kind):
    report(f"boto3 and the bulk reader: {kind}", GIVEN_UP)
    with endpoint(lambda _head: [DAMAGED[kind]]) as (_, url):
        store = store_at(url)
        for ask in (lambda: store.get("k"), lambda: store.stat("k")):
            with pytest.raises(ExternalError, match="s3://lake/k at 127") as caught:
                ask()
            assert len(str(caught.value)) < 600
        assert store._bulk.get("k") is None


def test_a_listing_has_a_bound(report):
    report("a listing of 40 MB", GIVEN_UP)
    long = answer(b"<x/>" * 10_000_000, "Content-Type: application/xml")
    with endpoint(lambda _head: [long]) as (_, url), pytest.raises(ExternalError, match="longer than 33554432 bytes"):
        list(store_at(url, PATIENT_S).list(""))


def test_a_name_server_that_hangs_costs_an_attempt(report, silent_name_server):
    report("the endpoint's name is not resolved", GIVEN_UP)
    store = store_at("http://store.example:9000")
    started = time.monotonic()
    with pytest.raises(
        TransientError, match=r"s3 get s3://lake/k at store\.example:9000: cannot resolve store\.example within"
    ):
        store.get("k")
    assert time.monotonic() - started < SOON_S
    started = time.monotonic()
    with pytest.raises(duckdb.Error):
        by_duckdb("http://store.example:9000")
    assert time.monotonic() - started < SOON_S


def test_no_key_is_in_any_error(report):
    report("an endpoint that quotes what it was sent", "masked")

    def say(head: bytes) -> list[bytes]:
        return [answer(head + KEYS["access_key_id"].encode(), status="403 Forbidden")]

    hunt = Hunt(KEYS)
    with endpoint(say) as (_, url):
        for ask in ASK.values():
            with pytest.raises(ExternalError) as caught:
                ask(store_at(url))
            assert hunt.found_in(str(caught.value)) == set()


# --- the proxy itself ---

ASKED_OF_THE_PROXY = {
    "another port": b"GET http://127.0.0.1:{victim}/ HTTP/1.1\r\n\r\n",
    "another host": b"GET http://127.0.0.2:{victim}/ HTTP/1.1\r\n\r\n",
    "the endpoint as a user name": b"GET http://127.0.0.1:{own}@127.0.0.2:{victim}/ HTTP/1.1\r\n\r\n",
    "a backslash": b"GET http://127.0.0.1:{own}\\@127.0.0.2:{victim}/ HTTP/1.1\r\n\r\n",
    "https": b"GET https://127.0.0.1:{own}/ HTTP/1.1\r\n\r\n",
    "a tunnel to the endpoint, which is http": b"CONNECT 127.0.0.1:{own} HTTP/1.1\r\n\r\n",
    "a tunnel elsewhere": b"CONNECT 127.0.0.2:{victim} HTTP/1.1\r\n\r\n",
    "a path alone": b"GET / HTTP/1.1\r\nHost: 127.0.0.2:{victim}\r\n\r\n",
    "another method": b"POST http://127.0.0.1:{own}/ HTTP/1.1\r\n\r\n",
    "a body": b"GET http://127.0.0.1:{own}/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    "no HTTP": b"\x16\x03\x01\r\n\r\n",
    "a second request elsewhere": b"GET http://127.0.0.1:{own}/a HTTP/1.1\r\n\r\n"
    b"GET http://127.0.0.2:{victim}/ HTTP/1.1\r\n\r\n",
}


def asked_of(proxy: EndpointProxy, request: bytes) -> bytes:
    host, _, port = proxy.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))
    return b""


@pytest.mark.parametrize("kind", ASKED_OF_THE_PROXY)
def test_the_proxy_leads_to_the_endpoint_only(victim, report, kind):
    report(f"the proxy is asked for {kind}", REFUSED)
    with endpoint(lambda _head: [answer(b"own")]) as (server, url):
        proxy = EndpointProxy(place_of(url))
        ports = {b"{victim}": b"%d" % victim.port, b"{own}": b"%d" % server.port}
        request = functools.reduce(lambda text, name: text.replace(name, ports[name]), ports, ASKED_OF_THE_PROXY[kind])
        said = asked_of(proxy, request)
        proxy.close()
    if kind == "a second request elsewhere":
        assert said.endswith(b"own"), "the first is answered"
    else:
        assert said.startswith(b"HTTP/1.1 421 ")
        assert server.connections == 0
    assert victim.connections == 0


def test_the_proxy_serves_as_many_as_it_may_and_later_ones_again(report):
    report(f"{MAX_CONNECTIONS + 40} connections to the proxy", "the last are closed, later ones are served")
    with endpoint(lambda _head: [answer(b"own")]) as (_, url):
        proxy = EndpointProxy(place_of(url))
        host, _, port = proxy.address.partition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            request = f"GET {url}/ HTTP/1.1\r\n\r\n".encode()
            assert [asked_of(proxy, request) for _ in range(40)] == [b""] * 40
        wait_until(lambda: asked_of(proxy, request).endswith(b"own"), timeout_s=10, what="the proxy must serve again")
        proxy.close()


def test_an_endpoint_that_nobody_answers_for_is_said_to_be_so(report):
    report("nobody listens at the endpoint", GIVEN_UP)
    with endpoint(lambda _head: []) as (_, url):
        proxy = EndpointProxy(place_of(url))
    said = asked_of(proxy, f"GET {url}/ HTTP/1.1\r\n\r\n".encode())
    proxy.close()
    assert said.startswith(b"HTTP/1.1 502 No Connection\r\n")
    assert b"connection refused by 127.0.0.1:" in said
