"""Whether the lake's files are as the pipeline left them, according to the reconciliation's findings."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

import dagster as dg

from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.lake_findings import DAMAGED, FOREIGN, REFUSED, UNREADABLE, VANISHED, DayFindings
from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.resources.lake import LakeResource

RAW_CHECK, FILES_CHECK = "raw_objects_are_all_there", "partition_files_are_ours"

_SAYS = {
    VANISHED: "have vanished",
    REFUSED: "were rewritten with fewer rows",
    UNREADABLE: "cannot be read",
    FOREIGN: "Parquet files are another writer's and were not taken over",
    DAMAGED: "cannot be read or built",
}


@dg.multi_asset_check(
    name="lake_checks",
    specs=[
        dg.AssetCheckSpec(
            RAW_CHECK,
            asset=asset_names.STATION_SUMMARY,
            description=(
                "Each raw object that a published day was made from exists with its original content. Otherwise its "
                "rows stay published; they are dropped only with `allow_shrink`."
            ),
        ),
        dg.AssetCheckSpec(
            FILES_CHECK,
            asset=asset_names.STATION_SUMMARY,
            description=(
                "Partition folders hold no Parquet files but ours, and ours can be read. Other writers' files there "
                "are taken over; one with rows that ours lacks, or with nothing that can be rows, is left "
                "alone."
            ),
        ),
    ],
    description="Reads the object with the reconciliation's findings.",
)
def lake_checks(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
    """One request."""
    findings = LakeFindings(lake.store, lake.layout).read()
    yield check_findings(RAW_CHECK, findings, (VANISHED, REFUSED, UNREADABLE))
    yield check_findings(FILES_CHECK, findings, (FOREIGN, DAMAGED))


def check_findings(name: str, findings: Mapping[date, DayFindings], kinds: Sequence[str]) -> dg.AssetCheckResult:
    """Counts by kind and day; named objects are the samples, the text names the newest day's."""
    days = {dt: {kind: day.found[kind] for kind in kinds if kind in day.found} for dt, day in findings.items()}
    days = {dt: found for dt, found in sorted(days.items(), reverse=True) if found}
    counts = {kind: sum(found[kind].count for found in days.values() if kind in found) for kind in kinds}
    said = ", ".join(f"{count} {_SAYS[kind]}" for kind, count in counts.items() if count)
    examples = [
        {"day": str(dt), "what": kind, "object": text, "of": one.count}
        for dt, found in days.items()
        for kind, one in found.items()
        for text in one.named
    ]
    return result(
        name,
        not days,
        f"{len(days)} days, {min(days)} to {max(days)}: {said}. Among them {examples[0]['object']}."
        if days
        else "Nothing is wrong.",
        severity=WARN,
        samples=examples[:MAX_SAMPLES],
        days=len(days),
        **counts,
    )


# The checks of this module, for `definitions`.
CHECKS = (lake_checks,)
