"""Builds check results, and keeps a partition from being published if its check fails."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import dagster as dg

from wrm_pipeline.domain.shown import MAX_DESCRIPTION, cell, shortened, visible

T = TypeVar("T")

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def result(
    name: str,
    passed: bool,
    description: str,
    *,
    severity: dg.AssetCheckSeverity = ERROR,
    samples: Sequence[Mapping[str, Any]] = (),
    **numbers: Any,
) -> dg.AssetCheckResult:
    """A result with counts and thresholds as metadata, and samples as a table."""
    metadata: dict[str, Any] = dict(numbers)
    if samples:
        shown = [{name: cell(v) if isinstance(v, str) else v for name, v in sample.items()} for sample in samples]
        metadata["samples"] = dg.MetadataValue.table([dg.TableRecord(sample) for sample in shown])
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=severity,
        description=visible(shortened(description, MAX_DESCRIPTION)),
        metadata=metadata,
    )


def publish_if_check_passes(
    output: dg.Output[T], found: dg.AssetCheckResult
) -> Iterator[dg.Output[T] | dg.AssetCheckResult]:
    """Yield the output and the result of its blocking check; if it failed, only the result, and fail the step.

    Dagster stores an output before it evaluates the result, and then only stops downstream steps. Here nothing is
    stored either.

    Raises:
        dagster.Failure: the check failed with ERROR.
    """
    refused = not found.passed and found.severity is ERROR
    if not refused:
        yield output
    yield found
    if refused:
        raise dg.Failure(
            f"Nothing was published, the partition is unchanged: {found.check_name} does not hold. {found.description}",
            allow_retries=False,
        )
