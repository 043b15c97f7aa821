"""Groups of settings, each a part of `Settings`: fields, and checks of their combination."""

from collections.abc import Iterator
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, field_validator

from wrm_pipeline.domain.city import DEFAULT_CITY, DEFAULT_ZONE_NAME, known_zone
from wrm_pipeline.domain.configured import SMTP_SCHEMES, SslMode, mail_addresses, pg_schema, role_list, secret_url


class CitySettings(BaseModel):
    """The city whose feed is archived."""

    city: str = Field(
        DEFAULT_CITY, alias="WRM_CITY", max_length=80, description="The city's name, as report, alerts and GBFS show it"
    )
    timezone: str = Field(
        DEFAULT_ZONE_NAME,
        alias="WRM_TIMEZONE",
        description="The city's time zone: days begin at its midnight. Never changed once there are snapshots",
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return known_zone(value).key

    @property
    def zone(self) -> ZoneInfo:
        """WRM_TIMEZONE as a zone."""
        return known_zone(self.timezone)


class ServingSettings(BaseModel):
    """The PostgreSQL database that tables are published to."""

    postgres_serving_host: str | None = Field(
        None,
        alias="POSTGRES_SERVING_HOST",
        description="Set: mv_ and quality_ tables are published to this PostgreSQL; a host, or a socket's folder",
    )
    postgres_serving_port: int = Field(5432, alias="POSTGRES_SERVING_PORT", gt=0, lt=65536)
    postgres_serving_db: str | None = Field(None, alias="POSTGRES_SERVING_DB")
    postgres_serving_user: str | None = Field(
        None, alias="POSTGRES_SERVING_USER", description="Not the user of Dagster's own storage"
    )
    postgres_serving_password: SecretStr | None = Field(None, alias="POSTGRES_SERVING_PASSWORD")
    postgres_serving_sslmode: SslMode = Field(
        "prefer", alias="POSTGRES_SERVING_SSLMODE", description="As in libpq; verify-full for a remote server"
    )
    postgres_serving_schema: str = Field(
        "wrm_analytics", alias="POSTGRES_SERVING_SCHEMA", description="Created if missing"
    )
    postgres_serving_readers: str = Field(
        "", alias="POSTGRES_SERVING_READERS", description="Comma-separated roles that may read the published tables"
    )

    @field_validator("postgres_serving_schema")
    @classmethod
    def _schema(cls, value: str) -> str:
        return pg_schema(value)

    @field_validator("postgres_serving_readers")
    @classmethod
    def _readers(cls, value: str) -> str:
        return role_list(value)

    def problems_of_serving(self, storage_user: str | None) -> Iterator[str]:
        """Inconsistencies; `storage_user` is the user of Dagster's own storage, if set by variables."""
        if self.postgres_serving_host is None:
            return
        if self.postgres_serving_user and self.postgres_serving_user == storage_user:
            yield same_user(self.postgres_serving_user)


def same_user(user: str) -> str:
    """Why a user is refused."""
    return (
        f"POSTGRES_SERVING_USER is {user!r}, the user of Dagster's own storage: who may replace published tables must "
        "not be able to change Dagster's history. Create a role of its own, and a database that belongs to it."
    )


class MailSettings(BaseModel):
    """Where alerts are mailed."""

    mail_to: str = Field("", alias="WRM_MAIL_TO", description="Set: addresses that alerts are mailed to")
    mail_from: str = Field(
        "", alias="WRM_MAIL_FROM", description="Sender of alerts; empty: the user of WRM_SMTP_URL, or the first address"
    )
    smtp_url: SecretStr | None = Field(
        None,
        alias="WRM_SMTP_URL",
        description="Mail server with its login: smtp://…@host:587 (STARTTLS) or smtps://…@host:465",
    )

    @field_validator("mail_to", "mail_from")
    @classmethod
    def _addresses(cls, value: str) -> str:
        return mail_addresses(value)

    @field_validator("smtp_url")
    @classmethod
    def _server(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is None else SecretStr(secret_url(value.get_secret_value(), *SMTP_SCHEMES))
