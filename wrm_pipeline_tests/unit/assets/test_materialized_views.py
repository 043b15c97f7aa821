"""The asset create_materialized_views, as Dagster runs it."""

from __future__ import annotations

from datetime import date

import duckdb

from wrm_pipeline_tests.fixtures.lake import DAY, build_day, materialize, metadata_of

ASSET = "create_materialized_views"


def test_a_run_says_what_it_refreshed_and_what_is_there(lake):
    for day in (date(2025, 8, 20), DAY):
        lake.put_day(2, dt=day)
        build_day(day)
    metadata = metadata_of(materialize(ASSET), ASSET)
    assert (metadata["newest_partition"], metadata["partitions_refreshed"]) == ("2025-08-21", 2)
    assert (metadata["refreshed"], metadata["partitions_dropped"]) == ("2025-08-20, 2025-08-21", 0)
    assert ["wrm_analytics.mv_station_hourly", "20"] in [line.split()[1::2] for line in metadata["rows"].splitlines()]
    assert "2025-08-21" in metadata["preview"]

    lake.put_day(1, first=2)
    build_day()
    metadata = metadata_of(materialize(ASSET), ASSET)
    assert (metadata["partitions_refreshed"], metadata["refreshed"]) == (1, "2025-08-21")
    assert metadata_of(materialize(ASSET), ASSET)["partitions_refreshed"] == 0
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        sql = "SELECT dt, snapshots, rows FROM wrm_analytics.mv_daily_aggregates ORDER BY dt"
        assert connection.execute(sql).fetchall() == [(date(2025, 8, 20), 2, 22), (DAY, 3, 33)]


def test_a_run_names_the_days_that_cannot_be_read(lake):
    for day in (date(2025, 8, 20), DAY):
        lake.put_day(1, dt=day)
        build_day(day)
    lake.store.put(lake.partition_key("enhanced"), b"PAR1 damaged PAR1")
    metadata = metadata_of(materialize(ASSET), ASSET)
    assert (metadata["unreadable"], metadata["newest_partition"]) == ("2025-08-21", "2025-08-20")
