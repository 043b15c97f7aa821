"""Object keys: built here, parsed here, nowhere else (data contract, section 2).

`dt` is the city's calendar date of the fetch (WRM_TIMEZONE); times in file names are UTC.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind, kind_of

_UTC_BY_NAME = ZoneInfo("UTC")
# The first partition, unless the settings name another one.
FIRST_DATE = date(2025, 6, 1)
_FIRST_YEAR, _LAST_YEAR = 1970, 2999

BIKE_POSITIONS = "bike_positions"
"""The layer of the bikes' stays."""
CITY_RIDES = "city_rides"
"""The layer of the rides in the city's own lists."""

# They have no other selection beside them, so their paths have no `all`.
_UNDIVIDED = (BIKE_POSITIONS, CITY_RIDES)

VALUES_FOLDER = "values"
"""Small values of assets, unless `s3_io_manager` has another `s3_prefix`."""

# What lies directly below the prefix and is not a layer of anyone.
OWN_FOLDERS = frozenset(
    {
        "backups",
        "dlq",
        "dlq_set_aside",
        "duckdb",
        "findings",
        "forecast",
        "ledger",
        "lineage",
        "probe",
        "quarantine",
        "raw",
        "reports",
        "stations",
        "superseded",
        VALUES_FOLDER,
    }
)

_DT_FOLDER = re.compile(r"dt=(\d{4}-\d{2}-\d{2})", re.ASCII)
_RAW_TIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})[_T ](\d{2})-(\d{2})-(\d{2})", re.ASCII)
_BACKUP_NAME = re.compile(r"wrm-backup_(\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2})\.sealed", re.ASCII)


@dataclass(frozen=True, slots=True)
class RawKey:
    """A parsed key below `raw/`.

    `file_timestamp` is None if the name contains no time: then the reports inside give it (`domain/snapshot_time.py`).
    `second_reading` is the other instant that a name in a local zone may mean, in the hour that occurs twice (and in
    the one that is skipped).
    """

    key: str
    dt: date
    file_timestamp: datetime | None
    second_reading: datetime | None = None


def local_date(at: datetime) -> date:
    """The partition that an instant belongs to: its calendar date in the city."""
    return at.astimezone(this_city().zone).date()


