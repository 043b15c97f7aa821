"""The permitted values of labels.

Any other value is counted as `other`, so the number of series is bounded.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from wrm_pipeline.domain.feeds import KINDS

OTHER = "other"

RUN_STATUSES = ("success", "failure", "canceled")
ASSET_STATUSES = (*RUN_STATUSES, "skipped")
ROW_OUTCOMES = ("out", "dead_lettered", "duplicate")
TICK_STATUSES = ("success", "skipped", "failure")
CACHE_RESULTS = ("hit", "miss", "error")
TARGETS = (*(kind.target for kind in KINDS.values()), "s3", "vault", "redis", "webhook", "openlineage")
REQUEST_OUTCOMES = ("ok", "retried", "failed", "rejected", "error", "circuit_open")

# Requests that are exported as zero from the start: the rate of a series that appears with its first failure is 0.
USUAL_REQUESTS = (("feed", "get"), *(("s3", operation) for operation in ("get", "put", "list", "stat", "delete")))

_OPERATION = re.compile(r"[a-z][a-z0-9_]{0,30}", re.ASCII)
_MAX_OPERATIONS = 30


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that the code location defines."""

    assets: tuple[str, ...]
    jobs: tuple[str, ...]
    instigators: tuple[str, ...]
    """Sensors and schedules."""


def one_of(value: str, allowed: Collection[str]) -> str:
    """`value` if it is allowed, else `other`."""
    return value if value in allowed else OTHER


def operation_label(value: str, known: Collection[str]) -> str:
    """A request's operation; the set is open (a client may add one), but its size is bounded."""
    if value in known or (_OPERATION.fullmatch(value) and len(known) < _MAX_OPERATIONS):
        return value
    return OTHER
