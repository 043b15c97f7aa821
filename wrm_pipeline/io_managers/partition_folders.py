"""The folders of a partition in the lake, by Hive's convention; a function of its key alone."""

from datetime import date
from urllib.parse import quote

import dagster as dg

# The column in a folder's name whose value is the partition key.
_NAMES: tuple[tuple[type, str], ...] = (
    (dg.HourlyPartitionsDefinition, "hour"),
    (dg.DailyPartitionsDefinition, "dt"),
    (dg.WeeklyPartitionsDefinition, "week"),
    (dg.MonthlyPartitionsDefinition, "month"),
)


def segment(key: str) -> str:
    """A key as one part of an object's name; anything that would lead elsewhere, or be hidden, is percent-encoded."""
    quoted = quote(key, safe=":")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def day_of(definition: dg.PartitionsDefinition | None, key: str) -> date | None:
    """The day of a daily partition; None for other partitions."""
    if not isinstance(definition, dg.DailyPartitionsDefinition):
        return None
    return definition.time_window_for_partition_key(key).start.date()


def dimensions(definition: dg.PartitionsDefinition, key: str) -> list[tuple[str, dg.PartitionsDefinition, str]]:
    """The dimensions of a partition by name, each with its own definition and key; just one if it has no dimensions."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        keys = definition.get_partition_key_from_str(key).keys_by_dimension
        found = [(each.name, each.partitions_def, keys[each.name]) for each in definition.partitions_defs]
        return sorted(found, key=lambda dimension: dimension[0])
    name = next((name for kind, name in _NAMES if isinstance(definition, kind)), "partition")
    return [(name, definition, key)]


def hive_folders(definition: dg.PartitionsDefinition, key: str) -> list[tuple[str, str]]:
    """Names and values of the folders, outermost first.

    `dt=2025-08-21` by day; `hour=…`, `week=…`, `month=…` or `partition=…` with the partition key; one folder for each
    dimension of several.
    """
    return [(name, segment(str(day_of(each, part) or part))) for name, each, part in dimensions(definition, key)]
