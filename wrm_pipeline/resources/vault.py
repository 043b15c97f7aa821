"""The source of credentials: Vault if VAULT_ADDR is set, else the variables. They are kept in memory only."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import dagster as dg
from pydantic import AfterValidator, Field

from wrm_pipeline.analytics.database import S3Access
from wrm_pipeline.clients.breaker import Breaker, Breakers
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.retry import VAULT_POLICY, RetryPolicy
from wrm_pipeline.clients.vault import AppRole, Token, Vault, VaultSecret
from wrm_pipeline.clients.vault_errors import VaultLoginError, VaultPathMissingError, VaultValueError
from wrm_pipeline.domain.configured import HTTP_SCHEMES, REDIS_SCHEMES, SMTP_SCHEMES, is_url, vault_address, vault_path
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.settings import Settings, SettingsError, find, variables_of

logger = logging.getLogger(__name__)


def kept_in_vault(settings: Settings) -> dict[str, dict[str, str]]:
    """The place of each setting in Vault: path -> key -> field. The data contract, section 7."""
    return {
        settings.vault_s3_path: {
            "endpoint_url": "s3_endpoint_url",
            "access_key_id": "s3_access_key_id",
            "secret_access_key": "s3_secret_access_key",
            "region_name": "s3_region_name",
            "bucket_name": "bucket_name",
        },
        settings.vault_redis_path: {"url": "redis_url"},
        settings.vault_alerts_path: {"webhook_url": "alert_webhook_url", "smtp_url": "smtp_url"},
        settings.vault_postgres_path: {
            "host": "postgres_host",
            "port": "postgres_port",
            "db": "postgres_db",
            "user": "postgres_user",
            "password": "postgres_password",
        },
        # A policy may not let us look where nothing of ours is.
        **({settings.vault_serving_path: _SERVING_KEYS} if settings.postgres_serving_host else {}),
    }


_SERVING_KEYS = {
    "db": "postgres_serving_db",
    "user": "postgres_serving_user",
    "password": "postgres_serving_password",  # pragma: allowlist secret
}


@dataclass(frozen=True, slots=True)
class PostgresAccess:
    """The parameters of a connection to PostgreSQL. No repr shows the password."""

    host: str
    port: int
    db: str | None
    user: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"PostgresAccess({self.host!r}, {self.port}, {self.db!r}, {self.user!r})"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The credentials of all outside systems; asks Vault at first use, and keeps them for minutes.

    In production with Vault, only Vault counts. Elsewhere a variable is used if Vault has no value, with a warning.
    Values that are not secret (bucket, endpoint, host, a Redis URL without a password) may be set either way.
    """

    settings: Settings
    vault: Vault | None

    def __repr__(self) -> str:
        return f"Secrets({self.vault or 'variables'!r})"

    def s3(self) -> S3Access | None:
        """The bucket and its credentials; None means the local folder.

        Raises:
            ExternalError: Vault returned none.
        """
        settings = self.settings
        held = self._held(settings.vault_s3_path, given=bool(settings.bucket_name and settings.has_s3_keys))
        if held is not None:
            bucket = held.get("bucket_name")
            if bucket and settings.bucket_name and bucket != settings.bucket_name:
                raise VaultValueError(
                    f"bucket_name is {bucket!r}, but BUCKET_NAME is {settings.bucket_name!r}",
                    "vault",
                    "read",
                    held.name,
                    "Correct one of them, or remove BUCKET_NAME",
                )
            return self._s3_of(held, settings.bucket_name or held.require("bucket_name"))
        return self._s3_given(settings.bucket_name) if settings.bucket_name else None

    def s3_for(self, bucket: str) -> S3Access | None:
        """The same credentials for a bucket requested by name; None without credentials.

        Raises:
            ExternalError: Vault returned none.
        """
        held = self._held(self.settings.vault_s3_path, given=self.settings.has_s3_keys)
        return self._s3_given(bucket) if held is None else self._s3_of(held, bucket)

    def _s3_given(self, bucket: str) -> S3Access | None:
        settings = self.settings
        key_id, secret = settings.secret("s3_access_key_id"), settings.secret("s3_secret_access_key")
        if not (key_id and secret):
            return None
        return S3Access(bucket, settings.s3_endpoint_url, key_id, secret, settings.s3_region_name)

    def _s3_of(self, held: VaultSecret, bucket: str) -> S3Access:
        return S3Access(
            bucket,
            _url(held, "endpoint_url", HTTP_SCHEMES) or self.settings.s3_endpoint_url,
            held.require("access_key_id"),
            held.require("secret_access_key"),
            held.get("region_name") or self.settings.s3_region_name,
        )

    def redis_url(self) -> str | None:
        """The Redis URL for cache and shared state; None means files.

        Raises:
            ExternalError: Vault returned no value.
        """
        if url := self.settings.redis_url_without_password:
            return url
        return self._optional(self.settings.vault_redis_path, "url", REDIS_SCHEMES, "redis_url")

    def webhook_url(self) -> str | None:
        """The webhook for failures; None means there is none.

        Raises:
            ExternalError: Vault returned no value.
        """
        return self._of_alerts("webhook_url", HTTP_SCHEMES, "alert_webhook_url", "smtp_url")

    def smtp_url(self) -> str | None:
        """The mail server for failures; None means there is none.

        Raises:
            ExternalError: Vault did not say.
        """
        return self._of_alerts("smtp_url", SMTP_SCHEMES, "smtp_url", "webhook_url")

    def serving_postgres(self, host: str) -> PostgresAccess:
        """What is known of the database at `host` that tables are published to: its name, user and password.

        Raises:
            ExternalError: Vault gave no password.
        """
        settings = self.settings
        given = settings.secret("postgres_serving_password")
        held = None
        if not host.startswith("/"):
            held = self._held(settings.vault_serving_path, given=given is not None)
        elif not settings.variables_are_enough:
            given = None
        if held:
            remember_secret(held.require("password"))
        return PostgresAccess(
            host,
            settings.postgres_serving_port,
            (held.get("db") if held else None) or settings.postgres_serving_db,
            (held.get("user") if held else None) or settings.postgres_serving_user,
            held.require("password") if held else given,
        )

    def postgres(self) -> PostgresAccess | None:
        """The database of Dagster's own storage; None means SQLite.

        Raises:
            ExternalError: Vault returned no password.
        """
        settings = self.settings
        given = settings.secret("postgres_password")
        if settings.postgres_host and settings.postgres_host.startswith("/"):
            # The system identifies the user (pg_hba.conf: peer), and runs start without Vault.
            password = given if settings.variables_are_enough else None
            return PostgresAccess(
                settings.postgres_host, settings.postgres_port, settings.postgres_db, settings.postgres_user, password
            )
        try:
            held = self._held(self.settings.vault_postgres_path, given=given is not None)
        except VaultPathMissingError:
            if settings.postgres_host:
                raise
            return None
        host = (held.get("host") if held else None) or settings.postgres_host
        if host is None:
            return None
        port = held.get("port") if held else None
        if port and not port.isdecimal():
            raise VaultValueError("port is not a number", "vault", "read", held.name if held else "", "Correct it")
        if held:
            remember_secret(held.require("password"))
        return PostgresAccess(
            host,
            int(port or settings.postgres_port),
            (held.get("db") if held else None) or settings.postgres_db,
            (held.get("user") if held else None) or settings.postgres_user,
            held.require("password") if held else given,
        )

    def _of_alerts(self, key: str, schemes: Sequence[str], field_name: str, other: str) -> str | None:
        """The URL of a channel; Vault may have only the other one."""
        return self._optional(self.settings.vault_alerts_path, key, schemes, field_name, other)

    def _optional(
        self, path: str, key: str, schemes: Sequence[str], field_name: str, other: str | None = None
    ) -> str | None:
        """An optional URL; `other` is a key that may be there in its place."""
        given = self.settings.secret(field_name)
        try:
            held = self._held(path, given=given is not None)
        except VaultPathMissingError:
            return None
        if held is None:
            return given
        if other is not None and held.get(key) is None and held.get(other):
            return None
        remember_secret(held.require(key))
        return _url(held, key, schemes)

    def _held(self, path: str, *, given: bool) -> VaultSecret | None:
        """The secret at a path in Vault; None means that the variables are used."""
        if self.vault is None:
            return None
        try:
            return self.vault.read(path)
        except ExternalError as error:
            if given and self.settings.variables_are_enough:
                logger.warning("The variables are used, since WRM_ENV is %s: %s", self.settings.env, error)
                return None
            raise


