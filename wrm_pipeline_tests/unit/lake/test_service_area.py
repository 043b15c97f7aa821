"""The service area of a city that has none configured."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from wrm_pipeline.clients.errors import DamagedContentError
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, EVERYWHERE, ServiceArea
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.lake.dry_run_store import DryRunStore
from wrm_pipeline.lake.service_area import area_around
from wrm_pipeline.resources.lake import LakeResource, area_of
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.places import Home
from wrm_pipeline_tests.fixtures.lake import DAY
from wrm_pipeline_tests.fixtures.other_city import settle_in

WELLINGTON = Home("Wellington", ZoneInfo("Pacific/Auckland"), -41.2865, 174.7762)
AT = datetime(2025, 8, 21, tzinfo=UTC)  # noon there


@pytest.fixture
def other(monkeypatch):
    return settle_in(monkeypatch, WELLINGTON)


def test_it_is_found_once_around_the_stations_and_kept(other):
    settings, store = other.lake.settings, other.lake.store
    assert area_of(settings, store) == EVERYWHERE
    assert store.stat(settings.layout.service_area_key) is None
    other.fetch(AT)
    rebuild_partition(store, settings.layout, DAY, area=EVERYWHERE, now=AT)
    assert area_of(settings, DryRunStore(store)) == area_of(settings, store)
    area = LakeResource.of(settings).area
    assert area.lat_min < WELLINGTON.lat < area.lat_max < area.lat_min + 1
    assert area.lon_min < WELLINGTON.lon < area.lon_max < area.lon_min + 1
    # Stations that come later do not move it, and a day's flags are those of it.
    store.delete(other.lake.partition_key("processed"))
    assert area_of(settings, store) == area
    other.fetch(AT + timedelta(minutes=1))
    rebuild_partition(store, settings.layout, DAY, area=area, now=AT)
    outside = {row["station_id"] for row in other.lake.rows("enhanced") if row["outside_service_area"]}
    assert len(outside) == 2  # the bikes in the depot
    assert all(station_id.startswith("fb") for station_id in outside)


def test_a_dry_run_keeps_none(other):
    other.fetch(AT)
    rebuild_partition(other.lake.store, other.lake.layout, DAY, area=EVERYWHERE, now=AT)
    assert area_of(other.lake.settings, DryRunStore(other.lake.store)) != EVERYWHERE
    assert other.lake.keys("findings/service_area.json") == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"lat_min": "x"}', b'{"south": 1}'])
def test_one_that_cannot_be_read_is_named_with_the_remedy(other, body):
    other.lake.store.put(other.lake.layout.service_area_key, body)
    with pytest.raises(DamagedContentError, match=r"not a service area .*Delete the object"):
        area_of(other.lake.settings, other.lake.store)


def test_one_that_is_configured_counts_and_wroclaw_has_its_own(monkeypatch, lake):
    assert area_of(lake.settings, lake.store) == DEFAULT_SERVICE_AREA
    monkeypatch.setenv("WRM_CITY", "Lyon")
    monkeypatch.setenv("WRM_SERVICE_AREA", "45.5,46,4.5,5.2")
    assert area_of(load_settings(), lake.store) == ServiceArea(45.5, 46, 4.5, 5.2)


def test_a_place_far_away_does_not_widen_it():
    lat, lon = np.array([45.70, 45.75, 45.80, 48.85]), np.array([4.80, 4.85, 4.90, 2.35])
    assert area_around(lat, lon) == ServiceArea(45.68, 45.82, 4.78, 4.92)
    # Near a pole and in two halves, it is still a box.
    assert area_around(np.array([89.99, -10.0]), np.array([0.0, 179.99])) == ServiceArea(-10.02, 90.0, -0.02, 180.0)
