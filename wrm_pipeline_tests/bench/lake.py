"""Lakes to measure on: a simulated day below a folder of their own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from wrm_pipeline.domain.layout import Layout, partition_bounds
from wrm_pipeline.lake.local_object_store import LocalObjectStore

DT = date(2025, 8, 21)
LAYOUT = Layout()
# A day's snapshots leave room before midnight for those that are added one by one.
_SPARE_SNAPSHOTS = 24


@dataclass(frozen=True, slots=True)
class BenchLake:
    """A lake below `data_dir` (as `WRM_DATA_DIR`) with one day of `snapshots` of a city."""

    data_dir: Path
    snapshots: int
    stations: int
    bikes: int

    @property
    def store(self) -> LocalObjectStore:
        return LocalObjectStore(self.data_dir / "lake")

    @property
    def raw_folder(self) -> Path:
        return self.data_dir / "lake" / LAYOUT.raw_folder(DT)

    @property
    def output_folder(self) -> Path:
        """Where the ways that are no pipeline write to."""
        return self.data_dir / "other"

    def fill(self) -> None:
        """Store the day's raw snapshots, each with its checksum as the pipeline's own fetch does."""
        self.output_folder.mkdir(parents=True, exist_ok=True)
        self._put(range(self.snapshots))

    def add_one(self) -> None:
        """Store one snapshot more, later than all that are there."""
        number = sum(1 for _ in self.raw_folder.iterdir())
        if number >= self.snapshots + _SPARE_SNAPSHOTS:
            raise ValueError(f"the day has room for {_SPARE_SNAPSHOTS} snapshots more, and they are there")
        self._put([number])

    def repeat(self, days: int) -> None:
        """The same snapshots on the following days, too, `days` in all: hard links under names of their time.

        Their reports are older than their fetches, which costs a flag and no row.
        """
        root = self.data_dir / "lake"
        for source in list(self.store.list(LAYOUT.raw_folder(DT))):
            at = LAYOUT.parse_raw_key(source.key).file_timestamp
            for number in range(1, days):
                key = LAYOUT.raw_key(at + timedelta(days=number))
                for place, suffix in ((root, ""), (root / ".metadata", ".json")):
                    (place / key).parent.mkdir(parents=True, exist_ok=True)
                    (place / f"{key}{suffix}").hardlink_to(place / f"{source.key}{suffix}")

    def unpublish(self) -> None:
        """Remove both Parquet layers, so that the next build is a day's first."""
        for layer in ("processed", "enhanced"):
            for info in list(self.store.list(LAYOUT.layer_prefix(layer))):
                self.store.delete(info.key)

    def _put(self, numbers: range | list[int]) -> None:
        from wrm_pipeline.simulator.city import City  # not in the process that only starts others

        city = City(station_count=self.stations, bike_count=self.bikes)
        store = self.store

        def put(number: int) -> None:
            at = self._taken_at(number)
            store.put(LAYOUT.raw_key(at), city.snapshot(at))

        # Each write waits for the disk.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, numbers))

    def _taken_at(self, number: int) -> datetime:
        first, next_day = partition_bounds(DT)
        interval_s = (next_day - first) // timedelta(seconds=self.snapshots + _SPARE_SNAPSHOTS)
        return (first + timedelta(seconds=number * interval_s + 2)).astimezone(UTC)
