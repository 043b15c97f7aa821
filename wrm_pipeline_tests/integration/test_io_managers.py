"""Assets of anybody on a real S3 server; and beside the pipeline's own tables, while somebody reads."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase
from wrm_pipeline_tests.fixtures.lake import Lake, build_day, materialize
from wrm_pipeline_tests.io_manager_contract import DAYS, ForeignAssetContract, foreign, in_the_lake

pytestmark = pytest.mark.integration

OURS = ("create_duckdb_enhanced_views", "create_materialized_views")
FOREIGN = foreign("duckdb_io_manager", "arrow")
TABLE = f"wrm_analytics.{FOREIGN.key.path[-1]}"

# Opens the file again and again as anybody would, until there is a file to stop it; then says what it has seen.
READER = f"""
import os, sys, duckdb
seen, opened = set(), 0
while not os.path.exists(sys.argv[2]):
    with duckdb.connect(sys.argv[1], read_only=True) as db:
        counts = "(SELECT count(*) FROM {TABLE}), (SELECT count(*) FROM wrm_analytics.mv_station_latest)"
        seen.add(db.execute(f"SELECT {{counts}}").fetchone())
    opened += 1
    if opened == 1:
        print("ready", flush=True)
print(opened, sorted(seen))
"""


class TestInABucket(ForeignAssetContract):
    @pytest.fixture(autouse=True)
    def bucket(self, seaweedfs, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in seaweedfs.variables(seaweedfs.create_bucket()).items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def lake(self, bucket: None, environment: Path) -> Lake:
        from wrm_pipeline.settings import load_settings

        return Lake(load_settings())


@contextmanager
def reading(database: Path) -> Iterator[list[str]]:
    """A process that reads all the time; what it says at the end."""
    said: list[str] = []
    stop = database.with_name("stop-reading")
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(database), str(stop)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield said
        finally:
            stop.touch()
            out, errors = process.communicate(timeout=60)
            said.extend([out.strip(), errors])


def test_foreign_tables_and_the_pipelines_own_leave_one_another_alone_while_somebody_reads(lake: Lake):
    lake.put_day(2)
    build_day()
    materialize(*OURS)
    in_the_lake(FOREIGN, day=DAYS[0])
    with reading(lake.settings.database_path) as said:
        lake.put_day(2, first=10, stations=12)
        build_day()
        materialize(*OURS)
        in_the_lake(FOREIGN, day=DAYS[1])
        materialize("data_catalog")
        in_the_lake(FOREIGN, day=DAYS[0])
    out, errors = said
    assert errors == ""
    opened, _, seen = out.partition(" ")
    assert int(opened) > 5
    counts = literal_eval(seen)
    assert set(counts) <= {(3, 10), (3, 12), (6, 12)}
    assert (3, 10) in counts
    with AnalyticsDatabase(lake.settings.database_path).reading() as db:
        described = db.sql(f"SELECT row_count FROM wrm_analytics.catalog_tables WHERE name = '{TABLE[14:]}'").fetchall()
    assert described == [(6,)]
