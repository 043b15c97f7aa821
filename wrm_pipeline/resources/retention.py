"""The resource of retention times."""

from typing import Self

from pydantic import Field

from wrm_pipeline.flows.compaction import MIN_AGE_DAYS
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.settings import Settings


class RetentionResource(BaseResource):
    """Ages in days at which things are removed or packed."""

    history_days: int = Field(ge=2, description="WRM_HISTORY_DAYS: ended runs of Dagster are removed")
    history_max_bytes: int = Field(
        gt=0, description="WRM_HISTORY_MAX_BYTES: older runs of Dagster are removed until the rest fits"
    )
    compact_after_days: int | None = Field(
        None, ge=MIN_AGE_DAYS, description="WRM_COMPACT_AFTER_DAYS: raw objects are packed; null: never"
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The resource according to the settings."""
        return cls(
            history_days=settings.history_days,
            history_max_bytes=settings.history_max_bytes,
            compact_after_days=settings.compact_after_days,
        )
