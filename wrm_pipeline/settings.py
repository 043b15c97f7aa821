"""The one reader of the environment (data contract, section 7).

Any secret `NAME` may be given as `NAME_FILE`, the path of a file that holds it. A wrong value stops the load with
a message that names the variable, the value and the remedy. Secrets are `SecretStr`: they show in no repr.
"""

import os
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import ServiceArea

UCL_FEED_URL = "https://gladys.geog.ucl.ac.uk/bikesapi/load.php?scheme=wroclaw"

_S3_ALIASES = {
    "endpoint_url": ("S3_ENDPOINT_URL", "HETZNER_ENDPOINT_URL", "MINIO_ENDPOINT_URL"),
    "access_key_id": ("S3_ACCESS_KEY_ID", "HETZNER_ACCESS_KEY_ID", "MINIO_ACCESS_KEY"),
    "secret_access_key": ("S3_SECRET_ACCESS_KEY", "HETZNER_SECRET_ACCESS_KEY", "MINIO_SECRET_KEY"),
}


class SettingsError(ValueError):
    """The environment is not usable; the message says which variable, why, and what to do."""


class Settings(BaseSettings):
    """All settings, validated together. Field descriptions are shown by `wrm config`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    env: Literal["local", "production"] = Field("local", alias="WRM_ENV")
    data_dir: Path = Field(
        Path("data"), alias="WRM_DATA_DIR", description="Local lake, spool, cache and analytics.duckdb"
    )
    feed_url: str = Field(UCL_FEED_URL, alias="WRM_STATIONS_DATA_URL")
    feed_max_bytes: int = Field(32 * 2**20, alias="WRM_FEED_MAX_BYTES", gt=0, description="A longer answer is refused")
    prefix: str = Field("bike-data/gen_info/", alias="WRM_STATIONS_S3_PREFIX")
    raw_name_timezone: str = Field(
        "UTC", alias="WRM_RAW_NAME_TIMEZONE", description="Zone of the times in raw file names"
    )
    raw_name_timezone_until: date | None = Field(
        None, alias="WRM_RAW_NAME_TIMEZONE_UNTIL", description="First partition whose names are in UTC again"
    )
    service_area: str = Field(
        "51.0,51.3,16.7,17.3", alias="WRM_SERVICE_AREA", description="lat_min,lat_max,lon_min,lon_max in degrees"
    )
    spool_max_bytes: int = Field(
        2**30, alias="WRM_SPOOL_MAX_BYTES", gt=0, description="1 GiB holds 18 days at 40 kB a minute"
    )
    bucket_name: str | None = Field(None, alias="BUCKET_NAME", description="Set: the object store is S3")
    s3_endpoint_url: str | None = Field(None, validation_alias=AliasChoices(*_S3_ALIASES["endpoint_url"]))
    s3_access_key_id: SecretStr | None = Field(None, validation_alias=AliasChoices(*_S3_ALIASES["access_key_id"]))
    s3_secret_access_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices(*_S3_ALIASES["secret_access_key"])
    )
    s3_region_name: str | None = Field(None, alias="S3_REGION_NAME")
    redis_url: SecretStr | None = Field(None, alias="REDIS_URL", description="Set: breaker state is kept in Redis")
    postgres_host: str | None = Field(None, alias="POSTGRES_HOST", description="Dagster's own storage in production")
    postgres_port: int = Field(5432, alias="POSTGRES_PORT")
    postgres_db: str | None = Field(None, alias="POSTGRES_DB")
    postgres_user: str | None = Field(None, alias="POSTGRES_USER")
    postgres_password: SecretStr | None = Field(None, alias="POSTGRES_PASSWORD")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files named by `NAME_FILE`."""
        return init_settings, env_settings, _NameFileSource(settings_cls)

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("prefix")
    @classmethod
    def _folder(cls, value: str) -> str:
        stripped = value.strip("/")
        if stripped and any(not part or part.startswith(".") for part in stripped.split("/")):
            raise ValueError("is no folder: no part between slashes may be empty or start with a dot")
        return f"{stripped}/" if stripped else ""

    @field_validator("raw_name_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, ZoneInfoNotFoundError) as error:
            raise ValueError("is no time zone; give a name like UTC or Europe/Warsaw") from error
        return value

    @field_validator("feed_url", "s3_endpoint_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("is no URL; it must start with http:// or https://")
        return value

    @field_validator("service_area")
    @classmethod
    def _box(cls, value: str) -> str:
        try:
            lat_min, lat_max, lon_min, lon_max = map(float, value.split(","))
        except ValueError as error:
            raise ValueError("is not four numbers: lat_min,lat_max,lon_min,lon_max") from error
        if not (-90 <= lat_min < lat_max <= 90 and -180 <= lon_min < lon_max <= 180):
            raise ValueError("is no box: give lat_min,lat_max,lon_min,lon_max in degrees, minima first")
        return value

    @model_validator(mode="after")
    def _complete_s3(self) -> "Settings":
        if self.bucket_name and not (self.s3_access_key_id and self.s3_secret_access_key):
            raise ValueError(
                f"BUCKET_NAME is {self.bucket_name!r}, but there are no credentials for it. Set S3_ACCESS_KEY_ID and "
                "S3_SECRET_ACCESS_KEY (or the files S3_ACCESS_KEY_ID_FILE and S3_SECRET_ACCESS_KEY_FILE), or unset "
                "BUCKET_NAME to use a local folder."
            )
        return self

    @property
    def area(self) -> ServiceArea:
        """The service area as a box."""
        return ServiceArea(*map(float, self.service_area.split(",")))

    @cached_property
    def layout(self) -> Layout:
        """The object keys."""
        return Layout(self.prefix, ZoneInfo(self.raw_name_timezone), self.raw_name_timezone_until)

    @property
    def lake_dir(self) -> Path:
        """The object store in local mode."""
        return self.data_dir / "lake"

    @property
    def spool_dir(self) -> Path:
        """Where snapshots wait while storage is away."""
        return self.data_dir / "spool"

    @property
    def breaker_dir(self) -> Path:
        """State of the circuit breakers."""
        return self.data_dir / "breakers"

    @property
    def database_path(self) -> Path:
        """The local analytics database."""
        return self.data_dir / "analytics.duckdb"


class _NameFileSource(PydanticBaseSettingsSource):
    """`NAME_FILE` in place of `NAME`, for any variable."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        for name in _variables(field, field_name):
            path = os.environ.get(f"{name}_FILE")
            if path:
                try:
                    value = Path(path).read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                    raise SettingsError(
                        f"{name}_FILE is {path!r}, which cannot be read ({why}). "
                        f"Correct the path or its mode, or set {name} itself."
                    ) from None
                if not value:
                    raise SettingsError(f"{name}_FILE is {path!r}, which is empty. Write the value into it.")
                return value, name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                found[name] = value
        return found


def _variables(field: Any, field_name: str) -> tuple[str, ...]:
    """The environment variables of a field, the preferred one first."""
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices)
    return (str(field.alias or field_name),)


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the environment.

    Raises:
        SettingsError: a value is wrong or values do not fit together.
    """
    try:
        return Settings(**(overrides or {}))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = _as_set(str(problem["loc"][0]))
    secret = any(word in name for word in ("SECRET", "PASSWORD", "TOKEN", "KEY"))
    value = "" if secret else f"={problem['input']!r}"
    return f"{name}{value}: {message}"


def _as_set(name: str) -> str:
    """The one of several names of a variable that is set; pydantic names the preferred one."""
    for names in _S3_ALIASES.values():
        if name in names:
            return next((n for n in names if os.environ.get(n) or os.environ.get(f"{n}_FILE")), name)
    return name
