"""Writes published snapshots as GBFS to a folder that a web server serves (docs/gbfs.md)."""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wrm_pipeline.clients.whole_files import write_whole
from wrm_pipeline.domain.gbfs_out import COLUMNS, VERSIONS, gbfs_files, is_same
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.public_system import PublicSystem
from wrm_pipeline.domain.vehicle_ids import Stays, next_stays
from wrm_pipeline.lake.published_partitions import PublishedPartitions

_KEY_BYTES = 32
_TIME = "file_timestamp"


class NoSnapshotError(LookupError):
    """No snapshot is published at or before an instant."""


@dataclass(frozen=True, slots=True)
class IdFiles:
    """What public ids depend on, in a folder that is not served: the key, and where bikes stood last."""

    folder: Path

    def key(self) -> bytes:
        """The key, made at its first use.

        Raises:
            OSError: it can neither be read nor be written.
        """
        path = self.folder / "key"
        with contextlib.suppress(FileNotFoundError, ValueError):
            key = bytes.fromhex(path.read_text(encoding="ascii"))
            if len(key) == _KEY_BYTES:
                return key
        key = secrets.token_bytes(_KEY_BYTES)
        write_whole(path, key.hex().encode(), mode=0o600)
        return key

    def stays(self) -> Stays | None:
        """The stays of the snapshot that was published last; None if there are none that can be read."""
        try:
            return Stays.from_json((self.folder / "stays.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keep(self, stays: Stays) -> None:
        """Keep the stays of the snapshot that has been published."""
        write_whole(self.folder / "stays.json", stays.to_json().encode(), mode=0o600)


def publish_latest(
    enhanced: bytes, system: PublicSystem, folder: Path, ids: IdFiles, *, now: datetime
) -> datetime | None:
    """Publish the newest snapshot of a day's enhanced partition, unless a newer one, or this one, is published.

    Each file is replaced as a whole, those that lead to others last. After a crash in between, files are of two
    minutes until the next snapshot.

    Args:
        enhanced: The partition's Parquet file.
        system: What the files say of the system.
        folder: Where they go.
        ids: Where the key and the stays of the last publication are.
        now: What is later, from a clock that was ahead, does not count.

    Returns:
        The snapshot's time; None if nothing was written.

    Raises:
        OSError: the folder cannot be written.
    """
    parts = ParquetParts.open(enhanced)
    at, before = _last_time(parts, now), ids.stays()
    if before is not None and before.at > now:
        before = None
    if at is None or (before is not None and before.at >= at):
        return None
    stays = _stays(parts, at, before)
    write_files(gbfs_files(_rows_at(parts, at), at, stays.public_ids(ids.key()), system), folder)
    ids.keep(stays)
    return at


def write_snapshot(
    partitions: PublishedPartitions, at: datetime, system: PublicSystem, folder: Path, ids: IdFiles
) -> datetime:
    """Write the files of the last snapshot at or before `at` (aware), of that day or the day before.

    Stays are followed from the day's first snapshot on: a bike that had stood for longer has another id than it had
    in the files of that minute.

    Returns:
        The snapshot's time.

    Raises:
        NoSnapshotError: there is none.
        ExternalError: the store failed.
        OSError: the folder cannot be written.
    """
    dt = local_date(at)
    for day in (dt, dt - timedelta(days=1)):
        parts = partitions.read("enhanced", day)
        found = None if parts is None else _last_time(parts, at)
        if parts is not None and found is not None:
            ids_by_bike = _stays(parts, found, None).public_ids(ids.key())
            write_files(gbfs_files(_rows_at(parts, found), found, ids_by_bike, system), folder)
            return found
    raise NoSnapshotError(
        f"no snapshot of {dt} up to {at:%Y-%m-%d %H:%M:%S %Z} is published, nor one of the day before"
    )


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Replace the files in `folder` that change, in their order; then remove those that are no longer among them.

    Raises:
        OSError: one cannot be written.
    """
    for name, content in files.items():
        path = folder / name
        with contextlib.suppress(FileNotFoundError):
            if is_same(name, path.read_bytes(), content):
                continue
        write_whole(path, content, mode=0o644)
    for version in VERSIONS:
        for path in (folder / f"v{version}").glob("*.json"):
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()


def _bounds(parts: ParquetParts, group: int) -> tuple[datetime, datetime]:
    """The first and the last snapshot with rows in a row group."""
    position = parts.metadata.schema.names.index(_TIME)
    statistics = parts.metadata.row_group(group).column(position).statistics
    return statistics.min.astimezone(UTC), statistics.max.astimezone(UTC)


def _last_time(parts: ParquetParts, limit: datetime) -> datetime | None:
    """The last snapshot at or before `limit`; None if there is none."""
    for group in reversed(range(parts.group_count)):
        first, last = _bounds(parts, group)
        if last <= limit:
            return last
        if first <= limit:
            (rows,) = parts.read_groups(group, group + 1, [_TIME])
            times = rows[_TIME]
            found: datetime = pc.max(times.filter(pc.less_equal(times, pa.scalar(limit, times.type)))).as_py()
            return found.astimezone(UTC)
    return None


def _rows_between(parts: ParquetParts, first: datetime, last: datetime, columns: tuple[str, ...]) -> pa.Table:
    """The rows of snapshots between two instants, both included; rows are sorted by snapshot."""
    found = []
    for group in range(parts.group_count):
        begins, ends = _bounds(parts, group)
        if begins <= last and ends >= first:
            (rows,) = parts.read_groups(group, group + 1, (*columns, _TIME))
            start, stop = np.searchsorted(_micros(rows), [_micro(first), _micro(last) + 1])
            found.append(rows.slice(start, stop - start))
    return pa.concat_tables(found).unify_dictionaries()


def _rows_at(parts: ParquetParts, at: datetime) -> pa.Table:
    return _rows_between(parts, at, at, COLUMNS)


def _stays(parts: ParquetParts, until: datetime, before: Stays | None) -> Stays:
    """Where bikes stand at `until`, from the stays of an earlier snapshot or else from the first snapshot on."""
    stays = Stays(datetime(1970, 1, 1, tzinfo=UTC), {}) if before is None else before
    after = stays.at + timedelta(microseconds=1)
    rows = _rows_between(parts, after, until, ("record_type", "station_id", "lat", "lon"))
    bikes = rows.filter(pc.equal(rows["record_type"], "bike"))
    times = _micros(bikes)
    # One without a bike counts, too.
    for time in np.unique(_micros(rows)):
        start, stop = np.searchsorted(times, [time, time + 1])
        here = bikes.slice(start, stop - start)
        positions = zip(here["lat"].to_pylist(), here["lon"].to_pylist(), strict=True)
        at = datetime.fromtimestamp(int(time) / 1_000_000, UTC)
        stays = next_stays(stays, at, dict(zip(here["station_id"].to_pylist(), positions, strict=True)))
    return stays


def _micros(rows: pa.Table) -> NDArray[np.int64]:
    return np.asarray(rows[_TIME].cast(pa.int64()).to_numpy())


def _micro(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)
