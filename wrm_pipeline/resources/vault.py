"""Where clients get their credentials: from Vault where VAULT_ADDR is set, else from the variables. In memory only."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import dagster as dg
from pydantic import Field

from wrm_pipeline.analytics.database import S3Access
from wrm_pipeline.clients.breaker import Breaker, Breakers
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.retry import VAULT_POLICY, RetryPolicy
from wrm_pipeline.clients.vault import (
    AppRole,
    Token,
    Vault,
    VaultLoginError,
    VaultPathMissingError,
    VaultSecret,
    VaultValueError,
)
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.settings import (
    HTTP_SCHEMES,
    REDIS_SCHEMES,
    Settings,
    SettingsError,
    find,
    is_url,
    variables_of,
)

logger = logging.getLogger(__name__)

# Which settings live where in Vault: path -> key -> field. The data contract, section 7.
S3_PATH, REDIS_PATH, ALERTS_PATH, POSTGRES_PATH = "wrm/s3", "wrm/redis", "wrm/alerts", "wrm/postgres"
KEPT_IN_VAULT = {
    S3_PATH: {
        "endpoint_url": "s3_endpoint_url",
        "access_key_id": "s3_access_key_id",
        "secret_access_key": "s3_secret_access_key",
        "region_name": "s3_region_name",
        "bucket_name": "bucket_name",
    },
    REDIS_PATH: {"url": "redis_url"},
    ALERTS_PATH: {"webhook_url": "alert_webhook_url"},
    POSTGRES_PATH: {
        "host": "postgres_host",
        "port": "postgres_port",
        "db": "postgres_db",
        "user": "postgres_user",
        "password": "postgres_password",
    },
}


@dataclass(frozen=True, slots=True)
class SecretPaths:
    """Where the secrets are below Vault's mount point."""

    s3: str = S3_PATH
    redis: str = REDIS_PATH
    alerts: str = ALERTS_PATH
    postgres: str = POSTGRES_PATH


