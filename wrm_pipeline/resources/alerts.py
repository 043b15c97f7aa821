"""Where failures are reported: a webhook, a mail server, or both."""

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.clients.mail import TARGET as MAIL
from wrm_pipeline.clients.mail import Mail
from wrm_pipeline.domain.configured import http_url, listed, mail_addresses
from wrm_pipeline.domain.incidents import WEBHOOK
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings

_NO_SERVER = "Set WRM_SMTP_URL or WRM_SMTP_URL_FILE (or smtp_url at wrm/alerts in Vault), or unset WRM_MAIL_TO"


class AlertsResource(BaseResource):
    """The channels for failures. Their URLs are secrets: WRM_ALERT_WEBHOOK_URL and WRM_SMTP_URL, or in Vault."""

    vault: VaultResource
    ui_url: Annotated[str, AfterValidator(http_url)] = Field(
        description="WRM_UI_URL: where a person opens Dagster's UI, for links"
    )
    mail_to: Annotated[str, AfterValidator(mail_addresses)] = Field(
        default="", description="WRM_MAIL_TO: addresses, with commas, that alerts are mailed to; empty: none"
    )
    mail_from: Annotated[str, AfterValidator(mail_addresses)] = Field(
        default="", description="WRM_MAIL_FROM: the sender; empty: the user of WRM_SMTP_URL, or the first address"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource as the settings want it."""
        return cls(
            ui_url=settings.ui_url,
            mail_to=settings.mail_to,
            mail_from=settings.mail_from,
            vault=vault or VaultResource.of(settings),
        )

    def channels(self) -> dict[str, Callable[[str], None]]:
        """What to send a message with, by channel; only Vault knows whether there is a webhook at its path.

        Each raises ExternalError where it was not delivered, or Vault did not say where to.
        """
        settings = self.vault.settings
        found: dict[str, Callable[[str], None]] = {}
        if settings.alert_webhook_url is not None or settings.vault_addr is not None:
            found[WEBHOOK] = self._post
        if self.mail_to:
            found[MAIL] = self._mail
        return found

    def _post(self, text: str) -> None:
        url = self.vault.secrets.webhook_url()
        if url is not None:
            Webhook(url, private_hosts=self.vault.settings.private_host_names).post(text)

    def _mail(self, text: str) -> None:
        url = self.vault.secrets.smtp_url()
        if url is None:  # not checked at the load: most units of a host have no need of it
            raise PermanentError("no mail server is named", MAIL, "send", remedy=_NO_SERVER)
        to, hosts = listed(self.mail_to), self.vault.settings.private_host_names
        Mail(url, to, self.mail_from, private_hosts=hosts).post(text)
