"""From a published row back to the fetch, and the runs' events, on a folder and on a real S3 server."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import Lake, run_job, tick
from wrm_pipeline_tests.fixtures.openlineage import check_event

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_fetched_row_leads_back_to_its_line_and_its_run(
    place: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    environment: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if place == "s3":
        server = request.getfixturevalue("seaweedfs")
        for name, value in server.variables(server.create_bucket()).items():
            monkeypatch.setenv(name, value)
    lake = Lake(load_settings())
    with dg.DagsterInstance.ephemeral() as instance, FaultServer(then=Answer(201)) as receiver:
        monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
        with serve(City(7, station_count=20, bike_count=8)) as feed:
            monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url)
            feed.plan(Misbehaviour.CP1250)
            fetched = run_job("wrm_stations_ingest_job", instance=instance)
        (raw_key,) = lake.keys("raw/")
        dt = lake.layout.parse_raw_key(raw_key).dt
        built = run_job("wrm_stations_processing_job", dt=dt, instance=instance)
        message = tick("wrm_lineage_sensor", instance).skip_message
    assert message == "2 runs recorded; 2 sent, 0 wait, 0 were dropped so far."
    events = [json.loads(received.body) for received in receiver.requests]
    for event in events:
        check_event(event)
    bucket = lake.settings.bucket_name
    expected = f"s3://{bucket}" if bucket else "file"
    of_lake = {event["job"]["name"]: event["outputs"][0] for event in events if "views" not in event["job"]["name"]}
    assert {output["namespace"] for output in of_lake.values()} == {expected}
    assert of_lake["wrm_stations_raw_data"]["name"].endswith("bike-data/gen_info/raw")

    content = lake.store.get(raw_key)
    for row in random.Random(3).sample(lake.rows("enhanced", dt), 3):
        assert main(["trace", row["station_id"], datetime.now(UTC).isoformat(), "--json"]) == 0
        chain = json.loads(capsys.readouterr().out)
        line = chain["line"]
        assert content.split(b"\n")[line["line_number"] - 1].rstrip(b"\r").decode(line["encoding"]) == line["text"]
        assert line["text"].startswith(f"{row['station_id']},")
        assert (chain["raw"]["key"], chain["raw"]["fetched_by"]) == (raw_key, fetched.run_id)
        assert {chain["enhanced"]["built_by"], chain["processed"]["built_by"]} == {built.run_id}
        assert {key.rpartition("/")[2].removesuffix(".json") for key in chain["lineage"]} == {
            fetched.run_id,
            built.run_id,
        }
        assert chain["warnings"] == []
