"""`examples/weather_asset`: two days through all that the example uses, each twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import dagster as dg
import pytest
import requests
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module

from examples.weather_asset import definitions as location
from examples.weather_asset import stub
from examples.weather_asset.assets import rain_per_day, rain_per_hour
from wrm_pipeline.domain.dead_letters import PENDING, REPROCESSED
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import Lake, definitions

DAYS = ("2025-08-21", "2025-08-22")


def hours(day: str) -> list[float]:
    """The hours of a day that have a number."""
    return [float(mm) for _, mm in (line.split(",") for line in stub.hours_of(day)) if mm != "n/a"]


@pytest.fixture
def bucket() -> Iterator[FaultServer]:
    with FaultServer(then=Answer(200, headers={"ETag": '"x"'})) as server:
        yield server


def materialize(day: str, url: str, bucket: FaultServer) -> dg.ExecuteInProcessResult:
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": {"env": "EXAMPLE_SECRET"}}
    return dg.materialize(
        [rain_per_hour, rain_per_day],
        partition_key=day,
        resources=definitions().resources,
        run_config={
            "ops": {"rain_per_hour": {"config": {"url": url, "bucket": "weather"}}},
            "resources": {"s3_resource": {"config": {"endpoint_url": bucket.url, **keys}}},
        },
    )


def test_two_days_twice_give_each_row_once_and_each_failure_once(
    lake: Lake, bucket: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_SECRET", "x")
    with stub.serving() as url:
        for day in (*DAYS, *DAYS):
            ran = materialize(day, url, bucket)
    assert ran.asset_value("rain_per_hour")["mm"].to_pylist() == hours(DAYS[1])
    resources = definitions().resources or {}
    with resources["lake"].database.reading() as connection:
        found = connection.execute("SELECT date, mm FROM wrm_analytics.rain_per_day ORDER BY date").fetchall()
    assert found == [(date.fromisoformat(day), pytest.approx(sum(hours(day)))) for day in DAYS]
    assert len(lake.keys("rain_per_hour/")) == 2
    letters = resources["dlq"].list("rain_per_hour")
    assert {(str(letter.partition_date), letter.records_total, letter.status) for letter in letters} == {
        (day, 1, PENDING) for day in DAYS
    }
    for letter in letters:
        (record,) = letter.records
        assert stub.hours_of(str(letter.partition_date))[record.line_number - 1] == record.raw_data
        assert "could not convert string to float: 'n/a'" in letter.stack_trace
    assert [request.path for request in bucket.requests] == [f"/weather/rain/{day}.csv" for day in (*DAYS, *DAYS)]


def test_an_answer_that_is_right_in_the_end_settles_the_day(
    lake: Lake, bucket: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_SECRET", "x")
    with stub.serving() as url:
        materialize(DAYS[0], url, bucket)
    resources = definitions().resources or {}
    repaired = [line.replace("n/a", "1.5") for line in stub.hours_of(DAYS[0])]
    resources["redis_cache"].set(f"rain/{DAYS[0]}", "\n".join(repaired))
    materialize(DAYS[0], "http://127.0.0.1:9", bucket)
    assert [letter.status for letter in resources["dlq"].list("rain_per_hour")] == [REPROCESSED]


def test_the_location_is_loaded_beside_ours_with_its_resources() -> None:
    from wrm_pipeline.definitions import defs as ours

    (target,) = loadable_targets_from_python_module(location.__name__, None)
    assert target.target_definition is location.defs
    assert {spec.key.to_user_string() for spec in location.defs.resolve_all_asset_specs()} == {
        "rain_per_hour",
        "rain_per_day",
    }
    assert set(location.defs.resources or {}) == set(ours.resources or {})


def test_the_stub_has_the_same_weather_each_time() -> None:
    with stub.serving() as url:
        assert requests.get(f"{url}/{DAYS[0]}", timeout=5).text.splitlines() == stub.hours_of(DAYS[0])
    assert len(hours(DAYS[0])) == 23
    assert stub.hours_of(DAYS[0]) != stub.hours_of(DAYS[1])
