"""A day's raw objects as inputs of a build: an operator's corrections, and the time of each snapshot."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from wrm_pipeline.domain.manifest import Manifest, RawObject
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import BATCH_BYTES, ReadBodies
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.domain.snapshot_time import named, remembered, reported_times, settled, span_of
from wrm_pipeline.lake.dead_letter_queue import Entries
from wrm_pipeline.lake.raw_objects import RawDay

# Bodies read for their time, held in memory until their rows are needed; a day of raw is 58 MB.
HELD_BYTES = 64 * 2**20


def raw_objects_of(raw: RawDay, entries: Entries, published: ParquetParts | None) -> list[RawObject]:
    """The raw objects of a day, with the corrections that an operator made in its dead letters.

    While a letter of the day is unreadable, the corrections that the `published` partition was built with remain in
    force for lines that no other letter covers; otherwise the next build would drop their rows.
    """
    corrections = _published_corrections(entries, published) if entries.unreadable else {}
    for letter in entries.letters:
        if letter.corrections:
            corrections.setdefault(letter.source_key, {}).update(letter.corrections)
    earliest, latest = span_of(raw.dt)
    objects = []
    for info in raw.objects():
        key = raw.layout.parse_raw_key(info.key)
        if key is None:
            continue
        at = key.file_timestamp
        obj = RawObject(info.key, info.etag, info.size_bytes, at or info.last_modified, corrections.get(info.key, {}))
        if at is None or key.second_reading is not None or not earliest <= at < latest:
            obj = named(obj, key)
        objects.append(obj)
    return objects


def _published_corrections(entries: Entries, published: ParquetParts | None) -> dict[str, dict[int, str]]:
    manifest = published_manifest(published)
    known = {(letter.source_key, record.line_number) for letter in entries.letters for record in letter.records}
    found: dict[str, dict[int, str]] = {}
    for key, source in manifest.sources.items() if manifest else ():
        lines = json.loads(source.corrections_id) if source.corrections_id else ()
        kept = {line: text for line, text in lines if (key, line) not in known}
        if kept:
            found[key] = kept
    return found


def with_remembered_times(
    objects: Sequence[RawObject], dt: date, previous: ParquetParts | None, *, full_rebuild: bool = False
) -> list[RawObject]:
    """The objects, with times from the published partition for those whose names leave the time open.

    Objects that it does not know keep their `readings`: they are new or changed, and their time is in the content.
    """
    if full_rebuild or all(obj.readings is None for obj in objects):
        return list(objects)
    manifest = published_manifest(previous)
    if manifest is None or manifest.parser_version != PARSER_VERSION:
        return list(objects)

    def known(obj: RawObject) -> RawObject:
        source = manifest.sources.get(obj.key) if obj.readings is not None else None
        if source is None or (source.etag, source.corrections_id) != (obj.etag, obj.corrections_id):
            return obj
        return remembered(obj, dt, source.file_timestamp) or obj

    return [known(obj) for obj in objects]


def without_set_aside(objects: Sequence[RawObject], previous: ParquetParts | None) -> Sequence[RawObject]:
    """The objects that a build would publish: without those that the published partition set aside for another feed."""
    if previous is None or "feeds" not in previous.footer_metadata:
        return objects
    manifest = published_manifest(previous) or Manifest(PARSER_VERSION, {})
    judged = zip(manifest.feeds["keys"], manifest.feeds["etags"], strict=True)
    aside = {(key, etag) for key, etag in judged if key not in manifest.sources}
    return [obj for obj in objects if (obj.key, obj.etag) not in aside]


def with_reported_times(
    objects: Sequence[RawObject], dt: date, read: ReadBodies
) -> tuple[list[RawObject], dict[str, bytes]]:
    """The objects, each with its time, and the bodies read for that, as far as they are worth keeping in memory."""
    open_ones = {obj.key: obj for obj in objects if obj.readings is not None}
    if not open_ones:
        return list(objects), {}
    times: dict[str, RawObject] = {}
    held: dict[str, bytes] = {}
    held_bytes = 0
    batch: list[tuple[str, bytes, RawObject]] = []
    batch_bytes = 0

    def settle_batch() -> None:
        for (key, _, obj), reported_at in zip(batch, reported_times(batch, dt), strict=True):
            times[key] = settled(obj, dt, reported_at)

    for key, body in read(open_ones):
        if batch and batch_bytes + len(body) > BATCH_BYTES:
            settle_batch()
            batch, batch_bytes = [], 0
        batch.append((key, body, open_ones[key]))
        batch_bytes += len(body)
        if held_bytes + len(body) <= HELD_BYTES:
            held[key] = body
            held_bytes += len(body)
    settle_batch()
    return [times.get(obj.key, obj) for obj in objects], held


def held_first(read: ReadBodies, held: dict[str, bytes]) -> ReadBodies:
    """`read`, except for held bodies: an object is read only once, though its time is needed before its rows."""

    def bodies(keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = list(keys)
        others = read([key for key in wanted if key not in held])
        following = next(others, None)
        for key in wanted:
            if key in held:
                yield key, held.pop(key)
            elif following is not None and following[0] == key:  # otherwise it could not be read
                yield following
                following = next(others, None)

    return bodies if held else read


def published_manifest(processed: ParquetParts | None) -> Manifest | None:
    """What a published partition remembers of its raw objects."""
    return Manifest.from_footer(processed.footer_metadata) if processed is not None else None
