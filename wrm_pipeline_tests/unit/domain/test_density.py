"""The density grid against a slow count, and its accounting."""

import math
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from wrm_pipeline.domain.density import CELL_SCHEMA, CELL_SIDE_M, bike_density, cell_size_degrees
from wrm_pipeline.domain.rules import ServiceArea

AREA = ServiceArea()
FIRST = datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        ("file_timestamp", pa.timestamp("us", "UTC")),
        ("lat", pa.float64()),
        ("lon", pa.float64()),
        ("bikes", pa.int32()),
        ("record_type", pa.string()),
        ("outside_service_area", pa.bool_()),
    ]
)


def row(minute=0, lat=51.11, lon=17.03, bikes=1, kind="station", outside=False):
    return dict(zip(SCHEMA.names, (FIRST + timedelta(minutes=minute), lat, lon, bikes, kind, outside), strict=True))


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def random_rows(count, snapshots, seed=1):
    """A city: three places in four are shared by several rows, one row in twenty stands in Warsaw."""
    rng = np.random.default_rng(seed)
    places = np.stack([rng.uniform(51.0, 51.3, count // 4 + 1), rng.uniform(16.7, 17.3, count // 4 + 1)])
    lat, lon = places[:, rng.integers(0, places.shape[1], count)]
    warsaw = rng.random(count) < 0.05
    micros = int(FIRST.timestamp()) * 10**6 + rng.integers(0, snapshots, count) * 60 * 10**6
    return pa.table(
        {
            "file_timestamp": pa.array(micros).cast(SCHEMA.field(0).type),
            "lat": np.where(warsaw, 52.27, lat),
            "lon": np.where(warsaw, 21.03, lon),
            "bikes": rng.integers(0, 30, count).astype(np.int32),
            "record_type": rng.choice(["station", "bike", "unknown"], count),
            "outside_service_area": warsaw,
        },
        schema=SCHEMA,
    )


def slow_count(rows, area):
    """The same cells, row by row."""
    step_lat, step_lon = cell_size_degrees(area)
    newest = max(r["file_timestamp"] for r in rows)
    snapshots = {r["file_timestamp"] for r in rows}
    held = defaultdict(lambda: defaultdict(int))
    stations = defaultdict(int)
    for r in rows:
        if r["outside_service_area"]:
            continue
        cell = (int((r["lon"] - area.lon_min) // step_lon), int((r["lat"] - area.lat_min) // step_lat))
        held[cell][r["file_timestamp"]] += r["bikes"]
        stations[cell] += r["record_type"] == "station" and r["file_timestamp"] == newest
    return {
        cell: (sum(by.values()) / len(snapshots), max(by.values()), stations[cell])
        for cell, by in held.items()
        if sum(by.values())
    }


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_slow_count(seed):
    rows = random_rows(2_000, snapshots=7, seed=seed)
    grid = bike_density(rows, AREA)
    got = {(c["cell_x"], c["cell_y"]): (c["bikes_mean"], c["bikes_max"], c["stations"]) for c in grid.cells.to_pylist()}
    assert got == slow_count(rows.to_pylist(), AREA)
    assert grid.cells.schema == CELL_SCHEMA
    assert grid.snapshot_count == 7
    assert grid.adds_up


def test_cells_hold_their_points_and_cover_1000_square_metres():
    rows = random_rows(500, snapshots=1)
    cells = bike_density(rows, AREA).cells.to_pylist()
    inside = [r for r in rows.to_pylist() if not r["outside_service_area"] and r["bikes"]]
    for r in inside:
        assert any(c["south"] <= r["lat"] < c["north"] and c["west"] <= r["lon"] < c["east"] for c in cells)
    # Lengths of a degree at 51.15° N by the usual series for WGS 84 (metres).
    phi = math.radians(51.15)
    lat_m = 111132.92 - 559.82 * math.cos(2 * phi) + 1.175 * math.cos(4 * phi)
    lon_m = 111412.84 * math.cos(phi) - 93.5 * math.cos(3 * phi) + 0.118 * math.cos(5 * phi)
    step_lat, step_lon = cell_size_degrees(AREA)
    assert step_lat * lat_m == pytest.approx(CELL_SIDE_M, rel=1e-5)
    assert step_lon * lon_m == pytest.approx(CELL_SIDE_M, rel=1e-5)


@pytest.mark.parametrize("lat", [AREA.lat_min, AREA.lat_max])
def test_the_documented_distortion_holds_at_the_edges(lat):
    off = math.cos(math.radians(lat)) / math.cos(math.radians((AREA.lat_min + AREA.lat_max) / 2)) - 1
    assert abs(off) < 0.0033


def test_mean_counts_snapshots_in_which_the_cell_was_empty_and_max_is_per_snapshot():
    grid = bike_density(
        table(
            row(0, bikes=3), row(0, bikes=4, kind="bike"),  # 7 at once
            row(1, bikes=5), row(1, bikes=0, lat=51.2),
            row(2, bikes=1, lat=51.05),
        ),
        AREA,
    )  # fmt: skip
    dense, sparse = grid.cells.to_pylist()
    assert (dense["bikes_mean"], dense["bikes_max"]) == (4.0, 7)
    assert dense["density_per_km2"] == pytest.approx(4000)
    assert dense["stations"] == 0, "no station there in the newest snapshot"
    assert (sparse["bikes_mean"], sparse["stations"]) == (pytest.approx(1 / 3), 1)


def test_warsaw_is_counted_and_left_out():
    grid = bike_density(
        table(
            row(0), row(0, lat=52.27, lon=21.03, bikes=9, kind="bike", outside=True),
            row(1), row(1, lat=52.27, lon=21.03, bikes=2, kind="bike", outside=True),
        ),
        AREA,
    )  # fmt: skip
    assert grid.cells.num_rows == 1
    assert (grid.rows_in, grid.rows_outside_area) == (4, 2)
    assert (grid.bikes_in, grid.bikes_outside_all_snapshots, grid.bikes_outside_area) == (13, 11, 2)
    assert grid.adds_up


def test_flag_or_position_alone_puts_a_row_outside_and_the_edges_belong_to_the_area():
    grid = bike_density(
        table(
            row(outside=True),
            row(lat=51.31), row(lon=16.69), row(lat=math.nan),
            row(lat=51.0, lon=16.7), row(lat=51.3, lon=17.3), row(outside=None),
        ),
        AREA,
    )  # fmt: skip
    assert grid.rows_outside_area == 4
    assert grid.cells.num_rows == 3
    assert grid.adds_up


def test_only_cells_that_held_a_bike_exist_densest_first():
    grid = bike_density(
        table(row(bikes=0), row(lat=51.2, bikes=2), row(lat=51.05, bikes=2), row(lon=17.2, bikes=6)), AREA
    )
    cells = grid.cells.to_pylist()
    assert [c["bikes_mean"] for c in cells] == [6, 2, 2]
    assert cells[1]["cell_y"] < cells[2]["cell_y"], "ties by position"


def test_adds_up_sees_a_lost_cell():
    grid = bike_density(random_rows(200, snapshots=3), AREA)
    assert grid.adds_up
    lost = {**vars(grid), "cells": grid.cells.slice(1)}
    assert not type(grid)(**lost).adds_up


def test_no_rows():
    grid = bike_density(SCHEMA.empty_table(), AREA)
    assert grid.cells.schema == CELL_SCHEMA
    assert (grid.cells.num_rows, grid.snapshot_count, grid.rows_in, grid.bikes_in) == (0, 0, 0, 0)
    assert grid.adds_up


def test_row_order_does_not_matter():
    rows = random_rows(1_000, snapshots=4)
    shuffled = rows.take(pa.array(np.random.default_rng(3).permutation(rows.num_rows)))
    assert bike_density(rows, AREA).cells.equals(bike_density(shuffled, AREA).cells)


@pytest.mark.parametrize(("count", "snapshots", "limit_s"), [(815, 2, 0.1), (600_000, 720, 1.0)])
def test_speed(count, snapshots, limit_s):
    rows = random_rows(count, snapshots)
    bike_density(rows, AREA)  # the first call loads pyarrow's kernels
    took = []
    for _ in range(3):
        started = time.perf_counter()
        bike_density(rows, AREA)
        took.append(time.perf_counter() - started)
    assert min(took) < limit_s
