"""The dead-letter queue as an asset."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg

from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.assets.stations.processed_all import wrm_stations_processed_data_all
from wrm_pipeline.checks.dead_letters import check_letters, letters_check
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.dead_letters import STATUSES
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.requests import record_requests_on_failure, requests_made


@dg.asset(
    deps=[wrm_stations_processed_data_all],
    group_name="error_handling",
    kinds={"json"},
    owners=["team:wrm"],
    tags={"layer": "dlq"},
    check_specs=[letters_check(asset_names.DEAD_LETTERS)],
    description=(
        "The dead-letter queue's current content: rows and bodies that could not be published, by date, error and "
        "status. "
        "`pending_reprocessing` waits for the job `reprocess_dlq`, a corrected line (`wrm dlq correct`) or a new "
        "parser; `parked` failed too often and needs a person; `reprocessed` is published; `discarded` was given up "
        "by a person. Entries of assets outside of this pipeline (the resource `dlq`) are counted, too. Objects that "
        "are not dead letters are counted as unreadable and named."
    ),
)
def wrm_stations_dlq(
    context: dg.AssetExecutionContext, dlq: DlqResource, clock: ClockResource
) -> Iterator[dg.MaterializeResult[None]]:
    """Count the entries."""
    with record_requests_on_failure(context):
        entries = dlq.queue.entries()
    letters = entries.letters
    statuses = Counter(letter.status for letter in letters)
    groups = Counter((letter.partition_date, letter.error_type[:80], letter.status) for letter in letters)
    records = Counter[tuple[object, ...]]()
    for letter in letters:
        records[letter.partition_date, letter.error_type[:80], letter.status] += letter.records_total
    table = [
        {"date": dt, "error": error, "status": status, "entries": count, "records": records[dt, error, status]}
        for (dt, error, status), count in sorted(groups.items(), reverse=True)
    ]
    open_letters = [letter for letter in letters if letter.status in ("pending_reprocessing", "parked")]
    oldest = min((letter.timestamp for letter in open_letters), default=None)
    age_h = (clock.now() - oldest).total_seconds() / 3600 if oldest else 0.0
    yield dg.MaterializeResult(
        check_results=[check_letters(len(letters), entries.unreadable)],
        metadata={
            "entries": len(letters),
            **{f"entries_{status}": statuses[status] for status in STATUSES},
            "entries_unreadable": len(entries.unreadable),
            "oldest_open_age_h": round(age_h, 2),
            **requests_made(),
            "queue": dg.MetadataValue.md(markdown_table(table[:200])),
            "unreadable": dg.MetadataValue.md(
                markdown_table(
                    [
                        {"object": letter.key, "bytes": letter.size_bytes, "reason": letter.reason}
                        for letter in entries.unreadable[:20]
                    ]
                )
            ),
            "newest_entries": dg.MetadataValue.md(
                markdown_table(
                    [
                        {
                            "entry": letter.entry_id,
                            "error": letter.error_type[:80],
                            "status": letter.status,
                            "retries": letter.retry_count,
                            "source": letter.source_key[:200],
                            "message": letter.error_message[:200],
                        }
                        for letter in sorted(open_letters, key=lambda entry: entry.timestamp, reverse=True)[:20]
                    ]
                )
            ),
        },
    )
