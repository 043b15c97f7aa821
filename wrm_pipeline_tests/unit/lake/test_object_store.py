from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from mypy_boto3_s3 import S3Client

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.errors import (
    CircuitOpenError,
    ObjectNotFoundError,
    PermanentError,
    StorageDeniedError,
    StorageFullError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.clients.retry import RequestCounter, RetryPolicy
from wrm_pipeline.lake import local_object_store
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline_tests.fixtures.fault_server import (
    EMPTY_200,
    HANG,
    HTML_200,
    RESET,
    Answer,
    FaultServer,
    Received,
    html,
)
from wrm_pipeline_tests.fixtures.raw_server import raw_server
from wrm_pipeline_tests.object_store_contract import ObjectStoreContract


class TestLocalKeepsTheContract(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalObjectStore(tmp_path / "lake")


@pytest.fixture(scope="module")
def moto_url():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3KeepsTheContractOnMoto(ObjectStoreContract):
    @pytest.fixture
    def store(self, moto_url):
        bucket = f"b-{uuid.uuid4().hex}"
        client = boto3.client(
            "s3", endpoint_url=moto_url, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
        )
        client.create_bucket(Bucket=bucket)
        return s3_object_store(bucket=bucket, endpoint_url=moto_url, access_key_id="k", secret_access_key="s")

    def test_urls_are_what_duckdb_reads(self, store):
        assert store.url("a/b.parquet") == f"{store.name}/a/b.parquet"

    def test_a_missing_bucket_is_named_with_what_to_do(self, moto_url):
        store = s3_object_store(bucket="nope", endpoint_url=moto_url, access_key_id="k", secret_access_key="s")
        for ask in (lambda: list(store.list("")), lambda: store.put("k", b""), lambda: store.get("k")):
            with pytest.raises(PermanentError, match=r"s3://nope.*127\.0\.0\.1.*Create bucket nope"):
                ask()


# --- A folder -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path):
    return LocalObjectStore(tmp_path / "lake")


def test_a_file_dropped_by_hand_is_an_object(lake, tmp_path):
    (tmp_path / "lake/raw/dt=2025-08-21").mkdir(parents=True)
    (tmp_path / "lake/raw/dt=2025-08-21/old.txt").write_bytes(b"rows")
    assert lake.get("raw/dt=2025-08-21/old.txt") == b"rows"
    assert dict(lake.stat("raw/dt=2025-08-21/old.txt").metadata) == {}
    assert [o.key for o in lake.list("raw/")] == ["raw/dt=2025-08-21/old.txt"]
    assert lake.put_if_absent("raw/dt=2025-08-21/old.txt", b"other") is False


def test_metadata_of_earlier_content_is_not_believed(lake):
    lake.put("k", b"content")
    Path(lake.url("k")).write_bytes(b"edited by hand")
    assert dict(lake.stat("k").metadata) == {}
    assert lake.get("k") == b"edited by hand"


def test_a_damaged_file_is_noticed(lake):
    lake.put("k", b"content")
    path = Path(lake.url("k"))
    times = path.stat()
    path.write_bytes(b"c0ntent")  # as a failing disk would do it: same length, same time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UnexpectedAnswerError, match="SHA-256"):
        lake.get("k")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"etag": 1}', '{"etag": "x", "metadata": 3}'])
def test_a_damaged_metadata_file_counts_as_none(lake, tmp_path, content):
    info = lake.put("k", b"content")
    (tmp_path / "lake/.metadata/k.json").write_text(content.replace("x", info.etag))
    assert dict(lake.stat("k").metadata) == {}
    assert lake.get("k") == b"content"


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".tmp/x", "a/.b", "a\0b"])
def test_keys_that_leave_the_folder_or_hide_are_refused(lake, key):
    for ask in (
        lake.get,
        lake.stat,
        lake.delete,
        lake.url,
        lambda k: lake.put(k, b""),
        lambda k: lake.put_if_absent(k, b""),
    ):
        with pytest.raises(ValueError, match="not an object key"):
            ask(key)
    if key:
        with pytest.raises(ValueError, match="not an object key"):
            lake.list_folders(f"../{key}")


