"""The only client of Redis: short time-outs, no retries, and a pause once it does not answer.

Nothing here depends on Redis. Its users (the cache, the breakers' state) have a fallback, so a Redis that is down can
only cost waiting: 0.3 s for a process's first request, nothing for the others.
"""

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from wrm_pipeline.domain.masking import remember_secret, scrub

T = TypeVar("T")

# redis-py's own defaults wait 5 s and try 10 times: 3.7 s on a closed port, 7 s on a black hole.
TIMEOUT_S = 0.3

# A run is over by then. Longer-lived processes (code server, exporter) ask again after it.
COOLDOWN_S = 60.0


class RedisGuard:
    """A Redis client that, for COOLDOWN_S seconds after a connection error or time-out, raises it again without asking.

    Commands are methods, as in `redis.Redis`; `ask` is for several at once.
    """

    def __init__(self, client: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._cooldown_until = 0.0

    def ask(self, question: Callable[[Any], T]) -> T:
        """The result of `question`, which is called with the client.

        Raises:
            Exception: what redis-py raised, now or within the cooldown.
        """
        from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004 - their names

        if self._error is not None and self._clock() < self._cooldown_until:
            raise self._error
        try:
            answer = question(self._client)
        except (RedisError, OSError) as error:
            scrub(error)  # Redis quotes commands that it does not understand
            if not isinstance(error, ConnectionError | TimeoutError | OSError):
                raise
            with self._lock:
                self._error, self._cooldown_until = error, self._clock() + COOLDOWN_S
            raise
        self._error = None
        return answer

    def __getattr__(self, command: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.ask(lambda client: getattr(client, command)(*args, **kwargs))


@lru_cache(maxsize=8)
def connect_redis(url: str) -> RedisGuard:
    """The client of this process for `url`; makes no request."""
    import redis

    remember_secret(url)
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return RedisGuard(
        redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
    )
