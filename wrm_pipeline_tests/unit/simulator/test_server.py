"""The simulated feed on the wire: what a client meets is what was asked for."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import requests

from wrm_pipeline.simulator.__main__ import _clock
from wrm_pipeline.simulator.city import HEADER, City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour, Tuning, misbehave
from wrm_pipeline.simulator.server import serve

AT = datetime(2025, 8, 21, 12, 0, tzinfo=UTC)
CITY = City(1)
BODY = CITY.snapshot(AT)

# Faults that end a request otherwise than by an answer that `requests` can read.
BROKEN_ON_THE_WIRE = {
    Misbehaviour.REDIRECT_LOOP,
    Misbehaviour.TRUNCATED,
    Misbehaviour.HANG,
    Misbehaviour.HANG_IN_BODY,
    Misbehaviour.RESET,
}


@pytest.fixture
def feed():
    tuning = Tuning(hang_s=20, drip_bytes=10_000, drip_pause_s=0.05, oversize_bytes=1_000_000)
    with serve(CITY, clock=lambda: AT, tuning=tuning) as running:
        yield running


def get(feed, timeout=5, **parameters):
    return requests.get(feed.url, params=parameters, timeout=timeout)


def connect(feed) -> socket.socket:
    url = urlsplit(feed.url)
    client = socket.create_connection((url.hostname, url.port), timeout=5)
    client.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: feed\r\n\r\n".encode())
    return client


class TestGoodAnswers:
    def test_body_is_the_snapshot_of_the_clock(self, feed):
        response = get(feed)
        assert response.status_code == 200
        assert response.content == BODY
        assert response.headers["Content-Type"] == "text/csv"
        assert int(response.headers["Content-Length"]) == len(BODY)

    def test_url(self, feed):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/bikesapi/load\.php\?scheme=wroclaw", feed.url)

    def test_clock_can_be_set(self, feed):
        later = AT + timedelta(minutes=1)
        feed.clock = lambda: later
        assert get(feed).content == CITY.snapshot(later)

    def test_instant_can_be_asked_for(self, feed):
        assert get(feed, at="2025-08-20T06:30:00Z").content == CITY.snapshot(datetime(2025, 8, 20, 6, 30, tzinfo=UTC))

    @pytest.mark.parametrize("parameters", [{"at": "yesterday"}, {"at": "2025-08-21T12:00:00"}, {"misbehave": "x"}])
    def test_senseless_parameters_are_refused(self, feed, parameters):
        response = get(feed, **parameters)
        assert response.status_code == 400
        assert response.text.strip()

    def test_requests_are_counted_and_their_headers_kept(self, feed):
        assert feed.requests == 0
        requests.get(feed.url, headers={"X-Correlation-ID": "run-17"}, timeout=5)
        get(feed)
        requests.get(feed.url, headers={"X-Correlation-ID": "run-18"}, timeout=5)
        assert feed.requests == 3
        assert feed.last_headers["x-correlation-id"] == "run-18"

    def test_elsewhere_there_is_nothing(self, feed):
        for url in (feed.url.replace("load.php", "save.php"), feed.url.replace("wroclaw", "london")):
            response = requests.get(url, timeout=5)
            assert response.status_code == 404
            assert feed.url in response.text
        assert feed.requests == 0

    def test_many_clients_at_once(self, feed):
        bodies: list[bytes] = []
        threads = [threading.Thread(target=lambda: bodies.append(get(feed).content)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bodies == [BODY] * 20
        assert feed.requests == 20

    def test_when_the_block_ends_nobody_answers(self):
        with serve(CITY, clock=lambda: AT) as running:
            session = requests.Session()
            assert session.get(running.url, timeout=5).ok
        with pytest.raises(requests.ConnectionError):
            session.get(running.url, timeout=5)


class TestPlans:
    def test_planned_faults_come_in_order_and_then_it_is_good_again(self, feed):
        feed.plan(Misbehaviour.UNAVAILABLE, times=2)
        feed.plan(None)
        feed.plan("html")
        assert [get(feed).status_code for _ in range(3)] == [503, 503, 200]
        assert get(feed).content.startswith(b"<!DOCTYPE")
        assert get(feed).content == BODY

    def test_an_unknown_fault_is_refused(self, feed):
        with pytest.raises(ValueError, match="sulk"):
            feed.plan("sulk")

    def test_asking_by_url_leaves_the_plan_alone(self, feed):
        feed.plan("500")
        assert get(feed, misbehave="403").status_code == 403
        assert get(feed).status_code == 500

    def test_random_faults_repeat_with_the_seed(self, feed):
        kinds = [Misbehaviour.UNAVAILABLE, Misbehaviour.HTML]

        def faults() -> list[int]:
            feed.misbehave_at_random(0.5, seed=4, kinds=kinds)
            return [len(get(feed).content) for _ in range(40)]

        first = faults()
        assert first == faults()
        assert 8 < first.count(len(BODY)) < 32
        feed.misbehave_at_random(0.0, seed=4)
        assert get(feed).content == BODY


class TestFaultsOnTheWire:
    @pytest.mark.parametrize("kind", sorted(set(Misbehaviour) - BROKEN_ON_THE_WIRE - {Misbehaviour.OVERSIZED}))
    def test_asked_for_by_name(self, feed, kind):
        expected = misbehave(kind, BODY, previous=BODY, tuning=feed.tuning)
        response = get(feed, misbehave=kind.value)
        assert response.status_code == expected.status
        assert response.content == expected.body
        assert response.headers["Content-Type"] == expected.content_type
        assert dict(expected.headers).items() <= response.headers.items()
        assert ("Content-Length" in response.headers) == (kind is not Misbehaviour.TRUNCATED_SILENTLY)
        assert "Content-Encoding" not in response.headers

    @pytest.mark.parametrize("kind", ["403", "404", "408", "429", "500", "503"])
    def test_refusals(self, feed, kind):
        response = get(feed, misbehave=kind)
        assert response.status_code == int(kind)
        assert response.headers.get("Retry-After") == ("2" if kind in {"429", "503"} else None)

    @pytest.mark.parametrize("by_plan", [True, False])
    def test_redirect_loop(self, feed, by_plan):
        session = requests.Session()
        session.max_redirects = 5
        if by_plan:
            feed.plan(Misbehaviour.REDIRECT_LOOP)
        with pytest.raises(requests.TooManyRedirects):
            session.get(feed.url, params={} if by_plan else {"misbehave": "redirect_loop"}, timeout=5)
        assert feed.requests == 6

    def test_truncated_with_a_length_is_noticed(self, feed):
        feed.plan(Misbehaviour.TRUNCATED)
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            get(feed)

    def test_truncated_without_a_length_is_silent(self, feed):
        feed.plan(Misbehaviour.TRUNCATED_SILENTLY)
        response = get(feed)
        assert BODY.startswith(response.content)
        assert len(response.content) < len(BODY)
        assert "Content-Length" not in response.headers

    def test_slow_drips(self, feed):
        feed.plan(Misbehaviour.SLOW)
        started = time.monotonic()
        assert get(feed).content == BODY
        chunks = -(-len(BODY) // 10_000)
        assert time.monotonic() - started >= 0.05 * (chunks - 1)

    def test_slow_is_not_a_read_time_out(self, feed):
        feed.tuning = Tuning(drip_bytes=5_000, drip_pause_s=0.1)
        feed.plan(Misbehaviour.SLOW)
        assert get(feed, timeout=0.5).content == BODY, "each read is in time, the whole is not"

    def test_hang_sends_nothing(self, feed):
        feed.plan(Misbehaviour.HANG)
        with connect(feed) as client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)

    def test_hang_ends_by_hanging_up(self, feed):
        feed.tuning = Tuning(hang_s=0.2)
        feed.plan(Misbehaviour.HANG)
        with connect(feed) as client:
            assert client.recv(1) == b""

    def test_hang_in_body(self, feed):
        feed.plan(Misbehaviour.HANG_IN_BODY)
        url = urlsplit(feed.url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=0.3)
        connection.request("GET", f"{url.path}?{url.query}")
        response = connection.getresponse()
        assert int(response.headers["Content-Length"]) == len(BODY)
        assert response.read(1_000) == BODY[:1_000]
        with pytest.raises(TimeoutError):
            response.read()
        connection.close()

    def test_reset(self, feed):
        feed.plan(Misbehaviour.RESET)
        with connect(feed) as client, pytest.raises(ConnectionResetError):
            list(iter(lambda: client.recv(65_536), b""))

    def test_oversized_is_streamed_without_a_length(self, feed):
        feed.plan(Misbehaviour.OVERSIZED)
        response = get(feed)
        assert len(response.content) == 1_000_000
        assert response.content.startswith(BODY)
        assert response.content.count(HEADER.encode()) == 1
        assert "Content-Length" not in response.headers

    def test_frozen_repeats_the_last_good_body(self, feed):
        minutes = iter(range(10))
        feed.clock = lambda: AT + timedelta(minutes=next(minutes))
        first = get(feed).content
        feed.plan(Misbehaviour.FROZEN, times=2)
        assert [get(feed).content for _ in range(2)] == [first, first]
        assert get(feed).content == CITY.snapshot(AT + timedelta(minutes=3))

    def test_frozen_from_the_start(self, feed):
        minutes = iter(range(10))
        feed.clock = lambda: AT + timedelta(minutes=next(minutes))
        feed.plan(Misbehaviour.FROZEN, times=3)
        assert {get(feed).content for _ in range(3)} == {BODY}

    def test_a_client_that_goes_away_disturbs_nobody(self, feed, capfd, caplog):
        feed.tuning = Tuning(oversize_bytes=50_000_000)
        for _ in range(3):
            feed.plan(Misbehaviour.OVERSIZED)
            with connect(feed) as client:
                client.recv(1_000)
        with connect(feed):
            pass
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and any("process_request" in t.name for t in threading.enumerate()):
            time.sleep(0.02)
        assert get(feed).content == BODY
        assert capfd.readouterr() == ("", "")
        assert not [record for record in caplog.records if record.name.startswith("wrm_pipeline")]

    def test_hanging_requests_do_not_delay_the_end(self):
        started = time.monotonic()
        with serve(CITY, clock=lambda: AT, tuning=Tuning(hang_s=60)) as running:
            running.plan(Misbehaviour.HANG)
            client = connect(running)
            while not running.requests:
                time.sleep(0.01)
        assert time.monotonic() - started < 3
        assert client.recv(1) == b""
        client.close()


class TestCommandLine:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_serves_until_stopped(self, number):
        command = [
            sys.executable,
            "-m",
            "wrm_pipeline.simulator",
            "--port",
            "0",
            "--start",
            "2025-08-21T12:00:00Z",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            first = process.stdout.readline()
            url = re.fullmatch(r"export WRM_STATIONS_DATA_URL='(http://.*)'\n", first).group(1)
            assert requests.get(f"{url}&at=2025-08-21T12:00:00Z", timeout=5).content == BODY
            assert requests.get(f"{url}&misbehave=503", timeout=5).status_code == 503
            process.send_signal(number)
            assert process.wait(timeout=10) == 0
            out, errors = process.stdout.read(), process.stderr.read()
        assert errors == ""
        assert all(kind.value in out for kind in Misbehaviour)

    def test_misbehaves_with_the_probability_given(self):
        def is_good(url: str) -> bool:
            try:
                response = requests.get(url, timeout=0.5)
            except requests.RequestException:
                return False
            return response.status_code == 200 and response.content == BODY

        def all_good(*options: str) -> bool:
            command = [sys.executable, "-m", "wrm_pipeline.simulator", "--port", "0", *options]
            command += ["--start", "2025-08-21T12:00:00Z", "--speed", "0"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                url = process.stdout.readline().split("'")[1]
                good = [is_good(url) for _ in range(4)]
                process.terminate()
            return all(good)

        assert all_good()
        assert not all_good("--misbehave-probability", "1")

    def test_a_taken_port_is_reported(self):
        with serve(CITY) as running:
            port = str(urlsplit(running.url).port)
            done = subprocess.run(
                [sys.executable, "-m", "wrm_pipeline.simulator", "--port", port],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        assert done.returncode == 1
        assert "cannot listen" in done.stderr

    def test_speed(self):
        clock = _clock(AT, speed=3_600)
        time.sleep(0.05)
        assert timedelta(minutes=2) < clock() - AT < timedelta(hours=2)