def test_internal_and_hidden_files_are_no_objects(lake, tmp_path):
    lake.put("a", b"")
    (tmp_path / "lake/.hidden").write_bytes(b"")
    assert [o.key for o in lake.list("")] == ["a"]
    assert lake.list_folders("") == []


def test_a_folder_is_no_object(lake):
    lake.put("a/b", b"")
    assert lake.stat("a") is None
    with pytest.raises(ObjectNotFoundError):
        lake.get("a")
    assert lake.stat("a/b/c") is None
    with pytest.raises(ObjectNotFoundError):
        lake.get("a/b/c")
    lake.delete("a/b/c")
    with pytest.raises(PermanentError, match="a/b/c"):
        lake.put_if_absent("a/b/c", b"")


def test_nothing_unfinished_is_left_behind(lake, tmp_path):
    lake.put("a", b"1")
    lake.put_if_absent("a", b"2")
    lake.put_if_absent("b", b"2")
    assert {p.name for p in (tmp_path / "lake/.tmp").iterdir()} == {"lock"}


CRASHING_WRITER = """
import os, pathlib, sys
from wrm_pipeline.lake.local_object_store import LocalObjectStore
print(os.getpid(), flush=True)
os.fsync = lambda _descriptor: os._exit(9)
LocalObjectStore(pathlib.Path(sys.argv[1])).put("k", b"half")
"""


def test_temporary_files_of_crashed_writers_are_swept_at_the_next_write(lake, tmp_path):
    command = [sys.executable, "-c", CRASHING_WRITER, str(tmp_path / "lake")]
    crash = subprocess.run(command, check=False, capture_output=True, text=True)
    temporary = tmp_path / "lake/.tmp"
    assert crash.returncode == 9
    assert len(list(temporary.iterdir())) == 1
    assert lake.stat("k") is None
    of_a_living_writer = temporary / f"{os.getppid()}.{local_object_store._HOST}.x"
    of_another_machine = temporary / f"{crash.stdout.strip()}.0000.x"
    ancient = temporary / "1.0000.y"
    for path in (of_a_living_writer, of_another_machine, ancient):
        path.touch()
    os.utime(ancient, (0, 0))

    lake.put("other", b"")

    assert {p.name for p in temporary.iterdir()} == {"lock", of_a_living_writer.name, of_another_machine.name}


@pytest.mark.parametrize(
    ("code", "kind", "remedy"),
    [
        (errno.ENOSPC, StorageFullError, "Make room"),
        (errno.EDQUOT, StorageFullError, "quota"),
        (errno.EACCES, StorageDeniedError, "WRM_DATA_DIR"),
        (errno.EROFS, StorageDeniedError, "mount"),
        (errno.EIO, PermanentError, "EIO"),
    ],
)
def test_disk_trouble_names_the_file_and_the_remedy_and_keeps_the_old_content(
    lake, tmp_path, monkeypatch, code, kind, remedy
):
    lake.put("a/k", b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=remedy) as caught:
        lake.put("a/k", b"new")
    assert str(tmp_path / "lake/a/k") in str(caught.value)
    assert lake.get("a/k") == b"old"
    assert dict(lake.stat("a/k").metadata) == {"sha256": hashlib.sha256(b"old").hexdigest()}
    assert {p.name for p in (tmp_path / "lake/.tmp").iterdir()} == {"lock"}


def test_a_folder_that_cannot_be_written_is_said_to_be_so():
    store = LocalObjectStore(Path("/sys/wrm-lake"))
    assert list(store.list("")) == []
    with pytest.raises(StorageDeniedError, match="/sys/wrm-lake"):
        store.put("k", b"")


def test_only_folders_that_can_hold_wanted_keys_are_read(lake, tmp_path):
    for key in ("raw/dt=1/a", "raw/dt=2/a", "raw/dt=2/b", "raw/dt=3/a", "processed/dt=2/a"):
        lake.put(key, b"")

    scanned: list[str] = []
    scandir = os.scandir

    def watch(path: str):
        scanned.append(os.path.relpath(path, tmp_path / "lake"))
        return scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", watch)
        keys = [o.key for o in lake.list("raw/dt=", start_after="raw/dt=2/a")]
    assert keys == ["raw/dt=2/b", "raw/dt=3/a"]
    assert scanned == ["raw", "raw/dt=2", "raw/dt=3"]


