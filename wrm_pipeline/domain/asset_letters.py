"""Dead letters of assets outside of this pipeline, which only these assets can try again."""

import json
import traceback
from dataclasses import replace
from datetime import date, datetime

from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.dead_letters import PENDING, REPROCESSED, DeadLetter, DeadRecord, cut_raw_data, entry_id
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.masking import redact

_MAX_NAME = 200
_MAX_SOURCE = 1000
_MAX_MESSAGE = 2000
_MAX_STACK_TRACE = 2**14


def letter_of_asset(
    asset_name: str,
    partition_date: date,
    error_type: str,
    raw_data: object,
    error: BaseException | str,
    *,
    seen_at: datetime,
    source: str = "",
    line_number: int = 0,
    field: str = "",
) -> DeadLetter:
    """An entry for what an asset outside of this pipeline could not use, with one record.

    There is one for each asset, day, source and error type. Known secrets are masked in all of its texts.

    Args:
        asset_name: Whose it is.
        partition_date: The day whose folder it is in.
        error_type: A short name of what is wrong, the same each time.
        raw_data: What could not be used: text, bytes, or anything that JSON can hold.
        error: The exception, from which `stack_trace` is filled, or a message.
        seen_at: Now (aware).
        source: What was read: a URL, a key, a file's name.
        line_number: Where in the source, from 1; 0 where that means nothing.
        field: Which value of `raw_data` is wrong.

    Raises:
        ValueError: a name is empty, too long, or that of the pipeline's own assets.
    """
    for name, value in (("asset_name", asset_name), ("error_type", error_type)):
        if not value or len(value) > _MAX_NAME:
            raise ValueError(f"{name} is {repr(value)[:80]}: give a name of 1 to {_MAX_NAME} characters")
    if asset_name in asset_names.STATIONS:
        raise ValueError(
            f"asset_name is {asset_name!r}, whose dead letters a replay tries again. Give the name of your asset"
        )
    error_type, field = redact(error_type), redact(field)
    message = redact(str(error) or type(error).__name__)
    # What its author sees first is at the end.
    trace = redact("".join(traceback.format_exception(error))) if isinstance(error, BaseException) else ""
    key = redact("/".join(part for part in (asset_name, partition_date.isoformat(), source) if part))[:_MAX_SOURCE]
    record = DeadRecord(line_number, cut_raw_data(redact(_as_text(raw_data))), field, message[:_MAX_MESSAGE])
    return DeadLetter(
        entry_id(key, error_type),
        seen_at,
        seen_at,
        asset_name,
        partition_date,
        key,
        error_type,
        record.error_message,
        (record,),
        1,
        trace[-_MAX_STACK_TRACE:],
    )


def _as_text(raw_data: object) -> str:
    if isinstance(raw_data, bytes):
        return raw_data.decode("utf-8", "replace")
    return raw_data if isinstance(raw_data, str) else json.dumps(raw_data, ensure_ascii=False, default=str)


def with_another_record(found: DeadLetter, known: DeadLetter | None) -> DeadLetter:
    """An asset's entry with the record that was found now; one that it has already is not added again.

    An entry that was settled is open again, with the new record alone.
    """
    if known is None:
        return found
    reopened = known.status == REPROCESSED
    before = () if reopened else known.records
    have = {(record.line_number, record.raw_data) for record in before}
    new = tuple(record for record in found.records if (record.line_number, record.raw_data) not in have)
    return replace(
        found,
        entry_id=known.entry_id,
        timestamp=known.timestamp,
        records=before + new,
        records_total=(0 if reopened else known.records_total) + len(new),
        retry_count=known.retry_count,
        status=PENDING if reopened else known.status,
        note=known.note,
        extra=known.extra,
        key=known.key,
    )


def of_another_asset(letter: DeadLetter, layout: Layout) -> bool:
    """Whether only the asset that wrote an entry can try it again: it is not about a snapshot of the stations."""
    is_ours = not letter.asset_name or letter.asset_name in asset_names.STATIONS
    return not is_ours and not layout.is_raw_key(layout.released_key(letter.source_key))
