"""`s3_io_manager`: small values by their type, and what it refuses."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from wrm_pipeline_tests.fixtures.lake import Lake, definitions, failure_of
from wrm_pipeline_tests.io_manager_contract import DAYS, TWO_DAYS, in_the_lake

VALUES = {
    "a_dict": {"ż": [1, 2.5, None, True], "deep": {"x": []}},
    "a_list": [1, "two"],
    "a_str": "zażółć\n",
    "an_int": 2**70,
    "a_float": 0.1,
    "a_bool": False,
    "nothing": None,
    "some_bytes": b"\x00\xff",
}
FOLDER = "bike-data/gen_info/values/"


def kept(name: str, value: Any, metadata: Mapping[str, Any] | None = None) -> dg.AssetsDefinition:
    @dg.asset(name=name, io_manager_key="s3_io_manager", metadata=metadata)
    def asset():
        return value

    return asset


def test_values_come_back_as_they_were_and_are_files_that_people_can_read(lake: Lake):
    seen: dict[str, Any] = {}

    @dg.asset(ins={name: dg.AssetIn(name) for name in VALUES})
    def loaded(**values: Any) -> None:
        seen.update(values)

    in_the_lake(*(kept(name, value) for name, value in VALUES.items()), loaded)
    assert seen == VALUES
    assert type(seen["a_bool"]) is bool
    endings = {name: ".bin" if name == "some_bytes" else ".json" for name in VALUES}
    assert lake.keys() == sorted(f"{FOLDER}{name}{ending}" for name, ending in endings.items())
    assert json.loads(lake.store.get(f"{FOLDER}a_dict.json")) == VALUES["a_dict"]
    assert lake.store.get(f"{FOLDER}some_bytes.bin") == b"\x00\xff"


def test_text_is_text_if_the_metadata_says_so_and_another_format_takes_its_place(lake: Lake):
    in_the_lake(kept("note", "first"))
    in_the_lake(kept("note", "second\n", {"format": "text"}))
    assert lake.keys() == [f"{FOLDER}note.txt"]
    assert lake.store.get(f"{FOLDER}note.txt") == b"second\n"
    in_the_lake(kept("note", pd.DataFrame({"n": [1]})))
    assert lake.keys() == [f"{FOLDER}note.parquet"]


class OfOurOwn:
    pass


@pytest.mark.parametrize(
    ("value", "metadata", "words"),
    [
        (OfOurOwn(), {}, "thing is wrm_pipeline_tests.unit.io_managers.test_values.OfOurOwn, which only a pickle"),
        ({"a": [1, {2}]}, {}, "thing['a'][1] is set, which only a pickle"),
        ((1, 2), {}, "thing is tuple"),
        (date(2025, 8, 21), {}, "thing is datetime.date"),
        ({1: "a"}, {}, "a key of thing is int, and JSON has text only"),
        ([float("nan")], {}, "thing[0] is nan, which JSON does not have"),
        (5, {"format": "text"}, "has the metadata `format` text and is int"),
        ("x", {"format": "yaml"}, "it may be text or json"),
    ],
)
def test_what_would_need_a_pickle_is_refused_with_its_type_and_nothing_is_written(lake: Lake, value, metadata, words):
    resources = dict(definitions().resources or {})
    said = failure_of(dg.materialize([kept("thing", value, metadata)], resources=resources, raise_on_error=False))
    assert words in said
    if "pickle" in words:
        assert "Return a dict, list, str, int, float, bool or None (kept as JSON)" in said
    assert lake.keys() == []


def test_several_partitions_are_a_dict_and_a_missing_one_is_named(lake: Lake):
    seen: list[Any] = []

    @dg.asset(partitions_def=TWO_DAYS, io_manager_key="s3_io_manager", key_prefix=["team"])
    def rain(context: dg.AssetExecutionContext) -> dict[str, str]:
        return {"of": context.partition_key}

    @dg.asset(ins={"rain": dg.AssetIn(rain.key)})
    def both(rain: dict[str, Any]) -> None:
        seen.append(rain)

    in_the_lake(rain, day=DAYS[0])
    resources = dict(definitions().resources or {})
    result = dg.materialize([rain, both], selection=["both"], resources=resources, raise_on_error=False)
    assert f"team/rain/{DAYS[1]}. Materialize team/rain first" in failure_of(result)
    in_the_lake(rain, day=DAYS[1])
    in_the_lake(rain, both, names=["both"])
    assert seen == [{day: {"of": day} for day in DAYS}]
    assert lake.keys() == [f"{FOLDER}team/rain/{day}.json" for day in DAYS]


def test_what_ops_hand_on_is_kept_by_run(lake: Lake):
    seen: list[Any] = []

    @dg.op
    def first() -> list[int]:
        return [1, 2]

    @dg.op
    def second(value: list[int]) -> None:
        seen.append(value)

    resources = dict(definitions().resources or {})

    @dg.job(resource_defs={**resources, "io_manager": resources["s3_io_manager"]})
    def ops():
        second(first())

    result = ops.execute_in_process()
    assert result.success
    assert seen == [[1, 2]]
    assert lake.keys() == [f"{FOLDER}storage/{result.run_id}/first/result.json"]
