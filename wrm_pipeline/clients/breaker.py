"""Circuit breakers: while a target keeps failing, calls fail at once instead of waiting out their retries.

Runs are short-lived processes, so the state lives where the next run's process sees it: a small JSON file per
target, or Redis. `pybreaker` keeps the states and the counts. Its own `call` is not used around the work,
because it holds a lock for as long as the work lasts (1.4.1), which would turn 16 parallel downloads into one
after the other; here it is told the result afterwards.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pybreaker

from wrm_pipeline.clients.errors import CircuitOpenError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STATES = frozenset({pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN})


def _utc_now() -> datetime:
    return datetime.now(UTC)


class JsonFileStorage(pybreaker.CircuitBreakerStorage):  # type: ignore[misc,unused-ignore]
    """One breaker's state in one JSON file, replaced whole, so that a reader never meets half of it.

    An absent, damaged or unreadable file means closed. If it cannot be written, this process goes on with
    what it knows in memory. Two processes that count a failure in the same instant may count one: it opens
    one call later.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("file")
        self.path = path
        self._in_memory: dict[str, Any] | None = None  # set once the file could not be written
        self._sweep_orphans()

    def _sweep_orphans(self) -> None:
        """Remove what processes left that were killed while they wrote; they are rare, and so is this."""
        with contextlib.suppress(OSError):
            for orphan in self.path.parent.glob(f".{self.path.name}.*-*"):
                if not Path(f"/proc/{orphan.name.rpartition('.')[2].partition('-')[0]}").exists():
                    orphan.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        if self._in_memory is not None:
            return self._in_memory
        try:
            content = json.loads(self.path.read_bytes())
            return {
                "state": content["state"] if content["state"] in _STATES else pybreaker.STATE_CLOSED,
                "fail_counter": int(content["fail_counter"]),
                "success_counter": int(content["success_counter"]),
                "opened_at": _as_iso(content["opened_at"]),
            }
        except (OSError, ValueError, TypeError, KeyError):
            return {
                "state": pybreaker.STATE_CLOSED,
                "fail_counter": 0,
                "success_counter": 0,
                "opened_at": None,
            }

    def _update(self, key: str, value: str | int | None) -> None:
        content = self._read()
        if content[key] == value:
            return  # the usual case: a success resets a counter that is 0 already
        content[key] = value
        if self._in_memory is not None:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content))
            temporary.replace(self.path)
        except OSError as exc:
            logger.warning("circuit breaker state is kept in memory only, %s cannot be written: %s", self.path, exc)
            self._in_memory = content
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        return str(self._read()["state"])

    @state.setter
    def state(self, state: str) -> None:
        self._update("state", state)

    @property
    def counter(self) -> int:
        """Failures in a row."""
        return int(self._read()["fail_counter"])

    def increment_counter(self) -> None:
        """Count one failure more."""
        self._update("fail_counter", self.counter + 1)

    def reset_counter(self) -> None:
        """No failures in a row."""
        self._update("fail_counter", 0)

    @property
    def success_counter(self) -> int:
        """Successes in a row while half open."""
        return int(self._read()["success_counter"])

    def increment_success_counter(self) -> None:
        """Count one success more."""
        self._update("success_counter", self.success_counter + 1)

    def reset_success_counter(self) -> None:
        """No successes in a row."""
        self._update("success_counter", 0)

    @property
    def opened_at(self) -> datetime | None:
        """When it opened, or when its latest probe began (aware, UTC)."""
        value = self._read()["opened_at"]
        return None if value is None else datetime.fromisoformat(value)

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        self._update("opened_at", moment.isoformat())


def _as_iso(value: str | None) -> str | None:
    if value is None:
        return None
    return datetime.fromisoformat(value).astimezone(UTC).isoformat()


