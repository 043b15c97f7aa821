"""The cache: configuration in, client out, no logic."""

import hmac
import logging
from typing import Self

from pydantic import Field, PrivateAttr

from wrm_pipeline.clients.cache import NO_CACHE, Backend, Cache, FileBackend, RedisBackend
from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.lake import s3_access
from wrm_pipeline.resources.vault import REDIS_PATH, VaultSecretsResource, secrets_of
from wrm_pipeline.settings import Settings

logger = logging.getLogger(__name__)


class RedisCacheResource(BaseResource):
    """What saves requests and time, in Redis where it is configured, else in files. It changes no result."""

    vault: VaultSecretsResource
    place: str = Field(description="Where the cache is: Redis, or a folder. For people; set by the settings.")
    _client: Cache | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings, vault: VaultSecretsResource | None = None) -> Self:
        """The resource as the settings want it."""
        place = str(settings.cache_dir)
        if settings.cache_max_bytes == 0:
            place = "switched off by WRM_CACHE_MAX_BYTES"
        elif settings.redis_url is not None:
            place = "the Redis of REDIS_URL"
        elif settings.vault_addr is not None:
            place = f"the Redis that Vault names in {REDIS_PATH}, else {settings.cache_dir}"
        return cls(place=place, vault=vault or VaultSecretsResource.of(settings))

    @property
    def client(self) -> Cache:
        """The cache of this process; connects when it is first used."""
        if self._client is None:
            self._client = connect_cache(self.vault.settings)
        return self._client


def connect_cache(settings: Settings) -> Cache:
    """The cache that the settings name; makes no request."""
    if settings.cache_max_bytes == 0:
        return NO_CACHE

    def connect() -> tuple[Backend, bytes]:
        url = secrets_of(settings).redis_url()
        backend: Backend = (
            RedisBackend(connect_redis(url)) if url else FileBackend(settings.cache_dir, settings.cache_max_bytes)
        )
        access = s3_access(settings)
        secret = access.secret_access_key if access else ""
        return backend, hmac.digest(secret.encode(), b"wrm_pipeline cache", "sha256")

    return Cache(connect, namespace=f"wrm:{settings.env}")
