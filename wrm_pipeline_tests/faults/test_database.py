"""Whatever is at the database's place, however its last user ended: the next refresh works, and nothing is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase, create_views, enhanced_views
from wrm_pipeline.analytics.database_files import DatabaseLockedError, moved_aside
from wrm_pipeline.analytics.obstacle import obstacle_to
from wrm_pipeline_tests.faults.harness import NOON

KILLED = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
for sql in sys.argv[2:]:
    connection.execute(sql)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def database(tmp_path: Path) -> AnalyticsDatabase:
    return AnalyticsDatabase(tmp_path / "data" / "analytics.duckdb", lock_wait_s=0.3)


def refresh(database: AnalyticsDatabase, rows: int = 5) -> None:
    with database.refresh() as connection:
        connection.execute(f"CREATE OR REPLACE TABLE wrm_analytics.t AS SELECT i FROM range({rows}) r(i)")


def seen(path: Path) -> int:
    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        return connection.execute("SELECT count(*) FROM wrm_analytics.t").fetchone()[0]


def killed(path: Path, *statements: str) -> None:
    """Someone writes to a database and is killed: its write-ahead log stays."""
    subprocess.run([sys.executable, "-c", KILLED, str(path), *statements], check=False)


def aside(database: AnalyticsDatabase) -> Path:
    first, *_ = moved_aside(database.path)
    return first


# --- a write-ahead log beside the database ---

LOGS = {
    "rows were deleted": ["DELETE FROM wrm_analytics.t WHERE i IN (1, 3)"],
    "a table was created": ["CREATE TABLE wrm_analytics.mine AS SELECT 1 AS i"],
    "our table was dropped": ["DROP TABLE wrm_analytics.t"],
    "the schema was dropped": ["DROP SCHEMA wrm_analytics CASCADE"],
    "a table became a view": ["DROP TABLE wrm_analytics.t", "CREATE VIEW wrm_analytics.t AS SELECT 1 AS i"],
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_writer_was_killed(database, report, name, linked):
    report(
        f"a .wal beside the {'linked ' if linked else ''}database: {name}", "set aside with its database, not replayed"
    )
    refresh(database)
    home = database.path
    if linked:
        home = database.path.parent / "big" / "wrm.db"
        home.parent.mkdir()
        database.path.rename(home)
        database.path.symlink_to(home)
    killed(database.path, *LOGS[name])
    assert list(home.parent.glob("*.wal"))
    assert ".wal would be moved aside" in obstacle_to(database)
    for rows in (6, 7):
        refresh(database, rows)
        assert seen(database.path) == rows
    (kept,) = [path for path in home.parent.iterdir() if ".before-" in path.name and path.suffix != ".wal"]
    with closing(duckdb.connect(str(kept))) as connection:  # with the changes of who was killed
        tables = connection.execute("SELECT table_name, table_type FROM information_schema.tables").fetchall()
    assert tables != [("t", "BASE TABLE")] or seen(kept) == 3


def test_a_log_that_fits_no_database(database, report):
    report("a .wal of another database, and one that is garbage", "set aside, not replayed")
    refresh(database)
    log = database.path.with_name("analytics.duckdb.wal")
    for content in (b"garbage", b"d\0be\0\2\xff\xff" * 30):
        log.write_bytes(content)
        refresh(database, 6)
        assert seen(database.path) == 6
        assert not log.exists()
    assert b"garbage" in [path.read_bytes() for path in moved_aside(database.path)]


def test_a_writer_that_has_an_older_file_open(database, report):
    report("someone writes to a file that was replaced meanwhile, and is killed", "its .wal reaches no later file")
    refresh(database)
    script = (
        "import duckdb,os,sys\nc=duckdb.connect(sys.argv[1])\nprint(1,flush=True)\ninput()\n"
        "c.execute('DELETE FROM wrm_analytics.t WHERE i < 3')\nos.kill(os.getpid(), 9)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(database.path)], **pipes) as writer:
        writer.stdout.readline()
        refresh(database, 6)  # does not wait for the writer either
        writer.communicate("\n")
    refresh(database, 7)
    assert seen(database.path) == 7
    refresh(database, 8)
    assert seen(database.path) == 8


# --- something else at the database's place ---


def a_newer_duckdbs(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(12)
        file.write((99).to_bytes(8, "little"))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def cut_off_in_its_header(path: Path) -> None:
    os.truncate(path, 5000)


def a_directory(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/disk/analytics.duckdb")


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def of_sqlite(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bikes (id)")


def of_an_older_pipeline(path: Path) -> None:
    path.unlink()
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE SCHEMA wrm_analytics")
        connection.execute("CREATE TABLE wrm_analytics.t (other VARCHAR PRIMARY KEY)")
        connection.execute("CREATE TABLE wrm_analytics.wrm_stations_enhanced_data AS SELECT 1 AS x")


def of_someone_else(path: Path) -> None:
    path.unlink()
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE books AS SELECT 1 AS x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no database")


@pytest.mark.parametrize(
    "replace",
    [
        a_newer_duckdbs,
        cut_off,
        cut_off_in_its_header,
        a_directory,
        a_link_to_nowhere,
        a_link_to_itself,
        a_pipe,
        of_sqlite,
        of_an_older_pipeline,
        of_someone_else,
        empty,
        text,
    ],
)
def test_something_else_is_there(database, report, replace: Callable[[Path], None], caplog):
    name = replace.__name__.replace("_", " ")
    report(f"at the database's place: {name}", "moved aside with a message; a new one is made")
    refresh(database)
    database.path.chmod(0o640)
    replace(database.path)
    was = os.lstat(database.path)
    assert obstacle_to(database).startswith(f"{database.path} would be moved aside: ")
    assert (os.lstat(database.path).st_ino, os.lstat(database.path).st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    with database.reading_if_any() as connection:
        assert connection is None or name.startswith("of")
    refresh(database, 6)
    assert seen(database.path) == 6
    if stat.S_ISREG(was.st_mode):
        assert database.path.stat().st_mode == was.st_mode
    kept = aside(database)
    assert (os.lstat(kept).st_ino, os.lstat(kept).st_size) == (was.st_ino, was.st_size)
    refresh(database, 7)
    assert moved_aside(database.path) == [kept]
    assert obstacle_to(database) == ""


def test_a_link_to_a_database_that_is_not_there_yet(database, report):
    report("a symlink into a folder that has no database yet", "it is made there")
    folder = database.path.parent / "big"
    folder.mkdir(parents=True)
    database.path.symlink_to(folder / "wrm.db")
    assert obstacle_to(database) == ""
    refresh(database)
    assert (seen(folder / "wrm.db"), database.path.is_symlink(), moved_aside(database.path)) == (5, True, [])


@pytest.mark.parametrize("while_reading", [False, True])
def test_a_damaged_block(database, report, while_reading):
    report("a block of the database is damaged", "moved aside when it is met; the next refresh makes a new one")
    with database.refresh() as connection:
        connection.execute("CREATE TABLE wrm_analytics.t AS SELECT hash(i) AS i FROM range(300000) r(i)")
    content = bytearray(database.path.read_bytes())
    content[12288 + 262144 + 5000 : 12288 + 262144 + 5100] = bytes(100)
    database.path.write_bytes(content)

    def ask() -> None:
        with database.reading() if while_reading else database.refresh() as connection:
            connection.execute("SELECT sum(i) FROM wrm_analytics.t")

    with pytest.raises(Exception, match=r"cannot be used: .*checksum.*is now analytics.duckdb.before-.*Materialize"):
        ask()
    assert aside(database).read_bytes() == content
    refresh(database)
    assert seen(database.path) == 5


@pytest.mark.parametrize("kind", ["TABLE x AS SELECT 1 AS a", "VIEW x AS SELECT 1 AS a", "TABLE x (a INT PRIMARY KEY)"])
@pytest.mark.parametrize("ours", ["wrm_stations_enhanced_data", "WRM_STATIONS_LATEST", "view_definitions"])
def test_an_object_has_one_of_our_names(database, report, kind, ours):
    report(f"{kind.partition(' AS')[0].replace(' x', f' {ours}')} in the database", "renamed; ours is made")
    refresh(database)
    with database.refresh() as connection:
        connection.execute(f"CREATE {kind.replace('x', f'wrm_analytics.{ours}', 1)}")
    for _ in range(2):
        with database.refresh() as connection:
            create_views(connection, enhanced_views("unused", None), refreshed_at=NOON)
    with database.reading() as connection:
        assert connection.execute("FROM wrm_analytics.wrm_stations_latest").fetchall() == []
        found = connection.execute("SELECT lower(table_name) FROM information_schema.tables").fetchall()
        kept = sum(name.startswith(f"{ours.lower()}_before_") for (name,) in found)
    # The table of definitions is the pipeline's own, so any table of that name is taken for it.
    assert kept == (0 if ours == "view_definitions" and kind.startswith("TABLE") else 1)


# --- who may read it ---


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o664])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_stays(database, report, mode, umask):
    report(f"mode {mode:o} on the database, umask {umask:o}", "it stays, and a refresh shows nothing meanwhile")
    before = os.umask(umask)
    try:
        refresh(database)
        assert database.path.stat().st_mode & 0o777 == 0o666 & ~umask
        database.path.chmod(mode)
        with database.refresh():
            (new,) = database.path.parent.glob("*.new-*")
            assert new.stat().st_mode & 0o077 == 0
    finally:
        os.umask(before)
    assert database.path.stat().st_mode & 0o777 == mode


def test_owner_group_attributes_and_links_stay(database, report):
    report("the database belongs to another account, with attributes, behind two symlinks", "all stay as they are")
    refresh(database)
    home = database.path.parent / "disk" / "analytics.duckdb"
    home.parent.mkdir()
    shutil.move(database.path, home)
    middle = database.path.with_name("current")
    middle.symlink_to(home)
    database.path.symlink_to("current")
    if os.geteuid() == 0:
        os.chown(home, 1234, 2345)
    try:
        os.setxattr(home, "user.team", b"analysts")
        attributes = True
    except OSError:
        attributes = False
    was = home.stat()
    refresh(database, 6)
    now = home.stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (was.st_uid, was.st_gid, was.st_mode)
    assert now.st_ino != was.st_ino
    assert not attributes or os.getxattr(home, "user.team") == b"analysts"
    assert (str(database.path.readlink()), middle.readlink()) == ("current", home)
    assert seen(database.path) == 6


# --- one refresh at a time ---


def test_a_refresh_that_hangs_is_named(database, report):
    report("another process holds the lock and does not end", "an error names it, its command and since when")
    refresh(database)
    script = (
        "import sys,time\nfrom pathlib import Path\nfrom wrm_pipeline.analytics.database import AnalyticsDatabase\n"
        "with AnalyticsDatabase(Path(sys.argv[1])).refresh():\n print(1,flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(database.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(DatabaseLockedError, match=rf"process {holder.pid} \(.*python.*\) since 20\d\d-.* UTC"):
            refresh(database, 6)
        assert seen(database.path) == 5
        holder.send_signal(signal.SIGKILL)
    refresh(database, 7)
    assert seen(database.path) == 7


def test_a_lock_of_another_program_is_named(database, report):
    report("a program that is not ours holds the lock", "an error names it")
    refresh(database)
    descriptor = os.open(database.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DatabaseLockedError, match=rf"process {os.getpid()} \(this one\)"):
            refresh(database, 6)
    finally:
        os.close(descriptor)
    refresh(database, 7)
    assert seen(database.path) == 7
