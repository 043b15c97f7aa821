"""The resources of the bike-share feed and of the clock."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.feed_memory import FeedMemory
from wrm_pipeline.clients.retry import FEED_POLICY, SEVERAL_FEEDS_POLICY, RetryPolicy
from wrm_pipeline.domain.configured import host_list, http_url, names_of
from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind, named_kinds
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.breakers import connect_breakers
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings


def _known_feeds(value: str) -> str:
    return ",".join(kind.name for kind in named_kinds(value))


def _urls_of_feeds(value: dict[str, str]) -> dict[str, str]:
    if unknown := sorted(value.keys() - KINDS.keys()):
        raise ValueError(f"names {unknown[0]!r}, which is not a kind of feed; the keys are {', '.join(KINDS)}")
    return {name: http_url(url) for name, url in value.items()}


class FeedResource(BaseResource):
    """The bike-share feeds."""

    vault: VaultResource
    feeds: Annotated[str, AfterValidator(_known_feeds)] = Field(
        UCL.name, description="WRM_FEEDS: their kinds, comma-separated, the most trusted first"
    )
    urls: Annotated[dict[str, str], AfterValidator(_urls_of_feeds)] = Field(
        {},
        description=(
            f"{', '.join(kind.url_variable for kind in KINDS.values())}: the address of each kind, whose credentials "
            "are not shown here"
        ),
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
            feeds=settings.feeds,
            urls={kind.name: redact(settings.url_of(kind)) for kind in settings.feed_kinds},
            max_bytes=settings.feed_max_bytes,
            redirect_hosts=settings.feed_redirect_hosts,
            private_hosts=settings.private_hosts,
        )

    @property
    def clients(self) -> tuple[Feed, ...]:
        """The feeds in the order of trust, each with its circuit breaker."""
        kinds = named_kinds(self.feeds)
        policy = FEED_POLICY if len(kinds) == 1 else SEVERAL_FEEDS_POLICY
        return tuple(self._client(kind, policy) for kind in kinds)

    def _client(self, kind: FeedKind, policy: RetryPolicy) -> Feed:
        settings = self.vault.settings
        configured = settings.url_of(kind)
        shown = self.urls.get(kind.name, redact(configured))
        url = configured if shown == redact(configured) else shown
        return Feed(
            url,
            self.max_bytes,
            connect_breakers(settings).of(kind.target),
            policy,
            redirect_hosts=names_of(self.redirect_hosts),
            private_hosts=names_of(self.private_hosts),
            kind=kind,
            memory=FeedMemory(settings.feed_dir, kind.name),
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
