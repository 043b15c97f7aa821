"""The resources of the bike-share feed and of the clock."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.domain.configured import host_list, http_url, names_of
from wrm_pipeline.domain.feeds import KINDS, UCL
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings


def _known_kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"is not a kind of feed; give one of {', '.join(KINDS)}")
    return value


class FeedResource(BaseResource):
    """The bike-share feed."""

    vault: VaultResource
    kind: Annotated[str, AfterValidator(_known_kind)] = Field(UCL.name, description="WRM_FEEDS: what its answers are")
    url: Annotated[str, AfterValidator(http_url)] = Field(
        description=f"{', '.join(kind.url_variable for kind in KINDS.values())}: its credentials are not shown here"
    )
    max_bytes: int = Field(32 * 2**20, gt=0, description="WRM_FEED_MAX_BYTES: longer answers are rejected")
    redirect_hosts: Annotated[str, AfterValidator(host_list)] = Field(
        "",
        description="WRM_FEED_REDIRECT_HOSTS: comma-separated host or host:port that it may redirect to",
    )
    private_hosts: Annotated[str, AfterValidator(host_list)] = Field(
        "", description="WRM_PRIVATE_HOSTS: comma-separated names that may have private addresses"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource according to the settings: its fields are shown in Dagster's UI and stored in its database."""
        return cls(
            vault=vault or VaultResource.of(settings),
            kind=settings.feed_kind.name,
            url=redact(settings.url_of(settings.feed_kind)),
            max_bytes=settings.feed_max_bytes,
            redirect_hosts=settings.feed_redirect_hosts,
            private_hosts=settings.private_hosts,
        )

    @property
    def client(self) -> Feed:
        """The feed, with its circuit breaker."""
        settings = self.vault.settings
        kind = KINDS[self.kind]
        configured = settings.url_of(kind)
        url = configured if self.url == redact(configured) else self.url
        return Feed(
            url,
            self.max_bytes,
            connect_breakers(settings).of(kind.target),
            redirect_hosts=names_of(self.redirect_hosts),
            private_hosts=names_of(self.private_hosts),
            kind=kind,
        )


def _moment(value: str | None) -> str | None:
    if value is not None and datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("is not a time with an offset; give one like 2025-08-21T12:00:00+00:00")
    return value


class ClockResource(BaseResource):
    """The clock. Tests and simulations set it."""

    fixed_at: Annotated[str | None, AfterValidator(_moment)] = Field(
        None, description="An ISO 8601 time with offset, in place of now"
    )

    def now(self) -> datetime:
        """Aware, UTC."""
        return datetime.fromisoformat(self.fixed_at).astimezone(UTC) if self.fixed_at else datetime.now(UTC)
