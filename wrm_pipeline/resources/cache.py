"""`redis_cache` and `filesystem_cache`: values that save time and requests, and can do no harm.

See `clients/cache.py` for the guarantees: every problem with a cache is a miss, and its values are signed.
"""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, model_validator

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.cache_backends import Backend, FileBackend, RedisBackend
from wrm_pipeline.clients.cache_values import ANY
from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.domain.configured import REDIS_SCHEMES, secret_url
from wrm_pipeline.domain.masking import redact, remember_credentials
from wrm_pipeline.resources.base import BaseResource, optional
from wrm_pipeline.resources.vault import VaultResource, secrets_of
from wrm_pipeline.settings import Settings

T = TypeVar("T")

DEFAULT_PORT = 6379
_DEFAULT_TTL_S = 3600

# Separates keys of assets from those of the pipeline's own values.
_ASSETS = "asset:"


class CacheResource(BaseResource):
    """The interface of both caches. Values are bytes, text, numbers, lists, dicts, Arrow tables and pandas frames."""

    vault: VaultResource
    ttl: int = Field(default=_DEFAULT_TTL_S, gt=0, description="Lifetime of values of `set`, seconds")
    _client: Cache | None = PrivateAttr(default=None)

    @property
    def client(self) -> Cache:
        """The cache of this process, for values of a known kind; connects at first use."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def get(self, key: str) -> object | None:
        """The value of a key; None if there is none, or if the cache has a problem."""
        return self.client.get(f"{_ASSETS}{key}", ANY)

    def set(self, key: str, value: object, ttl: int | None = None) -> None:
        """Store a value for about `ttl` seconds, default the field `ttl`. Values above 4 MiB are not stored.

        Raises:
            TypeError: it would need a pickle, which is unsafe to load for anyone who can write to the cache.
        """
        ANY.encode(value)
        self.client.put(f"{_ASSETS}{key}", value, ANY, ttl_s=ttl or self.ttl)

    def get_or_compute(self, key: str, compute: Callable[[], T], ttl: int | None = None) -> T:
        """The value of a key, computed and stored if there is none; concurrent callers wait up to two seconds.

        Raises:
            TypeError: the result of `compute` would need a pickle.
            Exception: anything that `compute` raises.
        """
        found: T = self.client.get_or_compute(f"{_ASSETS}{key}", ANY, compute, ttl_s=ttl or self.ttl)
        return found

    @property
    def place(self) -> str:
        """Its place, for people."""
        raise NotImplementedError

    def _connect(self) -> Cache:
        raise NotImplementedError

    @property
    def _settings(self) -> Settings:
        return self.vault.settings

    def _cache(self, connect: Callable[[], Backend]) -> Cache:
        def backend_and_key() -> tuple[Backend, bytes]:
            keys = self.vault.secrets.s3_for("")
            secret = keys.secret_access_key if keys else ""
            return connect(), hmac.digest(secret.encode(), b"wrm_pipeline cache", "sha256")

        return Cache(backend_and_key, namespace=f"wrm:{self._settings.env}")


class FilesystemCacheResource(CacheResource):
    """A cache in files of this machine."""

    folder: str = Field(description="$WRM_DATA_DIR/cache")
    max_bytes: int = Field(
        default=256 * 2**20, ge=0, description="WRM_CACHE_MAX_BYTES: total size; 0: no caching, not even in Redis"
    )

    @classmethod
    def of(cls, settings: Settings, vault: VaultResource | None = None) -> Self:
        """The resource as the settings want it."""
        return cls(
            vault=vault or VaultResource.of(settings),
            folder=str(settings.cache_dir),
            max_bytes=settings.cache_max_bytes,
        )

    @property
    def place(self) -> str:
        """The folder."""
        return self.folder if self.max_bytes else "switched off by WRM_CACHE_MAX_BYTES"

    def _connect(self) -> Cache:
        return self._cache(self.backend) if self.max_bytes else NO_CACHE

    def backend(self) -> FileBackend:
        """Its files."""
        return FileBackend(Path(self.folder).expanduser().absolute(), self.max_bytes)


class RedisCacheResource(CacheResource):
    """A cache in Redis if configured, else in the files of `filesystem_cache`.

    Configured means: by `url` or `host` here, by REDIS_URL, or in Vault.
    """

    files: FilesystemCacheResource
    url: Annotated[str | None, optional(lambda value: secret_url(value, *REDIS_SCHEMES))] = Field(
        default=None,
        description="redis://host:6379/0; one with a password as EnvVar, or by REDIS_URL or Vault",
    )
    host: str | None = Field(default=None, description="In place of a URL")
    port: int | None = Field(default=None, gt=0, lt=65536, description=f"Of the host; null: {DEFAULT_PORT}")
    db: int | None = Field(default=None, ge=0, description="Of the host; null: 0")

    @classmethod
    def of(
        cls,
        settings: Settings,
        vault: VaultResource | None = None,
        files: FilesystemCacheResource | None = None,
    ) -> Self:
        """The resource according to the settings; it does not contain a URL with a password."""
        vault = vault or VaultResource.of(settings)
        files = files or FilesystemCacheResource.of(settings, vault)
        url = settings.redis_url_without_password
        parts = urlsplit(url or "")
        db = parts.path.strip("/") or "0"
        if parts.scheme == "redis" and not parts.query and not parts.username and db.isdecimal():
            return cls(vault=vault, files=files, host=parts.hostname, port=parts.port or DEFAULT_PORT, db=int(db))
        return cls(vault=vault, files=files, url=url)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and self.host is not None:
            raise ValueError("url and host are both set: set one of them to null")
        if self.host is None and (self.port is not None or self.db is not None):
            raise ValueError("port and db need a host, which is null: set it, or put both into the url")
        return self

    @property
    def place(self) -> str:
        """Its place, for people."""
        if not self.files.max_bytes:
            return self.files.place
        if own := self._own_url:
            remember_credentials(own)
            return redact(own)
        settings = self._settings
        if settings.redis_url is not None:
            return "the Redis of REDIS_URL"
        if settings.vault_addr is not None:
            path = f"{settings.vault_mount_point}/{settings.vault_redis_path}"
            return f"the Redis that Vault names in {path}, else {self.files.place}"
        return self.files.place

    @property
    def _own_url(self) -> str | None:
        if self.host is None:
            return self.url
        return f"redis://{self.host}:{self.port or DEFAULT_PORT}/{self.db or 0}"

    def _connect(self) -> Cache:
        if not self.files.max_bytes:
            return NO_CACHE

        def backend() -> Backend:
            url = self._own_url or secrets_of(self._settings).redis_url()
            return RedisBackend(connect_redis(url)) if url else self.files.backend()

        return self._cache(backend)


def connect_cache(settings: Settings) -> Cache:
    """The cache according to the settings; makes no request."""
    return RedisCacheResource.of(settings).client
