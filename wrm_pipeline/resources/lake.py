"""The object store and what lives in it: configuration in, clients out, no logic.

Secrets are no configuration: they come from the settings or from Vault when a run first uses the store.
"""

import logging
from datetime import UTC, date, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr

from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access
from wrm_pipeline.analytics.enhanced_files import known_problems
from wrm_pipeline.clients.breaker import Breaker, Breakers
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.rate import SharedRate
from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.clients.retry import STORAGE_POLICY, RetryPolicy
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.s3_object_store import s3_object_store
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.vault import S3_PATH, VaultSecretsResource, secrets_of
from wrm_pipeline.settings import Settings

logger = logging.getLogger(__name__)


class LakeResource(BaseResource):
    """The object store (a local folder, or an S3 bucket where BUCKET_NAME or VAULT_ADDR is set) and its layout."""

    vault: VaultSecretsResource
    place: str = Field(description="Where the lake is: a folder, or s3://bucket. For people; set by the settings.")
    _store: ObjectStore | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings, vault: VaultSecretsResource | None = None) -> Self:
        """The resource as the settings want it."""
        place = f"s3://{settings.bucket_name}" if settings.bucket_name else str(settings.lake_dir)
        if settings.bucket_name is None and settings.vault_addr is not None:
            place = f"the bucket that Vault names in {settings.vault_mount_point}/{S3_PATH}"
        return cls(place=place, vault=vault or VaultSecretsResource.of(settings))

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return self.vault.settings

    def connect(self, policy: RetryPolicy = STORAGE_POLICY) -> ObjectStore:
        """The store, with another policy than a run's; makes no request, but for its keys to Vault.

        Raises:
            ExternalError: Vault gave no keys.
        """
        return connect_store(self.settings, policy)

    @property
    def store(self) -> ObjectStore:
        """The store; connects when it is first used."""
        if self._store is None:
            self._store = self.connect()
        return self._store

    @property
    def layout(self) -> Layout:
        """The object keys."""
        return self.settings.layout

    @property
    def area(self) -> ServiceArea:
        """The service area."""
        return self.settings.area

    @property
    def partitions(self) -> PublishedPartitions:
        """The Parquet layers."""
        return PublishedPartitions(self.store, self.layout)

    @property
    def days_left_out(self) -> frozenset[date]:
        """Days whose enhanced file the views leave out, as they were last made: it cannot be read."""
        return frozenset(file.dt for file in known_problems(self.settings.enhanced_index_path, self.store.name))

    def newest_shown(self, today: date | None = None) -> date | None:
        """The newest enhanced day up to `today` (by default that of now) that the views show; two requests."""
        return self.partitions.newest("enhanced", today, without=self.days_left_out)

    @property
    def dead_letters(self) -> DeadLetterQueue:
        """The dead-letter queue."""
        return DeadLetterQueue(self.store, self.layout)

    @property
    def spool(self) -> Spool:
        """Where snapshots wait while the store is away."""
        return Spool(self.settings.spool_dir, self.settings.spool_max_bytes)

    @property
    def database(self) -> AnalyticsDatabase:
        """The local analytics database."""
        return AnalyticsDatabase(self.settings.database_path, s3_access(self.settings))


class FeedResource(BaseResource):
    """The bike-share feed."""

    vault: VaultSecretsResource
    url: str = Field(description="WRM_STATIONS_DATA_URL; its credentials are not shown, and come from there")

    @classmethod
    def of(cls, settings: Settings, vault: VaultSecretsResource | None = None) -> Self:
        """The resource as the settings want it: Dagster's UI and database show what is in it."""
        return cls(url=redact(settings.feed_url), vault=vault or VaultSecretsResource.of(settings))

    @property
    def client(self) -> Feed:
        """The feed, with its circuit breaker."""
        settings = self.vault.settings
        url = settings.feed_url if self.url == redact(settings.feed_url) else self.url
        return Feed(
            url,
            settings.feed_max_bytes,
            connect_breakers(settings).of("feed"),
            redirect_hosts=settings.feed_redirect_host_names,
            private_hosts=settings.private_host_names,
        )


def _moment(value: str | None) -> str | None:
    if value is not None and datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("is not a time with an offset; give one like 2025-08-21T12:00:00+00:00")
    return value


class ClockResource(BaseResource):
    """The time. Tests and simulations set it."""

    fixed_at: Annotated[str | None, AfterValidator(_moment)] = Field(
        None, description="An ISO 8601 time with offset, in place of now"
    )

    def now(self) -> datetime:
        """Aware, UTC."""
        return datetime.fromisoformat(self.fixed_at).astimezone(UTC) if self.fixed_at else datetime.now(UTC)


def connect_store(settings: Settings, policy: RetryPolicy = STORAGE_POLICY) -> ObjectStore:
    """The object store that the settings name; makes no request, but for its keys to Vault where they are there.

    Raises:
        ExternalError: Vault gave no keys.
    """
    access = s3_access(settings)
    if access is None:
        return LocalObjectStore(settings.lake_dir)
    return s3_object_store(
        bucket=access.bucket,
        endpoint_url=access.endpoint_url,
        access_key_id=access.access_key_id,
        secret_access_key=access.secret_access_key,
        region_name=access.region_name,
        breaker=connect_breakers(settings).of("s3"),
        policy=policy,
        # Connect 3 s and read 15 s, or what fits into the policy's attempt.
        read_timeout_s=min(15, policy.attempt_s - 3),
        rate=SharedRate(settings.data_dir / "s3-rate", settings.s3_requests_per_s),
    )


class _BreakersWithVault(Breakers):
    """The breakers where Vault may know the way to Redis; asks it when the first breaker needs it.

    `vault` stays in files, and `feed` where Redis needs Vault: the one cannot wait for Vault, the fetch must not.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.breaker_dir)
        self._settings = settings
        self._shared: Breakers | None = None

    def of(self, target: str) -> Breaker:
        if target == "vault" or (target == "feed" and self._settings.redis_url_without_password is None):
            return super().of(target)
        if self._shared is None:
            try:
                url = secrets_of(self._settings).redis_url()
            except ExternalError as error:
                logger.warning("Circuit breakers keep their state in files: %s", error)
                url = None
            self._shared = _breakers(self._settings, url)
        return self._shared.of(target)


def connect_breakers(settings: Settings) -> Breakers:
    """The circuit breakers, with their state in Redis where it is configured, else in files; makes no request."""
    if settings.vault_addr is not None:
        return _BreakersWithVault(settings)
    return _breakers(settings, secrets_of(settings).redis_url())


def _breakers(settings: Settings, redis_url: str | None) -> Breakers:
    return Breakers(settings.breaker_dir, redis=connect_redis(redis_url) if redis_url else None)


def s3_access(settings: Settings) -> S3Access | None:
    """Credentials for the bucket, or None in local mode.

    Raises:
        ExternalError: Vault gave none.
    """
    return secrets_of(settings).s3()
