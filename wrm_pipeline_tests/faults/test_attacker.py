"""The feed as an attacker: where it leads, how it drips, what it claims. Nothing acts, nothing leaks, nothing grows."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.clients.errors import ExternalError, PermanentError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.openlineage import Receiver
from wrm_pipeline.clients.vault import Token, Vault
from wrm_pipeline.clients.vault_errors import VaultMisdirectedError
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline_tests.faults import attacks
from wrm_pipeline_tests.faults.attacks import CHUNKED, DAMAGED, ENDLESS, OK, ONCE, answer
from wrm_pipeline_tests.faults.harness import ANALYTICS, JOB, NOON, Harness, Says, local_day
from wrm_pipeline_tests.fixtures.raw_server import RawServer, raw_server

MUTATION = "graphql?query=mutation{wipeAssets(assetPartitionRanges:[]){__typename}}"
REFUSED, GIVEN_UP, KEPT = "refused, and the other server heard nothing", "given up in time", "kept byte for byte"
LIMIT = 2**20


@pytest.fixture
def victim() -> Iterator[RawServer]:
    """What must not be asked: another service of this machine."""
    with raw_server(lambda _head: [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"]) as server:
        yield server


def attack(world: Harness, say: Callable[[bytes], Iterable[bytes]], **options: object) -> tuple[object, RawServer]:
    with raw_server(say) as server:
        world.feed_url = server.url
        options = {"policy": ONCE, "max_bytes": LIMIT, **options}
        return world.fetch(world.feed(**options)), server


def nothing_is_kept(world: Harness) -> None:
    assert [world.keys(folder) for folder in ("raw/", "quarantine/", "dlq/")] == [[], [], []]
    assert not list(world.spool.waiting())


# --- where it leads ---

LOCATIONS = {
    "another port of this machine": "http://127.0.0.1:{victim}/{mutation}",
    "another loopback address": "http://127.0.0.2:{victim}/{mutation}",
    "without a scheme": "//127.0.0.1:{victim}/{mutation}",
    "with credentials": "http://user:password@127.0.0.1:{victim}/{mutation}",
    "the feed as a user name": "http://127.0.0.1:{feed}@127.0.0.1:{victim}/{mutation}",
    "a backslash before the host": "http://127.0.0.1:{feed}\\@127.0.0.1:{victim}/{mutation}",
    "two at signs": "http://a@127.0.0.1:{feed}@127.0.0.1:{victim}/",
    "a fragment that looks like a host": "http://127.0.0.1:{victim}#@127.0.0.1:{feed}/",
    "localhost": "http://localhost:{victim}/{mutation}",
    "a short form": "http://127.1:{victim}/{mutation}",
    "one number": "http://2130706433:{victim}/{mutation}",
    "hexadecimal": "http://0x7f000001:{victim}/{mutation}",
    "octal": "http://0177.0.0.1:{victim}/{mutation}",
    "everywhere": "http://0.0.0.0:{victim}/{mutation}",
    "IPv6 loopback": "http://[::1]:{victim}/{mutation}",
    "IPv4 within IPv6": "http://[::ffff:127.0.0.1]:{victim}/{mutation}",
    "a bracket that does not close": "http://[::1",
    "a bracket in the wrong place": "http://127.0.0.1]:{victim}/",
    "a port that is too large": "http://127.0.0.1:99999/",
    "a port that is none": "http://127.0.0.1:x/",
    "full-width digits": "http://\uff11\uff12\uff17.0.0.1:{victim}/",
    "a dot at the end": "http://127.0.0.1.:{victim}/{mutation}",
    "a name in capitals": "HTTP://LOCALHOST:{victim}/{mutation}",
    "a file": "file:///etc/passwd",
    "gopher": "gopher://127.0.0.1:{victim}/_GET%20/",
    "ftp": "ftp://127.0.0.1:{victim}/",
    "javascript": "javascript:alert(1)",
    "data": "data:text/csv,%23id",
    "no host": "http:///{mutation}",
    "the metadata service": "http://169.254.169.254/latest/meta-data/iam/",
    "a private network": "http://10.0.0.1:{victim}/",
    "a blank within": "http://127.0.0.1:{victim}/ http://127.0.0.1:{feed}/",
    "a tab within": "http://127.0.0.1:{victim}\t/",
    "a NUL within": "http://127.0.0.1:{victim}\x00.example/",
}


def redirecting(location: str, victim: RawServer, status: int = 302) -> Callable[[bytes], list[bytes]]:
    def say(head: bytes) -> list[bytes]:
        port = head.partition(b"Host: ")[2].partition(b"\r\n")[0].decode().rpartition(":")[2]
        filled = location.replace("{victim}", str(victim.port)).replace("{feed}", port).replace("{mutation}", MUTATION)
        return [f"HTTP/1.1 {status} Found\r\nLocation: ".encode() + filled.encode() + b"\r\nContent-Length: 0\r\n\r\n"]

    return say


@pytest.mark.parametrize("kind", LOCATIONS)
def test_a_redirect_elsewhere_is_not_followed(world, victim, report, kind):
    report(f"redirect: {kind}", REFUSED)
    found, server = attack(world, redirecting(LOCATIONS[kind], victim))
    assert isinstance(found, PermanentError), found
    assert "redirects to" in str(found)
    assert "wipeAssets" not in str(found), "what it leads to is not repeated in logs"
    assert "WRM_FEED_REDIRECT_HOSTS" in str(found)
    assert (server.connections, victim.connections) == (1, 0)
    nothing_is_kept(world)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_whatever_the_status(world, victim, report, status):
    report(f"redirect with {status} to another service of this machine", REFUSED)
    found, _ = attack(world, redirecting(LOCATIONS["another port of this machine"], victim, status))
    assert isinstance(found, PermanentError), found
    assert f"http://127.0.0.1:{victim.port}, which is not its own host and port" in str(found)
    assert victim.connections == 0
    nothing_is_kept(world)


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_a_status_that_only_looks_like_a_redirect(world, victim, report, status):
    report(f"{status} with a Location", REFUSED)
    found, _ = attack(world, redirecting(LOCATIONS["another port of this machine"], victim, status))
    assert isinstance(found, PermanentError), found
    assert f"answered {status} instead of 200" in str(found)
    assert victim.connections == 0
    nothing_is_kept(world)


def test_a_redirect_to_its_own_path_is_followed_without_credentials_or_cookies(world, city, report):
    report("redirect to the feed's own host", KEPT)
    body = city.snapshot(world.now)

    def say(head: bytes) -> list[bytes]:
        if head.startswith(b"GET /feed "):
            location = "http://other:secret@" + head.partition(b"Host: ")[2].partition(b"\r\n")[0].decode() + "/new?a=1"
            return [answer(b"", f"Location: {location}", "Set-Cookie: id=1; Path=/", status="302 Found")]
        return [answer(body)]

    found, server = attack(world, say)
    assert isinstance(found, IngestResult), found
    assert server.heads[1].startswith(b"GET /new?a=1 ")
    assert b"Cookie" not in server.heads[1]
    assert b"Authorization" not in server.heads[1]
    assert world.truth.get(found.key) == body


def test_a_listed_host_may_answer_and_gets_no_credentials(city, world, report):
    report("redirect to a host that is listed", KEPT)
    body = city.snapshot(world.now)
    with raw_server(lambda _: [answer(body)], "127.0.0.2") as other:
        say = lambda _: [answer(b"", f"Location: {other.url}", status="302 Found")]  # noqa: E731
        listed = frozenset({f"127.0.0.2:{other.port}"})
        with raw_server(say) as server:
            url = server.url.replace("http://", "http://me:word@")
            refused = Feed(url, policy=ONCE, redirect_hosts=listed)
            with pytest.raises(PermanentError, match=r"has the address 127\.0\.0\.2 \(loopback"):
                refused.fetch()
            assert other.connections == 0
            allowed = Feed(url, policy=ONCE, redirect_hosts=listed, private_hosts=frozenset({"127.0.0.2"}))
            assert allowed.fetch().body == body
            assert b"Authorization: Basic bWU6d29yZA==" in server.heads[-1]
            assert b"Authorization" not in other.heads[0]


def test_from_https_never_to_http(report):
    report("redirect from https to http", REFUSED)
    from wrm_pipeline.clients.outgoing import Policy, _Exchange, place_of

    exchange = _Exchange(Policy("feed", 10, 1, 1, 1, redirect_hosts=frozenset({"a.example"})), "GET", "feed")
    secure = place_of("https://a.example/x")
    with pytest.raises(PermanentError, match="not encrypted"):
        exchange.redirected(secure, secure, "http://a.example/x")
    plain = place_of("http://b.example/x")
    assert exchange.redirected(plain, plain, "https://b.example/y").port == 443


# --- names that change their mind ---


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.8", "127.0.0.1"], ["169.254.169.254"], ["0.0.0.0"]],
    ids=str,
)
def test_a_name_that_leads_inside_is_not_asked(world, victim, report, addresses):
    report(f"the feed's name leads to {addresses}", REFUSED)
    world.feed_url = f"http://feed.example:{victim.port}/"
    found = world.fetch(world.feed(policy=ONCE, resolve=lambda _host, _port: addresses))
    assert isinstance(found, PermanentError), found
    assert "which is not public" in str(found)
    assert "WRM_PRIVATE_HOSTS" in str(found)
    assert victim.connections == 0
    nothing_is_kept(world)


def test_a_name_is_resolved_once_and_asked_there(city, world, victim, report):
    report("a name that has another address a moment later", KEPT)
    body = city.snapshot(world.now)
    asked = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.9"]

    with raw_server(lambda _: [answer(body)]) as server:
        world.feed_url = f"http://feed.internal:{server.port}/"
        found = world.fetch(world.feed(policy=ONCE, resolve=resolve, private_hosts=frozenset({"feed.internal"})))
    assert isinstance(found, IngestResult), found
    assert asked == ["feed.internal"]
    assert f"Host: feed.internal:{server.port}".encode() in server.heads[0]


# --- names that nobody resolves ---


ASKED_BY_NAME = {
    "feed": lambda: Feed("http://feed.example/", policy=ONCE).fetch(),
    "webhook": lambda: Webhook("http://hooks.example/x", ONCE).post("text"),
    "lineage receiver": lambda: Receiver("http://lineage.example", "key", policy=ONCE).post(b"{}"),
    "Vault": lambda: Vault("http://vault.example", Token(lambda: "token"), policy=ONCE).read("wrm/s3"),
}


@pytest.mark.parametrize("client", ASKED_BY_NAME)
def test_a_name_server_that_hangs_costs_an_attempt_and_no_more(silent_name_server, report, client):
    report(f"{client}: its name is not resolved", GIVEN_UP)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"cannot resolve \w+\.example within 1 s"):
        ASKED_BY_NAME[client]()
    assert 0.9 < time.monotonic() - started < 2


def test_the_name_of_a_redirect_is_resolved_in_time_too(city, report):
    report("feed: the name of a listed host is not resolved", GIVEN_UP)
    over, asked = threading.Event(), []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        over.wait(30)
        return ["127.0.0.1"]

    with raw_server(lambda _: [answer(b"", "Location: http://mirror.example/", status="302 Found")]) as server:
        feed = Feed(server.url, policy=ONCE, redirect_hosts=frozenset({"mirror.example"}), resolve=resolve)
        started = time.monotonic()
        with pytest.raises(TransientError, match=r"cannot resolve mirror\.example within"):
            feed.fetch()
        assert time.monotonic() - started < 2
    over.set()
    assert asked == ["mirror.example"]


def test_a_slow_name_server_leaves_the_rest_of_the_time(world, city, report):
    report("feed: its name is resolved late", KEPT)
    body = city.snapshot(world.now)

    def resolve(_host: str, _port: int) -> list[str]:
        time.sleep(0.3)
        return ["127.0.0.1"]

    with raw_server(lambda _: [answer(body)]) as server:
        world.feed_url = f"http://feed.internal:{server.port}/"
        found = world.fetch(world.feed(policy=ONCE, resolve=resolve, private_hosts=frozenset({"feed.internal"})))
    assert isinstance(found, IngestResult), found


# --- how it drips ---


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_ended(world, report, kind):
    report(kind, GIVEN_UP)
    started = time.monotonic()
    found, _ = attack(world, ENDLESS[kind])
    assert isinstance(found, ExternalError), found
    assert time.monotonic() - started < 4
    nothing_is_kept(world)


# --- what it claims ---


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_not_an_answer_is_an_error_in_plain_words(world, report, kind):
    report(kind, GIVEN_UP)
    found, _ = attack(world, lambda _head: [DAMAGED[kind]])
    assert isinstance(found, ExternalError), found
    assert str(found).startswith("feed get http://127.0.0.1:")
    assert len(str(found)) < 600
    nothing_is_kept(world)


ODD_BUT_SOUND = {
    "a length that is too small": lambda body: OK + f"Content-Length: {len(body)}\r\n\r\n".encode() + body + b"GARBAGE",
    "length and chunks": lambda body: (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n")
        + f"{len(body):x};ext=1\r\n".encode()
        + body
        + b"\r\n0\r\nX-Trailer: yes\r\n\r\n"
    ),
    "gzip with garbage after it": lambda body: answer(gzip.compress(body) + b"garbage", "Content-Encoding: gzip"),
    "gzip of two members": lambda body: answer(
        gzip.compress(body[:9]) + gzip.compress(body[9:]), "Content-Encoding: GZIP"
    ),
    "raw deflate": lambda body: answer(zlib.compress(body)[2:-4], "Content-Encoding: deflate"),
    "control characters in headers": lambda body: answer(body, "X-A: \x1b[2J\x07", "Content-Type: text/\x1b[31m"),
    "lines without carriage returns": lambda body: b"HTTP/1.1 200 OK\nX: y\n\n" + body,
    "HTTP/1.0": lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body,
}


@pytest.mark.parametrize("kind", ODD_BUT_SOUND)
def test_what_is_odd_and_whole_is_kept_byte_for_byte(world, city, report, kind):
    report(kind, KEPT)
    body = city.snapshot(world.now)
    found, _ = attack(world, lambda _head: [ODD_BUT_SOUND[kind](body)])
    assert isinstance(found, IngestResult), found
    assert world.truth.get(found.key) == body


# --- the others that are asked ---


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("client", ["webhook", "lineage receiver", "Vault"])
def test_no_receiver_leads_elsewhere(victim, report, status, client):
    report(f"{client} redirects with {status}", REFUSED)
    with raw_server(redirecting(LOCATIONS["another port of this machine"], victim, status)) as server:
        if client == "webhook":
            with pytest.raises(PermanentError) as caught:
                Webhook(server.url, ONCE).post("text")
            assert str(server.port) not in str(caught.value), "its URL is a secret"
        elif client == "Vault":
            with pytest.raises(VaultMisdirectedError):
                Vault(server.url, Token(lambda: "token"), policy=ONCE).read("wrm/s3")
        else:
            with pytest.raises(PermanentError, match="redirect"):
                Receiver(server.url, "key", policy=ONCE).post(b"{}")
    assert victim.connections == 0


SILENT = [kind for kind in ENDLESS if "100 Continue" in kind or "header" in kind or "body" in kind or kind == "silence"]
TOO_MUCH = [kind for kind in DAMAGED if "bomb" in kind or "2^60" in kind]


@pytest.mark.parametrize("kind", [*SILENT, *TOO_MUCH])
def test_a_vault_that_never_ends_is_given_up(report, kind):
    report(f"Vault: {kind}", GIVEN_UP)
    say = ENDLESS.get(kind) or (lambda _head: [DAMAGED[kind]])
    with raw_server(say) as server:
        vault = Vault(f"http://127.0.0.1:{server.port}", Token(lambda: "token"), policy=ONCE)
        started = time.monotonic()
        with pytest.raises(ExternalError) as caught:
            vault.read("wrm/s3")
        assert time.monotonic() - started < 4
        assert "secret/wrm/s3 at http://127.0.0.1" in str(caught.value), "it says what was asked for"


def test_a_webhook_whose_name_leads_inside_is_not_asked(victim, monkeypatch, report):
    report("the webhook's name leads to this machine", REFUSED)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", victim.port))])
    with pytest.raises(PermanentError, match="WRM_PRIVATE_HOSTS"):
        Webhook(f"http://hooks.example:{victim.port}/", ONCE).post("text")
    assert victim.connections == 0


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY", "NETRC"])
def test_nothing_is_taken_from_the_surroundings(world, city, victim, monkeypatch, tmp_path, report, name):
    report(f"{name} in the environment", KEPT)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv(name, str(netrc) if name == "NETRC" else f"http://127.0.0.1:{victim.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    body = city.snapshot(world.now)
    found, server = attack(world, lambda _head: [answer(body)])
    assert isinstance(found, IngestResult), found
    assert victim.connections == 0
    assert b"Authorization" not in server.heads[0]


# --- memory ---


def test_all_of_it_within_400_mb(report):
    report("bombs, floods and 32 MB of everything, one after the other", "at most 400 MB")
    done = subprocess.run(
        [sys.executable, "-c", f"from {attacks.__name__} import measure; measure()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 400 * 2**10, f"{int(done.stdout) // 2**10} MB"


# --- what it says ---

NAMES = [
    "<script>zq9()</script>",
    '"><img src=x onerror=zq9()>',
    "</script><script>zq9()</script>",
    "<!--<script>zq9()",
    "<svg/onload=zq9()>",
    "javascript:zq9()",
    "{{zq9}} ${zq9} <%= zq9 %>",
    "![zq9](http://evil.example/zq9.png)",
    "=HYPERLINK(zq9)",
    "+cmd|' /C zq9'!A0",
    "-2+3+zq9",
    "@SUM(zq9)",
    "'; DROP TABLE wrm_analytics.mv_station_latest; --zq9",
    "\x1b[2J\x1b]0;zq9\x07",
    "\u202egpj.zq9",
    "zq9\u0000zq9",
    "zq9\u200b\u2060\ufeff",
    "../../../../etc/zq9",
    "%2e%2e%2fzq9",
    "ZALGO z\u0300\u0301\u0302q9" + "\u0300" * 200,
    "\U0001f6b2zq9",
    "x" * 900 + "zq9",
    "<!channel> <@U1> zq9",
    "wrm_stations_2025-08-21_12-00-02.txt zq9",
]
IDS = [
    "../zq9",
    "1'; DELETE FROM x; --zq9",
    'a"b',
    "<b>zq9</b>",
    "\x1b[31mzq9",
    "zq9/../../raw",
    "nan",
    "-1",
    "é" * 300,
]


def test_what_the_feed_says_acts_nowhere(feed_world, city, capsys, report):
    report(f"{len(NAMES)} names, {len(IDS)} ids: markup, escapes, SQL, formulas, paths", "published, and acts nowhere")
    world, _ = feed_world
    at = int(world.now.timestamp())

    def line(station: str, name: str, bikes: str = "3") -> str:
        quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' for text in (station, name)]
        return f"{quoted[0]},{at}|7200|-1,{quoted[1]},51.1,17.0,{bikes},7,true,false,false,10,false,0"

    header = city.snapshot(world.now).partition(b"\n")[0].decode()
    lines = [line(str(20_000 + n), name) for n, name in enumerate(NAMES)]
    lines += [line(station, "Rynek") for station in IDS]
    lines += [line(str(30_000 + n), name, "x<script>zq9()</script>\x1b[2J") for n, name in enumerate(NAMES)]
    body = "\n".join([header, *lines, ""]).encode()
    found = world.fetch(Says(lambda: world.now, [body]))
    assert isinstance(found, IngestResult), found
    assert world.truth.get(found.key) == body, "byte for byte"
    assert found.counts.rows_out >= len(NAMES)
    assert world.run(JOB, local_day(NOON)), world.failures
    assert world.run(ANALYTICS), world.failures

    for key, content in world.contents("").items():
        assert ".." not in key
        assert key.isascii(), "no part of a name or id is in a key"
        assert "zq9" not in key
        if key.endswith((".html", ".svg")):
            assert not re.search(rb"<[^<>]*zq9", content.replace(b"\\u003c", b"")), key
            assert b"</script><script>zq9" not in content
    pages = [content for key, content in world.contents("reports/").items() if key.endswith(".html")]
    assert any(b"zq9" in page for page in pages), "the search proves itself: they are shown"
    for command in (["dlq", "list"], ["dlq", "list", "--json"], ["doctor"]):
        main(command)
    (entry, *_) = [key.rpartition("/")[2].removesuffix(".json") for key in world.keys("dlq/")]
    main(["dlq", "show", entry])
    shown = capsys.readouterr()
    assert "zq9" in shown.out
    for text in (shown.out, shown.err):
        assert not re.search("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e]", text)
