"""WRM_STRICT_RULES: rows that leave as dead letters, what adds up, and what sees a change of the rules."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.domain.drift import drift_of
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.rules import STRICT_RULES, StrictRules
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.domain.strict_rules import with_strict_rules
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.flows.rebuild import RebuiltPartition, rebuild_partition
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake
from wrm_pipeline_tests.fixtures.snapshots import body, line

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COMBINED = f"{int(NOON.timestamp())}|7200|-1"

# One row that breaks each rule, and no other rule.
BREAKS = {
    "unknown_kind": {"id": "x7"},
    "outside_service_area": {"lat": "52.27", "lon": "21.03"},
    "over_capacity": {"bikes": "20", "spaces": "0", "total_docks": "10"},
    "no_docks": {"total_docks": "0"},
    "pedelecs_above_bikes": {"bikes": "1", "pedelecs": "2"},
    "count_capped": {"bikes": "3+"},
    "stale": {"combined": f"{int(NOON.timestamp()) - 7200}|7200|-1"},
    "report_in_the_future": {"combined": f"{int(NOON.timestamp()) + 600}|7200|-1"},
}
GOOD = {"combined": COMBINED, "bikes": "3", "spaces": "7", "total_docks": "10", "pedelecs": "0"}


def row(station: int, **values: str) -> str:
    return line(**{"id": str(station), "name": f"Stacja {station}", **GOOD, **values})


def snapshot(*broken: str, good: int = 2) -> bytes:
    rows = [row(15001 + n) for n in range(good)]
    return body(*rows, *(row(16001 + n, **BREAKS[rule]) for n, rule in enumerate(broken)))


def test_every_strict_rule_has_a_case():
    assert BREAKS.keys() == set(STRICT_RULES)


@pytest.mark.parametrize("rule", STRICT_RULES)
def test_only_the_row_that_breaks_the_rule_leaves_and_says_why(rule):
    file = RawSnapshot("raw/a.txt", NOON, snapshot(*STRICT_RULES))
    parsed = parse_snapshots([file])
    assert (parsed.counts.rows_out, parsed.counts.dead_lettered) == (2 + len(STRICT_RULES), 0)

    found = with_strict_rules(parsed, [file], StrictRules.parse(rule))

    (report,) = found.reports
    (dead,) = report.dead_rows
    position = STRICT_RULES.index(rule)
    assert (dead.line_number, dead.error_type) == (4 + position, f"strict_{rule}")
    assert dead.raw_data == snapshot(*STRICT_RULES).decode().splitlines()[3 + position]
    assert report.dead_counts == {f"strict_{rule}": 1}
    assert report.counts.balanced
    assert (report.counts.rows_out, report.counts.dead_lettered) == (found.rows.num_rows, 1)


def test_a_row_that_breaks_several_rules_counts_once_and_no_rules_change_nothing():
    file = RawSnapshot("raw/a.txt", NOON, body(row(15001, bikes="20+", total_docks="10"), row(15002)))
    parsed = parse_snapshots([file])
    assert with_strict_rules(parsed, [file], StrictRules()) is parsed
    (report,) = with_strict_rules(parsed, [file], StrictRules.parse("count_capped,over_capacity")).reports
    assert report.dead_counts == {"strict_over_capacity": 1}
    assert report.counts.balanced


def test_rows_that_a_rule_takes_are_no_change_of_format():
    file = RawSnapshot("raw/a.txt", NOON, body(*(row(15001 + n, total_docks="0") for n in range(5)), row(15009)))
    (report,) = with_strict_rules(parse_snapshots([file]), [file], StrictRules.parse("no_docks")).reports
    assert report.counts.dead_lettered == 5
    assert drift_of(report) is None


@pytest.mark.parametrize("text", ["nonsense", "stale,over_capcity"])
def test_an_unknown_name_is_refused_with_those_that_there_are(text):
    with pytest.raises(ValueError, match=r"no such rule; choose from unknown_kind, .*stale"):
        StrictRules.parse(text)


# --- partitions ---


def rebuilt(lake: Lake, rules: str, *, now: datetime = NOW, dt: date = DAY, **options: object) -> RebuiltPartition:
    strict = StrictRules.parse(rules, lake.settings.area)
    return rebuild_partition(
        lake.store,
        lake.layout,
        dt,
        area=lake.settings.area,
        now=now,
        strict=strict,
        **options,  # type: ignore[arg-type]
    )


def wanted(lake: Lake, rules: str) -> list[date]:
    plan = plan_reconciliation_runs(
        lake.store,
        lake.layout,
        None,
        area=lake.settings.area,
        now=NOW,
        today=NOW.date(),
        started=frozenset(),
        strict=StrictRules.parse(rules, lake.settings.area),
    )
    return [run.dt for run in plan.runs]


def test_a_change_of_the_rules_rebuilds_a_day_whole_and_back(lake):
    for minute in range(3):
        at = NOON + timedelta(minutes=minute)
        lake.put_raw(at, snapshot("over_capacity", "no_docks", good=3))
    lenient = rebuilt(lake, "")
    assert (lenient.counts.rows_out, lenient.counts.dead_lettered) == (15, 0)
    assert wanted(lake, "") == []
    assert wanted(lake, "over_capacity") == [DAY]

    # A fifth of the rows leaves, on purpose: no consent is asked for.
    later = NOW + timedelta(hours=1)
    strict = rebuilt(lake, "over_capacity", now=later)
    assert set(strict.written) == {"processed", "enhanced"}
    assert (strict.counts.rows_out, strict.counts.dead_lettered) == (12, 3)
    assert strict.counts.balanced
    assert not any(item["over_capacity"] for item in lake.rows("enhanced"))
    assert len(lake.letters()) == 3
    assert wanted(lake, "over_capacity") == []

    # What arrives is judged alike, and nothing else is read again.
    lake.put_raw(NOON + timedelta(minutes=9), snapshot("over_capacity", "no_docks", good=3))
    more = rebuilt(lake, "over_capacity", now=NOW + timedelta(hours=2))
    assert (more.counts.rows_out, more.counts.dead_lettered) == (16, 4)
    manifest = Manifest.from_footer(PublishedPartitions(lake.store, lake.layout).read("processed", DAY).footer_metadata)
    assert manifest.strict == "over_capacity"
    assert sorted({source.parsed_at for source in manifest.sources.values()}) == [later, NOW + timedelta(hours=2)]

    assert rebuilt(lake, "", now=NOW + timedelta(hours=3)).counts.rows_out == 20
    assert wanted(lake, "") == []


def test_the_area_counts_where_a_strict_rule_asks_about_it(lake):
    inside, outside = StrictRules.parse("stale", lake.settings.area), StrictRules.parse("outside_service_area")
    assert str(inside) == "stale"
    assert "51.3" in str(outside)


def test_the_loss_of_other_rows_is_still_refused(lake):
    key = lake.put_raw(NOON, snapshot("over_capacity", good=20))
    lake.put_raw(NOON + timedelta(minutes=1), snapshot("over_capacity", good=20))
    rebuilt(lake, "")
    lake.store.delete(key)
    result = process_partition(
        lake.store,
        lake.layout,
        DAY,
        parsed_at=NOW + timedelta(hours=1),
        full_rebuild=False,
        allow_shrink=True,
        strict=StrictRules.parse("over_capacity"),
    )
    file = result.to_publish(allow_shrink=False)
    assert (file.row_count, file.rows_before) == (20, 41)
    assert enhance_partition(
        result.file,
        PublishedPartitions(lake.store, lake.layout),
        DAY,
        area=lake.settings.area,
        built_at=NOW,
    ).other_rules
