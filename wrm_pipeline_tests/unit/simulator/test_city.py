"""The simulated city: the same bytes in whatever order, and a day that looks like Wrocław's."""

import csv
import io
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import mean
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.simulator.city import HEADER, City
from wrm_pipeline.simulator.places import LANDMARKS

WARSAW = ZoneInfo("Europe/Warsaw")
NOON = datetime(2025, 8, 21, 12, 0, tzinfo=UTC)  # a Thursday
MINUTE = timedelta(minutes=1)
CENTRE_LAT, CENTRE_LON = (51.100, 51.116), (17.020, 17.045)


@pytest.fixture(scope="module")
def city() -> City:
    return City(seed=1)


def rows(city: City, at: datetime) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(city.snapshot(at).decode())))


def stations(city: City, at: datetime) -> list[dict[str, str]]:
    return [row for row in rows(city, at) if row["#id"].isdigit()]


def free_bikes(city: City, at: datetime) -> dict[str, tuple[str, str]]:
    return {row["#id"]: (row["lat"], row["lon"]) for row in rows(city, at) if row["#id"].startswith("fb")}


def counts(city: City, at: datetime) -> dict[str, int]:
    return {row["#id"]: int(row["bikes"]) for row in stations(city, at)}


def reported(row: dict[str, str]) -> list[int]:
    return [int(number) for number in row["timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"].split("|")]


def bikes_in_centre(city: City, at: datetime) -> int:
    return sum(
        int(row["bikes"])
        for row in stations(city, at)
        if CENTRE_LAT[0] < float(row["lat"]) < CENTRE_LAT[1] and CENTRE_LON[0] < float(row["lon"]) < CENTRE_LON[1]
    )


