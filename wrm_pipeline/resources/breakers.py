"""The circuit breakers' shared state: in Redis if configured, else in files."""

import logging

from wrm_pipeline.clients.breaker import Breaker, Breakers
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.redis_client import connect_redis
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.resources.vault import secrets_of
from wrm_pipeline.settings import Settings

# Breakers of feeds.
FEEDS = frozenset(kind.target for kind in KINDS.values())

logger = logging.getLogger(__name__)


class _BreakersWithVault(Breakers):
    """Breakers whose Redis URL may be in Vault, which is asked when the first breaker needs it.

    `vault` uses files, and so do feeds if Redis needs Vault: the former cannot wait for Vault, a fetch must not.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.breaker_dir)
        self._settings = settings
        self._shared: Breakers | None = None

    def of(self, target: str) -> Breaker:
        if target == "vault" or (target in FEEDS and self._settings.redis_url_without_password is None):
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
    """The circuit breakers, with their state in Redis if configured, else in files; makes no request."""
    if settings.vault_addr is not None:
        return _BreakersWithVault(settings)
    return _breakers(settings, secrets_of(settings).redis_url())


def _breakers(settings: Settings, redis_url: str | None) -> Breakers:
    return Breakers(settings.breaker_dir, redis=connect_redis(redis_url) if redis_url else None)
