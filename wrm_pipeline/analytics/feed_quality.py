"""The rows of quality_feeds: each feed in each hour of a day, and what was thought of its snapshots."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

import pyarrow as pa

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds.figures import figures_of
from wrm_pipeline.domain.feeds.record import FeedRecord, feed_of
from wrm_pipeline.domain.feeds.soundness import VERDICTS, Snapshot, Verdict, judged
from wrm_pipeline.domain.manifest import Manifest

_Judged = tuple[str, Snapshot, Verdict]


def feed_rows(day: date, manifest: Manifest, rows: pa.Table | None) -> list[dict[str, Any]]:
    """One row for each feed and hour with a snapshot.

    A day of several feeds has its figures in the manifest; of one feed they are computed from its published `rows`, and
    judged by themselves: 0.2 s.
    """
    zone = this_city().zone
    if manifest.feeds:
        record = FeedRecord.from_json(manifest.feeds)
        keyed, baselines = record.snapshots(), record.baselines
    else:
        found = figures_of(rows) if rows is not None else {}
        times = {key: source.file_timestamp for key, source in manifest.sources.items()}
        keyed = [(key, Snapshot(feed_of(key), times[key], figures)) for key, figures in found.items() if key in times]
        keyed, baselines = sorted(keyed, key=lambda pair: (pair[1].at, pair[0])), {}
    verdicts = judged([snapshot for _, snapshot in keyed], baselines, zone)
    judgements = [(key, snapshot, verdict) for (key, snapshot), verdict in zip(keyed, verdicts, strict=True)]
    by_hour = sorted(judgements, key=lambda one: (one[1].feed, one[1].at))
    return [
        _row(day, feed, hour, list(group), manifest)
        for (feed, hour), group in groupby(by_hour, key=lambda one: (one[1].feed, _hour(one[1].at)))
    ]


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _row(day: date, feed: str, hour: datetime, found: list[_Judged], manifest: Manifest) -> dict[str, Any]:
    figures = [snapshot.figures for _, snapshot, _ in found]
    unsound = [verdict for _, _, verdict in found if not verdict.sound]
    return {
        "dt": day,
        "hour_start": hour,
        "feed": feed,
        "snapshots": len(found),
        "published": sum(key in manifest.sources for key, _, _ in found),
        **{kind: sum(verdict.kind == kind for _, _, verdict in found) for kind in VERDICTS},
        "stations_min": min(one.stations for one in figures),
        "bikes_min": min(one.bikes for one in figures),
        "bikes_max": max(one.bikes for one in figures),
        "longest_silence_s": int(_longest_silence(found) / timedelta(seconds=1)),
        "reason": unsound[-1].reason if unsound else None,
    }


def _longest_silence(found: Iterable[_Judged]) -> timedelta:
    longest, since, last = timedelta(), None, None
    for _, snapshot, _ in found:
        if snapshot.figures.fingerprint != last or since is None:
            since, last = snapshot.at, snapshot.figures.fingerprint
        longest = max(longest, snapshot.at - since)
    return longest
