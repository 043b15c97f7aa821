"""What a minute's run asks of the store, counted in front of a real S3 server."""

from __future__ import annotations

import dagster as dg
import pytest

from wrm_pipeline.domain import asset_names
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.s3_proxy import proxy_of
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, definitions
from wrm_pipeline_tests.integration.conftest import SeaweedFS

pytestmark = pytest.mark.integration


def test_one_snapshot_more_takes_seven_requests(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one for each further 1,000 snapshots of the day; a run that a person starts also looks for other files."""
    with proxy_of(seaweedfs.endpoint_url) as (proxy, url):
        for name, value in seaweedfs.variables(seaweedfs.create_bucket(), url).items():
            monkeypatch.setenv(name, value)
        lake = Lake(load_settings())
        lake.put_day(3)
        build_day()
        (raw,) = lake.put_day(1, first=3)
        proxy.seen.clear()
        job = definitions().resolve_job_def("wrm_stations_processing_job")
        job.execute_in_process(
            partition_key=str(DAY),
            tags={"dagster/sensor_name": "wrm_stations_raw_data_sensor"},
            asset_selection=[dg.AssetKey(name) for name in (asset_names.PROCESSED, asset_names.ENHANCED)],
        )
    processed, enhanced = lake.partition_key("processed"), lake.partition_key("enhanced")
    folders = (lake.layout.dead_letter_folder(DAY), lake.layout.raw_folder(DAY))
    expected = [("list", folder) for folder in folders]
    expected += [("get", processed), ("get", raw), ("put", processed), ("get", enhanced), ("put", enhanced)]
    assert len(proxy.seen) == len(expected), proxy.seen
    assert all(
        operation == wanted and key in path
        for (operation, path), (wanted, key) in zip(proxy.seen, expected, strict=True)
    ), proxy.seen