@pytest.mark.skipif(sys.gettrace() is not None, reason="lines that coverage traces take three times as long")
def test_three_thousand_files_are_listed_fast(lake, tmp_path):
    folder = tmp_path / "lake/raw/dt=2025-08-21"
    folder.mkdir(parents=True)
    for n in range(3000):
        (folder / f"{n:04}.txt").touch()
    took = []
    for _ in range(10):
        started = time.process_time()
        assert sum(1 for _ in lake.list("raw/dt=2025-08-21/")) == 3000
        took.append(time.process_time() - started)
    assert min(took) < 0.060  # processor time; 0.018 s when the machine is idle; the sensor does this every 30 s


def test_importing_the_module_does_not_load_boto3():
    loads = "import sys, wrm_pipeline.lake.s3_object_store"
    code = f"{loads}; assert not {{'boto3', 'botocore', 'requests'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- S3 that misbehaves ---------------------------------------------------------------------------------------------

FAST = RetryPolicy(attempts=3, deadline_s=5, base_wait_s=0.001, max_wait_s=0.001)
SECRET = "canary-secret"


@functools.cache
def connect(url: str) -> S3Client:
    """One client for all tests: making one takes 0.2 s."""
    return s3_object_store(
        bucket="",
        endpoint_url=url,
        access_key_id="key",
        secret_access_key=SECRET,
        connect_timeout_s=1,
        read_timeout_s=0.6,
    )._client_factory()


def s3(server: FaultServer, policy: RetryPolicy = FAST, **options) -> S3ObjectStore:
    endpoint = server.url.removeprefix("http://")
    return S3ObjectStore(
        "lake",
        lambda: connect(server.url),
        endpoint=endpoint,
        policy=policy,
        **{"on_event": RequestCounter(), **options},
    )


@pytest.fixture(scope="module")
def server():
    with FaultServer() as server:
        yield server


def found(body: bytes, sha256: str | None = None, **changes) -> Answer:
    headers = {"ETag": '"e"', "Last-Modified": "Thu, 21 Aug 2025 12:00:00 GMT"}
    if sha256 is not None:
        headers["x-amz-meta-sha256"] = sha256
    return Answer(200, body, headers, **changes)


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def listing(*keys: str, more: bool = False) -> Answer:
    contents = "".join(
        f'<Contents><Key>{k}</Key><LastModified>2025-08-21T12:00:00.000Z</LastModified><ETag>"e"</ETag><Size>1</Size>'
        "</Contents>"
        for k in keys
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>lake</Name><Prefix></Prefix><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{contents}</ListBucketResult>"
    )
    return Answer(200, xml.encode(), {"Content-Type": "application/xml"})


def s3_error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())


