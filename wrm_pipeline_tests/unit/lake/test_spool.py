"""The spool: what was fetched is on the disk, whole, in order, until it was delivered."""

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wrm_pipeline.lake.spool import Spool, SpoolFullError

AT = datetime(2025, 8, 21, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "data" / "spool", 10_000)


def contents(spool: Spool) -> list[tuple[str, datetime, bytes]]:
    return [(body.kind, body.fetched_at, body.read()) for body in spool.waiting()]


def test_a_spool_that_was_never_used_is_empty(spool):
    assert contents(spool) == []
    assert (spool.size_bytes, spool.filling) == (0, False)
    assert not spool.folder.exists()


def test_bodies_wait_in_the_order_of_their_fetches(spool):
    warsaw = AT.astimezone().replace(microsecond=5)
    bodies = [
        ("raw", AT + timedelta(seconds=2), b"third\r\n"),
        ("raw", AT, b"\x00\xff first"),
        ("quarantine", AT + timedelta(seconds=1), b""),
        ("raw", warsaw, b"before all"),
    ]
    for kind, at, body in bodies:
        spool.add(kind, at, body)

    assert contents(spool) == [
        ("raw", warsaw.astimezone(UTC), b"before all"),
        ("raw", AT, b"\x00\xff first"),
        ("quarantine", AT + timedelta(seconds=1), b""),
        ("raw", AT + timedelta(seconds=2), b"third\r\n"),
    ]


def test_bodies_of_one_moment_both_wait(spool):
    spool.add("raw", AT, b"one")
    added = spool.add("raw", AT, b"two")
    assert [body for _, _, body in contents(spool)] == [b"one", b"two"]
    assert added.read() == b"two"


def test_bodies_that_are_added_at_once_while_the_clock_stands_still_all_wait(spool):
    bodies = [str(n).encode() for n in range(80)]
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda body: spool.add("fetched", AT, body), bodies))
    assert [body.read() for body in added] == bodies
    assert sorted(body for _, _, body in contents(spool)) == sorted(bodies)


def test_bodies_that_are_added_at_once_are_together_no_larger_than_the_spool(spool):
    def add(_: int) -> bool:
        try:
            spool.add("fetched", AT, b"x" * 3_000)
        except SpoolFullError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add, range(16))) == 3
    assert spool.size_bytes == 9_000


def test_a_body_that_was_delivered_is_gone_and_the_others_are_not(spool):
    first = spool.add("raw", AT, b"one")
    spool.add("raw", AT + timedelta(seconds=1), b"two")
    spool.remove(first)
    spool.remove(first)
    assert [body for _, _, body in contents(spool)] == [b"two"]


def test_a_full_spool_takes_nothing_and_keeps_what_it_has(spool):
    spool.add("raw", AT, b"x" * 6_000)
    with pytest.raises(SpoolFullError) as caught:
        spool.add("raw", AT + timedelta(seconds=1), b"y" * 4_001)
    assert str(spool.folder) in str(caught.value)
    assert "6000 bytes of at most 10000" in str(caught.value)
    assert "WRM_SPOOL_MAX_BYTES" in str(caught.value)
    assert contents(spool) == [("raw", AT, b"x" * 6_000)]
    spool.add("raw", AT + timedelta(seconds=2), b"z" * 4_000)
    assert spool.size_bytes == 10_000


def test_it_says_so_before_it_is_full(spool):
    spool.add("raw", AT, b"x" * 8_000)
    assert not spool.filling
    spool.add("raw", AT, b"x")
    assert spool.filling


@pytest.mark.parametrize("run_id", ["", "11111111-2222-3333-4444-555555555555", "run 1/../x"])
def test_a_body_is_found_again_with_its_run_whatever_that_is_called(spool, run_id):
    spool.add("raw", AT, b"x", run_id=run_id)
    (body,) = spool.waiting()
    assert (body.read(), body.run_id) == (b"x", run_id if "-" in run_id else "")


def test_files_of_others_are_left_alone(spool):
    spool.add("raw", AT, b"ours")
    (spool.folder / "README").write_text("what is this folder?")
    (spool.folder / "20250821T120000.000000Z.other.body").write_text("?")
    assert [body for _, _, body in contents(spool)] == [b"ours"]
    assert spool.size_bytes == 4


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_body_of_another_owner_is_set_aside_if_it_may_not_be_read(tmp_path):
    script = f"""
import _strptime, os  # loaded now: the other user may not read this interpreter's files
from pathlib import Path
from datetime import datetime, UTC
from wrm_pipeline.lake.spool import Spool
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
spool = Spool(Path({str(tmp_path / "spool")!r}), 10_000)
added = spool.add("fetched", datetime(2025, 8, 21, 13, tzinfo=UTC), b"mine")
print([body.read() for body in spool.waiting()], [str(stranger) for stranger in spool.sort_out()])
"""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    name = f"{AT:%Y%m%dT%H%M%S.%f}Z.raw.body"
    (folder / name).write_bytes(b"root's own")
    (folder / name).chmod(0o600)
    readable = f"{AT + timedelta(hours=2):%Y%m%dT%H%M%S.%f}Z.raw.body"
    (folder / readable).write_bytes(b"for all")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"[b'mine', b'for all'] ['{name} (no permission to read it: check its owner and mode)']\n"
    assert (folder / "unreadable" / name).read_bytes() == b"root's own"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=str(tmp_path / "data")):
        Spool(tmp_path / "data" / "spool", 100).add("raw", AT, b"x")


def test_a_process_killed_while_it_writes_leaves_no_body_and_its_rest_is_swept(spool):
    # A body larger than a pipe: the writer blocks on a FIFO that stands where its temporary file would be.
    script = f"""
import os, sys
from datetime import datetime, UTC
from pathlib import Path
from wrm_pipeline.lake.spool import Spool
folder = Path({str(spool.folder)!r})
folder.mkdir(parents=True)
name = "20250821T120000.000000Z.raw.tmp-%d" % os.getpid()
os.mkfifo(folder / name)
reader = os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK)
print("ready", flush=True)
Spool(folder, 2**30).add("raw", datetime(2025, 8, 21, 12, tzinfo=UTC), b"x" * 2**20)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert contents(spool) == []
    (orphan,) = spool.folder.iterdir()
    assert orphan.name.endswith(f".tmp-{writer.pid}")

    delivered = spool.add("raw", AT, b"next")
    assert [body for _, _, body in contents(spool)] == [b"next"]
    spool.remove(delivered)
    assert list(spool.folder.iterdir()) == []