def _url(held: VaultSecret, key: str, schemes: Sequence[str]) -> str | None:
    value = held.get(key)
    if value is not None and not is_url(value, *schemes):
        remedy = f"Write one that starts with {schemes[0]}://, special characters of a password as %XX"
        raise VaultValueError(f"{key} is not a URL (not shown)", "vault", "read", held.name, remedy)
    return value


def _readable(path: str) -> str:
    if not os.access(path, os.R_OK):
        raise ValueError("cannot be read; give the path of the CA's PEM file, or correct its mode")
    return path


class VaultResource(BaseResource):
    """Credentials for a run: from HashiCorp Vault, else from variables and files.

    Only their place is configured here. Login and secrets are never part of the configuration; they come from the
    environment, or from Vault at first use. All other resources use this one.
    """

    # Not configuration: this value is in no database and on no page of Dagster.
    given: dg.ResourceDependency[Settings]
    address: Annotated[str | None, optional(vault_address)] = Field(
        None, description="VAULT_ADDR: https://host:port; null: no Vault, credentials are variables or files"
    )
    mount_point: Annotated[str, AfterValidator(vault_path)] = Field(
        "secret", description="VAULT_MOUNT_POINT: where KV version 2 is mounted"
    )
    namespace: str | None = Field(None, description="VAULT_NAMESPACE")
    cacert: Annotated[str | None, optional(_readable)] = Field(
        None, description="VAULT_CACERT: the CA that signed Vault's certificate, if it is one of your own"
    )
    skip_verify: bool = Field(False, description="VAULT_SKIP_VERIFY: never in production")
    s3_path: Annotated[str, AfterValidator(vault_path)] = Field(
        "wrm/s3",
        description="VAULT_S3_PATH: endpoint_url, access_key_id, secret_access_key, region_name, bucket_name",
    )
    redis_path: Annotated[str, AfterValidator(vault_path)] = Field("wrm/redis", description="VAULT_REDIS_PATH: url")
    alerts_path: Annotated[str, AfterValidator(vault_path)] = Field(
        "wrm/alerts", description="VAULT_ALERTS_PATH: webhook_url, smtp_url"
    )
    postgres_path: Annotated[str, AfterValidator(vault_path)] = Field(
        "wrm/postgres", description="VAULT_POSTGRES_PATH: host, port, db, user, password of Dagster's own storage"
    )
    serving_path: Annotated[str, AfterValidator(vault_path)] = Field(
        "wrm/serving", description="VAULT_SERVING_PATH: db, user, password of the database of published tables"
    )

    @classmethod
    def of(cls, settings: Settings, **fields: Any) -> Self:
        """The resource according to the settings, except for these fields."""
        from_settings = {
            "address": settings.vault_addr,
            "mount_point": settings.vault_mount_point,
            "namespace": settings.vault_namespace,
            "cacert": str(settings.vault_cacert) if settings.vault_cacert else None,
            "skip_verify": settings.vault_skip_verify,
            "s3_path": settings.vault_s3_path,
            "redis_path": settings.vault_redis_path,
            "alerts_path": settings.vault_alerts_path,
            "postgres_path": settings.vault_postgres_path,
            "serving_path": settings.vault_serving_path,
        }
        return cls(given=settings, **from_settings | fields)

    @property
    def settings(self) -> Settings:
        """The settings of this process, with this resource's configuration of Vault, for the resources that use it.

        Raises:
            SettingsError: they are inconsistent; the message names the variables of the fields.
        """
        return self.given.with_values(
            vault_addr=self.address,
            vault_mount_point=self.mount_point,
            vault_namespace=self.namespace,
            vault_cacert=Path(self.cacert) if self.cacert else None,
            vault_skip_verify=self.skip_verify,
            vault_s3_path=self.s3_path,
            vault_redis_path=self.redis_path,
            vault_alerts_path=self.alerts_path,
            vault_postgres_path=self.postgres_path,
            vault_serving_path=self.serving_path,
        )

    @property
    def secrets(self) -> Secrets:
        """The credentials of this pipeline's outside systems; reading one may ask Vault."""
        return secrets_of(self.settings)

    def get_secret(self, path: str) -> dict[str, str]:
        """All keys of the newest version at `path`, which is below the mount point; kept for five minutes.

        Raises:
            SettingsError: there is no Vault.
            ExternalError: Vault returned none; the message has the path and the remedy.
        """
        vault = self.secrets.vault
        if vault is None:
            raise SettingsError(
                f"There is no Vault to ask for {path!r}. Set VAULT_ADDR and a login (docs/secrets.md), or the field "
                "`address` of the resource `vault`."
            )
        held = vault.read(path.strip("/"))
        values = held.values()
        for value in values.values():
            remember_secret(value)
        return dict(values)