class _Tripwire:
    """A Redis client that fails at once after its first failure: an outage costs one time-out in all."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.error is not None:
                raise self.error
            try:
                return method(*args, **kwargs)
            except Exception as exc:
                self.error = exc
                raise

        return guarded


class Breaker:
    """The circuit breaker of one target; thread-safe. `retry.call` is what uses it.

    What counts as one failure is a call that failed after all its retries; `fail_max` of them in a row open
    the circuit. A refusal (4xx) counts as a success: the target is up. After the cooldown one call is let
    through as a probe, for which all others keep waiting: its success closes the circuit, its failure opens
    it for another cooldown, and if its process dies, the next cooldown lets another one through.
    """

    def __init__(
        self,
        target: str,
        storage: pybreaker.CircuitBreakerStorage,
        *,
        fail_max: int = 5,
        reset_timeout_s: float = 60,
        now: Callable[[], datetime] = _utc_now,
        redis_guard: _Tripwire | None = None,
        fallback: Callable[[], pybreaker.CircuitBreakerStorage] = lambda: pybreaker.CircuitMemoryStorage(
            pybreaker.STATE_CLOSED
        ),
    ) -> None:
        self.target = target
        self._cooldown = timedelta(seconds=reset_timeout_s)
        self._fail_max = fail_max
        self._now = now
        self._lock = threading.RLock()
        self._redis_guard = redis_guard
        self._fallback = fallback
        self._use(storage)

    def _use(self, storage: pybreaker.CircuitBreakerStorage) -> None:
        self._storage = storage
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=self._fail_max,
            reset_timeout=self._cooldown.total_seconds(),
            state_storage=storage,
            name=self.target,
            throw_new_error_on_trip=False,
        )

    @property
    def is_open(self) -> bool:
        """Whether calls are being refused, or the next one is a probe."""
        return self._safely(lambda: self._breaker.current_state != pybreaker.STATE_CLOSED, default=False)

    def admit(self, *, operation: str = "", name: str = "") -> bool:
        """Let a call pass, or not.

        Returns:
            True if the call is the probe after a cooldown (and should be a single attempt), False in normal
            times.

        Raises:
            CircuitOpenError: The circuit is open, or another call is probing.
        """
        refused_since: list[datetime] = []

        def gate() -> bool:
            if self._breaker.current_state == pybreaker.STATE_CLOSED:
                return False
            now, opened_at = self._now(), self._storage.opened_at
            if opened_at is not None and timedelta(0) <= now - opened_at < self._cooldown:
                refused_since.append(opened_at)
                return False
            self._storage.opened_at = now  # the probe's lease: others wait another cooldown for its result
            self._breaker.half_open()
            return True

        probe = self._safely(gate, default=False)
        if refused_since:
            since = refused_since[0]
            raise CircuitOpenError(self.target, since, since + self._cooldown, operation, name)
        return probe

    def succeeded(self) -> None:
        """A call that was let pass has succeeded, or was answered with a refusal."""

        def tell() -> None:
            if self._breaker.current_state != pybreaker.STATE_OPEN:  # else a late answer from before it opened
                self._breaker.call(lambda: None)

        self._safely(tell, default=None)

    def failed(self) -> None:
        """A call that was let pass has failed after all its retries."""

        def tell() -> None:
            if self._breaker.current_state == pybreaker.STATE_OPEN:
                return
            with contextlib.suppress(_Failure):
                self._breaker.call(_fail)
            if self._breaker.current_state == pybreaker.STATE_OPEN:
                self._storage.opened_at = self._now()
                logger.warning("circuit breaker of %s opened for %.0f s", self.target, self._cooldown.total_seconds())

        self._safely(tell, default=None)

    def _safely(self, action: Callable[[], T], default: T) -> T:
        """Run `action`; trouble with the storage costs this process the shared state, never a call."""
        with self._lock:
            try:
                return action()
            except Exception:
                logger.warning("circuit breaker of %s lost its storage", self.target, exc_info=True)
                self._use(self._fallback())
                return default
            finally:
                if self._redis_guard is not None and self._redis_guard.error is not None:
                    self._redis_guard = None
                    self._use(self._fallback())


class _Failure(Exception):  # noqa: N818 - a signal to pybreaker, seen by nobody else
    pass


def _fail() -> None:
    raise _Failure


class Breakers:
    """The breakers of all targets, with one place for their state.

    Args:
        state_dir: Folder of the JSON files, e.g. ``$WRM_DATA_DIR/breakers``; created at the first failure.
        redis: A `redis.Redis` client (with short time-outs and `decode_responses` off) that keeps the state
            instead, for runs on several machines. When it fails, the files take over for the rest of this
            process.
        fail_max: Failed calls in a row that open a circuit.
        reset_timeout_s: Cooldown in seconds. With a fetch a minute, 60 s means one probe a minute.
        now: The time (aware).
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        redis: Any | None = None,
        fail_max: int = 5,
        reset_timeout_s: float = 60,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._state_dir = state_dir
        self._redis = redis
        self._options: dict[str, Any] = {"fail_max": fail_max, "reset_timeout_s": reset_timeout_s, "now": now}
        self._lock = threading.Lock()
        self._breakers: dict[str, Breaker] = {}

    def of(self, target: str) -> Breaker:
        """The breaker of `target` (``feed``, ``s3``, ``vault``), always the same one."""
        with self._lock:
            if target not in self._breakers:
                self._breakers[target] = self._create(target)
            return self._breakers[target]

    def is_open(self, target: str) -> bool:
        """Whether `target` is being left alone now, as any process on this state sees it."""
        return self.of(target).is_open

    def _create(self, target: str) -> Breaker:
        def in_file() -> JsonFileStorage:
            return JsonFileStorage(self._state_dir / f"{target}.json")

        if self._redis is not None:
            guard = cast("Any", _Tripwire(self._redis))
            try:
                storage = pybreaker.CircuitRedisStorage(
                    pybreaker.STATE_CLOSED, guard, namespace=f"wrm:breaker:{target}"
                )
                return Breaker(target, storage, redis_guard=guard, fallback=in_file, **self._options)
            except Exception as exc:  # noqa: BLE001 - no package, no server, wrong password: files do as well
                logger.warning("circuit breaker of %s keeps its state in files, Redis failed: %r", target, exc)

        return Breaker(target, in_file(), **self._options)