def partition_bounds(dt: date) -> tuple[datetime, datetime]:
    """First instant of the partition and of the next one, in UTC: 23, 24 or 25 hours apart.

    Where clocks skip midnight (Cairo, Santiago), the day begins when they do: a time that does not exist is taken with
    the offset before the change, which gives that instant.
    """
    zone = this_city().zone
    start, end = (datetime(d.year, d.month, d.day, tzinfo=zone) for d in (dt, dt + timedelta(days=1)))
    return start.astimezone(UTC), end.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys of one object store under `prefix` (empty, or ending in `/`).

    `raw_name_zone` is the zone of the times in raw file names (`WRM_RAW_NAME_TIMEZONE`); from the partition
    `raw_name_zone_until` on (None: never) they are UTC, as this pipeline writes them. `first_date` is the first
    partition (`WRM_FIRST_DATE`), `feeds` are the kinds of feeds that are fetched (`WRM_FEEDS`).
    """

    prefix: str = "bike-data/gen_info/"
    raw_name_zone: tzinfo = UTC
    raw_name_zone_until: date | None = None
    first_date: date = FIRST_DATE
    feeds: tuple[str, ...] = (UCL.name,)

    @property
    def kinds(self) -> list[FeedKind]:
        """The kinds of feeds that are fetched, in the order of trust."""
        return [KINDS[name] for name in self.feeds]

    def not_a_partition(self, dt: date, today: date) -> str:
        """Why a date is not processed, in words; empty for a valid partition."""
        if dt < self.first_date:
            return f"it is before the first partition ({self.first_date}); to process it, set WRM_FIRST_DATE={dt}"
        if dt > today:
            return "it has not begun; `wrm raw move-future --apply` moves snapshots of a clock that was ahead"
        return ""

    @property
    def raw_prefix(self) -> str:
        """Everything fetched is below this prefix."""
        return f"{self.prefix}raw/"

    def raw_folder(self, dt: date) -> str:
        """The folder of one partition's snapshots."""
        return f"{self.raw_prefix}dt={dt:%Y-%m-%d}/"

    def archive_folder(self, dt: date) -> str:
        """The folder of a packed day's archive and its index.

        It is within the day's raw folder, so that everything that cannot be rebuilt stays below `raw/` and `dlq/`, and
        a listing of a day's raw objects shows, without another request, that some of them are packed.
        """
        return f"{self.raw_folder(dt)}archive/"

    def archive_index_key(self, dt: date) -> str:
        """Key of the index of a day's archive; without it there is no archive."""
        return f"{self.archive_folder(dt)}index.json"

    def raw_key(self, fetched_at: datetime, kind: FeedKind = UCL) -> str:
        """Key of a snapshot fetched at `fetched_at` (aware) from a kind of feed; one per second."""
        return f"{self.raw_folder(local_date(fetched_at))}{self.snapshot_name(fetched_at, kind)}"

    def quarantine_key(self, fetched_at: datetime, kind: FeedKind = UCL) -> str:
        """Key of a fetched body that is not a snapshot."""
        dt = local_date(fetched_at)
        return f"{self.quarantine_folder(dt)}{self.snapshot_name(fetched_at, kind)}"

    def quarantine_folder(self, dt: date) -> str:
        """The folder of the bodies fetched on a day that are not snapshots."""
        return f"{self.quarantine_prefix}dt={dt:%Y-%m-%d}/"

    @property
    def quarantine_prefix(self) -> str:
        """Bodies that are not snapshots are below this prefix."""
        return f"{self.prefix}quarantine/"

    def released_key(self, quarantine_key: str) -> str:
        """The raw key of a quarantined body that turns out to be a snapshot; a raw key is its own."""
        if not quarantine_key.startswith(self.quarantine_prefix):
            return quarantine_key
        return f"{self.raw_prefix}{quarantine_key.removeprefix(self.quarantine_prefix)}"

    def snapshot_name(self, fetched_at: datetime, kind: FeedKind = UCL) -> str:
        """The last part of a snapshot's key."""
        # Names of the other kinds are ours alone, so they are always in UTC.
        zone = self._name_zone(local_date(fetched_at)) if kind is UCL else UTC
        return f"{kind.stem}_{fetched_at.astimezone(zone):%Y-%m-%d_%H-%M-%S}{kind.suffix}"

    def _name_zone(self, dt: date) -> tzinfo:
        legacy = self.raw_name_zone_until is None or dt < self.raw_name_zone_until
        # A name in UTC has one meaning only.
        return self.raw_name_zone if legacy and self.raw_name_zone is not _UTC_BY_NAME else UTC

    def is_raw_key(self, key: str) -> bool:
        """Whether a key belongs to a snapshot of a valid date (not `dt=garbage`, `.tmp`, …)."""
        return self._raw_date_and_name(key) is not None

    def parse_raw_key(self, key: str) -> RawKey | None:
        """Parse a raw key; None for other keys (`is_raw_key`)."""
        parts = self._raw_date_and_name(key)
        if parts is None:
            return None
        dt, name, kind = parts
        zone = self._name_zone(dt) if kind is UCL else UTC
        at = _name_time(name, zone)
        # Only a zone with clock changes is ambiguous, and this is called for each key of each listing.
        other = _name_time(name, zone, fold=1) if at is not None and zone is not UTC else None
        return RawKey(key, dt, at, other if other != at else None)

    def _raw_date_and_name(self, key: str) -> tuple[date, str, FeedKind] | None:
        prefix = self.raw_prefix
        if not key.startswith(prefix):
            return None
        folder, slash, name = key[len(prefix) :].partition("/")
        kind = kind_of(name) if slash else None
        if kind is None or (kind is not UCL and "/" in name):
            return None
        dt = folder_date(folder)
        return (dt, name, kind) if dt else None

    def partition_folder(self, layer: str, dt: date) -> str:
        """Folder of one partition of a Parquet layer (`processed`, `enhanced` or `bike_positions`)."""
        return f"{self.layer_prefix(layer)}dt={dt:%Y-%m-%d}/"

    def layer_prefix(self, layer: str) -> str:
        """Prefix of all partitions of a Parquet layer."""
        return f"{self.prefix}{layer}/" if layer in _UNDIVIDED else f"{self.prefix}{layer}/all/"

    def partition_key(self, layer: str, dt: date) -> str:
        """The one object of a partition: a function of layer and date alone."""
        return f"{self.partition_folder(layer, dt)}{_stem(layer)}_{dt:%Y%m%d}_000000.parquet"

    def layer_key(self, layer: str, folders: Sequence[tuple[str, str]] = ()) -> str:
        """The one object of a partition that is not a day, below Hive's folders; without any, of the whole layer."""
        path = "".join(f"{name}={value}/" for name, value in folders)
        return f"{self.layer_prefix(layer)}{path}{_stem(layer)}.parquet"

    def partition_glob(self, layer: str) -> str:
        """Pattern that matches every partition's object, but no stray file of an older writer."""
        return f"{self.layer_prefix(layer)}dt=*/{_stem(layer)}_*_000000.parquet"

    def dead_letter_folder(self, dt: date) -> str:
        """Folder of one partition's dead letters."""
        return f"{self.dead_letter_prefix}dt={dt:%Y-%m-%d}/"

    @property
    def dead_letter_prefix(self) -> str:
        """All dead letters are below this prefix."""
        return f"{self.prefix}dlq/"

    def dead_letter_key(self, dt: date, entry_id: str) -> str:
        """Key of one dead letter."""
        return f"{self.dead_letter_folder(dt)}{entry_id}.json"

    def set_aside_key(self, dead_letter_key: str) -> str:
        """Key for an unreadable object among the dead letters once a person has discarded it."""
        return f"{self.prefix}dlq_set_aside/{dead_letter_key.removeprefix(self.dead_letter_prefix)}"

    @property
    def lineage_prefix(self) -> str:
        """All OpenLineage events are below this prefix."""
        return f"{self.prefix}lineage/"

    def lineage_key(self, dt: date, run_id: str) -> str:
        """Key of the OpenLineage events of one run, which ended on `dt`."""
        return f"{self.lineage_prefix}dt={dt:%Y-%m-%d}/{run_id}.json"

    @property
    def database_key(self) -> str:
        """The published analytics database."""
        return f"{self.prefix}duckdb/analytics.duckdb"

    @property
    def feeds_key(self) -> str:
        """Key of the state of the feeds, as the last check found it."""
        return f"{self.prefix}findings/feeds.json"

    @property
    def findings_key(self) -> str:
        """Key of the problems that the reconciliation has found and cannot fix."""
        return f"{self.prefix}findings/lake.json"

    @property
    def service_area_key(self) -> str:
        """Key of the service area that was found, where none is configured."""
        return f"{self.prefix}findings/service_area.json"

    @property
    def ledger_prefix(self) -> str:
        """The city's lists of rides, as they came, are below this prefix by day; they cannot be rebuilt."""
        return f"{self.prefix}ledger/"

    def ledger_folder(self, dt: date) -> str:
        """The folder of the lists of the rides that ended on a day."""
        return f"{self.ledger_prefix}dt={dt:%Y-%m-%d}/"

    @property
    def station_decisions_prefix(self) -> str:
        """What people decided about stations is below this prefix; it cannot be rebuilt."""
        return f"{self.prefix}stations/decisions/"

    def station_decision_key(self, at: datetime) -> str:
        """Key of a decision about stations made at `at` (aware)."""
        return f"{self.station_decisions_prefix}{at.astimezone(UTC):%Y-%m-%d_%H-%M-%S.%f}.json"

    def superseded_prefix(self, layer: str) -> str:
        """Files that one of our partitions has replaced are kept below this prefix for a while."""
        return f"{self.prefix}superseded/{layer}/"

    def superseded_key(self, layer: str, dt: date, name: str) -> str:
        """Key for a file whose rows are in ours; `name` is its path within the partition's folder."""
        return f"{self.superseded_prefix(layer)}dt={dt:%Y-%m-%d}/{name}"

    def report_key(self, name: str) -> str:
        """Key of a page or file that people look at."""
        return f"{self.prefix}reports/{name}"

    @property
    def forecast_prefix(self) -> str:
        """What is learnt for forecasts is below this prefix, in a folder for each day."""
        return f"{self.prefix}forecast/"

    def forecast_model_key(self, dt: date) -> str:
        """Key of what was learnt from the days before `dt`, for forecasts made on it."""
        return f"{self.forecast_prefix}dt={dt:%Y-%m-%d}/forecast_model_{dt:%Y%m%d}_000000.zip"

    @property
    def backup_prefix(self) -> str:
        """All backups are below this prefix."""
        return f"{self.prefix}backups/"

    def backup_key(self, at: datetime) -> str:
        """Key of the backup taken at `at` (aware)."""
        return f"{self.backup_prefix}wrm-backup_{at.astimezone(UTC):%Y-%m-%d_%H-%M-%S}.sealed"

    def backup_time(self, key: str) -> datetime | None:
        """When a backup was taken (UTC), by its key; None for other keys."""
        match = _BACKUP_NAME.fullmatch(key.removeprefix(self.backup_prefix))
        if not key.startswith(self.backup_prefix) or match is None:
            return None
        try:
            return datetime.strptime(match[1], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC)
        except ValueError:
            return None


