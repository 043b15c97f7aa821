"""Checks on what readers see: the newest day as it is in the store, and compared with other days.

They run in `wrm_analytics_job` every few minutes; freshness is also checked by schedule.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.enhanced_files import known_problems
from wrm_pipeline.checks.feed import EXPLAINED_BY, FEED_CHECK
from wrm_pipeline.checks.results import ERROR, WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import local_date, partition_bounds
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.quality import MAX_SAMPLES, count_by, expected_rows, newest_rows_with
from wrm_pipeline.domain.schemas import FLAGS
from wrm_pipeline.flows.drift import look_for_drift, open_drift
from wrm_pipeline.lake.published_partitions import UnreadablePartitionError
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource

# Dagster shows a check as not evaluated once its asset is materialized again without it. So these belong to the assets
# of the analytics job, not to those of every minute.

DEAD_SHARE_WARN = 0.01
# Not blocking: the good rows of such a day are as good as any, and withholding them would hide them from readers.
# Published rows cannot be lost: they are a function of the raw objects, and a day that would shrink is refused.
DEAD_SHARE_ERROR = 0.5

# The usual share of rows, in the operator's snapshots of 2025-08-21: 21 %, 1.5 %, 16 %, 0 to 1 %.
FLAG_SHARE_WARN = {
    "over_capacity": 0.35,
    "no_docks": 0.05,
    "outside_service_area": 0.30,
    "stale": 0.10,
    "count_capped": 0.02,
}
UNKNOWN_SHARE_WARN = 0.01

DAYS_COMPARED = 14
# A median of fewer days says little, and the first hour of a day holds too little to judge.
MIN_DAYS = 3
MIN_ELAPSED = timedelta(hours=1)
ROWS_LOW, ROWS_HIGH = 0.8, 1.25

# A snapshot is taken each minute and published about a minute later.
FRESH_WARN, FRESH_ERROR = timedelta(minutes=5), timedelta(minutes=15)


@dg.asset_check(
    asset=asset_names.DEAD_LETTERS,
    name="dead_letter_share_is_low",
    description=(
        f"At most {DEAD_SHARE_WARN:.0%} of the newest day's lines (remarks aside) could not become rows; more is "
        f"suspicious, more than {DEAD_SHARE_ERROR:.0%} is an error. The good rows are published either way."
    ),
)
def dead_letter_share_is_low(lake: LakeResource) -> dg.AssetCheckResult:
    """From the footer metadata of the published file."""
    day, file = _newest(lake, "processed")
    manifest = Manifest.from_footer(file.footer_metadata) if file else None
    found = check_dead_letters(day, manifest)
    if found.passed or manifest is None:
        return found
    drifted = sum(
        min(letter.records_total, manifest.sources[letter.source_key].counts.dead_lettered)
        for letter in open_drift(lake.dead_letters, date.fromisoformat(day))
        if letter.source_key in manifest.sources
    )
    return check_dead_letters(day, manifest, drifted)


@dg.multi_asset_check(
    name="newest_day_checks",
    specs=[
        dg.AssetCheckSpec(
            "flag_shares_are_usual",
            asset=asset_names.STATION_SUMMARY,
            description=(
                "No flag is on more of the newest day's enhanced rows than usual: "
                + ", ".join(f"{name} {share:.0%}" for name, share in FLAG_SHARE_WARN.items())
                + ". More suggests a fault of the feed or a changed city; the rows are published."
            ),
        ),
        dg.AssetCheckSpec(
            "record_types_are_known",
            asset=asset_names.STATION_SUMMARY,
            description=(
                f"At most {UNKNOWN_SHARE_WARN:.0%} of the newest day's enhanced rows are neither station nor "
                "free-standing bike. More suggests a new kind of id or name in the feed."
            ),
        ),
    ],
    description="Reads the newest published enhanced object once.",
)
def newest_day_checks(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
    """Checks of the file as readers find it."""
    day, file = _newest(lake, "enhanced")
    yield check_flags(day, file)
    yield check_record_types(day, file)


def _newest(lake: LakeResource, layer: str) -> tuple[str, ParquetParts | None]:
    """The newest day whose file can be read, and the file; other checks warn of unreadable ones."""
    without = set(lake.days_left_out) if layer == "enhanced" else set()
    while (dt := lake.partitions.newest(layer, without=without)) is not None:
        try:
            return str(dt), lake.partitions.read(layer, dt)
        except UnreadablePartitionError:
            without.add(dt)
    return "none", None


def check_dead_letters(day: str, manifest: Manifest | None, drifted: int = 0) -> dg.AssetCheckResult:
    """Dead letters among the day's lines; the raw objects with the most are the samples.

    If they are too many only because of a change of the feed's format (`drifted`), the check of the feed reports it.
    """
    sources = manifest.sources if manifest else {}
    lines = sum(source.counts.lines_in - source.counts.remark_lines for source in sources.values())
    dead = sorted(((source.counts.dead_lettered, key) for key, source in sources.items()), reverse=True)
    total = sum(count for count, _ in dead)
    share = total / lines if lines else 0.0
    return result(
        "dead_letter_share_is_low",
        share <= DEAD_SHARE_WARN,
        f"{total} of {lines} lines ({share:.2%}) are dead letters.",
        severity=ERROR if share > DEAD_SHARE_ERROR else WARN,
        samples=[{"dead_lettered": count, "source": key} for count, key in dead[:MAX_SAMPLES] if count],
        day=day,
        dead_lettered=total,
        lines=lines,
        share=round(share, 6),
        warn_above=DEAD_SHARE_WARN,
        error_above=DEAD_SHARE_ERROR,
        **_explained(share > DEAD_SHARE_WARN and total - drifted <= DEAD_SHARE_WARN * lines),
    )


def _explained(by_drift: bool) -> dict[str, Any]:
    return {EXPLAINED_BY: FEED_CHECK} if by_drift else {}


def check_flags(day: str, file: ParquetParts | None) -> dg.AssetCheckResult:
    """The share of rows with each flag; rows with a too frequent flag are the samples."""
    rows = file.row_count if file else 0
    shares = {flag: count_by(file, flag)[True] / rows if file and rows else 0.0 for flag in FLAGS}
    high = [flag for flag in FLAGS if shares[flag] > FLAG_SHARE_WARN[flag]]
    return result(
        "flag_shares_are_usual",
        not high,
        "; ".join(f"{flag} is on {shares[flag]:.1%} of the rows, above {FLAG_SHARE_WARN[flag]:.0%}" for flag in high)
        or "All shares are as usual.",
        severity=WARN,
        samples=newest_rows_with(file, high[0], True) if file and high else (),
        day=day,
        rows=rows,
        **{f"share_{flag}": round(share, 4) for flag, share in shares.items()},
        **{f"warn_above_{flag}": share for flag, share in FLAG_SHARE_WARN.items()},
    )


def check_record_types(day: str, file: ParquetParts | None) -> dg.AssetCheckResult:
    """The share of rows of an unknown kind, which are the samples."""
    rows = file.row_count if file else 0
    unknown = count_by(file, "record_type")["unknown"] if file else 0
    share = unknown / rows if rows else 0.0
    return result(
        "record_types_are_known",
        share <= UNKNOWN_SHARE_WARN,
        f"{unknown} of {rows} rows ({share:.2%}) are neither station nor bike.",
        severity=WARN,
        samples=newest_rows_with(file, "record_type", "unknown") if file and unknown else (),
        day=day,
        rows=rows,
        unknown=unknown,
        share=round(share, 6),
        warn_above=UNKNOWN_SHARE_WARN,
    )


@dg.asset_check(
    asset=asset_names.STATION_SUMMARY,
    name="row_count_is_usual",
    description=(
        f"The newest day has between {ROWS_LOW:.0%} and {ROWS_HIGH:.0%} of the rows that the median of the "
        f"{DAYS_COMPARED} days before it had at the same time of day. Needs {MIN_DAYS} days to compare with. Fewer "
        "suggest missed snapshots or vanished stations, more a day that was read twice."
    ),
)
def row_count_is_usual(lake: LakeResource, clock: ClockResource) -> dg.AssetCheckResult:
    """Counts rows by day, from the footers alone."""
    newest = lake.newest_shown(local_date(clock.now()))
    if newest is None or not lake.database.path.exists():
        return result("row_count_is_usual", True, "Nothing is published yet.", severity=WARN)
    start, end = partition_bounds(newest)
    elapsed = min(clock.now(), end) - start
    counts = _ask(
        lake,
        f"SELECT dt, count(*) AS rows FROM {SCHEMA}.wrm_stations_enhanced_data "
        "WHERE dt BETWEEN CAST(? AS DATE) AND CAST(? AS DATE) GROUP BY dt ORDER BY dt",
        newest - timedelta(days=DAYS_COMPARED),
        newest,
    )
    by_day = dict(zip(counts["dt"].to_pylist(), counts["rows"].to_pylist(), strict=True))
    rows = by_day.pop(newest, 0)
    expected = expected_rows(by_day.values(), elapsed / (end - start))
    numbers: dict[str, Any] = {"day": str(newest), "rows": rows, "low": ROWS_LOW, "high": ROWS_HIGH}
    if expected is None or expected.days_compared < MIN_DAYS or elapsed < MIN_ELAPSED:
        why = f"{len(by_day)} earlier days and {elapsed / timedelta(hours=1):.1f} h are too few to judge."
        return result("row_count_is_usual", True, why, severity=WARN, days_compared=len(by_day), **numbers)
    share = rows / expected.rows if expected.rows else 1.0
    unread = share < ROWS_LOW and any(letter.of_body for letter in open_drift(lake.dead_letters, newest))
    return result(
        "row_count_is_usual",
        ROWS_LOW <= share <= ROWS_HIGH,
        f"{newest} has {rows} rows, {share:.0%} of the {expected.rows:.0f} expected by now.",
        severity=WARN,
        samples=[{"day": str(dt), "rows": count} for dt, count in by_day.items()],
        share=round(share, 4),
        rows_expected=round(expected.rows),
        days_compared=expected.days_compared,
        **_explained(unread),
        **numbers,
    )


@dg.asset_check(
    asset=asset_names.STATION_SUMMARY,
    name="enhanced_files_are_readable",
    description=(
        "Every day's enhanced file is a Parquet file with the pipeline's columns. Any other is left out of the views "
        "and tables, so that only its own day is missing; the file is named."
    ),
)
def enhanced_files_are_readable(lake: LakeResource) -> dg.AssetCheckResult:
    """From the list of files that the views were made from; makes no request."""
    found = known_problems(lake.settings.enhanced_index_path, lake.store.name)
    days = ", ".join(str(file.dt) for file in found[:MAX_SAMPLES])
    return result(
        "enhanced_files_are_readable",
        not found,
        f"The views and tables lack {days}: {found[0].problem}." if found else "All files can be read.",
        severity=WARN,
        samples=[{"object": file.key, "problem": file.problem} for file in found[:MAX_SAMPLES]],
        files=len(found),
    )


@dg.asset_check(
    asset=asset_names.STATION_SUMMARY,
    name="today_is_fresh",
    description=(
        f"The newest published snapshot is at most {FRESH_WARN // timedelta(minutes=1)} minutes old; more than "
        f"{FRESH_ERROR // timedelta(minutes=1)} is an error. Runs on a schedule (`wrm_freshness_schedule`), since "
        "nothing else runs when data stops arriving. It only concerns now: building an old day changes nothing."
    ),
)
def today_is_fresh(lake: LakeResource, clock: ClockResource) -> dg.AssetCheckResult:
    """The highest file_timestamp of today, or of yesterday just after midnight."""
    now = clock.now()
    today = local_date(now)
    thresholds: dict[str, Any] = {
        "warn_after_s": FRESH_WARN.total_seconds(),
        "error_after_s": FRESH_ERROR.total_seconds(),
    }
    newest, ahead = None, ""
    if lake.database.path.exists():
        # Later times stem from a clock that was ahead, and say nothing about now.
        found = _ask(
            lake,
            "SELECT max(file_timestamp) FILTER (file_timestamp <= CAST(? AS TIMESTAMPTZ)) AS newest, "
            "max(file_timestamp) FILTER (file_timestamp > CAST(? AS TIMESTAMPTZ)) AS later "
            f"FROM {SCHEMA}.wrm_stations_enhanced_data WHERE dt BETWEEN CAST(? AS DATE) AND CAST(? AS DATE)",
            now,
            now,
            today - timedelta(days=1),
            today,
        )
        newest = found["newest"][0].as_py()
        if (later := found["later"][0].as_py()) is not None:
            ahead = f" One of {later:%Y-%m-%d %H:%M:%S} UTC is in the future and does not count."
    if newest is None:
        return result(
            "today_is_fresh",
            False,
            f"Neither {today} nor the day before has a published snapshot.{ahead}",
            day=str(today),
            **_explained(_nothing_is_read(lake, now)),
            **thresholds,
        )
    age = now - newest
    return result(
        "today_is_fresh",
        age <= FRESH_WARN,
        f"The newest published snapshot is {age.total_seconds() / 60:.1f} minutes old.{ahead}",
        severity=ERROR if age > FRESH_ERROR else WARN,
        day=str(today),
        newest_snapshot=dg.MetadataValue.timestamp(newest),
        age_s=round(age.total_seconds()),
        **_explained(age > FRESH_WARN and _nothing_is_read(lake, now)),
        **thresholds,
    )


def _nothing_is_read(lake: LakeResource, now: datetime) -> bool:
    """Whether the newest bodies exist, but in a format in which no row can be read."""
    found, _ = look_for_drift(lake.store, lake.layout, now=now)
    return found is not None and found.drift.whole


def _ask(lake: LakeResource, sql: str, *times: date) -> pa.Table:
    with lake.database.reading() as connection:
        return query_arrow(connection, sql, [time.isoformat() for time in times])


# The checks of this module, for `definitions`.
CHECKS = (dead_letter_share_is_low, newest_day_checks, row_count_is_usual, today_is_fresh, enhanced_files_are_readable)