OPERATIONS = {
    "get": lambda store: store.get("k"),
    "stat": lambda store: store.stat("k"),
    "put": lambda store: store.put("k", b"body"),
    "list": lambda store: list(store.list("")),
    "list_folders": lambda store: store.list_folders(""),
    "delete": lambda store: store.delete("k"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("body", ["xml", "html", "empty"])
@pytest.mark.parametrize(
    ("status", "requests"), [(408, 3), (429, 3), (500, 3), (502, 3), (503, 3), (504, 3), (400, 1), (401, 1), (403, 1)]
)
def test_the_status_decides_about_retries_whatever_the_body(server, operation, body, status, requests):
    answer = {
        "xml": s3_error(status, "SlowDown" if status == 503 else "Whatever"),
        "html": html(status),
        "empty": Answer(status),
    }
    server.play(then=answer[body])
    with pytest.raises(TransientError if requests > 1 else PermanentError, match=rf"HTTP {status}") as caught:
        OPERATIONS[operation](s3(server))
    if (operation, status) == ("stat", 400):
        requests += 1  # boto3 asks the bucket's region, since a HEAD's 400 cannot say that it is another
    assert len(server.requests) == requests
    assert isinstance(caught.value, StorageDeniedError) == (status in {401, 403})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("trouble", [RESET, HANG, html(429, Retry_After="0"), Answer(503), Answer(500, b"<Error>")])
def test_one_trouble_is_overcome(server, operation, trouble):
    good = {
        "get": found(b"x", sha(b"x")),
        "stat": found(b"x"),
        "put": found(b""),
        "list": listing("k"),
        "list_folders": listing(),
        "delete": Answer(204),
    }
    counter = RequestCounter()
    server.play([trouble], then=good[operation])
    OPERATIONS[operation](s3(server, on_event=counter))
    assert len(server.requests) == 2
    name = "list" if operation == "list_folders" else operation
    assert counter.snapshot().requests == {("s3", name, "retried"): 1, ("s3", name, "ok"): 1}
    assert counter.snapshot().retries == {"s3": 1}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("lie", [HTML_200, EMPTY_200], ids=["html", "empty"])
def test_status_200_that_is_not_s3_is_never_an_answer(server, operation, lie):
    if operation == "delete" and lie is EMPTY_200:
        return  # nothing tells it from a store that answers a DELETE so

    server.play(then=lie)
    with pytest.raises(UnexpectedAnswerError):
        OPERATIONS[operation](s3(server))
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "broken",
    [
        found(b"0123456789", cut_after=4),
        found(b"0123456789", cut_after=4, then_hang=True),
        found(b"01234567XX", sha(b"0123456789")),
        found(b"", sha(b"0123456789")),
    ],
    ids=["cut off", "silent in mid-body", "damaged", "emptied"],
)
def test_a_damaged_download_is_fetched_again(server, broken):
    body = b"0123456789"
    server.play([broken, broken], then=found(body, sha(body)))
    assert s3(server).get("k") == body
    assert len(server.requests) == 3


def test_an_object_that_stays_damaged_is_reported(server):
    server.play(then=found(b"x", sha(b"y")))
    with pytest.raises(UnexpectedAnswerError, match=r"s3://lake/k at 127\.0\.0\.1.*SHA-256.*3 attempts.*restore"):
        s3(server).get("k")
    assert len(server.requests) == 3


def test_a_black_hole_costs_no_more_than_the_deadline(server):
    policy = RetryPolicy(attempts=10, deadline_s=2, base_wait_s=0.01, max_wait_s=0.01, attempt_s=0.65)
    server.play(then=HANG)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"no answer from 127\.0\.0\.1 within"):
        s3(server, policy).get("k")
    assert time.monotonic() - started < 3  # ten attempts would take 6 s
    assert 2 <= len(server.requests) <= 4


def test_a_body_that_trickles_is_given_up_at_the_deadline():
    def trickle(_head: bytes) -> Iterator[bytes]:
        yield b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 3000\r\n\r\n'
        for _ in range(300):
            yield b"x"
            time.sleep(0.05)

    policy = RetryPolicy(attempts=3, deadline_s=1, base_wait_s=0.001, max_wait_s=0.001)
    with raw_server(trickle) as server:
        url = f"http://127.0.0.1:{server.port}"
        store = s3_object_store(
            bucket="lake", endpoint_url=url, access_key_id="k", secret_access_key="s", policy=policy
        )
        started = time.monotonic()
        with pytest.raises(TransientError, match=r"only \d+ bytes came from 127\.0\.0\.1 in \S+ s"):
            store.get("k")
        assert time.monotonic() - started < 5, "the whole body would take 15 s"
    assert len(server.heads) == 1


