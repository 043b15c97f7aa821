"""What the checks of the quality tables say of usual and of odd days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from wrm_pipeline.checks.quality import CHECKS, check_anomalies, check_drift, check_rules
from wrm_pipeline.domain.profile import MIN_DAYS_COMPARED
from wrm_pipeline.resources.lake import LakeResource

DT = date(2025, 8, 21)


def hits_of(today: int, *earlier: int, rule: str = "stale") -> list[dict]:
    """Rows of quality_rule_hits, with 1,000 rows checked on each day."""
    return [
        {"dt": DT - timedelta(days=n), "rule": rule, "hits": hits, "rows_checked": 1000, "samples": "[]"}
        for n, hits in enumerate([today, *earlier])
    ]


def test_all_checks_warn_and_none_blocks():
    specs = [spec for check in CHECKS for spec in check.check_specs]
    assert {spec.name for spec in specs} == {
        "no_rule_fires_more_than_usual",
        "distributions_are_usual",
        "anomalies_are_few",
    }
    assert not any(spec.blocking for spec in specs)
    assert {spec.asset_key.to_user_string() for spec in specs} == {"data_quality"}


@pytest.mark.parametrize(
    ("today", "earlier", "passed"),
    [
        (100, [100] * 7, True),
        (300, [100] * 7, True),
        (301, [100] * 7, False),
        # One wild day is not what is usual.
        (301, [100] * 6 + [1000], False),
        (20, [0] * 28, True),
        (21, [0] * 28, False),
        # Too few days to judge.
        (900, [100] * (MIN_DAYS_COMPARED - 1), True),
    ],
)
def test_a_rule_that_fires_thrice_as_often_as_usual_is_reported(today, earlier, passed):
    found = check_rules(DT, hits_of(today, *earlier))
    assert (found.passed, found.severity) == (passed, dg.AssetCheckSeverity.WARN)
    if not passed:
        assert f"stale fired on {today} rows" in found.description
        assert found.metadata["samples"].records[0].data["hits"] == today
    assert found.metadata["days_compared"].value == len(earlier)


def test_half_a_day_is_compared_by_share():
    hits = hits_of(150, *[100] * 7)
    hits[0]["rows_checked"] = 500
    assert check_rules(DT, hits).passed
    hits[0]["hits"] = 151
    assert not check_rules(DT, hits).passed


def test_a_column_that_drifted_is_named():
    columns = [
        {"column_name": "bikes", "drift": 0.4, "compared_days": 28, "nulls": 0, "mean": None, "minimum": "0"},
        {"column_name": "lat", "drift": 0.2, "compared_days": 28, "nulls": 0, "mean": 51.1, "minimum": "51.0"},
    ]
    found = check_drift(DT, columns)
    assert not found.passed
    assert found.description == "bikes drifted by 0.40"
    assert found.metadata["columns_drifted"].value == 1
    assert [record.data["column_name"] for record in found.metadata["samples"].records] == ["bikes"]
    assert check_drift(DT, columns[1:]).passed
    assert "Too few days" in check_drift(None, []).description


def test_many_anomalies_are_reported_with_twenty_samples():
    hours = [
        {
            "hour_start": datetime(2025, 8, 21, n % 24, tzinfo=UTC),
            "station_id": str(15001 + n // 24),
            "name": "Rynek",
            "score": 2.0,
            "reason": "the count did not change for 9 h, in which 30 bikes usually move",
        }
        for n in range(30)
    ]
    found = check_anomalies(DT, hours)
    assert not found.passed
    assert found.description == "30 hours of 2 stations are anomalous on 2025-08-21."
    assert len(found.metadata["samples"].records) == 20
    assert check_anomalies(DT, hours[:20]).passed
    assert check_anomalies(DT, []).passed


def test_before_anything_is_computed_there_is_nothing_to_tell(lake):
    resource = LakeResource.of(lake.settings)
    with resource.database.refresh():
        pass
    (check,) = CHECKS
    found = list(check(lake=resource))
    assert [(result.passed, result.description) for result in found] == [(True, "No day is computed yet.")] * 3