@dataclass(frozen=True, slots=True)
class PostgresAccess:
    """What a connection to PostgreSQL needs. The password shows in no repr."""

    host: str
    port: int
    db: str | None
    user: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"PostgresAccess({self.host!r}, {self.port}, {self.db!r}, {self.user!r})"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The credentials of all outside systems; asks Vault when one is first needed, and keeps it for minutes.

    With Vault in production, Vault alone counts. Elsewhere a variable is used where Vault gives nothing, and a warning
    says so. What is no credential (bucket, endpoint, host, a Redis URL without a password) may be given either way.
    """

    settings: Settings
    vault: Vault | None
    paths: SecretPaths = SecretPaths()

    def __repr__(self) -> str:
        return f"Secrets({self.vault or 'variables'!r})"

    def s3(self) -> S3Access | None:
        """The bucket and its keys; None means the local folder.

        Raises:
            ExternalError: Vault gave none.
        """
        settings = self.settings
        held = self._held(self.paths.s3, given=bool(settings.bucket_name and settings.has_s3_keys))
        if held is not None:
            return self._s3_of(held)
        if not (settings.bucket_name and settings.s3_access_key_id and settings.s3_secret_access_key):
            return None
        return S3Access(
            settings.bucket_name,
            settings.s3_endpoint_url,
            settings.secret("s3_access_key_id") or "",
            settings.secret("s3_secret_access_key") or "",
            settings.s3_region_name,
        )

    def _s3_of(self, held: VaultSecret) -> S3Access:
        settings, bucket = self.settings, held.get("bucket_name")
        if bucket and settings.bucket_name and bucket != settings.bucket_name:
            raise VaultValueError(
                f"bucket_name is {bucket!r}, but BUCKET_NAME is {settings.bucket_name!r}",
                "vault",
                "read",
                held.name,
                "Correct one of them, or remove BUCKET_NAME",
            )
        endpoint = _url(held, "endpoint_url", HTTP_SCHEMES) or settings.s3_endpoint_url
        return S3Access(
            settings.bucket_name or held.require("bucket_name"),
            endpoint,
            held.require("access_key_id"),
            held.require("secret_access_key"),
            held.get("region_name") or settings.s3_region_name,
        )

    def redis_url(self) -> str | None:
        """Where the cache and shared state are; None means files.

        Raises:
            ExternalError: Vault did not say.
        """
        if url := self.settings.redis_url_without_password:
            return url
        return self._optional(self.paths.redis, "url", REDIS_SCHEMES, "redis_url")

    def webhook_url(self) -> str | None:
        """Where failures are told; None means nowhere.

        Raises:
            ExternalError: Vault did not say.
        """
        return self._optional(self.paths.alerts, "webhook_url", HTTP_SCHEMES, "alert_webhook_url")

    def postgres(self) -> PostgresAccess | None:
        """The database of Dagster's own storage; None means SQLite.

        Raises:
            ExternalError: Vault gave no password.
        """
        settings = self.settings
        given = settings.secret("postgres_password")
        if settings.postgres_host and settings.postgres_host.startswith("/"):
            # The system says who asks (pg_hba.conf: peer), and each run starts without Vault.
            password = given if settings.variables_are_enough else None
            return PostgresAccess(
                settings.postgres_host, settings.postgres_port, settings.postgres_db, settings.postgres_user, password
            )
        try:
            held = self._held(self.paths.postgres, given=given is not None)
        except VaultPathMissingError:
            if settings.postgres_host:
                raise
            return None
        host = (held.get("host") if held else None) or settings.postgres_host
        if host is None:
            return None
        port = held.get("port") if held else None
        if port and not port.isdecimal():
            raise VaultValueError("port is no number", "vault", "read", held.name if held else "", "Correct it")
        if held:
            remember_secret(held.require("password"))
        return PostgresAccess(
            host,
            int(port or settings.postgres_port),
            (held.get("db") if held else None) or settings.postgres_db,
            (held.get("user") if held else None) or settings.postgres_user,
            held.require("password") if held else given,
        )

    def _optional(self, path: str, key: str, schemes: Sequence[str], field_name: str) -> str | None:
        """A URL that does not have to be there."""
        given = self.settings.secret(field_name)
        try:
            held = self._held(path, given=given is not None)
        except VaultPathMissingError:
            return None
        if held is None:
            return given
        remember_secret(held.require(key))
        return _url(held, key, schemes)

    def _held(self, path: str, *, given: bool) -> VaultSecret | None:
        """What Vault has at a path; None if the variables are to be used."""
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
        raise VaultValueError(f"{key} is no URL (not shown)", "vault", "read", held.name, remedy)
    return value


class VaultSecretsResource(dg.ConfigurableResource[None], extra="forbid"):
    """Credentials, for whoever needs one in a run. Its configuration is where they are in Vault, and nothing else."""

    # Not configuration: what stands here is in no database and on no page of Dagster's.
    given: dg.ResourceDependency[Settings]
    s3_path: str = Field(
        default=S3_PATH, description="endpoint_url, access_key_id, secret_access_key, region_name, bucket_name"
    )
    redis_path: str = Field(default=REDIS_PATH, description="url")
    alerts_path: str = Field(default=ALERTS_PATH, description="webhook_url")
    postgres_path: str = Field(default=POSTGRES_PATH, description="host, port, db, user, password")

    @classmethod
    def of(cls, settings: Settings) -> "VaultSecretsResource":
        """The resource as the settings want it."""
        return cls(given=settings)

    @property
    def settings(self) -> Settings:
        """The settings of this process, for the resources that use this one."""
        return self.given

    @property
    def secrets(self) -> Secrets:
        """The credentials; reading one may ask Vault."""
        paths = SecretPaths(self.s3_path, self.redis_path, self.alerts_path, self.postgres_path)
        return replace(secrets_of(self.settings), paths=paths)


@lru_cache(maxsize=8)
def secrets_of(settings: Settings) -> Secrets:
    """The credentials as the settings say, with one Vault login for the whole process; makes no request."""
    for warning in settings.warnings:
        logger.warning("%s", warning)
    # In files: shared state in Redis could need a password from Vault.
    breaker = Breakers(settings.breaker_dir).of("vault")
    return Secrets(settings, open_vault(settings, breaker=breaker))


def open_vault(
    settings: Settings, *, policy: RetryPolicy = VAULT_POLICY, breaker: Breaker | None = None
) -> Vault | None:
    """The Vault that the settings name, if any; makes no request."""
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
    """A secret as it is when it is asked for: its file may have been replaced since the settings were read."""

    def value() -> str:
        try:
            return settings.secret(field_name) or ""
        except SettingsError as error:
            raise VaultLoginError(str(error), "vault", "login") from None

    return value


def _where(field_name: str) -> str:
    found = find(field_name)
    return found.origin if found else variables_of(field_name)[0]