def test_a_repeated_request_gets_the_time_that_the_first_one_left():
    turns = iter(range(10))

    def late_then_trickling(_head: bytes) -> Iterator[bytes]:
        if next(turns) == 0:
            time.sleep(0.8)
            return
        yield b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 3000\r\n\r\n'
        for _ in range(300):
            yield b"x"
            time.sleep(0.05)

    policy = RetryPolicy(attempts=3, deadline_s=2, base_wait_s=0.001, max_wait_s=0.001)
    with raw_server(late_then_trickling) as server:
        url = f"http://127.0.0.1:{server.port}"
        store = s3_object_store(
            bucket="lake", endpoint_url=url, access_key_id="k", secret_access_key="s", policy=policy
        )
        with pytest.raises(TransientError, match=r"from 127\.0\.0\.1") as caught:
            store.get("k")
    found = re.search(r"(?:only \d+ bytes came|no answer) from 127\.0\.0\.1 (?:with)?in (\S+) s", str(caught.value))
    assert found
    assert float(found[1]) < 1.3, "not the 2 s that an operation has as a whole"
    assert len(server.heads) == 2


def test_a_closed_port_is_retried_and_named():
    with FaultServer() as server:
        store = s3(server)
    with pytest.raises(TransientError, match=r"get s3://lake/k at 127.*: connection refused by 127.*3 attempts"):
        store.get("k")


def test_an_untrusted_clock_is_reported_as_such(server):
    server.play(then=s3_error(403, "RequestTimeTooSkewed"))
    with pytest.raises(StorageDeniedError, match="clock"):
        s3(server).put("k", b"")


@pytest.mark.parametrize("answer", [s3_error(403, "QuotaExceeded"), s3_error(507, "XMinioStorageFull")])
def test_a_full_bucket_is_reported_as_such_at_once(server, answer):
    server.play(then=answer)
    with pytest.raises(StorageFullError, match="Make room in bucket lake"):
        s3(server).put("k", b"")
    assert len(server.requests) == 1


def test_s3_says_400_for_an_upload_that_the_network_cut(server):
    server.play([s3_error(400, "RequestTimeout"), s3_error(400, "IncompleteBody")], then=found(b""))
    s3(server).put("k", b"body")
    assert len(server.requests) == 3


def test_a_page_that_fails_is_asked_for_again_and_no_key_is_lost_or_doubled(server):
    pages = [listing("a", "b", more=True), Answer(503), RESET, listing("c", "d", more=True), HTML_200, listing("e")]
    server.play(pages)
    assert [o.key for o in s3(server).list("")] == ["a", "b", "c", "d", "e"]
    assert len(server.requests) == 6
    assert [
        f"start-after={after}" in r.path
        for r, after in zip(server.requests, ["", "b", "b", "b", "d", "d"], strict=True)
    ]


def test_a_listing_that_does_not_move_on_is_an_error(server):
    server.play(then=listing(more=True))
    with pytest.raises(UnexpectedAnswerError, match="does not advance"):
        list(s3(server).list(""))


@pytest.mark.parametrize("page", [listing("b", "a"), listing("a", "a")])
def test_a_listing_out_of_order_is_an_error_since_paging_would_lose_keys(server, page):
    server.play(then=page)
    with pytest.raises(PermanentError, match="not in ascending order"):
        list(s3(server).list(""))


def test_pages_are_requested_as_they_are_consumed(server):
    server.play([listing("a", more=True), listing("b")])
    keys = s3(server).list("")
    assert server.requests == []
    assert next(keys).key == "a"
    assert len(server.requests) == 1


def test_uploads_are_plain_single_puts(server, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"x" * (9 << 20))  # above the 8 MB at which boto3's transfer manager goes multipart
    server.play([Answer(503)], then=found(b""))
    s3(server).put("day.parquet", path, content_type="text/x")
    request = server.requests[-1]
    assert len(server.requests) == 2
    assert (request.method, request.path) == ("PUT", "/lake/day.parquet")
    assert len(request.body) == 9 << 20
    assert request.headers["content-length"] == str(9 << 20)
    assert request.headers["content-type"] == "text/x"
    assert request.headers["x-amz-meta-sha256"] == sha(path.read_bytes())
    assert not {"x-amz-trailer", "x-amz-sdk-checksum-algorithm", "transfer-encoding"} & set(request.headers)


def test_connections_are_reused():
    with FaultServer(then=found(b"x" * 40_000, sha(b"x" * 40_000))) as server:
        store = s3(server, threads=4)
        for _ in range(3):
            assert sum(len(body) for _, body in store.get_many(str(n) for n in range(50))) == 50 * 40_000
        assert len(server.requests) == 150
        assert server.connections <= 4


