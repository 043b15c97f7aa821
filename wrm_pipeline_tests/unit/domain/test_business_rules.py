"""Each business rule on a day in which it fires once and on one in which it does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.domain.business_rules import DEAD_LETTER, FLAG, RuleHits, apply_rules, business_rules, observations
from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline_tests.fixtures.snapshots import body, line

NOON = datetime(2025, 8, 21, 12, tzinfo=UTC)
RULES = business_rules(DEFAULT_SERVICE_AREA)


def combined(minute: float) -> str:
    return f"{int((NOON + timedelta(minutes=minute)).timestamp())}|7200|-1"


def station(minute: float, number: str = "15001", **values: str) -> str:
    return line(**{"id": number, "combined": combined(minute)} | values)


def hits_of(
    *snapshots: list[str], bikes_before: dict[str, int] | None = None, area: ServiceArea = DEFAULT_SERVICE_AREA
):
    """What the rules find in snapshots of consecutive minutes, by rule."""
    files = [
        RawSnapshot(f"raw/{minute}.txt", NOON + timedelta(minutes=minute), body(*lines))
        for minute, lines in enumerate(snapshots)
    ]
    rows = parse_snapshots(files).rows
    built = {file.source_key: NOON for file in files}
    rows = enhance_rows(rows, area=area, dt=date(2025, 8, 21), processed_at=built).unify_dictionaries().combine_chunks()
    found = apply_rules(business_rules(area), rows, observations(rows, bikes_before))
    return {hit.rule: hit for hit in found}


@dataclass
class Case:
    fires: list[list[str]]
    does_not: list[list[str]]
    shows: dict = field(default_factory=dict)


CASES = {
    "outside_service_area": Case(
        [[station(0, lat="52.27", lon="21.03")]],
        [[station(0, lat="51.248", lon="17.18")]],
        {"lat": 52.27, "lon": 21.03},
    ),
    "over_capacity": Case(
        [[station(0, bikes="45", spaces="0", total_docks="16")]],
        [[station(0, bikes="45", spaces="0", total_docks="0"), station(0, "15002", bikes="4", spaces="6")]],
        {"bikes": 45, "spaces": 0, "total_docks": 16},
    ),
    "no_docks": Case(
        [[station(0, total_docks="0")]],
        [[station(0), line(id="fb1", combined=combined(0), name="BIKE 1", total_docks="0")]],
    ),
    "pedelecs_above_bikes": Case(
        [[station(0, bikes="3", pedelecs="4")]], [[station(0, bikes="3", pedelecs="3")]], {"pedelecs": 4, "bikes": 3}
    ),
    "count_capped": Case([[station(0, bikes="5+")]], [[station(0, bikes="5")]], {"bikes": 5}),
    "name_cut": Case([[station(0, name="a" * 1001)]], [[station(0, name="a" * 1000)]]),
    "unknown_kind": Case([[station(0, "XY7")]], [[station(0), line(id="fb1", combined=combined(0), name="BIKE 1")]]),
    "stale": Case([[station(-61)]], [[station(-59)]], {"reported_at": "2025-08-21T10:59:00Z"}),
    "report_in_the_future": Case([[station(6)]], [[station(4)]]),
    "report_goes_back": Case(
        [[station(0)], [station(-2)]],
        [[station(0)], [station(0)], [station(2)]],
        {"reported_at": "2025-08-21T11:58:00Z", "previous_reported_at": "2025-08-21T12:00:00Z"},
    ),
    "station_moved": Case(
        [[station(0)], [station(1, lat="51.1110")]],
        [
            [station(0), line(id="fb1", combined=combined(0), name="BIKE 1")],
            [station(1, lat="51.1105"), line(id="fb1", combined=combined(1), name="BIKE 1", lat="51.2")],
        ],
    ),
    "bikes_jump": Case(
        [[station(0, bikes="3")], [station(1, bikes="103")]],
        [[station(0, bikes="3")], [station(1, bikes="33")]],
        {"bikes": 103, "step": 100, "minutes": 1.0},
    ),
    "station_vanished": Case(
        [[station(0), station(0, "15002")], [station(1)]],
        [[station(0), station(0, "15002")], [station(1), station(1, "15002")]],
    ),
    "station_appeared": Case(
        [[station(0)], [station(1), station(1, "15002")]],
        [[station(0), line(id="fb1", combined=combined(0), name="BIKE 1")], [station(1)]],
    ),
}


def test_every_rule_has_its_cases_and_says_why():
    assert {rule.name for rule in RULES if rule.severity == FLAG} == set(CASES)
    assert [rule.name for rule in RULES if rule.severity == DEAD_LETTER] == [
        "line_is_no_row",
        "feed_has_another_format",
    ]
    assert all(len(rule.reason) > 30 for rule in RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_fires_on_what_it_is_about(name):
    hit = hits_of(*CASES[name].fires)[name]
    assert hit.hits == 1
    (sample,) = hit.samples
    assert sample["station_id"] in {"15001", "15002", "XY7"}
    assert sample["file_timestamp"].startswith("2025-08-21T12:0")
    assert CASES[name].shows.items() <= sample.items()


@pytest.mark.parametrize("name", CASES)
def test_a_rule_does_not_fire_on_what_is_next_to_it(name):
    hit = hits_of(*CASES[name].does_not)[name]
    assert (hit.hits, hit.samples) == (0, ())
    assert hit.rows_checked > 0


def test_the_area_is_the_configured_one():
    warsaw = ServiceArea(52.0, 52.5, 20.5, 21.5)
    row = [station(0, lat="52.27", lon="21.03")]
    assert hits_of(row, area=warsaw)["outside_service_area"].hits == 0


def test_a_station_that_catches_up_on_an_hour_did_not_jump():
    # The radio was silent for 59 minutes: 100 bikes are 1.7 a minute.
    hits = hits_of([station(-58, bikes="3")], [station(1, bikes="103")])
    assert hits["bikes_jump"].hits == 0


def test_the_first_snapshot_is_compared_with_the_day_before():
    rows = [station(0), station(0, "15002")]
    assert hits_of(rows)["station_appeared"].hits == 0
    assert hits_of(rows, bikes_before={"15001": 3})["station_appeared"].hits == 1


def test_a_station_that_is_gone_for_two_minutes_vanished_once_and_appeared_once():
    both = [[station(minute), station(minute, "15002")] for minute in range(5)]
    both[1] = both[1][:1]
    both[2] = both[2][:1]
    hits = hits_of(*both)
    assert (hits["station_vanished"].hits, hits["station_appeared"].hits) == (1, 1)
    assert hits["station_vanished"].samples[0]["file_timestamp"] == "2025-08-21T12:00:00Z"
    assert hits["station_appeared"].samples[0]["file_timestamp"] == "2025-08-21T12:03:00Z"


def test_samples_are_twenty_stations_at_most_each_with_its_newest_row():
    def crowd(minute: int) -> list[str]:
        return [station(minute, str(15001 + n), total_docks="0") for n in range(25)]

    hit: RuleHits = hits_of(crowd(0), crowd(1))["no_docks"]
    assert (hit.hits, hit.rows_checked, len(hit.samples)) == (50, 50, 20)
    assert len({sample["station_id"] for sample in hit.samples}) == 20
    assert {sample["file_timestamp"] for sample in hit.samples} == {"2025-08-21T12:01:00Z"}
