"""Cities in other zones, by settings alone, from a GBFS feed to the report, on days on which their clocks change."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.report.site import PAGES
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.simulator.places import Home
from wrm_pipeline_tests.fixtures.lake import ENHANCED, PROCESSED, materialize, run_job
from wrm_pipeline_tests.fixtures.other_city import settle_in

pytestmark = pytest.mark.integration

ST_JOHNS = Home("St. John's", ZoneInfo("America/St_Johns"), 47.5615, -52.7126)
SANTIAGO = Home("Santiago", ZoneInfo("America/Santiago"), -33.4378, -70.6504)
HALF_AN_HOUR = timedelta(minutes=30)


def hour_names(*skipped: int, twice: int | None = None) -> list[int]:
    return sorted([*(hour for hour in range(24) if hour not in skipped), *([] if twice is None else [twice])])


@pytest.mark.parametrize(
    ("home", "day", "midnight", "hours"),
    [
        # Offset by half an hour, west of Greenwich: 25 h.
        (ST_JOHNS, date(2025, 11, 2), "2025-11-02T02:30:00+00:00", hour_names(twice=1)),
        # South of the equator; the day begins at 01:00, for there is no midnight: 23 h.
        (SANTIAGO, date(2025, 9, 7), "2025-09-07T04:00:00+00:00", hour_names(0)),
    ],
    ids=["St. John's", "Santiago"],
)
def test_a_city_elsewhere_from_its_feed_to_its_report(monkeypatch, home, day, midnight, hours):
    other = settle_in(monkeypatch, home)
    start, end = partition_bounds(day)
    assert start == datetime.fromisoformat(midnight)
    assert end - start == timedelta(hours=len(hours))
    taken = [start + n * HALF_AN_HOUR for n in range(2 * len(hours))]
    for at in (start - timedelta(seconds=1), *taken, end):
        key = other.fetch(at)
        assert (f"/dt={day}/" in key) is (at in taken)
    for name in (PROCESSED, ENHANCED):
        materialize(name, dt=day)
    clock = {"clock": ClockResource(fixed_at=end.isoformat())}
    assert run_job("wrm_analytics_job", dt=day, overrides=clock).success

    for layer in ("processed", "enhanced"):
        rows = other.lake.rows(layer, day)
        assert sorted({row["file_timestamp"] for row in rows}) == taken
    # Hours are the city's, also where they begin at half past those of UTC.
    from wrm_pipeline.analytics.database import AnalyticsDatabase

    with AnalyticsDatabase(other.lake.settings.database_path).reading() as connection:
        for table in ("mv_city_hourly", "quality_station_hours"):
            found = connection.execute(
                f"SELECT DISTINCT hour_start, local_hour FROM wrm_analytics.{table} WHERE dt = ? ORDER BY ALL", [day]
            ).fetchall()
            assert [at for at, _ in found] == taken[::2], table
            assert sorted(hour for _, hour in found) == hours, table
        newest = connection.execute("SELECT max(dt) FROM wrm_analytics.query_station_summary_latest").fetchone()
        assert newest == (day,)

    # The report is this city's, and its map shows the stations and leaves the far depot out.
    pages = other.lake.settings.reports_dir / "site"
    about = json.loads((pages / "data" / "about.js").read_text().partition(".about = ")[2].rstrip(";\n"))
    assert (about["city"], about["zone"]) == (home.name, home.zone.key)
    city = json.loads((pages / "data" / "city.js").read_text().partition(".city = ")[2].rstrip(";\n"))
    south, west, north, east = city["density"]["area"]
    assert south < home.lat < north < south + 1
    assert west < home.lon < east < west + 1
    assert [bike for bike in city["bikes"]["rows"] if bike[city["bikes"]["columns"].index("outside_service_area")]]
    files = other.lake.settings.gbfs_folder / "v2.3"
    system = json.loads((files / "system_information.json").read_text())["data"]
    assert (system["name"], system["timezone"]) == (home.name, home.zone.key)
    stations = json.loads((files / "station_information.json").read_text())["data"]["stations"]
    assert len(stations) == 12
    assert all(south < station["lat"] < north and west < station["lon"] < east for station in stations)
    for page in PAGES.values():
        text = (pages / page.file).read_text()
        assert "Wroc" not in text
        assert "Warsaw" not in text