class TestDeterminism:
    def test_any_order_gives_the_same_bytes(self):
        instants = [NOON + timedelta(minutes=7 * i) for i in range(50)]
        forwards = [City(3).snapshot(at) for at in instants]
        one = City(3)
        assert [one.snapshot(at) for at in reversed(instants)] == forwards[::-1]

    def test_another_process_gives_the_same_bytes(self, city):
        script = (
            "import sys, hashlib, datetime as d; from wrm_pipeline.simulator.city import City;"
            "print(hashlib.sha256(City(1).snapshot(d.datetime(2025, 8, 21, 12, tzinfo=d.UTC))).hexdigest())"
        )
        digests = {
            subprocess.run(
                [sys.executable, "-c", script],
                env={
                    **os.environ,
                    "PYTHONHASHSEED": hash_seed,
                    "TZ": zone,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed, zone in (("1", "UTC"), ("2", "America/New_York"))
        }
        assert len(digests) == 1

    def test_the_zone_of_the_instant_does_not_matter(self, city):
        assert city.snapshot(NOON) == city.snapshot(NOON.astimezone(WARSAW))

    def test_parts_of_a_second_do_not_matter(self, city):
        assert city.snapshot(NOON) == city.snapshot(NOON + timedelta(microseconds=999_999))

    def test_another_seed_is_another_city(self, city):
        assert City(2).snapshot(NOON) != city.snapshot(NOON)

    def test_an_instant_without_a_zone_is_refused(self, city):
        with pytest.raises(ValueError, match="time zone"):
            city.snapshot(NOON.replace(tzinfo=None))


class TestShape:
    def test_text(self, city):
        body = city.snapshot(NOON)
        lines = body.decode().split("\n")
        assert lines[0] == HEADER
        assert lines[-1] == ""
        assert b"\r" not in body
        assert 30_000 < len(body) < 60_000

    def test_every_row_has_thirteen_fields(self, city):
        assert {len(row) for row in csv.reader(io.StringIO(city.snapshot(NOON).decode()))} == {13}

    def test_numbers_of_stations_and_bikes(self, city):
        assert len(stations(city, NOON)) == 260
        assert 125 <= len(free_bikes(city, NOON)) <= 175
        assert 1_800 < sum(counts(city, NOON).values()) < 2_800

    def test_ids_and_names_are_unique(self, city):
        for field in ("#id", "name"):
            assert max(Counter(row[field] for row in rows(city, NOON)).values()) == 1

    def test_free_bikes_say_what_they_are(self, city):
        for row in rows(city, NOON):
            if row["#id"].startswith("fb"):
                assert row["name"] == f"BIKE {row['#id'][2:]}"
                assert len(row["#id"]) == 8
                assert (row["bikes"], row["spaces"], row["temporary"], row["total_docks"]) == (
                    "1",
                    "0",
                    "true",
                    "0",
                )
                battery = row["givesbonus_acceptspedelecs_fbbattlevel"]
                assert bool(battery) == (row["pedelecs"] == "1")
                assert battery == "" or 0 <= int(battery) <= 100

    def test_pedelecs_are_among_the_bikes(self, city):
        pairs = [(int(row["pedelecs"]), int(row["bikes"])) for row in rows(city, NOON)]
        assert all(0 <= pedelecs <= bikes for pedelecs, bikes in pairs)
        assert sum(pedelecs for pedelecs, _ in pairs) > 50

    @pytest.mark.parametrize(("station_count", "bike_count"), [(1, 0), (12, 5), (1_000, 140)])
    def test_other_sizes(self, station_count, bike_count):
        small = City(5, station_count=station_count, bike_count=bike_count)
        assert len(stations(small, NOON)) == station_count
        assert abs(len(free_bikes(small, NOON)) - bike_count) <= 25
        assert len({row["name"] for row in rows(small, NOON)}) == len(rows(small, NOON))


class TestFactsOfTheRealFeed:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_about_a_third_of_the_stations_holds_more_than_its_docks(self, seed):
        over = [
            int(row["bikes"]) + int(row["spaces"]) > int(row["total_docks"]) > 0 for row in stations(City(seed), NOON)
        ]
        assert 0.2 < mean(over) < 0.45

    def test_a_few_stations_have_no_docks(self, city):
        assert 3 <= sum(row["total_docks"] == "0" for row in stations(city, NOON)) <= 8

    def test_some_stations_are_empty(self, city):
        assert sum(count == 0 for count in counts(city, NOON).values()) >= 2

    def test_some_stations_are_out_of_town(self, city):
        by_name = {row["name"]: row for row in stations(city, NOON)}
        assert float(by_name["Wisznia Mała, Urząd Gminy"]["lat"]) == 51.248
        assert float(by_name["Czernica, plac Gminny"]["lon"]) == 17.182
        assert float(by_name["Trzebnica - dworzec kolejowy"]["lat"]) > 51.3

    def test_two_fifths_of_the_free_bikes_stand_in_warsaw(self, city):
        depot = [lat for lat, lon in free_bikes(city, NOON).values() if float(lat) > 52 and float(lon) > 21]
        assert len(depot) == 63

    def test_awkward_names(self, city):
        text = city.snapshot(NOON).decode()
        names = {row["name"] for row in stations(city, NOON)}
        assert '"Kino ""Nowe Horyzonty"""' in text
        assert 'Kino "Nowe Horyzonty"' in names
        assert any("," in name for name in names)
        assert any(name.startswith(" ") for name in names)
        assert any(name.endswith(" ") for name in names)
        assert any(name.endswith("\u00a0") for name in names)
        assert set("ąęłńóśźżŁŚŻ") <= set("".join(names))

    def test_a_small_city_has_the_awkward_ones_too(self):
        names = [row["name"] for row in stations(City(1, station_count=12), NOON)]
        assert sorted(names) == sorted(mark.name for mark in LANDMARKS[:12])

    def test_reports_are_less_than_a_minute_old_but_for_a_handful(self, city):
        ages = [NOON.timestamp() - reported(row)[0] for row in rows(city, NOON)]
        assert all(age >= 0 for age in ages)
        assert 4 <= sum(age > 3_600 for age in ages) <= 5
        fresh = [age for age in ages if age < 60]
        assert len(fresh) >= len(ages) - 5
        assert len(set(fresh)) > 40, "each station has its own second"

    def test_reports_never_go_back(self, city):
        before = {row["#id"]: reported(row)[0] for row in rows(city, NOON)}
        for row in rows(city, NOON + timedelta(seconds=37)):
            assert reported(row)[0] >= before.get(row["#id"], 0)


class TestMovement:
    def test_the_centre_fills_in_the_morning_and_empties_in_the_evening(self, city):
        day = datetime(2025, 8, 21, tzinfo=WARSAW)
        night, late_morning, late = (bikes_in_centre(city, day.replace(hour=hour)) for hour in (4, 11, 22))
        assert late_morning > 1.15 * night
        assert late_morning > 1.15 * late

    def test_offices_are_empty_on_sunday(self, city):
        def at_sky_tower(at: datetime) -> int:
            return next(int(row["bikes"]) for row in stations(city, at) if "Sky Tower" in row["name"])

        thursday, sunday = (datetime(2025, 8, day, 11, tzinfo=WARSAW) for day in (21, 24))
        assert at_sky_tower(thursday) > 2 * at_sky_tower(sunday)

    def test_few_ride_at_night(self, city):
        def moved(at: datetime) -> int:
            before, after = counts(city, at), counts(city, at + timedelta(minutes=30))
            return sum(abs(after[station] - before[station]) for station in before)

        night, rush = (moved(datetime(2025, 8, 21, hour, tzinfo=WARSAW)) for hour in (3, 16))
        assert night * 4 < rush

    @pytest.mark.parametrize(
        "start",
        [
            datetime(2025, 8, 21, 5, 0, tzinfo=UTC),  # the morning rush
            datetime(2025, 8, 20, 21, 30, tzinfo=UTC),  # over midnight in Warsaw
            datetime(2025, 8, 24, 21, 30, tzinfo=UTC),  # over the end of the week
            datetime(2026, 3, 29, 0, 30, tzinfo=UTC),  # clocks go forward at 01:00 UTC
            datetime(2026, 10, 25, 0, 30, tzinfo=UTC),  # and back
        ],
    )
    def test_from_minute_to_minute_counts_change_by_small_steps(self, city, start):
        before = counts(city, start)
        steps: Counter[int] = Counter()
        for minute in range(1, 91):
            after = counts(city, start + minute * MINUTE)
            steps.update(abs(after[station] - before[station]) for station in before)
            assert sum(abs(after[station] - before[station]) for station in before) < 80
            before = after
        assert steps[0] / steps.total() > 0.85
        assert sum(steps[size] for size in steps if size > 2) <= 10
        assert steps[1] > 0

    def test_bikes_are_conserved(self, city):
        totals = [
            sum(counts(city, NOON + timedelta(hours=hour)).values())
            + len(free_bikes(city, NOON + timedelta(hours=hour)))
            for hour in range(0, 24 * 14, 5)
        ]
        # What is missing is on its way: up to 12 % in the afternoon rush.
        assert max(totals) - min(totals) < 0.13 * max(totals)

    def test_a_free_bike_stands_still_until_it_is_rented(self, city):
        before = free_bikes(city, NOON)
        stays = {bike: [place] for bike, place in before.items()}
        gone: set[str] = set()
        back = 0
        for step in range(1, 3 * 24 * 12):
            now = free_bikes(city, NOON + timedelta(minutes=5 * step))
            for bike, place in now.items():
                if bike in before:
                    assert before[bike] == place, "moved without a ride"
                elif bike in gone:
                    back += 1
                    assert stays[bike][-1] != place, "a ride leads elsewhere"
                if stays.setdefault(bike, [place])[-1] != place:
                    stays[bike].append(place)
            gone |= before.keys() - now.keys()
            before = now
        assert len(gone) > 20
        assert back > 20
        assert sum(len(places) > 1 for places in stays.values()) > 20

    def test_free_bikes_stand_for_hours(self, city):
        start, later = free_bikes(city, NOON), free_bikes(city, NOON + timedelta(hours=2))
        roaming = {bike for bike, (lat, _) in start.items() if float(lat) < 52}
        assert len(roaming & later.keys()) > 0.7 * len(roaming)


class TestLocalTime:
    @pytest.mark.parametrize(
        ("at", "offset_s"),
        [
            (datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC), 3_600),
            (datetime(2026, 3, 29, 1, 1, 0, tzinfo=UTC), 7_200),
            (datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC), 7_200),
            (datetime(2026, 10, 25, 1, 1, 0, tzinfo=UTC), 3_600),
        ],
    )
    def test_reports_give_the_local_offset(self, city, at, offset_s):
        offsets = Counter(reported(row)[1] for row in rows(city, at))
        assert offsets[offset_s] >= len(rows(city, at)) - 5

    @pytest.mark.parametrize("day", [datetime(2026, 3, 30, tzinfo=WARSAW), datetime(2026, 10, 26, tzinfo=WARSAW)])
    def test_after_the_change_the_rush_is_at_eight_by_the_new_clock(self, city, day):
        def rides(hour: int) -> int:
            at = day.replace(hour=hour)
            minutes = [counts(city, at + 2 * minute * MINUTE) for minute in range(31)]
            return sum(
                abs(after[station] - before[station]) for before, after in pairwise(minutes) for station in before
            )

        early, rush, late = rides(5), rides(8), rides(10)
        assert rush > 1.2 * late
        assert rush > 2 * early


def test_a_day_of_snapshots_takes_seconds():
    city = City(9)
    started = time.perf_counter()
    for minute in range(0, 1440, 4):
        city.snapshot(NOON + minute * MINUTE)
    # 0.4 s measured; the bound is for a machine that does four things at once.
    assert time.perf_counter() - started < 5
