"""The resource of the webhook for alerts."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field

from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.domain.configured import http_url
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings


class AlertsResource(BaseResource):
    """The webhook for failures; its URL is a secret, from WRM_ALERT_WEBHOOK_URL or Vault."""

    vault: VaultResource
    ui_url: Annotated[str, AfterValidator(http_url)] = Field(
        description="WRM_UI_URL: address of Dagster's UI, for links"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource according to the settings."""
        return cls(ui_url=settings.ui_url, vault=vault or VaultResource.of(settings))

    @property
    def possible(self) -> bool:
        """Whether there may be a webhook; with Vault, only Vault knows."""
        settings = self.vault.settings
        return settings.alert_webhook_url is not None or settings.vault_addr is not None

    def post(self, text: str) -> None:
        """Send a message, if there is a webhook.

        Raises:
            ExternalError: it was not delivered, or Vault did not return the URL.
        """
        url = self.vault.secrets.webhook_url()
        if url is not None:
            Webhook(url, private_hosts=self.vault.settings.private_host_names).post(text)
