"""Whether a feed tells the truth: figures of snapshots, and the verdicts on them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.feeds.agreement import FeedCounts, agreement, matched
from wrm_pipeline.domain.feeds.figures import NO_PLACES, Figures, Places, figures_of
from wrm_pipeline.domain.feeds.soundness import (
    NO_BASELINE,
    UNKNOWN,
    Baseline,
    Snapshot,
    judged,
    next_baseline,
    quiet_hours,
    silence_limit,
)
from wrm_pipeline_tests.fixtures.snapshots import AT, AT_S, body, line, parse_snapshots, property_settings, raw

ZONE = ZoneInfo("Europe/Warsaw")
MINUTE = timedelta(minutes=1)
NOON = datetime(2025, 8, 21, 10, tzinfo=UTC)
TWO_AT_NIGHT = datetime(2025, 8, 21, 0, tzinfo=UTC)

CITY = [(str(15001 + n), 51.1 + n * 0.003, 17.03, 4 + n) for n in range(12)]


def rows_of(stations, *, shuffled: bool = False, reported: int = AT_S, key: str = "raw/a.txt"):
    lines = [
        line(id=name, lat=f"{lat}", lon=f"{lon}", bikes=f"{bikes}", combined=f"{reported}|7200|-1")
        for name, lat, lon, bikes in stations
    ]
    return parse_snapshots([raw(body(*(reversed(lines) if shuffled else lines)), AT, key)]).rows


def figures(stations, before: Places = NO_PLACES, **more) -> Figures:
    (found,) = figures_of(rows_of(stations, **more), before).values()
    return found


def verdicts(series, baseline: Baseline = NO_BASELINE, *, start: datetime = NOON, feed: str = "ucl"):
    """One snapshot a minute."""
    snapshots = [Snapshot(feed, start + n * MINUTE, found) for n, found in enumerate(series)]
    return judged(snapshots, {feed: baseline}, ZONE)


def moving(count: int, base: Figures | None = None, *, first: int = 0) -> list[Figures]:
    base = base or figures(CITY, YESTERDAY.places)
    return [replace(base, fingerprint=first + n) for n in range(count)]


YESTERDAY = Baseline(Places.of(rows_of(CITY)), bikes=100, peak=15)


def test_figures_of_a_snapshot_count_stations_bikes_docks_and_what_was_there_before():
    free = ("fb591106", 51.2, 17.0, 1)
    elsewhere = [(name, lat + 1, lon, bikes) for name, lat, lon, bikes in CITY[:3]]
    found = figures([*elsewhere, *CITY[3:], free], YESTERDAY.places)
    assert (found.stations, found.bikes, found.docks) == (12, sum(4 + n for n in range(12)) + 1, 120)
    assert (found.highest, found.at_highest, found.known_ids, found.known_places) == (15, 1, 12, 9)


def test_figures_of_several_snapshots_are_those_of_each():
    both = parse_snapshots(
        [
            raw(body(line(id="1", bikes="2"), line(id="2", bikes="9")), AT, "raw/a.txt"),
            raw(body(line(id="1", bikes="7")), AT + MINUTE, "raw/b.txt"),
        ]
    ).rows
    found = figures_of(both)
    assert (found["raw/a.txt"].stations, found["raw/a.txt"].bikes, found["raw/a.txt"].highest) == (2, 11, 9)
    assert (found["raw/b.txt"].stations, found["raw/b.txt"].bikes, found["raw/b.txt"].highest) == (1, 7, 7)
    assert found["raw/b.txt"] == figures_of(both.slice(2))["raw/b.txt"]


@property_settings(25)
@given(st.integers(0, len(CITY) - 1), st.sampled_from(["bikes", "position"]), st.integers(1, 50))
def test_a_fingerprint_shows_each_change_of_a_count_or_position_and_nothing_else(which, what, by):
    name, lat, lon, bikes = CITY[which]
    changed = [*CITY]
    changed[which] = (name, lat, lon, bikes + by) if what == "bikes" else (name, lat, lon + by * 1e-5, bikes)
    same = figures(CITY).fingerprint
    assert figures(changed).fingerprint != same
    assert figures(CITY, shuffled=True, reported=AT_S - 60 * by).fingerprint == same


@property_settings(25)
@given(st.floats(-60, 60), st.floats(-179, 179), st.floats(-1, 1), st.floats(-1, 1))
def test_a_station_within_45_m_is_the_same_place_and_one_200_m_away_is_not(lat, lon, north, east):
    from math import cos, radians

    places = Places(("1",), ("A",), (lat,), (lon,))
    metre_north, metre_east = 1 / 111_320, 1 / (111_320 * cos(radians(lat)))

    def near(metres_north, metres_east):
        import numpy as np

        where = np.array([lat + metres_north * metre_north]), np.array([lon + metres_east * metre_east])
        return bool(places.near(*where)[0])

    assert near(45 * north, 45 * east)
    assert not near(200, 45 * east)
    assert not near(45 * north, -200)


@pytest.mark.parametrize(("start", "silent"), [(NOON, 20), (TWO_AT_NIGHT, 45)])
def test_counts_that_stand_still_are_frozen_after_what_is_never_quiet_at_that_hour(start, silent):
    found = verdicts([*moving(1), *moving(1, first=7) * 60], YESTERDAY, start=start)
    assert [verdict.sound for verdict in found] == [True] * (silent + 1) + [False] * (60 - silent)
    assert found[silent + 1].reason == (
        f"counts of all 12 stations unchanged for {silent} minutes while report times move; at this hour the city is "
        f"never silent for {silent}"
    )


def test_a_feed_that_comes_back_with_its_last_counts_is_frozen_at_once():
    snapshots = [Snapshot("ucl", NOON + at * MINUTE, moving(1)[0]) for at in (0, 120, 121)]
    assert [verdict.kind for verdict in judged(snapshots, {}, ZONE)] == ["sound", "frozen", "frozen"]
    overnight = replace(YESTERDAY, fingerprint=0, changed_at=NOON - 60 * MINUTE)
    assert verdicts(moving(2), overnight)[0].kind == "frozen"
    assert verdicts(moving(2), overnight)[1].kind == "sound"


def test_the_limit_of_silence_is_learnt_from_the_days_before_but_not_from_one_frozen_night():
    night = [1, 9, 8, 2, *[0] * 20]
    frozen = [*night[:2], 300, *night[3:]]
    assert silence_limit(TWO_AT_NIGHT, [night, night], ZONE) == 45 * MINUTE
    assert silence_limit(TWO_AT_NIGHT, [night, frozen, night], ZONE) == 27 * MINUTE
    assert silence_limit(NOON, [night, frozen, night], ZONE) == 12 * MINUTE
    assert silence_limit(NOON, [night, [UNKNOWN] * 24, night], ZONE) == 20 * MINUTE


def test_quiet_hours_are_the_longest_silence_that_touches_an_hour():
    times = [NOON + n * MINUTE for n in range(120)]
    found = quiet_hours(times, [*range(50), *[50] * 20, *range(51, 101)], ZONE)
    assert found[12] == found[13] == 19
    assert set(found[:12] + found[14:]) == {UNKNOWN}


def test_a_feed_that_stands_still_while_another_moves_is_frozen_sooner_and_the_other_is_not():
    still, other = moving(1), moving(30, first=100)
    snapshots = [
        found
        for n in range(30)
        for found in (
            Snapshot("ucl", NOON + n * MINUTE, still[0]),
            Snapshot("operator", NOON + n * MINUTE + timedelta(seconds=1), other[n]),
        )
    ]
    found = judged(snapshots, {}, ZONE)
    assert [verdict.kind for verdict in found[::2]] == ["sound"] * 10 + ["frozen"] * 20
    assert (
        found[20].reason
        == "counts of all 12 stations unchanged for 10 minutes while those of operator changed 10 times"
    )
    assert all(verdict.sound for verdict in found[1::2])


def test_a_feed_that_is_made_every_10_minutes_is_sound_beside_one_of_every_minute():
    snapshots = [
        found
        for n in range(120)
        for found in (
            Snapshot("ucl", NOON + n * MINUTE, replace(moving(1)[0], fingerprint=n // 10)),
            Snapshot("operator", NOON + n * MINUTE, moving(1, first=1000 + n)[0]),
        )
    ]
    assert all(verdict.sound for verdict in judged(snapshots, {}, ZONE))


def test_another_city_is_elsewhere_and_in_the_wrong_place():
    city = [(name, lat - 2, lon + 1, bikes) for name, lat, lon, bikes in CITY]
    (found,) = verdicts([figures(city, YESTERDAY.places)], YESTERDAY)
    assert (found.kind, found.right_place) == ("elsewhere", False)
    assert found.reason == "0 of 12 stations are where one of the 12 stations of the day before was: another city"
    assert verdicts([figures(city)])[0].sound  # nothing is known of the day before


def test_other_ids_in_the_same_places_are_told_but_it_is_the_right_place():
    renamed = [(f"9{name}", lat, lon, bikes) for name, lat, lon, bikes in CITY]
    (found,) = verdicts([figures(renamed, YESTERDAY.places)], YESTERDAY)
    assert (found.kind, found.right_place) == ("elsewhere", True)
    of_another_feed = replace(YESTERDAY, places=YESTERDAY.places.without_ids())
    assert verdicts([figures(renamed, of_another_feed.places)], of_another_feed)[0].sound


@pytest.mark.parametrize(("left", "kind"), [(12, "sound"), (10, "sound"), (9, "shrunken")])
def test_a_fifth_of_the_stations_gone_is_shrunken(left, kind):
    (found,) = verdicts([figures(CITY[:left], YESTERDAY.places)], YESTERDAY)
    assert found.kind == kind
    assert found.reason in ("", "3 of the 12 stations of the day before are gone")


def test_half_of_the_bikes_gone_within_ten_minutes_is_shrunken_until_they_are_back():
    many, few = [100] * 5, [50] * 30
    base = figures(CITY)
    series = [replace(base, bikes=bikes, fingerprint=n) for n, bikes in enumerate([*many, *few, 51])]
    found = verdicts(series)
    assert [verdict.kind for verdict in found] == ["sound"] * 5 + ["shrunken"] * 30 + ["sound"]
    assert found[5].reason == "50 of the 100 bikes of 12:00 are gone"
    slowly = [replace(base, bikes=100 - 2 * n, fingerprint=n) for n in range(20)]
    assert all(verdict.sound for verdict in verdicts(slowly))


def test_zeros_everywhere_and_counts_that_are_capped():
    zeros = [(name, lat, lon, 0) for name, lat, lon, _ in CITY]
    (found,) = verdicts([figures(zeros, YESTERDAY.places)], YESTERDAY)
    assert (found.kind, found.reason) == (
        "all_zero",
        "all 12 stations have 0 bikes, and no bike stands outside one",
    )
    capped = [(name, lat, lon, min(bikes, 5)) for name, lat, lon, bikes in CITY]
    (found,) = verdicts([figures(capped, YESTERDAY.places)], YESTERDAY)
    assert (found.kind, found.reason) == (
        "capped",
        "no station has more than 5 bikes and 11 have just that many; the day before always had one with 15 or more",
    )
    assert verdicts([figures(capped)])[0].sound
    # A small city whose fullest station has 10 today, after 11.
    natural = [(name, lat, lon, min(bikes, 6 + n)) for n, (name, lat, lon, bikes) in enumerate(CITY[:7])]
    assert figures(natural).highest == 10
    assert verdicts([figures(natural)], replace(YESTERDAY, places=NO_PLACES, peak=11))[0].sound


def test_a_baseline_knows_only_what_was_believed_and_survives_the_manifest():
    series = [*moving(30), *[replace(figures(CITY), bikes=0, highest=0, fingerprint=5)] * 2]
    snapshots = [Snapshot("ucl", NOON + n * MINUTE, found) for n, found in enumerate(series)]
    found = judged(snapshots, {}, ZONE)
    after = next_baseline(snapshots, found, YESTERDAY.places, YESTERDAY, ZONE)
    assert (after.bikes, after.peak) == (114, 15)
    assert (after.fingerprint, after.changed_at) == (5, NOON + 30 * MINUTE)
    assert after.quiet[-1][12] == 1
    assert Baseline.from_json(json.loads(json.dumps(after.to_json()))) == after
    for _ in range(10):
        after = next_baseline(snapshots, found, YESTERDAY.places, after, ZONE)
    assert len(after.quiet) == 7


def places_of(stations) -> Places:
    return Places.of(rows_of(stations))


def test_feeds_with_other_ids_are_compared_by_where_their_stations_are():
    renamed = [(f"9{name}", lat + 0.0003, lon, bikes) for name, lat, lon, bikes in CITY[1:]]
    assert matched(places_of(CITY), places_of(renamed)) == {name: f"9{name}" for name, *_ in CITY[1:]}
    one = FeedCounts(places_of(CITY), {NOON: {name: bikes for name, _, _, bikes in CITY}})
    other = FeedCounts(places_of(renamed), {NOON: {name: bikes + n for n, (name, _, _, bikes) in enumerate(renamed)}})
    found = agreement(one, other)
    assert found is not None
    assert (found.missing, found.apart, found.share) == (1, 7, 4 / 12)
    assert str(found) == "33% agree, 1 stations missing, 7 more than 3 apart"
    assert agreement(one, FeedCounts(one.places, {NOON + MINUTE: {}})) is None