def in_bulk(server: FaultServer, **options) -> S3ObjectStore:
    """A store as the pipeline has it, with its fast way."""
    keys = {"access_key_id": "k", "secret_access_key": "s"}
    return s3_object_store(bucket="lake", endpoint_url=server.url, **keys, **options)


@pytest.mark.parametrize(
    "odd",
    [Answer(503), EMPTY_200, HTML_200, RESET, found(b"y", "0" * 64), Answer(404)],
    ids=["503", "empty", "html", "reset", "damaged", "not found"],
)
def test_what_does_not_arrive_in_bulk_is_asked_for_the_ordinary_way(odd):
    body = b"x" * 1000
    with FaultServer() as server:
        server.play([odd], then=found(body, sha(body)))
        counter = RequestCounter()
        store = in_bulk(server, threads=1, on_event=counter)
        assert list(store.get_many(map(str, range(20)))) == [(str(n), body) for n in range(20)]
        assert len(server.requests) == 21
        assert counter.snapshot().requests == {("s3", "get", "ok"): 20, ("s3", "get", "retried"): 1}
        agents = [request.headers["user-agent"].partition("/")[0] for request in server.requests]
        assert agents.count("wrm-pipeline") == 20
        assert agents.count("Boto3") == 1


def test_a_few_objects_open_no_second_client():
    with FaultServer(then=found(b"x")) as server:
        assert len(list(in_bulk(server).get_many("abc"))) == 3
        assert {request.headers["user-agent"].partition("/")[0] for request in server.requests} == {"Boto3"}


def test_the_fast_way_shows_no_secret():
    store = s3_object_store(bucket="b", endpoint_url=None, access_key_id="AK-CANARY", secret_access_key="SK-CANARY")
    assert "SK-CANARY" not in repr(store._bulk) + repr(store._bulk._signer)


def test_get_many_holds_a_bounded_number_of_bodies():
    asked: list[str] = []

    def keys():
        for n in range(100):
            asked.append(str(n))
            yield str(n)

    with FaultServer(then=found(b"x")) as server:
        bodies = s3(server, threads=4, in_flight=8).get_many(keys())
        for taken in range(1, 20):
            next(bodies)
            assert len(asked) == 8 + taken - 1
        bodies.close()
        assert len(server.requests) <= 8 + 20


def test_an_open_circuit_fails_at_once_and_a_refusal_never_opens_it(server, tmp_path):
    breakers = Breakers(tmp_path, fail_max=2)
    server.play([Answer(403)] * 10, then=Answer(503))
    store = s3(server, breaker=breakers.of("s3"))
    for _ in range(10):
        with pytest.raises(StorageDeniedError):
            store.get("k")
    assert not breakers.is_open("s3")
    for _ in range(2):
        with pytest.raises(TransientError):
            store.get("k")
    assert breakers.is_open("s3")
    with pytest.raises(CircuitOpenError, match=r"s3 get s3://lake/k at 127"):
        s3(server, breaker=Breakers(tmp_path, fail_max=2).of("s3")).get("k")  # what the next run sees
    assert len(server.requests) == 10 + 2 * 3


def test_no_secret_is_shown(server):
    server.play(then=Answer(403))
    store = s3_object_store(
        bucket="lake",
        endpoint_url=server.url.replace("://", f"://user:{SECRET}@"),
        access_key_id="key",
        secret_access_key=SECRET,
    )
    assert SECRET not in repr(store)
    assert SECRET not in store.name
    assert SECRET not in store.url("k")
    assert SECRET not in json.dumps(store._endpoint)


# --- Create-only writes on stores of different honesty --------------------------------------------------------------