@lru_cache(maxsize=64)
def secrets_of(settings: Settings) -> Secrets:
    """The credentials according to the settings, with one Vault login for the whole process; makes no request."""
    for warning in settings.warnings:
        logger.warning("%s", warning)
    return Secrets(settings, _vault_of(_Login(settings)))


# The fields that determine the Vault server and our login there.
_LOGIN = (
    "vault_addr",
    "vault_mount_point",
    "vault_namespace",
    "vault_cacert",
    "vault_skip_verify",
    "vault_role_id",
    "vault_secret_id",
    "vault_token",
    "data_dir",
)


@dataclass(frozen=True, eq=False)
class _Login:
    """Settings with the same login are equal, whatever their other fields."""

    settings: Settings

    @property
    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self.settings, name) for name in _LOGIN)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Login) and self._key == other._key


@lru_cache(maxsize=8)
def _vault_of(login: _Login) -> Vault | None:
    # In files: shared state in Redis could need a password from Vault.
    breaker = Breakers(login.settings.breaker_dir).of("vault")
    return open_vault(login.settings, breaker=breaker)


def forget_secrets() -> None:
    """Forget what this process has read so far."""
    secrets_of.cache_clear()
    _vault_of.cache_clear()


def open_vault(
    settings: Settings, *, policy: RetryPolicy = VAULT_POLICY, breaker: Breaker | None = None
) -> Vault | None:
    """The Vault client according to the settings, if any; makes no request."""
    if settings.vault_addr is None:
        return None
    return Vault(
        settings.vault_addr,
        _login_of(settings),
        mount_point=settings.vault_mount_point,
        namespace=settings.vault_namespace,
        verify=not settings.vault_skip_verify and (str(settings.vault_cacert) if settings.vault_cacert else True),
        breaker=breaker,
        policy=policy,
    )


def _login_of(settings: Settings) -> AppRole | Token:
    if settings.vault_role_id is not None and settings.vault_secret_id is not None:
        role_id, secret_id = _current(settings, "vault_role_id"), _current(settings, "vault_secret_id")
        return AppRole(role_id, secret_id, where=_where("vault_secret_id"))
    return Token(_current(settings, "vault_token"), where=_where("vault_token"))


def _current(settings: Settings, field_name: str) -> Callable[[], str]:
    """The current value of a secret: its file may have been replaced since the settings were read."""

    def value() -> str:
        try:
            return settings.secret(field_name) or ""
        except SettingsError as error:
            raise VaultLoginError(str(error), "vault", "login") from None

    return value


def _where(field_name: str) -> str:
    found = find(field_name)
    return found.origin if found else variables_of(field_name)[0]
