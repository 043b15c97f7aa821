"""Building a partition step by step gives what a build from scratch gives, whatever happens to its raw objects."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pandera.errors
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain import enhanced_build, parquet_parts, partition_build
from wrm_pipeline.domain.enhanced_build import build_enhanced
from wrm_pipeline.domain.manifest import AccountingError, Manifest, RawObject, Source
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.partition_build import (
    BuildPlan,
    PartitionWouldShrinkError,
    ProcessedBuild,
    build_processed,
    check_shrink,
    plan_build,
)
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED, FLAGS, PROCESSED, RECORD_TYPES, arrow_schema
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline_tests.fixtures.snapshots import AT, AT_S, body, line, property_settings

DT = date(2025, 8, 21)
FOLDER = "bike-data/gen_info/raw/dt=2025-08-21/"
FROZEN_ROWS = 7
BATCH_BYTES = 700


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", FROZEN_ROWS)
    monkeypatch.setattr(partition_build, "BATCH_BYTES", BATCH_BYTES)


def content(*ids: str, bikes: int = 3, age_s: int = 0) -> bytes:
    return body(*(line(id=station, bikes=str(bikes), combined=f"{AT_S - age_s}|7200|-1") for station in ids))


@dataclass
class Day:
    """The raw objects of a day, its published partitions, and what a build reads of them."""

    raw: dict[str, tuple[RawObject, bytes]] = field(default_factory=dict)
    processed: ParquetParts | None = None
    enhanced: ParquetParts | None = None
    keys_read: list[str] = field(default_factory=list)
    allow_shrink: bool = True
    _serial: Iterator[int] = field(default_factory=lambda: count(1))

    def put(self, minute: float, data: bytes, name: str | None = None) -> str:
        """Add or rewrite a raw object; its ETag is always another one."""
        key = f"{FOLDER}{name or f'{minute:07.2f}'}.txt"
        at = AT + timedelta(minutes=minute)
        self.raw[key] = (RawObject(key, f'"etag-{next(self._serial)}"', len(data), at), data)
        return key

    def correct(self, key: str, corrections: dict[int, str]) -> None:
        obj, data = self.raw[key]
        self.raw[key] = (replace(obj, corrections=corrections), data)

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for key in keys:
            self.keys_read.append(key)
            yield key, self.raw[key][1]

    def plan(self, *, full_rebuild: bool = False, refused: Mapping[str, str] | None = None) -> BuildPlan:
        # Stores list by key; nothing may depend on that.
        objects = [obj for obj, _ in self.raw.values()]
        return plan_build(
            objects,
            self.processed,
            full_rebuild=full_rebuild,
            allow_shrink=self.allow_shrink,
            refused=refused or {},
        )

    def now(self) -> datetime:
        return datetime(2025, 8, 22, tzinfo=UTC) + timedelta(minutes=next(self._serial))

    def build(self, *, full_rebuild: bool = False) -> ProcessedBuild:
        self.keys_read.clear()
        build = build_processed(self.plan(full_rebuild=full_rebuild), self.read, parsed_at=self.now())
        if build.shrunken and not self.allow_shrink:
            plan = self.plan(full_rebuild=full_rebuild, refused=build.shrunken)
            build = build_processed(plan, self.read, parsed_at=self.now())
        return build

    def publish(self, *, full_rebuild: bool = False) -> ProcessedBuild:
        """Build and publish both layers, as a run does."""
        build = self.build(full_rebuild=full_rebuild)
        self.processed = ParquetParts.open(build.data)
        enhanced = build_enhanced(
            self.processed, self.enhanced, area=DEFAULT_SERVICE_AREA, dt=DT, build_id=self.now().isoformat()
        )
        assert enhanced.row_count == build.row_count
        self.enhanced = ParquetParts.open(enhanced.data)
        return build

    def check(self) -> None:
        """Published is what a build from scratch gives, and every line of every raw object is accounted for."""
        scratch = Day(self.raw)
        scratch.publish()
        assert table(self.processed).equals(table(scratch.processed))
        assert (
            table(self.enhanced)
            .drop_columns("processed_at")
            .equals(table(scratch.enhanced).drop_columns("processed_at"))
        )
        manifest = Manifest.from_footer(self.processed.footer_metadata)
        assert manifest.counts.balanced
        assert manifest.counts.rows_out == self.processed.row_count
        expected = Manifest.from_footer(scratch.processed.footer_metadata)
        assert {key: source.counts for key, source in manifest.sources.items()} == {
            key: source.counts for key, source in expected.sources.items()
        }
        assert manifest.sources.keys() == self.raw.keys()
        assert self.plan().nothing_to_do
        parsed_at = {key: source.parsed_at for key, source in manifest.sources.items()}
        for row in table(self.enhanced).select(["s3_source_key", "processed_at"]).to_pylist():
            assert row["processed_at"] == parsed_at[row["s3_source_key"]]


def table(parts: ParquetParts | None) -> pa.Table:
    assert parts is not None
    return pq.read_table(pa.BufferReader(parts.data)).replace_schema_metadata()


def keys_of(day: Day) -> list[tuple[float, str]]:
    """(minute, station) of each published row, in its order."""
    rows = table(day.processed).select(["file_timestamp", "station_id"]).to_pylist()
    return [(round((row["file_timestamp"] - AT).total_seconds() / 60, 2), row["station_id"]) for row in rows]


def names(keys: Iterable[str]) -> list[str]:
    return [key.removeprefix(FOLDER).removesuffix(".txt") for key in keys]


def ordinary_day(snapshots: int = 6) -> Day:
    """Three stations a minute, published minute by minute."""
    day = Day()
    for minute in range(snapshots):
        day.put(minute, content("1", "2", "3", bikes=minute))
        day.publish()
    return day


# --- builds step by step, and from scratch ---


def test_an_ordinary_day_is_what_a_build_from_scratch_gives():
    day = ordinary_day(8)
    day.check()
    assert keys_of(day) == [(minute, station) for minute in range(8) for station in "123"]
    assert day.processed.frozen_count == day.enhanced.frozen_count == 3


def test_a_late_snapshot_takes_its_place():
    day = ordinary_day()
    day.put(2.5, content("1"))
    day.put(-1, content("9"))
    day.publish()
    day.check()


def test_late_snapshots_all_over_the_day_take_their_places_in_one_build():
    day = ordinary_day(10)
    assert day.processed.group_count == 5
    for minute in (-1, 0.5, 1, 2.5, 2.75, 4.5, 6, 8.5, 9, 12, 13):
        day.put(minute, content("1", "5"), name=f"late {minute}")
    day.publish()
    day.check()


def test_a_rewritten_snapshot_takes_the_place_of_its_rows():
    day = ordinary_day()
    day.put(1, content("2", "4", bikes=50))
    day.publish()
    day.check()
    assert [key for key in keys_of(day) if key[0] == 1] == [(1, "2"), (1, "4")]


@pytest.mark.parametrize("minute", range(6))
def test_a_deleted_snapshot_takes_its_rows_with_it(minute):
    day = ordinary_day()
    del day.raw[f"{FOLDER}{minute:07.2f}.txt"]
    day.publish()
    day.check()
    assert minute not in {at for at, _ in keys_of(day)}


def test_a_partition_may_become_empty_and_full_again():
    day = ordinary_day(2)
    objects = dict(day.raw)
    day.raw.clear()
    day.publish()
    day.check()
    assert day.processed.row_count == 0
    day.raw.update(objects)
    day.publish()
    day.check()
    assert day.processed.row_count == 6


def test_two_files_of_one_time_share_their_stations_however_they_came():
    day = ordinary_day(3)
    day.put(1, content("1", "2", "7", bikes=9), name="second of minute 1")
    build = day.publish()
    day.check()
    assert [key for key in keys_of(day) if key[0] == 1] == [(1, "1"), (1, "2"), (1, "3"), (1, "7")]
    assert build.manifest.counts.duplicate_rows == 2
    del day.raw[f"{FOLDER}0001.00.txt"]
    day.publish()
    day.check()
    assert Manifest.from_footer(day.processed.footer_metadata).counts.duplicate_rows == 0


def test_garbage_among_the_files_costs_only_itself_and_is_not_read_again():
    day = ordinary_day(3)
    garbage = day.put(1.5, b"<html>\n</html>")
    assert day.publish().reports[0].fault.error_type == "file_no_header"
    day.check()
    day.put(4, content("1"))
    day.publish()
    assert garbage not in day.keys_read
    day.check()


def test_a_correction_is_part_of_the_partition_until_it_is_taken_back():
    day = ordinary_day(3)
    key = day.put(1.5, body(line(id="1"), "bad"))
    day.publish()
    day.correct(key, {3: line(id="2")})
    day.publish()
    assert day.keys_read == [key]
    day.check()
    assert day.processed.row_count == 11
    day.correct(key, {3: line(id="2", bikes="77")})
    assert not day.plan().nothing_to_do
    day.correct(key, {})
    day.publish()
    day.check()
    assert day.processed.row_count == 10


def test_a_correction_with_a_lone_surrogate_can_be_remembered():
    day = Day()
    key = day.put(0, body(line(id="1"), "bad"))
    day.correct(key, {3: line(id="2", name="a\ud800")})
    day.publish()
    day.check()


def test_corrections_are_distinguished():
    obj = RawObject("k", "e", 1, AT)
    ids = [
        replace(obj, corrections=corrections).corrections_id
        for corrections in ({}, {1: ""}, {1: "a"}, {2: "a"}, {1: "a", 2: "b"}, {1: "a\n2:b"}, {1: 'a"], [2, "b'})
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == ""
    assert replace(obj, corrections={2: "b", 1: "a"}).corrections_id == ids[4]


def test_another_time_of_the_same_object_moves_its_rows():
    day = ordinary_day(4)
    key = f"{FOLDER}0001.00.txt"
    obj, data = day.raw[key]
    day.raw[key] = (replace(obj, file_timestamp=AT + timedelta(minutes=30)), data)
    day.publish()
    day.check()
    assert keys_of(day)[-1] == (30, "3")


def test_another_version_of_the_parser_reads_everything_again(monkeypatch):
    day = ordinary_day(4)
    monkeypatch.setattr(partition_build, "PARSER_VERSION", "next")
    assert not day.plan().nothing_to_do
    day.publish()
    assert len(day.keys_read) == 4
    day.check()
    assert day.plan().manifest.parser_version == "next"


def test_a_partition_of_another_writer_is_built_again():
    day = ordinary_day(4)
    expected = table(day.processed)
    sink = pa.BufferOutputStream()
    pq.write_table(expected.slice(0, 5), sink)
    day.processed = ParquetParts.open(sink.getvalue().to_pybytes())
    day.publish()
    assert table(day.processed).equals(expected)
    day.check()


def test_other_sizes_of_row_groups_go_on_with_the_file_that_is_there(monkeypatch):
    day = ordinary_day(5)
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 4)
    for minute in range(5, 9):
        day.put(minute, content("1", "2", "3"))
        day.publish()
        day.check()
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 11)
    for minute in range(9, 14):
        day.put(minute, content("1", "2", "3"))
        day.publish()
        day.check()


def test_enhanced_that_was_frozen_at_other_rows_is_not_taken_over(monkeypatch):
    day = ordinary_day(3)
    assert day.processed.frozen_count == 1
    # The enhanced file is lost, and built again by a version with larger groups from the processed file as it is.
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 8)
    day.enhanced = ParquetParts.open(enhance(day, None).data)
    assert day.enhanced.metadata.row_group(0).num_rows == 8
    for minute in range(3, 9):
        day.put(minute, content("1", "2", "3"))
        day.publish()
        day.check()


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add at the end"), st.integers(0, 4), st.integers(1, 9)),
        st.tuples(st.just("add late"), st.integers(0, 400), st.integers(1, 9)),
        st.tuples(st.just("add at the same time"), st.integers(0, 30), st.integers(0, 9)),
        st.tuples(st.just("rewrite"), st.integers(0, 30), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("garbage"), st.integers(0, 400), st.integers(0, 3)),
        st.tuples(st.just("correct"), st.integers(0, 30), st.integers(0, 3)),
        st.tuples(st.just("new parser"), st.just(0), st.just(0)),
        st.tuples(st.just("full rebuild"), st.just(0), st.just(0)),
        st.tuples(st.just("build"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)


def apply(day: Day, kind: str, where: int, what: int) -> None:
    ids = [str(what + i * i) for i in range(what % 5 + 1)]
    some_key = sorted(day.raw)[where % len(day.raw)] if day.raw else None
    match kind:
        case "add at the end":
            latest = max((obj.file_timestamp for obj, _ in day.raw.values()), default=AT)
            day.put((latest - AT).total_seconds() / 60 + where, content(*ids, bikes=what), f"end{len(day.raw)}-{where}")
        case "add late":
            day.put(where / 20, content(*ids, bikes=what))
        case "garbage":
            day.put(where / 20, [b"", b"<html>", body("bad"), body(*["x"] * 5, line())][what])
        case "new parser":
            # The published file is one of an older parser.
            if day.processed is not None:
                older = {**day.processed.footer_metadata, "parser": "older"}
                day.processed = replace(day.processed, footer_metadata=older)
        case "full rebuild":
            day.publish(full_rebuild=True)
            day.check()
        case "build":
            day.publish()
            day.check()
        case _ if some_key is None:
            return
        case "add at the same time":
            minute = (day.raw[some_key][0].file_timestamp - AT).total_seconds() / 60
            day.put(minute, content(*ids, bikes=what, age_s=30 * (what - 4)), f"twin{what}-{minute:07.2f}")
        case "rewrite":
            minute = (day.raw[some_key][0].file_timestamp - AT).total_seconds() / 60
            day.put(
                minute, content(*ids, bikes=40 + what) + b"bad\n", some_key.removeprefix(FOLDER).removesuffix(".txt")
            )
        case "delete":
            del day.raw[some_key]
        case "correct":
            day.correct(some_key, [{}, {2: line(id="55")}, {3: line(id="56"), 2: "worse"}, {2: ""}][what])


@property_settings(40)
@given(operations)
def test_any_sequence_of_changes_gives_what_a_build_from_scratch_gives(steps):
    day = Day()
    for step in steps:
        apply(day, *step)
    day.publish()
    day.check()


# --- rows stay, whatever becomes of their raw objects ---


def keeping_day(snapshots: int = 6) -> Day:
    day = ordinary_day(snapshots)
    day.allow_shrink = False
    return day


@pytest.mark.parametrize("full_rebuild", [False, True])
def test_rows_of_raw_objects_that_vanish_one_by_one_stay(full_rebuild):
    day = keeping_day()
    raw, published = dict(day.raw), table(day.processed)
    for key in raw:
        del day.raw[key]
        plan = day.plan()
        assert plan.nothing_to_do
        assert plan.kept == raw.keys() - day.raw.keys()
        day.publish(full_rebuild=full_rebuild)
        assert table(day.processed).equals(published)
        assert Manifest.from_footer(day.processed.footer_metadata).sources.keys() == raw.keys()
    day.raw.update(raw)
    assert day.plan().nothing_to_do
    day.check()


def test_they_leave_with_consent_and_come_back_with_their_raw_object():
    day = keeping_day()
    raw = dict(day.raw)
    for minute in (0, 3):
        del day.raw[f"{FOLDER}{minute:07.2f}.txt"]
    day.put(6, content("1"))
    day.publish()
    assert {minute for minute, _ in keys_of(day)} == {0, 1, 2, 3, 4, 5, 6}
    day.allow_shrink = True
    day.publish()
    day.check()
    assert {minute for minute, _ in keys_of(day)} == {1, 2, 4, 5, 6}
    day.allow_shrink = False
    day.raw.update(raw)
    day.publish()
    day.check()


def test_they_stay_when_an_older_parsers_file_is_built_again():
    day = keeping_day()
    published = table(day.processed)
    del day.raw[f"{FOLDER}{2:07.2f}.txt"]
    # As the version before wrote it: two columns were not there.
    older = published.drop_columns(["feed", "count_capped"])
    writer = parquet_parts.PartsWriter(older.schema, "older")
    writer.write(older)
    day.processed = ParquetParts.open(writer.finish({**day.processed.footer_metadata, "parser": "older"}))
    assert not day.plan().nothing_to_do
    day.publish()
    assert table(day.processed).equals(published)
    assert day.plan().nothing_to_do
    day.raw.clear()
    day.processed = replace(day.processed, footer_metadata={**day.processed.footer_metadata, "parser": "older"})
    assert not day.plan().nothing_to_do
    day.publish()
    assert table(day.processed).equals(published)


def test_a_raw_object_that_was_only_renamed_is_not_missed():
    day = keeping_day()
    old = f"{FOLDER}{3:07.2f}.txt"
    obj, data = day.raw.pop(old)
    day.put(3, data, name="another name")
    build = day.publish()
    day.check()
    assert old not in build.manifest.sources
    assert obj.file_timestamp in {source.file_timestamp for source in build.manifest.sources.values()}


def test_what_the_new_object_of_a_time_lacks_stays_and_later_reports_win():
    day = keeping_day()
    day.put(3, content("1", "2", "7", bikes=33, age_s=60), name="twin")
    before = f"{FOLDER}{3:07.2f}.txt"
    del day.raw[before]
    build = day.publish()
    rows = [row for row in table(day.processed).to_pylist() if row["file_timestamp"] == AT + timedelta(minutes=3)]
    assert [(row["station_id"], row["bikes"]) for row in rows] == [("1", 3), ("2", 3), ("3", 3), ("7", 33)]
    twin = build.manifest.sources[f"{FOLDER}twin.txt"].counts
    assert (twin.lines_in, twin.rows_out, twin.duplicate_rows) == (3, 1, 2)
    assert build.manifest.sources[before].counts.rows_out == 3
    day.put(3, content("1", "2", bikes=44, age_s=-60), name="twin")
    build = day.publish()
    # Fewer rows than before: it waits for consent.
    assert build.manifest.refused.keys() == {f"{FOLDER}twin.txt"}
    day.put(3, content("1", "2", "7", bikes=55, age_s=-60), name="twin")
    build = day.publish()
    assert build.manifest.sources[before].counts.rows_out == 1
    assert build.manifest.sources[before].counts.balanced
    assert not build.manifest.refused
    day.raw[before] = (RawObject(before, "back", 1, AT + timedelta(minutes=3)), content("1", "2", "3", bikes=3))
    day.publish()
    day.check()


@pytest.mark.parametrize("data", [b"", b"<html>", content("1", "2")], ids=["empty", "html", "fewer"])
def test_a_raw_object_that_is_rewritten_with_fewer_rows_waits_for_consent(data):
    day = keeping_day()
    key = f"{FOLDER}{2:07.2f}.txt"
    original, published = day.raw[key], table(day.processed)
    day.put(2, data)
    build = day.publish()
    assert table(day.processed).equals(published)
    assert build.manifest.refused == {key: day.raw[key][0].etag}
    assert day.plan().nothing_to_do
    assert day.plan(full_rebuild=True).kept == {key}
    day.put(9, content("1"))
    build = day.publish()
    assert build.manifest.refused == {key: day.raw[key][0].etag}
    rewritten = day.raw[key]
    day.raw[key] = original
    assert day.plan().nothing_to_do
    day.raw[key] = rewritten
    day.allow_shrink = True
    day.publish()
    day.check()
    assert not Manifest.from_footer(day.processed.footer_metadata).refused


def test_one_that_is_rewritten_with_as_many_rows_is_taken():
    day = keeping_day()
    day.put(2, content("1", "2", "3", bikes=8))
    assert not day.publish().manifest.refused
    day.check()


def test_an_unreadable_object_keeps_its_rows_even_with_consent():
    day = keeping_day()
    key = f"{FOLDER}{2:07.2f}.txt"
    day.put(2, content("1", "2", "3", bikes=8))
    objects = [obj for obj, _ in day.raw.values()]
    for allow_shrink in (False, True):
        plan = plan_build(objects, day.processed, allow_shrink=allow_shrink, unreadable={key: "HTTP 403"})
        assert (plan.parse, plan.drop, plan.kept) == ((), frozenset(), {key})
        build = build_processed(plan, day.read, parsed_at=day.now())
        assert build.manifest.unreadable == {key: "HTTP 403"}
        assert Manifest.from_footer(ParquetParts.open(build.data).footer_metadata) == build.manifest
        assert build.row_count == day.processed.row_count


@property_settings(40)
@given(operations)
def test_no_sequence_of_losses_takes_a_row(steps):
    day = Day(allow_shrink=False)
    seen: set[tuple[float, str]] = set()
    late: set[int] = set()
    for kind, where, what in steps:
        match kind:
            case "correct" | "rewrite":
                continue
            case "add late" if where in late:
                continue  # a rewrite: the key was used before
            case "full rebuild" | "build":
                day.publish(full_rebuild=kind == "full rebuild")
                found = keys_of(day)
                assert len(set(found)) == len(found)
                assert seen <= set(found)
                assert Manifest.from_footer(day.processed.footer_metadata).counts.balanced
                assert day.plan().nothing_to_do
                seen = set(found)
            case _:
                if kind == "add late":
                    late.add(where)
                apply(day, kind, where, what)


# --- what is read ---


def test_a_build_of_one_more_snapshot_reads_it_and_nothing_else():
    day = ordinary_day()
    key = day.put(6, content("1"))
    day.publish()
    assert day.keys_read == [key]


def test_a_build_of_nothing_new_reads_nothing():
    day = ordinary_day()
    assert day.plan().nothing_to_do
    before = table(day.processed)
    day.publish()
    assert day.keys_read == []
    assert table(day.processed).equals(before)


def test_a_deletion_reads_only_files_of_the_same_time():
    day = ordinary_day()
    twin = day.put(2, content("8"), name="twin")
    day.publish()
    assert names(day.keys_read) == ["0002.00", "twin"]
    del day.raw[f"{FOLDER}0002.00.txt"]
    day.publish()
    assert day.keys_read == [twin]
    del day.raw[twin]
    day.publish()
    assert day.keys_read == []
    day.check()


def test_a_rewritten_file_is_read_with_its_twin():
    day = ordinary_day()
    day.put(2, content("8"), name="twin")
    day.publish()
    day.put(2, content("9"), name="twin")
    day.publish()
    assert names(day.keys_read) == ["0002.00", "twin"]
    day.check()


def test_a_first_build_and_a_full_rebuild_read_everything_in_order_of_time():
    day = Day()
    for minute in (3, 1, 2):
        day.put(minute, content("1"), name=f"{9 - minute}")
    day.publish()
    assert names(day.keys_read) == ["8", "7", "6"]
    day.publish(full_rebuild=True)
    assert names(day.keys_read) == ["8", "7", "6"]
    day.check()


def test_snapshots_at_the_end_leave_frozen_groups_alone_and_late_ones_do_not():
    day = ordinary_day()
    day.put(6, content("1"))
    assert day.plan().keep_frozen
    ids = day.processed.group_ids
    day.publish()
    assert day.processed.group_ids[: len(ids)] == ids
    day.put(0.5, content("1"))
    assert not day.plan().keep_frozen
    day.publish()
    assert not set(day.processed.group_ids) & set(ids)
    day.check()


def test_a_file_at_the_time_at_which_the_frozen_part_ends_is_put_in_there():
    day = ordinary_day()
    at = day.processed.highest("file_timestamp", day.processed.frozen_count - 1)
    day.put((at - AT).total_seconds() / 60, content("0", "9"), name="twin")
    assert not day.plan().keep_frozen
    day.publish()
    day.check()


def test_bodies_are_parsed_in_batches_that_never_cut_one_time(monkeypatch):
    day = Day()
    for minute in range(10):
        day.put(minute // 2, content("1", "2", bikes=minute), name=str(minute))
    batches = []
    parse = partition_build.parse_snapshots
    monkeypatch.setattr(partition_build, "parse_snapshots", lambda files: batches.append(files) or parse(files))
    day.publish()
    assert len(batches) > 1
    times = [{file.file_timestamp for file in batch} for batch in batches]
    assert all(not times[i] & times[i + 1] for i in range(len(times) - 1))
    one_time = 2 * max(len(data) for _, data in day.raw.values())
    assert all(sum(len(file.body) for file in batch) <= BATCH_BYTES + one_time for batch in batches)
    day.check()


def test_a_body_that_is_gone_when_it_is_read_is_not_remembered_as_there():
    day = ordinary_day(2)
    gone = day.put(2, content("1"))
    plan = day.plan()
    build = build_processed(plan, lambda keys: ((key, b"") for key in keys if key != gone), parsed_at=day.now())
    assert gone not in build.manifest.sources
    day.processed = ParquetParts.open(build.data)
    day.publish()
    assert day.keys_read == [gone]
    day.check()


# --- accounting ---


def test_rows_that_come_from_nowhere_are_an_error():
    day = ordinary_day(3)
    plan = day.plan()
    wrong = {
        key: replace(source, counts=LineCounts.total([source.counts, LineCounts(1, 1)]))
        for key, source in plan.manifest.sources.items()
    }
    with pytest.raises(AccountingError, match="9 rows"):
        build_processed(replace(plan, manifest=Manifest("1", wrong)), day.read, parsed_at=day.now())


def test_lines_that_do_not_add_up_are_an_error(monkeypatch):
    day = Day()
    key = day.put(0, content("1"))
    parse = partition_build.parse_snapshots

    def lose_a_line(files):
        batch = parse(files)
        (report,) = batch.reports
        return replace(
            batch, reports=(replace(report, counts=LineCounts.total([report.counts, LineCounts(lines_in=1)])),)
        )

    monkeypatch.setattr(partition_build, "parse_snapshots", lose_a_line)
    with pytest.raises(AccountingError, match=key):
        day.build()


def test_a_row_that_the_parser_should_not_have_let_pass_is_not_written(monkeypatch):
    day = Day()
    day.put(0, content("1"))
    parse = partition_build.parse_snapshots

    def spoil(files):
        batch = parse(files)
        return replace(batch, rows=batch.rows.set_column(7, "bikes", pa.array([-1], pa.int32())))

    monkeypatch.setattr(partition_build, "parse_snapshots", spoil)
    with pytest.raises(pandera.errors.SchemaErrors, match="bikes"):
        day.build()


def test_reports_are_of_the_files_parsed_in_this_build():
    day = ordinary_day(3)
    day.put(3, body(line(), "bad"))
    build = day.publish()
    assert [(names([report.source_key]), report.counts) for report in build.reports] == [
        (["0003.00"], LineCounts(lines_in=2, rows_out=1, dead_lettered=1))
    ]
    assert build.row_count == 10
    assert build.manifest.counts == LineCounts(lines_in=11, rows_out=10, dead_lettered=1)


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        (0, 0, False),
        (0, 5, False),
        (100, 100, False),
        (100, 95, False),
        (100, 94, True),
        (100, 0, True),
        (1, 0, True),
        (590_400, 560_880, False),
        (590_400, 560_879, True),
    ],
)
def test_a_partition_may_lose_five_percent_and_not_more(before, now, refused):
    check_shrink("processed", now, before, allow_shrink=True)
    if refused:
        with pytest.raises(PartitionWouldShrinkError, match=f"processed has {before} rows .* by {now}.*allow_shrink"):
            check_shrink("processed", now, before, allow_shrink=False)
    else:
        check_shrink("processed", now, before, allow_shrink=False)


# --- manifest ---


keys = st.one_of(st.text(max_size=8), st.text("/ab-", max_size=6), st.text("/ab-", max_size=4).map(FOLDER.__add__))
times = st.integers(0, 2**51).map(lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros))
line_counts = st.builds(LineCounts, *[st.integers(0, 10**9)] * 5)
sources = st.builds(Source, st.text(max_size=5), times, st.text(max_size=5), times, line_counts)


@property_settings(200)
@given(st.dictionaries(keys, sources, max_size=6))
def test_a_manifest_comes_back_from_its_notes(by_key):
    manifest = Manifest("7", by_key)
    assert Manifest.from_footer(manifest.to_footer()) == manifest
    in_file = PartsWriter(arrow_schema(PROCESSED), "b").finish(manifest.to_footer())
    assert Manifest.from_footer(ParquetParts.open(in_file).footer_metadata) == manifest


def test_notes_of_something_else_are_no_manifest():
    assert Manifest.from_footer({}) is None
    assert Manifest.from_footer({"rules": "1"}) is None


def test_a_manifest_of_a_day_is_small():
    counts = LineCounts(410, 410)
    objects = {
        f"{FOLDER}wrm_stations_2025-08-21_{n // 60:02}-{n % 60:02}-02.txt": Source(
            f'"{hash((n, "etag")) & (1 << 128) - 1:032x}"', AT + timedelta(minutes=n), "", AT, counts
        )
        for n in range(1440)
    }
    in_file = PartsWriter(arrow_schema(PROCESSED), "b").finish(Manifest("1", objects).to_footer())
    assert len(in_file) < 100_000


# --- enhanced ---


def enhance(day: Day, previous: ParquetParts | None, area: ServiceArea = DEFAULT_SERVICE_AREA, build_id: str = "x"):
    return build_enhanced(day.processed, previous, area=area, dt=DT, build_id=build_id)


def test_enhanced_has_the_rows_and_the_order_of_processed():
    day = ordinary_day()
    rows = table(day.enhanced)
    assert rows.schema.equals(arrow_schema(ENHANCED))
    assert rows.select(PROCESSED.columns).equals(table(day.processed))
    assert set(rows["date"].to_pylist()) == {DT}


def test_enhanced_takes_over_groups_that_are_frozen():
    day = ordinary_day(5)
    frozen = day.enhanced.frozen_count
    assert frozen == 2
    ids, data = day.enhanced.group_ids, day.enhanced.data
    end = parquet_parts._end_of_groups(day.enhanced.frozen)
    day.put(5, content("1", "2", "3"))
    day.publish()
    assert day.enhanced.group_ids[:frozen] == ids
    assert day.enhanced.data[:end] == data[:end]
    day.check()


def test_enhanced_reads_of_processed_only_what_it_does_not_have(monkeypatch):
    day = ordinary_day(5)
    seen = []
    enhance_rows = enhanced_build.enhance_rows
    monkeypatch.setattr(
        enhanced_build,
        "enhance_rows",
        lambda rows, **kwargs: seen.append(rows.num_rows) or enhance_rows(rows, **kwargs),
    )
    enhance(day, day.enhanced)
    assert seen == [1]
    seen.clear()
    enhance(day, None)
    assert seen == [7, 7, 1]


def test_enhanced_is_built_again_where_frozen_groups_were_rewritten():
    day = ordinary_day(5)
    ids = day.enhanced.group_ids
    day.put(0.5, content("7", "8"))
    day.publish()
    assert not set(day.enhanced.group_ids) & set(ids)
    day.check()


@pytest.mark.parametrize("change", ["area", "version"])
def test_other_rules_build_enhanced_again(change, monkeypatch):
    day = ordinary_day(5)
    assert enhance(day, day.enhanced).counts["outside_service_area"] == 0
    area = DEFAULT_SERVICE_AREA
    if change == "area":
        area = ServiceArea(0.0, 1.0, 0.0, 1.0)
    else:
        monkeypatch.setattr(enhanced_build, "RULES_VERSION", "next")
    again = enhance(day, day.enhanced, area, "y")
    assert set(ParquetParts.open(again.data).group_ids) == {"y/0", "y/1"}
    assert again.counts["outside_service_area"] == (15 if change == "area" else 0)


def test_counts_are_those_of_the_whole_partition_with_zeros():
    day = Day()
    for minute in range(9):
        day.put(
            minute,
            body(
                line(id="1", bikes="99"),
                line(id="2", total_docks="0"),
                line(id="fb1", name="BIKE 1", lat="52.27", lon="21.03", total_docks="0"),
                line(id="x", combined=f"{AT_S - 7200}|7200|-1"),
            ),
        )
        day.publish()
        for previous in (None, day.enhanced):
            counts = enhance(day, previous).counts
            files = minute + 1
            assert counts == {
                "station": 2 * files,
                "bike": files,
                "unknown": files,
                "over_capacity": files,
                "no_docks": files,
                "outside_service_area": files,
                "stale": files,
                "count_capped": 0,
            }
    quiet = ordinary_day(1)
    assert enhance(quiet, None).counts == dict.fromkeys((*RECORD_TYPES, *FLAGS), 0) | {"station": 3}


def test_rows_of_a_deleted_file_do_not_come_back_in_enhanced():
    day = ordinary_day(3)
    del day.raw[f"{FOLDER}0002.00.txt"]
    day.publish()
    assert table(day.enhanced).num_rows == 6
    enhance(day, None)


def test_an_empty_partition_is_enhanced_to_an_empty_one():
    day = Day()
    day.publish()
    assert (day.processed.row_count, day.enhanced.row_count) == (0, 0)
    assert table(day.enhanced).schema.equals(arrow_schema(ENHANCED))


def test_a_processed_file_without_notes_is_refused():
    sink = pa.BufferOutputStream()
    pq.write_table(table(ordinary_day(1).processed), sink)
    foreign = ParquetParts.open(sink.getvalue().to_pybytes())
    with pytest.raises(AccountingError, match="full_rebuild"):
        build_enhanced(foreign, None, area=DEFAULT_SERVICE_AREA, dt=DT, build_id="x")


def test_enhanced_of_another_writer_is_built_again():
    day = ordinary_day(3)
    sink = pa.BufferOutputStream()
    pq.write_table(table(day.enhanced), sink)
    again = enhance(day, ParquetParts.open(sink.getvalue().to_pybytes()))
    assert again.row_count == 9
