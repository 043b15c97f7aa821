"""The settings: the only reader of the environment (data contract, section 7).

Any variable `NAME` may also be given as `NAME_FILE`, the path of a file that holds it, or as a file `name` or `NAME`
in `$CREDENTIALS_DIRECTORY` (systemd); a `.env` (clients/env_file.py) counts where none of these gives a value. A wrong
value stops the load with a message that names the variable, the value and the remedy. Secrets are `SecretStr`: they
show in no repr and no message. What is read here is known to `masking` before anything else is done with it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from wrm_pipeline.clients.env_file import EnvFile, EnvFileError, find_env_file, ignored_env_file
from wrm_pipeline.domain.anomaly_options import DEFAULT_CONTAMINATION, MAX_CONTAMINATION, AnomalyOptions
from wrm_pipeline.domain.backup_retention import Retention
from wrm_pipeline.domain.city import DEFAULT_CITY, known_zone, use_city
from wrm_pipeline.domain.configured import (
    HTTP_SCHEMES,
    REDIS_SCHEMES,
    folder_prefix,
    host_list,
    http_url,
    names_of,
    receiver_url,
    secret_url,
    vault_address,
    vault_path,
)
from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind, named_kinds
from wrm_pipeline.domain.layout import FIRST_DATE, Layout, folder_date
from wrm_pipeline.domain.masking import publish, redact, remember_credentials, remember_secret
from wrm_pipeline.domain.public_system import PublicSystem
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, EVERYWHERE, ServiceArea, StrictRules
from wrm_pipeline.domain.setting_groups import (
    CitySettings,
    GbfsOutSettings,
    MailSettings,
    RidesSettings,
    ServingSettings,
)
from wrm_pipeline.domain.values import stripped, unusable_character

# Reports from before 2010 are dead letters (data contract, section 4).
EARLIEST_FIRST_DATE, LATEST_FIRST_DATE = date(2010, 1, 1), date(2099, 12, 31)

_S3_ALIASES = {
    "endpoint_url": ("S3_ENDPOINT_URL", "HETZNER_ENDPOINT_URL", "MINIO_ENDPOINT_URL"),
    "access_key_id": ("S3_ACCESS_KEY_ID", "HETZNER_ACCESS_KEY_ID", "MINIO_ACCESS_KEY"),
    "secret_access_key": ("S3_SECRET_ACCESS_KEY", "HETZNER_SECRET_ACCESS_KEY", "MINIO_SECRET_KEY"),
}


class SettingsError(ValueError):
    """The environment is invalid; the message says which variable, why, and what to do."""


class Settings(CitySettings, RidesSettings, ServingSettings, MailSettings, GbfsOutSettings, BaseSettings):
    """All settings, validated together. Field descriptions are shown by `wrm config`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    # Set by the caller, overriding the environment.
    _overridden: frozenset[str] = PrivateAttr(frozenset())

    env: Literal["local", "production"] = Field("local", alias="WRM_ENV")
    data_dir: Path = Field(
        Path("data"), alias="WRM_DATA_DIR", description="Local lake, spool, cache and analytics.duckdb"
    )
    feeds: str = Field(
        UCL.name,
        alias="WRM_FEEDS",
        description=f"Feeds that are fetched, with commas, the most trusted first: {', '.join(KINDS)}",
    )
    feed_url: str = Field(UCL.default_url, alias=UCL.url_variable)
    operator_url: str = Field(KINDS["operator"].default_url, alias=KINDS["operator"].url_variable)
    gbfs_url: str = Field(
        KINDS["gbfs"].default_url, alias=KINDS["gbfs"].url_variable, description="The auto-discovery file, gbfs.json"
    )
    feed_max_bytes: int = Field(32 * 2**20, alias="WRM_FEED_MAX_BYTES", gt=0, description="Longer answers are rejected")
    feed_redirect_hosts: str = Field(
        "",
        alias="WRM_FEED_REDIRECT_HOSTS",
        description="Hosts (host or host:port, comma-separated) that the feed may redirect to, besides its own",
    )
    private_hosts: str = Field(
        "",
        alias="WRM_PRIVATE_HOSTS",
        description="Comma-separated names of feed or webhook that may have private addresses",
    )
    prefix: str = Field("bike-data/gen_info/", alias="WRM_STATIONS_S3_PREFIX")
    raw_name_timezone: str = Field(
        "UTC", alias="WRM_RAW_NAME_TIMEZONE", description="Zone of the times in raw file names"
    )
    raw_name_timezone_until: date | None = Field(
        None, alias="WRM_RAW_NAME_TIMEZONE_UNTIL", description="First partition whose names are in UTC again"
    )
    first_date: date = Field(
        FIRST_DATE, alias="WRM_FIRST_DATE", description="First partition; raw objects of earlier days are left alone"
    )
    service_area: str = Field(
        "",
        alias="WRM_SERVICE_AREA",
        description="lat_min,lat_max,lon_min,lon_max in degrees; unset: 51.0,51.3,16.7,17.3, or if WRM_CITY is set the "
        "box around its stations",
    )
    strict_rules: str = Field(
        "",
        alias="WRM_STRICT_RULES",
        description="Rules, with commas, that make a row a dead letter instead of flagging it",
    )
    anomaly_method: Literal["robust_z", "isolation_forest"] = Field(
        "robust_z", alias="WRM_ANOMALY_METHOD", description="How the asset data_quality finds anomalies"
    )
    anomaly_contamination: float = Field(
        DEFAULT_CONTAMINATION,
        alias="WRM_ANOMALY_CONTAMINATION",
        gt=0,
        le=MAX_CONTAMINATION,
        description="Share of the earlier station hours that isolation_forest calls anomalous",
    )
    spool_max_bytes: int = Field(
        2**30, alias="WRM_SPOOL_MAX_BYTES", gt=0, description="1 GiB holds 18 days at 40 kB a minute"
    )
    cache_max_bytes: int = Field(
        256 * 2**20,
        alias="WRM_CACHE_MAX_BYTES",
        ge=0,
        description="Of the cache in files; 0: no cache, nor in Redis",
    )
    bucket_name: str | None = Field(None, alias="BUCKET_NAME", description="Set: the object store is S3")
    s3_endpoint_url: str | None = Field(None, validation_alias=AliasChoices(*_S3_ALIASES["endpoint_url"]))
    s3_access_key_id: SecretStr | None = Field(None, validation_alias=AliasChoices(*_S3_ALIASES["access_key_id"]))
    s3_secret_access_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices(*_S3_ALIASES["secret_access_key"])
    )
    s3_region_name: str | None = Field(None, alias="S3_REGION_NAME")
    vault_addr: str | None = Field(None, alias="VAULT_ADDR", description="Set: secrets come from Vault")
    vault_role_id: SecretStr | None = Field(None, alias="VAULT_ROLE_ID")
    vault_secret_id: SecretStr | None = Field(None, alias="VAULT_SECRET_ID", description="Read again at each login")
    vault_token: SecretStr | None = Field(None, alias="VAULT_TOKEN", description="If there is no AppRole")
    vault_namespace: str | None = Field(None, alias="VAULT_NAMESPACE")
    vault_cacert: Path | None = Field(None, alias="VAULT_CACERT", description="The CA that signed Vault's certificate")
    vault_skip_verify: bool = Field(False, alias="VAULT_SKIP_VERIFY", description="Never in production")
    vault_mount_point: str = Field("secret", alias="VAULT_MOUNT_POINT", description="Where KV version 2 is mounted")
    vault_s3_path: str = Field("wrm/s3", alias="VAULT_S3_PATH", description="Below the mount: the bucket and its keys")
    vault_redis_path: str = Field("wrm/redis", alias="VAULT_REDIS_PATH", description="Below the mount: url")
    vault_alerts_path: str = Field(
        "wrm/alerts", alias="VAULT_ALERTS_PATH", description="Below the mount: webhook_url, smtp_url"
    )
    vault_postgres_path: str = Field(
        "wrm/postgres", alias="VAULT_POSTGRES_PATH", description="Below the mount: Dagster's own storage"
    )
    vault_serving_path: str = Field(
        "wrm/serving", alias="VAULT_SERVING_PATH", description="Below the mount: db, user, password of published tables"
    )
    redis_url: SecretStr | None = Field(None, alias="REDIS_URL", description="Set: keeps cache and breaker state")
    alert_webhook_url: SecretStr | None = Field(
        None, alias="WRM_ALERT_WEBHOOK_URL", description="Webhook for failures (Slack-compatible JSON)"
    )
    openlineage_url: str | None = Field(
        None, alias="OPENLINEAGE_URL", description="Set: lineage events are also posted there"
    )
    openlineage_api_key: SecretStr | None = Field(
        None, alias="OPENLINEAGE_API_KEY", description="Sent to OPENLINEAGE_URL as a bearer token"
    )
    openlineage_namespace: str = Field(
        "wrm_pipeline", alias="OPENLINEAGE_NAMESPACE", description="Of the jobs in lineage events"
    )
    lineage_days: int = Field(
        30,
        alias="WRM_LINEAGE_DAYS",
        ge=0,
        description="Days that lineage events are kept in the object store; 0: no lineage is recorded",
    )
    report_url: str | None = Field(
        None, alias="WRM_REPORT_URL", description="Address of the pages of reports/, for links"
    )
    ui_url: str = Field("http://127.0.0.1:3000", alias="WRM_UI_URL", description="Address of Dagster's UI, for links")
    dask_scheduler_address: str | None = Field(
        None, alias="DASK_SCHEDULER_ADDRESS", description="Set: heavy work runs on that Dask cluster"
    )
    executor: Literal["processes", "threads", "sequential"] = Field(
        "processes", alias="WRM_EXECUTOR", description="Workers for a range of days, without Dask"
    )
    workers: int | None = Field(None, alias="WRM_WORKERS", ge=1, description="Parallel days; unset: one per core")
    backfill: Literal["run_per_day", "single_run"] = Field(
        "run_per_day", alias="WRM_BACKFILL", description="single_run: a range of days is one run, which fans out"
    )
    compact_after_days: int | None = Field(
        None, alias="WRM_COMPACT_AFTER_DAYS", ge=2, description="Set: raw objects of older days are packed"
    )
    s3_requests_per_s: int = Field(
        600, alias="WRM_S3_REQUESTS_PER_S", ge=1, description="Of all processes of this machine; Hetzner allows 750"
    )
    postgres_host: str | None = Field(
        None, alias="POSTGRES_HOST", description="Dagster's own storage in production: a host, or a socket's folder"
    )
    postgres_port: int = Field(5432, alias="POSTGRES_PORT")
    postgres_db: str | None = Field(None, alias="POSTGRES_DB")
    postgres_user: str | None = Field(None, alias="POSTGRES_USER")
    postgres_password: SecretStr | None = Field(None, alias="POSTGRES_PASSWORD")
    backup_key: SecretStr | None = Field(
        None,
        alias="WRM_BACKUP_KEY",
        description="Encrypts backups; `wrm backup --new-key` makes one. Keep a copy elsewhere",
    )
    backup_keep: str = Field("7,4,6", alias="WRM_BACKUP_KEEP", description="Days, weeks, months that keep a backup")
    backup_files: str = Field(
        "",
        alias="WRM_BACKUP_FILES",
        description="Configuration to back up, paths separated by :, default DAGSTER_HOME's",
    )
    history_days: int = Field(
        7, alias="WRM_HISTORY_DAYS", ge=2, description="Age at which `wrm prune` removes ended runs of Dagster"
    )
    history_max_bytes: int = Field(
        4 * 2**30,
        alias="WRM_HISTORY_MAX_BYTES",
        gt=0,
        description="Size to which `wrm prune` reduces Dagster's history, down to two days of it",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the results of `find`."""
        return init_settings, _Variables(settings_cls)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Without the credentials in URLs."""
        for name, value in super().__repr_args__():
            yield name, redact(value) if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("prefix")
    @classmethod
    def _folder(cls, value: str) -> str:
        return folder_prefix(value)

    @field_validator("raw_name_timezone")
    @classmethod
    def _known_name_zone(cls, value: str) -> str:
        return known_zone(value).key

    @field_validator("first_date", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        dt = folder_date(f"dt={value}")
        if dt is None or not EARLIEST_FIRST_DATE <= dt <= LATEST_FIRST_DATE:
            raise ValueError(
                f"is not a date from {EARLIEST_FIRST_DATE} to {LATEST_FIRST_DATE}; give one like {FIRST_DATE}"
            )
        return dt

    @field_validator("feeds")
    @classmethod
    def _known_feeds(cls, value: str) -> str:
        return ",".join(kind.name for kind in named_kinds(value))

    @field_validator("feed_url", "operator_url", "gbfs_url", "s3_endpoint_url", "ui_url", "report_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return value if value is None else http_url(value)

    @field_validator("feed_redirect_hosts", "private_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        return host_list(value)

    @field_validator("service_area")
    @classmethod
    def _box(cls, value: str) -> str:
        if not value:
            return value
        try:
            lat_min, lat_max, lon_min, lon_max = map(float, value.split(","))
        except ValueError as error:
            raise ValueError("is not four numbers: lat_min,lat_max,lon_min,lon_max") from error
        if not (-90 <= lat_min < lat_max <= 90 and -180 <= lon_min < lon_max <= 180):
            raise ValueError("is not a box: give lat_min,lat_max,lon_min,lon_max in degrees, minima first")
        return value

    @field_validator("strict_rules")
    @classmethod
    def _known_rules(cls, value: str) -> str:
        return ",".join(StrictRules.parse(value).names)

    @field_validator("backup_keep")
    @classmethod
    def _retention(cls, value: str) -> str:
        Retention.parse(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is None else SecretStr(secret_url(value.get_secret_value(), *REDIS_SCHEMES))

    @field_validator("alert_webhook_url")
    @classmethod
    def _webhook(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is None else SecretStr(secret_url(value.get_secret_value(), *HTTP_SCHEMES))

    @field_validator("openlineage_url")
    @classmethod
    def _receiver(cls, value: str | None) -> str | None:
        return value if value is None else receiver_url(value)

    @field_validator("vault_addr")
    @classmethod
    def _vault_url(cls, value: str | None) -> str | None:
        return value if value is None else vault_address(value)

    @field_validator("vault_cacert")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError("cannot be read; give the path of the CA's PEM file, or correct its mode")
        return value

    @field_validator(
        "vault_mount_point",
        "vault_s3_path",
        "vault_redis_path",
        "vault_alerts_path",
        "vault_postgres_path",
        "vault_serving_path",
    )
    @classmethod
    def _mount(cls, value: str) -> str:
        return vault_path(value)

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if problems := list(self._problems()):
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._problems_of_vault()
        yield from self._problems_of_s3()
        yield from self.problems_of_serving(self.postgres_user)

    def _problems_of_vault(self) -> Iterator[str]:
        if self.vault_addr is None:
            return
        has_role = self.vault_role_id is not None and self.vault_secret_id is not None
        if not has_role and self.vault_token is None:
            yield (
                "VAULT_ADDR is set, but there is no way to log in. Set VAULT_ROLE_ID and VAULT_SECRET_ID_FILE (or "
                "VAULT_SECRET_ID) for AppRole, or VAULT_TOKEN, or unset VAULT_ADDR to do without Vault."
            )
        if self.env != "production":
            return
        if not self.vault_addr.startswith("https://"):
            yield (
                f"VAULT_ADDR is {self.vault_addr!r}: in production (WRM_ENV) secrets must not be sent unencrypted. "
                f"Give "
                "Vault a certificate and an https:// address; VAULT_CACERT names the CA if it is your own."
            )
        if self.vault_skip_verify:
            yield (
                "VAULT_SKIP_VERIFY is on: in production (WRM_ENV) Vault's certificate must be verified. Unset it, and "
                "set VAULT_CACERT if the CA is your own."
            )

    def _problems_of_s3(self) -> Iterator[str]:
        if self.bucket_name and self.vault_addr is None and not self.has_s3_keys:
            yield (
                f"BUCKET_NAME is {self.bucket_name!r}, but there are no credentials for it. Set S3_ACCESS_KEY_ID and "
                "S3_SECRET_ACCESS_KEY (or the files S3_ACCESS_KEY_ID_FILE and S3_SECRET_ACCESS_KEY_FILE), or set "
                "VAULT_ADDR to take them from Vault, or unset BUCKET_NAME to use a local folder."
            )

    def with_values(self, **values: Any) -> "Settings":
        """These settings with other values of some fields, which the caller has checked.

        Raises:
            SettingsError: they are inconsistent.
        """
        if all(getattr(self, name) == value for name, value in values.items()):
            return self
        changed = self.model_copy(update=values)
        changed._overridden = self._overridden | {n for n, value in values.items() if getattr(self, n) != value}
        changed.__dict__.pop("layout", None)  # it was computed from the old values
        if problems := list(changed._problems()):
            raise SettingsError("\n".join(problems))
        return changed

    def secret(self, field_name: str) -> str | None:
        """The current value of a secret: its file may have been replaced since the settings were read. None if not set.

        Raises:
            SettingsError: its file is no longer readable.
        """
        given: SecretStr | None = getattr(self, field_name)
        if given is None:
            return None
        found = None if field_name in self._overridden else find(field_name)
        return found.value if found else given.get_secret_value()

    @property
    def feed_kinds(self) -> tuple[FeedKind, ...]:
        """The kinds of feeds that are fetched (WRM_FEEDS), in the order of trust."""
        return named_kinds(self.feeds)

    def url_of(self, kind: FeedKind) -> str:
        """Where a kind of feed is."""
        fields = (name for name, field in type(self).model_fields.items() if field.alias == kind.url_variable)
        return str(getattr(self, next(fields)))

    @property
    def feed_redirect_host_names(self) -> frozenset[str]:
        """WRM_FEED_REDIRECT_HOSTS as a set."""
        return names_of(self.feed_redirect_hosts)

    @property
    def private_host_names(self) -> frozenset[str]:
        """WRM_PRIVATE_HOSTS as a set."""
        return names_of(self.private_hosts)

    @property
    def has_s3_keys(self) -> bool:
        """Whether both keys are set as variables."""
        return self.s3_access_key_id is not None and self.s3_secret_access_key is not None

    @property
    def variables_are_enough(self) -> bool:
        """Whether credentials in variables may be used: without Vault, or next to it outside production."""
        return self.vault_addr is None or self.env != "production"

    @property
    def redis_url_without_password(self) -> str | None:
        """REDIS_URL, if it contains no credential."""
        url = self.redis_url.get_secret_value() if self.redis_url else ""
        return None if not url or urlsplit(url).password or "password=" in url else url

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities that stop nothing, for display with the configuration."""
        found = list(_warnings_of_env_file())
        if self.vault_addr is None:
            if given := [name for field in _VAULT_LOGIN if (name := self.given_as(field))]:
                found.append(f"{', '.join(given)}: not used, since VAULT_ADDR is not set.")
            if self.bucket_name is None and (given := [name for field in _S3_KEYS if (name := self.given_as(field))]):
                found.append(f"{', '.join(given)}: not used, since BUCKET_NAME is not set.")
            return tuple(found)
        no_credential = ("redis_url",) if self.redis_url_without_password else ()
        if given := [name for field in _IN_VAULT if field not in no_credential and (name := self.given_as(field))]:
            fate = (
                "not used, since in production credentials come from Vault alone. Remove them from where they are set"
                if not self.variables_are_enough
                else "used only if Vault has none or does not answer; in production not even then"
            )
            found.append(f"{', '.join(given)}: {fate}.")
        if self.vault_token and self.vault_role_id and self.vault_secret_id:
            found.append("VAULT_TOKEN: not used, since VAULT_ROLE_ID and VAULT_SECRET_ID are set.")
        if self.vault_skip_verify:
            found.append("VAULT_SKIP_VERIFY: anyone between this machine and Vault can read the secrets.")
        return tuple(found)

    def given_as(self, field_name: str) -> str | None:
        """The variable that sets a field, if any."""
        if getattr(self, field_name) is None:
            return None
        found = find(field_name)
        return found.variable if found else variables_of(field_name)[0]

    @property
    def area(self) -> ServiceArea:
        """The service area as a box; all the world if it is still to be found (`area_is_found`)."""
        if self.area_is_found:
            return EVERYWHERE
        return ServiceArea(*map(float, self.service_area.split(","))) if self.service_area else DEFAULT_SERVICE_AREA

    @property
    def area_is_found(self) -> bool:
        """Whether the service area comes from the stations (`lake/service_area.py`): another city, and none is set."""
        return not self.service_area and self.city != DEFAULT_CITY

    @property
    def strict(self) -> StrictRules:
        """The rules whose rows are dead letters."""
        return StrictRules.parse(self.strict_rules, self.area)

    @property
    def anomalies(self) -> AnomalyOptions:
        """How anomalies are found."""
        return AnomalyOptions(self.anomaly_method, self.anomaly_contamination)

    @cached_property
    def layout(self) -> Layout:
        """The object keys."""
        zone = known_zone(self.raw_name_timezone)
        feeds = tuple(kind.name for kind in self.feed_kinds)
        return Layout(self.prefix, zone, self.raw_name_timezone_until, self.first_date, feeds)

    @property
    def backup_retention(self) -> Retention:
        """Which backups to keep."""
        return Retention.parse(self.backup_keep)

    @property
    def lake_dir(self) -> Path:
        """The object store in local mode."""
        return self.data_dir / "lake"

    @property
    def spool_dir(self) -> Path:
        """The folder of snapshots that wait while storage is down."""
        return self.data_dir / "spool"

    @property
    def metrics_dir(self) -> Path:
        """Where runs record metrics that assets declare."""
        return self.data_dir / "metrics"

    @property
    def cache_dir(self) -> Path:
        """The cache, if there is no Redis."""
        return self.data_dir / "cache"

    @property
    def breaker_dir(self) -> Path:
        """State of the circuit breakers."""
        return self.data_dir / "breakers"

    @property
    def feed_dir(self) -> Path:
        """What runs remember of the feeds."""
        return self.data_dir / "feeds"

    @property
    def database_path(self) -> Path:
        """The local analytics database."""
        return self.data_dir / "analytics.duckdb"

    @property
    def enhanced_index_path(self) -> Path:
        """An index of the enhanced files; it is created again if it is missing."""
        return self.data_dir / "enhanced_files.json"

    @property
    def reports_dir(self) -> Path:
        """The local copy of the reports."""
        return self.data_dir / "reports"

    @property
    def gbfs_folder(self) -> Path:
        """Where GBFS files are published."""
        return self.gbfs_out_dir or self.reports_dir / "gbfs"

    @property
    def gbfs_ids_dir(self) -> Path:
        """What the public ids of bikes depend on; never served."""
        return self.data_dir / "gbfs"

    def public_system(self, url: str | None = None) -> PublicSystem:
        """What GBFS files say of the system; `url` is the address of their folder, by default the configured one."""
        return self.system_at(url or self.gbfs_address(self.report_url, self.gbfs_folder), self.city, self.timezone)


_VAULT_LOGIN = ("vault_role_id", "vault_secret_id", "vault_token")
_S3_KEYS = ("s3_access_key_id", "s3_secret_access_key")
_IN_VAULT = (*_S3_KEYS, "redis_url", "alert_webhook_url", "smtp_url", "postgres_password", "postgres_serving_password")
_IN_HEADERS = frozenset({"vault_token", "openlineage_api_key", *_S3_KEYS})


@dataclass(frozen=True, slots=True)
class ResolvedSetting:
    """A value from the environment, with its variable and origin.

    Attributes:
        value: As written there, stripped. In no repr, as it may be a secret.
        variable: The name, without `_FILE`.
        origin: For people: ``environment variable NAME``, or the file and the variable with its path.
    """

    value: str
    variable: str
    origin: str

    def __repr__(self) -> str:
        return f"ResolvedSetting({self.variable!r}, {self.origin!r})"


def find(field_name: str, environment: Mapping[str, str] | None = None) -> ResolvedSetting | None:
    """The current value of a field in the environment; None if not set.

    For each of the field's variables, the preferred one first: `NAME`, then `NAME_FILE`, then a file in
    `$CREDENTIALS_DIRECTORY`. Then the same two of the `.env`, unless an environment is given. An empty variable counts
    as unset.

    Raises:
        SettingsError: a file cannot be read or is empty, or a value contains an invalid character.
    """
    given = os.environ if environment is None else environment
    if (found := _find_in(field_name, given)) or environment is not None:
        return found
    file = env_file_in_use()
    return _find_in(field_name, file.values, file.path) if file else None


def _find_in(field_name: str, given: Mapping[str, str], env_file: Path | None = None) -> ResolvedSetting | None:
    """The value from these variables, which are those of a file or of the environment."""
    where = f" in {env_file}" if env_file else ""
    for name in variables_of(field_name):
        if (value := given.get(name)) and (value := stripped(value)):
            return _found(field_name, value, name, f"{name}{where}" if where else f"environment variable {name}")
        if path := given.get(f"{name}_FILE"):
            remedy = f"Correct the path or its mode, or set {name} itself."
            text = _text_of(Path(path), f"{name}_FILE is {path!r}, which", remedy)
            return _found(field_name, text, name, f"file {path} ({name}_FILE{where})")
        if not env_file and (folder := given.get("CREDENTIALS_DIRECTORY")):
            for file in _credentials_of(name, Path(folder)):
                text = _text_of(file, f"The credential {file}", "Correct LoadCredential in the systemd unit.")
                return _found(field_name, text, name, f"file {file} ($CREDENTIALS_DIRECTORY)")
    return None


def _credentials_of(name: str, folder: Path) -> Iterator[Path]:
    """The files of a variable: `wrm_mail_to` or `WRM_MAIL_TO`, or `mail_to`, unless that is empty."""
    yield from (file for file in (folder / name.lower(), folder / name) if file.exists())
    short = folder / name.lower().removeprefix("wrm_")
    if short.name != name.lower() and short.exists() and short.stat().st_size:
        yield short


def env_file_in_use() -> EnvFile | None:
    """The `.env` that settings of this process may come from.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return find_env_file(os.environ)
    except EnvFileError as error:
        raise SettingsError(str(error)) from None


def _warnings_of_env_file() -> Iterator[str]:
    if path := ignored_env_file(os.environ):
        yield f"{path}: not used, since WRM_ENV is production. Remove it; WRM_DOTENV would name a file that is read."
    file = env_file_in_use()
    if file is None or not file.open_to_others:
        return
    names = [name for field in Settings.model_fields if is_secret(field) for name in variables_of(field)]
    if held := [name for name in names if name in file.values]:
        yield f"{file.path}: other accounts of this machine may read it, and it holds {', '.join(held)}: chmod 600 it."


def _found(field_name: str, value: str, variable: str, origin: str) -> ResolvedSetting:
    make_known(field_name, value)
    if problem := unusable_character(value, secret=is_secret(field_name), in_header=field_name in _IN_HEADERS):
        raise SettingsError(f"{variable} ({origin}) {problem}")
    return ResolvedSetting(value, variable, origin)


def make_known(field_name: str, value: str) -> None:
    """Register with `masking` which parts of a field's value to mask, and which are public."""
    if is_secret(field_name):
        remember_secret(value)
    elif "://" in value:
        remember_credentials(value)
    else:
        publish(value)


def _text_of(path: Path, subject: str, remedy: str) -> str:
    try:
        value = stripped(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{subject} cannot be read ({why}). {remedy}") from None
    if not value:
        raise SettingsError(f"{subject} is empty. Write the value into it.")
    return value


def variables_of(field_name: str) -> tuple[str, ...]:
    """The environment variables of a field, the preferred one first."""
    field = Settings.model_fields[field_name]
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices)
    return (str(field.alias or field_name),)


def is_secret(field_name: str) -> bool:
    """Whether a field's value is never shown."""
    return SecretStr in get_args(Settings.model_fields[field_name].annotation)


class _Variables(PydanticBaseSettingsSource):
    """`find`, for pydantic-settings."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        found = find(field_name)
        return found.value if found else None, variables_of(field_name)[0], False

    def __call__(self) -> dict[str, Any]:
        values = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                values[name] = value
        return values


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the environment: once, at the entrance of a process (code location, command, exporter, worker).

    What is known to the whole process is set: its secrets (`masking`), its city (`domain/city.py`).

    Raises:
        SettingsError: a value is wrong or values are inconsistent.
    """
    for name, value in (overrides or {}).items():
        if name in Settings.model_fields and value is not None:
            make_known(name, value.get_secret_value() if isinstance(value, SecretStr) else str(value))
    try:
        settings = Settings(**(overrides or {}))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None
    settings._overridden = frozenset(overrides or {})
    use_city(settings.city, settings.zone)
    return settings


def _explain(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    field_name = next((field for field in Settings.model_fields if name in (field, *variables_of(field))), None)
    if field_name is None:
        return f"{name}: {message}"
    found = find(field_name)
    value = "" if is_secret(field_name) or "not shown" in message else f"={redact(repr(problem['input']))}"
    return f"{found.variable if found else name}{value}: {message}"
