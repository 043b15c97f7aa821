"""The object store and its content: configuration in, clients out, no logic.

Secrets are not configuration: they come from the settings or from Vault when a run first uses the store.
"""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access
from wrm_pipeline.analytics.enhanced_files import known_problems
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.configured import folder_prefix, http_url
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.service_area import kept_area
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.resources.s3 import S3Resource
from wrm_pipeline.resources.vault import VaultResource
from wrm_pipeline.settings import Settings


class LakeResource(BaseResource):
    """The object store, a local folder or an S3 bucket, and its content."""

    s3: S3Resource
    bucket: str | None = Field(None, description="BUCKET_NAME; null with `folder`, or for the bucket named in Vault")
    folder: str | None = Field(None, description="A local folder in place of a bucket: $WRM_DATA_DIR/lake")
    prefix: Annotated[str, AfterValidator(folder_prefix)] = Field(
        "bike-data/gen_info/", description="WRM_STATIONS_S3_PREFIX: prefix of all keys"
    )
    endpoint_url: Annotated[str | None, optional(http_url)] = Field(
        None, description="A service other than that of s3_resource, with the same credentials"
    )
    database_path: str | None = Field(
        None, description="The local analytics database; null: $WRM_DATA_DIR/analytics.duckdb"
    )
    _store: ObjectStore | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings, s3: S3Resource | None = None, **more: Any) -> Self:
        """The resource according to the settings; `more` are fields of a subclass."""
        by_vault = settings.bucket_name is None and settings.vault_addr is not None
        return cls(
            s3=s3 or S3Resource.of(settings),
            bucket=settings.bucket_name,
            folder=None if settings.bucket_name or by_vault else str(settings.lake_dir),
            prefix=settings.prefix,
            **more,
        )

    def fields_by_resource(self) -> dict[str, dict[str, Any]]:
        """The configuration without credentials, for a process with its own settings (`from_fields`)."""
        keys = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
        return {
            "vault": self.s3.vault.model_dump(exclude={"given"}),
            "s3": self.s3.model_dump(exclude={"vault", *keys}),
            "lake": self.model_dump(exclude={"s3"}),
        }

    @classmethod
    def from_fields(cls, settings: Settings, fields: dict[str, dict[str, Any]]) -> Self:
        """The lake of another process, with the credentials of this one's settings."""
        vault = VaultResource(given=settings, **fields["vault"])
        return cls(s3=S3Resource(vault=vault, **fields["s3"]), **fields["lake"])

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.bucket is not None and self.folder is not None:
            raise ValueError("bucket and folder are both set: set one of them to null")
        return self

    @property
    def settings(self) -> Settings:
        """The settings of this process, with this resource's configuration of the lake."""
        return self.s3.settings.with_values(bucket_name=self.bucket, prefix=self.prefix)

    @property
    def place(self) -> str:
        """The lake's place, for people."""
        if self.folder is not None:
            return self.folder
        vault = self.s3.vault
        return (
            f"s3://{self.bucket}"
            if self.bucket
            else f"the bucket named in Vault at {vault.mount_point}/{vault.s3_path}"
        )

    def connect(self, policy: RetryPolicy | None = None) -> ObjectStore:
        """The store, with `policy` in place of that of s3_resource.

        Makes no request, except for its credentials to Vault.

        Raises:
            SettingsError: there are no credentials.
            ExternalError: Vault returned no credentials.
        """
        access = self.s3_access
        if access is None:
            return LocalObjectStore(Path(self.folder or "").expanduser().absolute())
        return self.s3.connect(access, policy)

    @property
    def s3_access(self) -> S3Access | None:
        """The bucket and its credentials; None if the lake is a folder.

        Raises:
            SettingsError: there are no credentials.
            ExternalError: Vault returned no credentials.
        """
        if self.folder is not None:
            return None
        access = self.s3.access(self.bucket)
        return replace(access, endpoint_url=self.endpoint_url) if self.endpoint_url else access

    @property
    def store(self) -> ObjectStore:
        """The store; connects at first use."""
        if self._store is None:
            self._store = self.connect()
        return self._store

    @property
    def layout(self) -> Layout:
        """The object keys."""
        return self.settings.layout

    @property
    def area(self) -> ServiceArea:
        """The service area.

        Raises:
            ExternalError: it is to be found in the store, which failed.
        """
        return area_of(self.settings, self.store) if self.settings.area_is_found else self.settings.area

    @property
    def partitions(self) -> PublishedPartitions:
        """The Parquet layers."""
        return PublishedPartitions(self.store, self.layout)

    @property
    def days_left_out(self) -> frozenset[date]:
        """Days that the current views omit because their enhanced file cannot be read."""
        return frozenset(file.dt for file in known_problems(self.settings.enhanced_index_path, self.store.name))

    def newest_shown(self, today: date | None = None) -> date | None:
        """The newest enhanced day up to `today` (default: the current one) that the views show; two requests."""
        return self.partitions.newest("enhanced", today, without=self.days_left_out)

    @property
    def dead_letters(self) -> DeadLetterQueue:
        """The dead-letter queue."""
        return DeadLetterQueue(self.store, self.layout)

    @property
    def spool(self) -> Spool:
        """Holds snapshots while the store is down."""
        return Spool(self.settings.spool_dir, self.settings.spool_max_bytes)

    @property
    def database(self) -> AnalyticsDatabase:
        """The local analytics database."""
        return AnalyticsDatabase(self.database_file, self.s3_access)

    def database_at(self, path: str | None) -> AnalyticsDatabase:
        """A DuckDB file of anybody, with this lake's keys for the bucket; None: the analytics database."""
        if path is None:
            return self.database
        return AnalyticsDatabase(Path(path).expanduser().absolute(), self.s3_access, of_anyone=True)

    @property
    def database_file(self) -> Path:
        """Where it is."""
        return Path(self.database_path).expanduser().absolute() if self.database_path else self.settings.database_path


def connect_store(settings: Settings, policy: RetryPolicy | None = None) -> ObjectStore:
    """The object store according to the settings; makes no request, except to Vault if its credentials are there.

    Raises:
        ExternalError: Vault returned no credentials.
    """
    return LakeResource.of(settings).connect(policy)


def area_of(settings: Settings, store: ObjectStore) -> ServiceArea:
    """The service area: configured, or found in the store.

    Raises:
        ExternalError: the store failed.
    """
    found = kept_area(PublishedPartitions(store, settings.layout)) if settings.area_is_found else None
    return found or settings.area


def s3_access(settings: Settings) -> S3Access | None:
    """Credentials for the bucket, or None in local mode.

    Raises:
        ExternalError: Vault returned none.
    """
    return LakeResource.of(settings).s3_access