def _stem(layer: str) -> str:
    return layer if layer in _UNDIVIDED else f"all_{layer.rpartition('/')[2]}"


def _name_time(name: str, zone: tzinfo, *, fold: int = 0) -> datetime | None:
    match = _RAW_TIME.search(name)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        if zone is UTC:  # nearly always, and a day has 1,440 names
            return datetime(year, month, day, hour, minute, second, 0, UTC)
        return datetime(year, month, day, hour, minute, second, tzinfo=zone, fold=fold).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_plain_key(key: str) -> bool:
    """Whether a key from a foreign source is safe to request: no part leads out of its folder or is hidden."""
    return all(part and part[0] != "." and part.isprintable() for part in key.split("/"))


@lru_cache(maxsize=4096)
def folder_date(folder: str) -> date | None:
    """The date of a folder named `dt=YYYY-MM-DD` (a full prefix will do), or None.

    Also None for years in which there cannot be a snapshot, and whose first or last instants cannot be computed.
    """
    match = _DT_FOLDER.fullmatch(folder.rstrip("/").rpartition("/")[2])
    if match is None:
        return None
    try:
        dt = date.fromisoformat(match[1])
    except ValueError:
        return None
    return dt if _FIRST_YEAR <= dt.year <= _LAST_YEAR else None


def folder_dates(folders: Iterable[str]) -> list[date]:
    """The dates of the folders that are named `dt=YYYY-MM-DD`, ascending."""
    return sorted(dt for folder in folders if (dt := folder_date(folder)))
