"""The check of the dead-letter queue itself, on the objects that `wrm_stations_dlq` has just read."""

from collections.abc import Sequence

import dagster as dg

from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.lake.dead_letter_queue import UnreadableLetter


def letters_check(asset: str) -> dg.AssetCheckSpec:
    """The check whose result `check_letters` returns."""
    return dg.AssetCheckSpec(
        "dead_letters_are_readable",
        asset=asset,
        description=(
            "Every object below `dlq/` is a dead letter. One that is not blocks nothing, but its content is ignored: "
            "published corrections stay published, new ones are not seen."
        ),
    )


def check_letters(readable: int, unreadable: Sequence[UnreadableLetter]) -> dg.AssetCheckResult:
    """Unreadable objects are the samples; the text names the first by key."""
    first = f": {unreadable[0].key}: {unreadable[0].reason}" if unreadable else ""
    return result(
        "dead_letters_are_readable",
        not unreadable,
        f"{len(unreadable)} of {readable + len(unreadable)} objects below dlq/ cannot be read{first}",
        severity=WARN,
        samples=[
            {"key": letter.key, "bytes": letter.size_bytes, "reason": letter.reason}
            for letter in unreadable[:MAX_SAMPLES]
        ],
        readable=readable,
        unreadable=len(unreadable),
    )
