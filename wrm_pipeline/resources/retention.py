"""How long what is kept for a while is kept."""

from typing import Self

from pydantic import Field

from wrm_pipeline.flows.compaction import MIN_AGE_DAYS
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.settings import Settings


class RetentionResource(BaseResource):
    """Ages in days at which something goes, or is packed."""

    history_days: int = Field(ge=2, description="WRM_HISTORY_DAYS: ended runs of Dagster are removed")
    compact_after_days: int | None = Field(
        None, ge=MIN_AGE_DAYS, description="WRM_COMPACT_AFTER_DAYS: raw objects are packed; null: never"
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The resource as the settings want it."""
        return cls(history_days=settings.history_days, compact_after_days=settings.compact_after_days)
