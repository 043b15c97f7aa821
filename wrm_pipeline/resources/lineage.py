"""The resource of lineage events and their receiver."""

from typing import Annotated, Self

from pydantic import Field

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.openlineage import Receiver
from wrm_pipeline.domain.configured import receiver_url
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings


class LineageResource(BaseResource):
    """OpenLineage events: namespace of the jobs, retention, and receiver."""

    vault: VaultResource
    namespace: str = Field(description="OPENLINEAGE_NAMESPACE: of the jobs in lineage events")
    days: int = Field(ge=0, description="WRM_LINEAGE_DAYS: how long events are kept in the object store; 0: none")
    url: Annotated[str | None, optional(receiver_url)] = Field(
        None, description="OPENLINEAGE_URL: the receiver; its key is OPENLINEAGE_API_KEY"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource according to the settings."""
        return cls(
            namespace=settings.openlineage_namespace,
            days=settings.lineage_days,
            url=settings.openlineage_url,
            vault=vault or VaultResource.of(settings),
        )

    @property
    def receiver(self) -> Receiver | None:
        """The receiver of the events; None without a URL."""
        if self.url is None:
            return None
        settings = self.vault.settings
        breaker = Breakers(settings.breaker_dir).of("openlineage")
        return Receiver(self.url, settings.secret("openlineage_api_key"), breaker)
