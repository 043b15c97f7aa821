"""`dlq`: dead letters of any asset, beside the pipeline's own and in the way of none."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.domain.dead_letters import MAX_LETTER_BYTES, PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.exporter.lake import DeadLetterSource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.in_a_run import in_a_run
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day, run_job, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

AT_NOON = {"clock": {"fixed_at": NOON.isoformat()}}


def write(mm: object = "many", error: BaseException | str = "no number", **more: Any) -> DeadLetter:
    def look(dlq: Any) -> DeadLetter:
        return dlq.write("rain", more.pop("day", DAY), "not_a_number", {"hour": 3, "mm": mm}, error, **more)

    return in_a_run("dlq", look, AT_NOON)


def fails_deeply() -> ValueError:
    try:
        try:
            float("many")
        except ValueError as first:
            raise ValueError("mm is 'many'") from first
    except ValueError as error:
        return error


def test_a_letter_has_the_form_of_the_contract_and_the_stack_trace_of_its_exception(lake: Lake) -> None:
    written = write(error=fails_deeply(), source="http://rain/2025-08-21", line_number=4, field="mm")
    (key,) = lake.letters()
    assert key == f"bike-data/gen_info/dlq/dt=2025-08-21/{written.entry_id}.json"
    letter = json.loads(lake.store.get(key))
    trace = letter.pop("stack_trace")
    assert "could not convert string to float: 'many'" in trace
    assert trace.endswith("ValueError: mm is 'many'\n")
    assert letter == {
        "entry_id": written.entry_id,
        "timestamp": NOON.isoformat(),
        "last_seen": NOON.isoformat(),
        "asset_name": "rain",
        "partition_date": "2025-08-21",
        "source_key": "rain/2025-08-21/http://rain/2025-08-21",
        "error_type": "not_a_number",
        "error_message": "mm is 'many'",
        "records": [
            {
                "line_number": 4,
                "raw_data": '{"hour": 3, "mm": "many"}',
                "field": "mm",
                "error_message": "mm is 'many'",
            }
        ],
        "records_total": 1,
        "retry_count": 0,
        "status": PENDING,
        "note": "",
    }


def test_records_of_one_failure_are_in_one_letter_each_once(lake: Lake) -> None:
    first = write("many")
    assert write("few", "another").entry_id == first.entry_id
    last = write("many")
    assert [record.raw_data for record in last.records] == ['{"hour": 3, "mm": "many"}', '{"hour": 3, "mm": "few"}']
    assert (last.records_total, last.stack_trace) == (2, "")
    assert len(lake.letters()) == 1
    assert write("many", source="another").entry_id != first.entry_id
    assert write("many", day="2025-08-22").entry_id != first.entry_id


def test_a_letter_stays_readable_however_much_is_written_into_it(lake: Lake) -> None:
    def look(dlq: Any) -> tuple[DeadLetter, DeadLetter | None]:
        for n in range(30):
            written = dlq.write("rain", DAY, "long", f"{n}" + "x" * 70_000, "e" * 5_000)
        return written, dlq.get(written.entry_id)

    written, kept = in_a_run("dlq", look)
    assert kept is not None
    assert written.records_total == kept.records_total == 30
    assert 10 < len(kept.records) < 20
    assert len(lake.store.get(lake.letters()[0])) <= MAX_LETTER_BYTES
    assert len(kept.error_message) == 2000


def test_letters_are_listed_found_settled_and_opened_again_by_the_same_failure(lake: Lake) -> None:
    def look(dlq: Any) -> None:
        one = dlq.write("rain", DAY, "not_a_number", "a", "bad")
        dlq.write("wind", "2025-08-22", "not_a_number", "b", "bad")
        assert {letter.asset_name for letter in dlq.list()} == {"rain", "wind"}
        assert dlq.list("rain") == dlq.list(partition_date=DAY) == (one,)
        assert dlq.list("rain", "2025-08-22") == ()
        assert dlq.get(one.entry_id[:8]) == one
        assert dlq.get("nothing like it") is None
        assert dlq.settle(one.entry_id, "the service was repaired").note == "the service was repaired"
        assert [letter.asset_name for letter in dlq.list(status=PENDING)] == ["wind"]
        again = dlq.write("rain", DAY, "not_a_number", "c", "bad")
        assert (again.status, [record.raw_data for record in again.records]) == (PENDING, ["c"])
        lake.store.put(one.key or lake.layout.dead_letter_key(DAY, one.entry_id), b"{")
        with pytest.raises(ValueError, match=r"cannot be read: it is not JSON.* Correct the object"):
            dlq.get(one.entry_id)

    in_a_run("dlq", look)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", DAY, "x"), "asset_name is '': give a name"),
        (("wrm_stations_raw_data", DAY, "x"), "asset_name is 'wrm_stations_raw_data', whose .* your asset"),
        (("rain", "yesterday", "x"), "partition_date is 'yesterday'; give a date"),
        (("rain", DAY, ""), "error_type is '': give a name"),
        (("rain", DAY, "x" * 201), "error_type is 'xxx"),
    ],
)
def test_what_is_wrong_with_a_letter_is_named(lake: Lake, arguments, words) -> None:
    def look(dlq: Any) -> None:
        with pytest.raises(ValueError, match=words):
            dlq.write(*arguments, "raw", "error")
        with pytest.raises(ValueError, match="status is 'lost'; give one of pending_reprocessing"):
            dlq.list(status="lost")
        with pytest.raises(ValueError, match="there is no one entry whose id begins with 'x'"):
            dlq.settle("x")

    in_a_run("dlq", look)
    assert lake.letters() == []


def test_no_secret_is_in_a_letter(lake: Lake) -> None:
    secret = "s3cr3t-canary-of-a-letter"  # pragma: allowlist secret
    remember_secret(secret)
    write(secret, ValueError(f"the service answered {secret}"), source=f"http://rain/?key={secret}", field=secret)
    (key,) = lake.letters()
    assert "canary" not in lake.store.get(key).decode()


def test_a_letter_of_another_asset_is_listed_counted_and_in_the_way_of_no_replay(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = line(id="15998", combined=f"{int(NOON.timestamp())}|7200|-1", bikes="x")
    lake.put_raw(NOON, snapshot(NOON, 5, bad))
    build_day()
    (own,) = lake.letters()
    of_day, alone = write(), write(day=date(2025, 8, 19))
    theirs = [lake.layout.dead_letter_key(letter.partition_date, letter.entry_id) for letter in (of_day, alone)]
    before = [lake.store.get(key) for key in theirs]

    assert main(["dlq", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("not_a_number") == 2
    assert "rain/2025-08-19" in listed
    assert "bad_count" in listed
    source = DeadLetterSource(lambda: lake.store, lake.layout)
    source.collect()
    (entries, _) = source.families(0)
    assert {sample.labels["status"]: sample.value for sample in entries.samples}[PENDING] == 3

    for command in (["--dry-run"], ["--apply"]):
        assert main(["dlq", "replay", *command]) == 0
        said = capsys.readouterr()
        assert "2 entries of other assets are left as they are" in said.err
        assert "materialize their asset (rain); to give them up: wrm dlq discard." in said.err
        assert "not_a_number" not in said.out
    assert run_job("reprocess_dlq").success
    assert json.loads(lake.store.get(own))["retry_count"] == 2, "ours was tried each time"
    build_day(config={"full_rebuild": True})
    assert [lake.store.get(key) for key in theirs] == before
    assert main(["dlq", "correct", of_day.entry_id, "--line", "1", "--data", "x"]) == 2, "it has no lines"


def test_a_corrected_line_is_for_the_asset_that_wrote_the_letter(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = write(line_number=4)
    assert main(["dlq", "correct", letter.entry_id, "--line", "4", "--data", "2.5"]) == 0
    assert "The asset rain finds it in its entry." in capsys.readouterr().out
    assert in_a_run("dlq", lambda dlq: dlq.get(letter.entry_id).corrections) == {4: "2.5"}


def test_what_an_older_program_wrote_about_a_snapshot_is_replayed_whatever_it_calls_its_asset(lake: Lake) -> None:
    key = lake.put_raw(NOON, snapshot(NOON, 5))
    build_day()
    old = DeadLetter("old", NOON, NOON, "process_stations", DAY, key, "ValidationError", "bad")
    lake.store.put(lake.layout.dead_letter_key(DAY, "old"), old.to_json())
    assert run_job("reprocess_dlq", config={"replay_dead_letters": {}}).output_for_node("replay_dead_letters") == {
        REPROCESSED: 1,
        PENDING: 0,
        PARKED: 0,
    }


def test_another_lake_receives_the_letters(lake: Lake, tmp_path: Path) -> None:
    elsewhere = Lake(load_settings({"data_dir": tmp_path / "elsewhere"}))
    overrides = {"lake": LakeResource.of(elsewhere.settings)}
    in_a_run("dlq", lambda dlq: dlq.write("rain", DAY, "bad", "raw", "error"), overrides=overrides)
    assert (len(elsewhere.letters()), lake.letters()) == (1, [])
