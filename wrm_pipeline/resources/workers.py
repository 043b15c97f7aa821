"""The resource of the workers that build a range of days."""

from typing import Annotated, Self, get_args

from pydantic import AfterValidator, Field

from wrm_pipeline.clients.workers import Kind, Workers, processors
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.settings import Settings

# Executors on this machine; Dask is selected by its address.
EXECUTORS = tuple(kind for kind in get_args(Kind) if kind != "dask")


def _known(value: str) -> str:
    if value not in EXECUTORS:
        raise ValueError(f"is not one of {', '.join(EXECUTORS)}")
    return value


class WorkersResource(BaseResource):
    """The workers that build a range of days: processes or threads of this machine, or a Dask cluster."""

    executor: Annotated[str, AfterValidator(_known)] = Field(
        "processes", description=f"WRM_EXECUTOR: {', '.join(EXECUTORS)}"
    )
    count: int | None = Field(None, ge=1, description="WRM_WORKERS: days built at a time; null: one per core")
    dask_scheduler_address: str | None = Field(
        None, description="DASK_SCHEDULER_ADDRESS: the cluster that does the work in place of this machine"
    )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The resource according to the settings."""
        return cls(
            executor=settings.executor,
            count=settings.workers,
            dask_scheduler_address=settings.dask_scheduler_address,
        )

    def client(self, *preload: str) -> Workers:
        """The workers; `preload` lists modules that processes of this machine start with."""
        if self.dask_scheduler_address:
            return Workers("dask", dask_address=self.dask_scheduler_address)
        count = self.count or processors()
        kind: Kind = self.executor if count > 1 else "sequential"  # type: ignore[assignment]
        return Workers(kind, count, preload=preload)

    @property
    def place(self) -> str:
        """For people."""
        if self.dask_scheduler_address:
            return f"the Dask cluster at {self.dask_scheduler_address}"
        return f"{self.count or 'as many as there are cores'}: {self.executor}"
