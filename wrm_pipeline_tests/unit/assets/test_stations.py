"""raw/ -> processed/ -> enhanced/, materialized as Dagster does it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.clients.retry import STORAGE_POLICY, RetryPolicy
from wrm_pipeline.domain import partition_build, schemas
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import (
    DAY,
    ENHANCED,
    NOON,
    PROCESSED,
    Lake,
    WatchedStore,
    build_day,
    failure_of,
    materialize,
    metadata_of,
    snapshot,
)
from wrm_pipeline_tests.fixtures.snapshots import AT, HEADER, body, line

MINUTE = timedelta(minutes=1)
PROCESSED_KEY = "bike-data/gen_info/processed/all/dt=2025-08-21/all_processed_20250821_000000.parquet"
ENHANCED_KEY = "bike-data/gen_info/enhanced/all/dt=2025-08-21/all_enhanced_20250821_000000.parquet"
NEIGHBOURS = (date(2025, 8, 20), date(2025, 8, 22))


def on(store: ObjectStore) -> dict[str, object]:
    """Resources that use this store in place of the one that the settings name."""

    class OtherLake(LakeResource):
        def connect(self, policy: RetryPolicy = STORAGE_POLICY) -> ObjectStore:
            return store

    return {"lake": OtherLake.of(load_settings())}


def balanced(metadata: dict) -> bool:
    parts = ("rows_out", "dead_lettered", "duplicate_rows", "remark_lines")
    return metadata["lines_in"] == sum(metadata[name] for name in parts) and metadata["accounting_balanced"]


def schema_of(lake: Lake, layer: str) -> pa.Schema:
    return pq.read_schema(pa.BufferReader(lake.store.get(lake.partition_key(layer)))).remove_metadata()


def test_a_day_of_clean_snapshots(lake):
    lake.put_day(3)
    result = build_day()

    processed, enhanced = metadata_of(result, PROCESSED), metadata_of(result, ENHANCED)
    assert lake.keys("processed/") == [PROCESSED_KEY]
    assert lake.keys("enhanced/") == [ENHANCED_KEY]
    assert (processed["rows_out"], processed["lines_in"], processed["dead_lettered"]) == (33, 33, 0)
    assert balanced(processed)
    assert (processed["snapshots"], processed["snapshots_parsed_now"]) == (3, 3)
    assert processed["dagster/partition_row_count"] == enhanced["dagster/partition_row_count"] == 33
    assert (processed["first_snapshot"], processed["last_snapshot"]) == (
        NOON.timestamp(),
        (NOON + 2 * MINUTE).timestamp(),
    )
    assert (enhanced["rows_in"], enhanced["rows_out"]) == (33, 33)
    assert (enhanced["rows_station"], enhanced["rows_bike"], enhanced["rows_unknown"]) == (30, 3, 0)
    assert processed["path"] == str(lake.settings.lake_dir / PROCESSED_KEY)
    assert processed["size_bytes"] == Path(processed["path"]).stat().st_size
    assert "Stacja 0" in processed["preview"]
    assert "Stacja 0" in enhanced["preview"]
    assert lake.letters() == []


def test_the_published_rows_are_those_of_the_contract(lake):
    lake.put_day(2)
    build_day()

    rows = lake.rows("processed")
    assert schema_of(lake, "processed").equals(schemas.arrow_schema(schemas.PROCESSED))
    assert schema_of(lake, "enhanced").equals(schemas.arrow_schema(schemas.ENHANCED))
    keys = [(row["file_timestamp"], row["station_id"]) for row in rows]
    assert keys == sorted(set(keys))
    assert "dt" not in rows[0]
    assert {row["s3_source_key"] for row in rows} == set(lake.keys("raw/"))
    added = ("record_type", "date", "processed_at", *schemas.FLAGS)
    enhanced = lake.rows("enhanced")
    assert [{k: v for k, v in row.items() if k in rows[0]} for row in enhanced] == rows
    assert set(enhanced[0]) == {*rows[0], *added}
    assert {row["date"] for row in enhanced} == {DAY}


def test_every_line_is_accounted_for(lake):
    combined = f"{int(NOON.timestamp())}|7200|-1"
    more = [
        line(id="7", combined=combined, bikes="many"),
        line(id="8", combined=combined, lat="0", lon="0"),
        line(id="9", combined=combined, bikes="-1"),
        line(id="15001", combined=f"{int(NOON.timestamp()) - 600}|7200|-1", bikes="9"),
        "src,nextbike",
        "# a remark",
        HEADER,
        "",
    ]
    lake.put_raw(NOON, snapshot(NOON, 10, *more))
    lake.put_raw(NOON + MINUTE)
    result = build_day()

    metadata = metadata_of(result, PROCESSED)
    assert balanced(metadata)
    assert (metadata["rows_out"], metadata["dead_lettered"], metadata["duplicate_rows"]) == (22, 3, 1)
    assert metadata["remark_lines"] == 3
    assert len(lake.rows("processed")) == len(lake.rows("enhanced")) == 22
    records = [r for key in lake.letters() for r in json.loads(lake.store.get(key))["records"]]
    assert sorted(record["raw_data"] for record in records) == sorted(more[:3])
    assert more[0] not in metadata["preview"]
    assert metadata["dead_letters"].count("\n") == len(lake.letters()) + 1


def test_one_bad_file_costs_only_itself(lake):
    lake.put_day(2)
    html = b"<html>\n<body>503 | unavailable</body>\n</html>\n"
    keys = [lake.put_raw(NOON + 30 * MINUTE, html), lake.put_raw(NOON + 31 * MINUTE, b"")]
    result = build_day()

    metadata = metadata_of(result, PROCESSED)
    assert balanced(metadata)
    assert (metadata["rows_out"], metadata["dead_lettered"]) == (22, 3)
    assert [lake.store.get(key) for key in keys] == [html, b""]
    letters = [json.loads(lake.store.get(key)) for key in lake.letters()]
    assert {(letter["source_key"], letter["error_type"]) for letter in letters} == {
        (keys[0], "file_no_header"),
        (keys[1], "file_empty"),
    }


def test_a_day_of_nothing_but_bad_files_is_an_empty_partition(lake):
    lake.put_raw(NOON, b"<html></html>")
    result = build_day()
    assert metadata_of(result, PROCESSED)["rows_out"] == 0
    assert metadata_of(result, ENHANCED)["rows_out"] == 0
    assert lake.rows("enhanced") == []
    assert schema_of(lake, "enhanced").equals(schemas.arrow_schema(schemas.ENHANCED))


def test_three_then_two_then_three_raw_files(lake):
    for dt in NEIGHBOURS:
        lake.put_day(2, dt=dt)
        build_day(dt)
    others = {key: etag for key, etag in lake.etags().items() if "dt=2025-08-21" not in key}
    keys = lake.put_day(3)
    counts = []

    build_day()
    counts.append((len(lake.rows("processed")), len(lake.rows("enhanced"))))
    content = lake.store.get(keys[1])
    lake.store.delete(keys[1])
    build_day(config={"allow_shrink": True})
    counts.append((len(lake.rows("processed")), len(lake.rows("enhanced"))))
    lake.store.put(keys[1], content)
    build_day()
    counts.append((len(lake.rows("processed")), len(lake.rows("enhanced"))))

    assert counts == [(33, 33), (22, 22), (33, 33)]
    assert [key for key in lake.keys("") if "dt=2025-08-21" in key and key.endswith(".parquet")] == [
        ENHANCED_KEY,
        PROCESSED_KEY,
    ]
    assert {key: etag for key, etag in lake.etags().items() if "dt=2025-08-21" not in key} == others


def parquet_keys(lake) -> list[str]:
    return [key for key in lake.keys("") if key.endswith(".parquet") and "/superseded/" not in key]


def test_strays_of_an_older_writer_move_aside(lake):
    lake.put_day(1)
    for key in (PROCESSED_KEY, ENHANCED_KEY):
        lake.store.put(key.replace("_000000", "_130502"), b"PAR1 of old")
    build_day()
    assert parquet_keys(lake) == [ENHANCED_KEY, PROCESSED_KEY]
    assert {lake.store.get(key) for key in lake.keys("superseded/")} == {b"PAR1 of old"}


def test_strays_that_came_later_move_aside_with_a_run_that_a_person_asks_for(lake):
    lake.put_day(1)
    build_day()
    for key in (PROCESSED_KEY, ENHANCED_KEY):
        lake.store.put(key.replace("_000000", "_130502"), lake.store.get(key))
    lake.put_day(1, first=5)
    result = build_day()
    assert metadata_of(result, PROCESSED)["files_superseded"] == 1
    assert parquet_keys(lake) == [ENHANCED_KEY, PROCESSED_KEY]
    assert len(lake.keys("superseded/")) == 2


def test_a_run_without_anything_new_writes_nothing(lake):
    lake.put_day(3)
    lake.put_raw(NOON + 9 * MINUTE, snapshot(NOON, 2, line(id="7", bikes="many")))
    build_day()
    before = lake.etags()
    watched = WatchedStore(lake.store)

    result = build_day(overrides=on(watched))

    assert watched.written == []
    assert lake.etags() == before
    processed, enhanced = metadata_of(result, PROCESSED), metadata_of(result, ENHANCED)
    assert (processed["unchanged"], enhanced["unchanged"]) == (True, True)
    assert (processed["rows_out"], processed["snapshots_parsed_now"], processed["dead_lettered"]) == (36, 0, 1)
    assert balanced(processed)
    assert (enhanced["rows_out"], enhanced["rows_station"]) == (36, 32)


def test_a_run_parses_only_what_is_new(lake):
    lake.put_day(5)
    build_day()
    lake.put_day(2, first=5)
    watched = WatchedStore(lake.store)

    result = build_day(overrides=on(watched))

    metadata = metadata_of(result, PROCESSED)
    assert (metadata["snapshots"], metadata["snapshots_parsed_now"], metadata["rows_out"]) == (7, 2, 77)
    assert balanced(metadata)
    assert sorted(key[-9:] for operation, key in watched.calls if operation == "get" and "/raw/" in key) == [
        "05-00.txt",
        "06-00.txt",
    ]
    assert watched.written == [PROCESSED_KEY, ENHANCED_KEY]


def test_an_incremental_build_gives_the_rows_of_a_full_one(lake):
    lake.put_day(4, first=10)
    build_day()
    keys = lake.put_day(3)
    lake.store.put(keys[0], snapshot(NOON, 7))
    build_day()
    incremental = lake.rows("processed")

    result = build_day(config={"full_rebuild": True})

    assert metadata_of(result, PROCESSED)["snapshots_parsed_now"] == 7
    assert lake.rows("processed") == incremental
    assert len(incremental) == 74


def test_a_partition_does_not_shrink_by_accident(lake):
    keys = lake.put_day(3)
    build_day()
    before = {key: lake.digest(key) for key in (PROCESSED_KEY, ENHANCED_KEY)}
    lake.store.delete(keys[0])
    result = build_day()
    assert metadata_of(result, PROCESSED)["raw_objects_vanished"] == 1
    assert {key: lake.digest(key) for key in before} == before

    lake.put_day(1, first=5)
    build_day()
    assert len(lake.rows("processed")) == len(lake.rows("enhanced")) == 44

    build_day(config={"allow_shrink": True})
    assert len(lake.rows("processed")) == len(lake.rows("enhanced")) == 33


def test_a_partition_whose_parser_refuses_more_is_not_published(lake, monkeypatch):
    lake.put_day(3)
    build_day()
    before = {key: lake.digest(key) for key in (PROCESSED_KEY, ENHANCED_KEY)}
    parse = partition_build.parse_snapshots
    monkeypatch.setattr(
        partition_build, "parse_snapshots", lambda files: parse([replace(f, body=b"") for f in files[1:]] + [files[0]])
    )
    message = failure_of(build_day(raise_on_error=False, config={"full_rebuild": True}))
    assert "processed dt=2025-08-21 has 33 rows and would be replaced by 11" in message
    assert "allow_shrink: true" in message
    assert {key: lake.digest(key) for key in before} == before


def test_the_loss_of_all_raw_data_is_no_reason_to_publish_nothing(lake):
    for key in lake.put_day(2):
        lake.store.put(key, lake.store.get(key))
    build_day()
    for key in lake.keys("raw/"):
        lake.store.delete(key)
    for config in ({}, {"full_rebuild": True}):
        assert metadata_of(build_day(config=config), PROCESSED)["raw_objects_vanished"] == 2
    assert len(lake.rows("enhanced")) == 22


def test_dead_letters_are_written_before_the_partition(lake):
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="7", bikes="many")))
    watched = WatchedStore(lake.store)
    build_day(overrides=on(watched))
    assert [key.split("/")[2] for key in watched.written] == ["dlq", "processed", "enhanced"]


def test_a_dead_letter_that_cannot_be_written_fails_the_run_and_leaves_the_partition(lake):
    lake.put_day(2)
    build_day()
    before = {key: lake.digest(key) for key in (PROCESSED_KEY, ENHANCED_KEY)}
    lake.put_raw(NOON + 5 * MINUTE, snapshot(NOON, 3, line(id="7", bikes="many")))
    # A file where the folder of the dead letters should be: no code of ours plays a part in it.
    blocked = lake.settings.lake_dir / "bike-data/gen_info/dlq"
    blocked.write_bytes(b"")

    result = build_day(raise_on_error=False)
    assert "dlq" in failure_of(result)
    assert {key: lake.digest(key) for key in before} == before

    blocked.unlink()
    build_day()
    assert len(lake.rows("processed")) == 26
    assert len(lake.letters()) == 1


def test_the_same_bad_day_three_times_is_one_entry(lake):
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="7", bikes="many"), line(id="8", bikes="many")))
    for _ in range(3):
        build_day(config={"full_rebuild": True})
    (letter,) = lake.letters()
    entry = json.loads(lake.store.get(letter))
    assert len(entry["records"]) == 2
    assert entry["timestamp"] < entry["last_seen"]


def test_a_correction_is_part_of_the_partition_even_from_scratch(lake):
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="7", bikes="many", combined=f"{int(NOON.timestamp())}|7200|-1")))
    build_day()
    (letter,) = lake.letters()
    entry = json.loads(lake.store.get(letter))
    entry["records"][0]["corrected_data"] = entry["records"][0]["raw_data"].replace("many", "4")
    lake.store.put(letter, json.dumps(entry).encode())

    metadata = metadata_of(build_day(), PROCESSED)
    assert (metadata["rows_out"], metadata["dead_lettered"]) == (5, 0)
    assert balanced(metadata)
    incremental = lake.rows("enhanced")
    for key in (PROCESSED_KEY, ENHANCED_KEY):
        lake.store.delete(key)
    build_day()
    without_time = [[{**row, "processed_at": None} for row in rows] for rows in (incremental, lake.rows("enhanced"))]
    assert without_time[0] == without_time[1]
    assert [row["bikes"] for row in lake.rows("processed") if row["station_id"] == "7"] == [4]


def test_an_enhanced_layer_that_lags_behind_is_repaired(lake):
    lake.put_day(2)
    build_day()
    lake.put_day(1, first=2)
    materialize(PROCESSED, dt=DAY)
    assert (len(lake.rows("processed")), len(lake.rows("enhanced"))) == (33, 22)

    result = build_day()

    assert metadata_of(result, PROCESSED)["unchanged"] is True
    assert metadata_of(result, ENHANCED)["unchanged"] is False
    assert len(lake.rows("enhanced")) == 33


def test_enhanced_alone_takes_what_is_published(lake):
    lake.put_day(2)
    materialize(PROCESSED, dt=DAY)
    result = materialize(ENHANCED, dt=DAY)
    assert metadata_of(result, ENHANCED)["rows_out"] == 22


def test_enhanced_without_processed_says_what_to_do(lake):
    lake.put_day(1)
    result = materialize(ENHANCED, dt=DAY, raise_on_error=False)
    assert "Materialize the processed layer for 2025-08-21 first" in failure_of(result)


def test_another_service_area_flags_the_same_rows_again(lake, monkeypatch):
    lake.put_day(1)
    assert metadata_of(build_day(), ENHANCED)["flag_outside_service_area"] == 0
    monkeypatch.setenv("WRM_SERVICE_AREA", "52.0,52.5,20.5,21.5")
    metadata = metadata_of(build_day(), ENHANCED)
    assert metadata["unchanged"] is False
    assert metadata["flag_outside_service_area"] == 11
    assert all(row["outside_service_area"] for row in lake.rows("enhanced"))


def test_flags_are_counted_and_lose_nothing(lake):
    combined = f"{int(NOON.timestamp())}|7200|-1"
    content = body(
        line(id="1", combined=combined, bikes="45", spaces="0", total_docks="16"),
        line(id="2", combined=combined, total_docks="0"),
        line(id="3", combined=combined, lat="52.27", lon="21.03"),
        line(id="4", combined=f"{int(NOON.timestamp()) - 3601}|7200|-1"),
        line(id="5x", combined=combined),
    )
    lake.put_raw(NOON, content)
    metadata = metadata_of(build_day(), ENHANCED)
    assert {name: value for name, value in metadata.items() if name.startswith(("flag_", "rows_"))} == {
        "rows_in": 5,
        "rows_out": 5,
        "rows_station": 4,
        "rows_bike": 0,
        "rows_unknown": 1,
        "flag_over_capacity": 1,
        "flag_no_docks": 1,
        "flag_outside_service_area": 1,
        "flag_stale": 1,
        "flag_count_capped": 0,
    }


def test_a_day_without_raw_data_is_green_says_so_and_writes_nothing(lake):
    said = metadata_of(build_day(), PROCESSED)["nothing_to_do"]
    assert "There is no raw snapshot in bike-data/gen_info/raw/dt=2025-08-21/" in said
    assert lake.keys() == []


@pytest.mark.parametrize(
    ("name", "zone", "at"),
    [
        ("wrm_stations_2025-08-21_14-00-00.txt", "Europe/Warsaw", NOON),
        ("wrm_stations_2025-08-21_14-00-00.txt", "UTC", NOON + timedelta(hours=2)),
        ("wrm_stations_2025-08-21_13-00-00.txt", "Etc/GMT-1", NOON),
        ("scrape 2025-08-21T12-00-00 copy.txt", "UTC", NOON),
    ],
)
def test_raw_names_of_before_are_read_in_their_own_zone(lake, monkeypatch, name, zone, at):
    monkeypatch.setenv("WRM_RAW_NAME_TIMEZONE", zone)
    lake.store.put(f"bike-data/gen_info/raw/dt=2025-08-21/{name}", snapshot(NOON))
    build_day()
    assert {row["file_timestamp"] for row in lake.rows("processed")} == {at}


def test_a_raw_name_without_a_time_counts_by_the_reports_inside(lake):
    lake.store.put("bike-data/gen_info/raw/dt=2025-08-21/export.txt", snapshot(AT))
    build_day()
    reported = {row["timestamp"] for row in lake.rows("processed")}
    (at,) = {row["file_timestamp"] for row in lake.rows("processed")}
    assert min(reported) <= at <= max(reported)


def test_the_partition_is_the_folder_whatever_the_name_says(lake):
    lake.put_raw(datetime(2025, 8, 20, 23, 59, tzinfo=UTC), dt=DAY)
    build_day()
    assert {row["date"] for row in lake.rows("enhanced")} == {DAY}
    assert len(lake.rows("enhanced")) == 11


@pytest.mark.parametrize("damaged", [PROCESSED_KEY, ENHANCED_KEY])
@pytest.mark.parametrize("how", ["html", "cut off", "empty", "another schema", "pages"])
def test_a_published_object_that_is_not_ours_any_more_is_built_again(lake, damaged, how):
    lake.put_day(3)
    build_day()
    before = {layer: lake.rows(layer) for layer in ("processed", "enhanced")}
    good = lake.store.get(damaged)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": list(range(5_000))}), buffer)
    bad = {
        "html": b"<html>",
        "cut off": good[:-50],
        "empty": b"",
        "another schema": buffer.getvalue().to_pybytes(),
        "pages": good[:4] + b"x" * (len(good) // 2) + good[len(good) // 2 + 4 :],
    }[how]
    lake.store.put(damaged, bad)
    if how == "pages" and damaged == PROCESSED_KEY:
        lake.store.delete(ENHANCED_KEY)
    build_day()
    for layer, rows in before.items():
        made = {"processed_at"}
        assert [{k: v for k, v in row.items() if k not in made} for row in lake.rows(layer)] == [
            {k: v for k, v in row.items() if k not in made} for row in rows
        ]
    (kept,) = lake.keys("superseded/")
    assert lake.store.get(kept) == bad


def test_what_another_program_published_is_built_again(lake):
    lake.put_day(2)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"station_id": ["1"] * 10}), sink)
    lake.store.put(PROCESSED_KEY, sink.getvalue().to_pybytes())
    build_day()
    assert len(lake.rows("processed")) == 22


def test_a_name_is_data_in_what_the_ui_shows(lake):
    name = '"<script>alert(1)</script> | [x](javascript:1)"'
    lake.put_raw(NOON, body(line(id="1", name=name, combined=f"{int(NOON.timestamp())}|7200|-1")))
    preview = metadata_of(build_day(), PROCESSED)["preview"]
    assert "<script>" not in preview
    assert "&lt;script&gt;" in preview