class FakeBucket:
    """PUT and HEAD of an S3 service that honours, ignores or rejects If-None-Match."""

    def __init__(self, if_none_match: str) -> None:
        self.if_none_match = if_none_match
        self.objects: dict[str, Received] = {}
        self.lose_answers = 0
        self.refuse_with_409 = 0

    def __call__(self, request: Received) -> Answer:
        stored = self.objects.get(request.path)
        if request.method == "HEAD":
            return Answer(404) if stored is None else found(b"", stored.headers["x-amz-meta-sha256"])
        if "if-none-match" in request.headers:
            if self.if_none_match == "rejects":
                return s3_error(501, "NotImplemented")
            if self.if_none_match == "rejects with 400":
                return s3_error(400, "InvalidArgument")
            if self.refuse_with_409:
                self.refuse_with_409 -= 1
                return s3_error(409, "ConditionalRequestConflict")
            if self.if_none_match == "honours" and stored is not None:
                return s3_error(412, "PreconditionFailed")
        self.objects[request.path] = request
        if self.lose_answers:
            self.lose_answers -= 1
            return RESET
        return found(b"")


HONESTY = ["honours", "ignores", "rejects", "rejects with 400"]


@pytest.mark.parametrize("honesty", HONESTY)
def test_create_only_writes_overwrite_nothing_on_any_store(server, honesty):
    bucket = FakeBucket(honesty)
    server.play(then=bucket)
    store = s3(server)
    assert [store.put_if_absent(k, b"1") for k in "abc"] == [True] * 3
    assert [store.put_if_absent(k, b"2") for k in "abc"] == [False] * 3
    assert [s3(server).put_if_absent(k, b"3") for k in "abc"] == [False] * 3  # a new process
    assert {r.body for r in bucket.objects.values()} == {b"1"}


@pytest.mark.parametrize(
    ("honesty", "first", "later"),
    [("honours", 3, 1), ("ignores", 3, 2), ("rejects", 4, 2), ("rejects with 400", 4, 2)],
)
def test_what_a_create_only_write_costs(server, honesty, first, later):
    server.play(then=FakeBucket(honesty))
    store = s3(server)
    store.put_if_absent("first", b"")
    assert len(server.requests) == first
    store.put_if_absent("second", b"")
    assert len(server.requests) == first + later


@pytest.mark.parametrize("honesty", HONESTY)
def test_a_create_only_write_whose_answer_got_lost_counts_as_written(server, honesty):
    bucket = FakeBucket(honesty)
    server.play(then=bucket)
    store = s3(server)
    for key in ("first", "second"):
        bucket.lose_answers = 1
        assert store.put_if_absent(key, b"mine") is True
        assert store.put_if_absent(key, b"other") is False
    assert {r.body for r in bucket.objects.values()} == {b"mine"}


def test_a_retried_create_only_write_that_another_writer_won_is_not_ours(server):
    bucket = FakeBucket("honours")
    server.play([Answer(404), RESET], then=bucket)
    bucket.objects["/lake/k"] = Received("PUT", "/lake/k", {"x-amz-meta-sha256": sha(b"theirs")}, b"theirs")
    assert s3(server).put_if_absent("k", b"mine") is False


def test_a_conflict_of_create_only_writers_is_waited_out(server):
    bucket = FakeBucket("honours")
    server.play(then=bucket)
    bucket.refuse_with_409 = 1
    assert s3(server).put_if_absent("k", b"mine") is True
    bucket.refuse_with_409 = 99
    assert s3(server).put_if_absent("k", b"other") is False
    with pytest.raises(TransientError, match="409"):
        s3(server).put_if_absent("nobody", b"x")


def test_a_store_that_is_down_is_not_mistaken_for_one_that_ignores_the_header(server):
    bucket = FakeBucket("honours")
    answers = [bucket, bucket, Answer(503), Answer(503), Answer(503)]  # HEAD, PUT, the same PUT again three times
    server.play(answers, then=bucket)
    store = s3(server)
    assert store.put_if_absent("a", b"1") is True
    assert store.honours_if_none_match is None
    assert store.put_if_absent("b", b"1") is True
    assert store.honours_if_none_match is True


def test_the_first_writes_of_many_threads_on_an_honest_store(server, tmp_path):
    bucket = FakeBucket("honours")
    server.play(then=bucket)
    store = s3(server)
    won: list[bool] = []
    threads = [threading.Thread(target=lambda n=n: won.append(store.put_if_absent("k", b"%d" % n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 15 + [True]
