"""Where a range of days is built."""

import dagster as dg
from pydantic import Field

from wrm_pipeline.clients.workers import Workers, processors
from wrm_pipeline.settings import Settings, load_settings


class WorkersResource(dg.ConfigurableResource[None], extra="forbid"):
    """Processes of this machine, or a Dask cluster where DASK_SCHEDULER_ADDRESS is set."""

    place: str = Field(description="For people; set by the settings.")

    @classmethod
    def of(cls, settings: Settings) -> "WorkersResource":
        """The resource as the settings want it."""
        if settings.dask_scheduler_address:
            return cls(place=f"the Dask cluster at {settings.dask_scheduler_address}")
        return cls(place=f"{settings.workers or 'as many as there are cores'}: {settings.executor}")

    def client(self, *preload: str) -> Workers:
        """The workers; `preload` names modules that processes of this machine find loaded."""
        settings = load_settings()
        if settings.dask_scheduler_address:
            return Workers("dask", dask_address=settings.dask_scheduler_address)
        count = settings.workers or processors()
        return Workers(settings.executor if count > 1 else "sequential", count, preload=preload)
