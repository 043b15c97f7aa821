"""Groups of settings, each a part of `Settings`: fields, and checks of their combination."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field, SecretStr, field_validator

from wrm_pipeline.domain.city import DEFAULT_CITY, DEFAULT_ZONE_NAME, known_zone
from wrm_pipeline.domain.configured import (
    SMTP_SCHEMES,
    SslMode,
    http_url,
    mail_addresses,
    pg_schema,
    public_url,
    role_list,
    secret_url,
)
from wrm_pipeline.domain.public_system import PublicSystem


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

    country: str = Field(
        "PL",
        alias="WRM_COUNTRY",
        description="ISO 3166-1 code of the country whose holidays the forecast knows; empty: it knows none",
    )

    @field_validator("country")
    @classmethod
    def _known_country(cls, value: str) -> str:
        if value and not (len(value) == 2 and value.isascii() and value.isalpha()):
            raise ValueError("is not an ISO 3166-1 code of a country; give one like PL, or nothing")
        return value.upper()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return known_zone(value).key

    @property
    def zone(self) -> ZoneInfo:
        """WRM_TIMEZONE as a zone."""
        return known_zone(self.timezone)


class RidesSettings(BaseModel):
    """The city's own list of each day's rides."""

    rides_url: str = Field(
        "",
        alias="WRM_RIDES_URL",
        description="Address of the city's list of a day's rides, with {date} for the day (2024-06-03)",
    )
    rides_dir: Path | None = Field(
        None,
        alias="WRM_RIDES_DIR",
        description="Folder of such lists, .csv or .csv.gz, with the day in their names; it comes before the address",
    )

    @field_validator("rides_url")
    @classmethod
    def _address_of_days(cls, value: str) -> str:
        if value and "{date}" not in value:
            raise ValueError("has no {date} for the day; give one like https://example.org/rides_{date}.csv")
        return http_url(value) if value else value

    @field_validator("rides_dir")
    @classmethod
    def _absolute_folder(cls, value: Path | None) -> Path | None:
        return value if value is None else value.expanduser().absolute()

    @property
    def has_ride_lists(self) -> bool:
        """Whether the city's lists of rides are configured."""
        return bool(self.rides_url) or self.rides_dir is not None


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


# A domain that cannot exist (RFC 2606), as the standard wants an address.
_NO_CONTACT = "nobody@example.invalid"


class GbfsOutSettings(BaseModel):
    """What the GBFS files that are published say beside the data, and where they are."""

    gbfs_out_dir: Path | None = Field(
        None,
        alias="WRM_GBFS_OUT_DIR",
        description="Folder of the GBFS files, for a web server; unset: reports/gbfs in WRM_DATA_DIR",
    )
    gbfs_out_url: str | None = Field(
        None, alias="WRM_GBFS_OUT_URL", description="Its public address; unset: gbfs/ below WRM_REPORT_URL"
    )
    gbfs_system_id: str = Field(
        "",
        alias="WRM_GBFS_SYSTEM_ID",
        description="Identifies the system, for ever; empty: WRM_CITY in plain letters",
    )
    gbfs_language: str = Field(
        "pl",
        alias="WRM_GBFS_LANGUAGE",
        description="Language of the stations' names, like pl or pt-BR",
    )
    gbfs_operator: str = Field("", alias="WRM_GBFS_OPERATOR", max_length=200, description="The operator's name")
    gbfs_contact: str = Field(
        _NO_CONTACT, alias="WRM_GBFS_CONTACT", description="Public mail address for questions about the GBFS files"
    )
    gbfs_license_url: str | None = Field(
        None,
        alias="WRM_GBFS_LICENSE_URL",
        description="Terms under which the GBFS files may be used; unset: a page that grants nothing",
    )
    gbfs_opening_hours: str = Field(
        "24/7", alias="WRM_GBFS_OPENING_HOURS", min_length=1, description="Of the system, as OpenStreetMap writes them"
    )
    gbfs_ebike_range_m: int = Field(
        60_000,
        alias="WRM_GBFS_EBIKE_RANGE_M",
        ge=1_000,
        le=500_000,
        description="How far an e-bike goes with a full battery; no feed says it, and GBFS wants it",
    )

    @field_validator("gbfs_out_dir")
    @classmethod
    def _absolute_out_dir(cls, value: Path | None) -> Path | None:
        return value if value is None else value.expanduser().resolve()

    @field_validator("gbfs_out_url", "gbfs_license_url")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        return value if value is None else public_url(value)

    @field_validator("gbfs_system_id")
    @classmethod
    def _plain_id(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", value):
            raise ValueError("is not an id of plain letters, digits, dots, hyphens and underscores; give one like wrm")
        return value

    @field_validator("gbfs_language")
    @classmethod
    def _language_code(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Z]{2})?", value):
            raise ValueError("is not a language; give a code like pl or pt-BR")
        return value

    @field_validator("gbfs_contact")
    @classmethod
    def _one_address(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9-]+\.)+[A-Za-z0-9]+", value):
            raise ValueError("is not a mail address; give one like bikes@example.org")
        return value

    def gbfs_address(self, report_url: str | None, folder: Path) -> str:
        """The public address of the folder of the GBFS files; that on the disk if there is none."""
        if self.gbfs_out_url:
            return self.gbfs_out_url
        try:
            return f"{public_url(report_url or '').rstrip('/')}/gbfs"
        except ValueError:
            return folder.as_uri()

    def system_at(self, url: str, city: str, timezone: str) -> PublicSystem:
        """What the files below an address say of the system."""
        return PublicSystem(
            url=f"{url.rstrip('/')}/",
            system_id=self.gbfs_system_id or plain_name(city),
            name=city,
            timezone=timezone,
            language=self.gbfs_language,
            contact=self.gbfs_contact,
            opening_hours=self.gbfs_opening_hours,
            ebike_range_m=self.gbfs_ebike_range_m,
            operator=self.gbfs_operator,
            licence_url=self.gbfs_license_url or "",
        )


def plain_name(name: str) -> str:
    """A name in lower-case ASCII letters, digits and underscores: `Wrocław` is `wroclaw`."""
    letters = unicodedata.normalize("NFKD", name.lower().translate(_UNDECOMPOSED)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", letters).strip("_") or "city"


# Letters that Unicode does not take for a plain one with a mark.
_UNDECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i"})
