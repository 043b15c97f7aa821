"""`wrm_stations_latest` after a clock that was ahead within the day."""

from datetime import UTC, datetime, timedelta

from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline_tests.fixtures.lake import materialize, snapshot


def test_a_snapshot_from_the_future_is_not_the_latest(lake):
    now = datetime.now(UTC).replace(microsecond=0)
    today = local_date(now)
    for at in (now - timedelta(minutes=1), now + timedelta(minutes=30)):
        lake.store.put(f"{lake.layout.raw_folder(today)}{lake.layout.raw_key(at).rpartition('/')[2]}", snapshot(at, 3))
    rebuild_partition(lake.store, lake.layout, today, area=lake.settings.area, now=now)
    materialize("create_duckdb_enhanced_views")
    from wrm_pipeline.analytics.database import AnalyticsDatabase

    with AnalyticsDatabase(lake.settings.database_path).reading() as connection:
        found = connection.execute("SELECT DISTINCT file_timestamp FROM wrm_analytics.wrm_stations_latest").fetchall()
        everything = connection.execute("SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data").fetchone()
    assert [at.astimezone(UTC) for (at,) in found] == [now - timedelta(minutes=1)]
    assert everything == (8,)
