"""Circuit breakers: while a target keeps failing, calls fail at once instead of waiting out their retries.

Runs are short-lived processes, so the state lives where the next run's process sees it: a small JSON file for each
target, or Redis. A state that cannot be read counts as closed; one that cannot be written is known to this process
only. Two processes that count a failure in the same instant may count one: the circuit opens one call later.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from wrm_pipeline.clients.errors import CircuitOpenError
from wrm_pipeline.clients.whole_files import sweep_orphans, write_whole

logger = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class State:
    """The state of one target.

    Attributes:
        failures: Failed calls in a row.
        opened_at: Aware; when the circuit opened, or when its latest probe began. None: it is closed.
        probing: Whether a call is finding out if the target is back.
    """

    failures: int = 0
    opened_at: datetime | None = None
    probing: bool = False

    def to_json(self) -> str:
        """The serialized state."""
        opened_at = self.opened_at.isoformat() if self.opened_at else None
        return json.dumps({"failures": self.failures, "opened_at": opened_at, "probing": self.probing})

    @classmethod
    def from_json(cls, text: str | bytes | None) -> State:
        """Parse a stored state; closed if there is none, or if it is damaged."""
        try:
            content = json.loads(text or "")
            opened_at = content["opened_at"]
            return cls(
                int(content["failures"]),
                None if opened_at is None else datetime.fromisoformat(opened_at).astimezone(UTC),
                bool(content["probing"]),
            )
        except (ValueError, TypeError, KeyError):
            return CLOSED


CLOSED = State()


class StateStorage(Protocol):
    """Keeps the state of one target."""

    def read(self) -> State:
        """The state."""
        ...

    def write(self, state: State) -> None:
        """Replace it."""
        ...


class MemoryStorage:
    """For this process only."""

    def __init__(self) -> None:
        self._state = CLOSED

    def read(self) -> State:
        """See `StateStorage.read`."""
        return self._state

    def write(self, state: State) -> None:
        """See `StateStorage.write`."""
        self._state = state


class JsonFileStorage:
    """One JSON file, replaced whole, so that a reader never meets half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        sweep_orphans(path)

    def read(self) -> State:
        """See `StateStorage.read`."""
        try:
            return State.from_json(self.path.read_bytes())
        except OSError:
            return CLOSED

    def write(self, state: State) -> None:
        """See `StateStorage.write`.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(self.path, state.to_json().encode())


class RedisStorage:
    """One string in Redis, for runs on several machines."""

    def __init__(self, client: Any, target: str) -> None:
        self._client = client
        self._key = f"wrm:breaker:{target}"

    def read(self) -> State:
        """See `StateStorage.read`."""
        return State.from_json(self._client.get(self._key))

    def write(self, state: State) -> None:
        """See `StateStorage.write`."""
        self._client.set(self._key, state.to_json())


class Breaker:
    """The circuit breaker of one target; thread-safe. Used by `retry.call`.

    A failure is a call that failed after all its retries; `fail_max` of them in a row open the circuit. A refusal (4xx)
    counts as a success: the target is up. After the cooldown one call is let through as a probe, while all others are
    still refused: its success closes the circuit, its failure opens it for another cooldown, and if its process dies,
    the next cooldown lets another one through.

    Args:
        target: Its name.
        storages: Where the state is kept; when one fails, the next takes over for the rest of this process, and
            after the last of them this process's memory.
        fail_max: Failed calls in a row that open the circuit.
        reset_timeout_s: Cooldown in seconds.
        now: The time (aware).
    """

    def __init__(
        self,
        target: str,
        *storages: StateStorage,
        fail_max: int = 5,
        reset_timeout_s: float = 60,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.target = target
        self._cooldown = timedelta(seconds=reset_timeout_s)
        self._fail_max = fail_max
        self._now = now
        self._lock = threading.RLock()
        self._storages = list(storages)

    @property
    def is_open(self) -> bool:
        """Whether calls are being refused, or the next one is a probe."""
        return self._read().opened_at is not None

    def admit(self, *, operation: str = "", name: str = "") -> bool:
        """Admit a call, or refuse it.

        Returns:
            True if the call is the probe after a cooldown (and should be a single attempt), False in normal
            times.

        Raises:
            CircuitOpenError: The circuit is open, or another call is probing.
        """
        with self._lock:
            state, now = self._read(), self._now()
            if state.opened_at is None:
                return False
            if timedelta(0) <= now - state.opened_at < self._cooldown:
                raise CircuitOpenError(self.target, state.opened_at, state.opened_at + self._cooldown, operation, name)
            self._write(State(state.failures, now, probing=True))  # others wait another cooldown for its result
            return True

    def succeeded(self) -> None:
        """Record that an admitted call succeeded, or was answered with a refusal."""
        with self._lock:
            state = self._read()
            late = state.opened_at is not None and not state.probing  # it began before the circuit opened
            if state != CLOSED and not late:
                self._write(CLOSED)

    def failed(self) -> None:
        """Record that an admitted call failed after all its retries."""
        with self._lock:
            state = self._read()
            if state.opened_at is not None and not state.probing:
                return
            failures = state.failures + 1
            if failures < self._fail_max and not state.probing:
                self._write(State(failures))
                return
            self._write(State(failures, self._now()))
            logger.warning("circuit breaker of %s opened for %.0f s", self.target, self._cooldown.total_seconds())

    def _read(self) -> State:
        with self._lock:
            state: State = self._storage(lambda storage: storage.read())
            return state

    def _write(self, state: State) -> None:
        self._storage(lambda storage: storage.write(state))

    def _storage(self, action: Callable[[StateStorage], Any]) -> Any:
        """Do `action` with the first storage that works; trouble with one costs the shared state, never a call."""
        while self._storages:
            try:
                return action(self._storages[0])
            except Exception as error:  # noqa: BLE001 - no server, wrong password, read-only disk
                del self._storages[0]
                instead = "the next place" if self._storages else "memory, for this process only"
                logger.warning("circuit breaker of %s keeps its state in %s: %r", self.target, instead, error)
        self._storages.append(MemoryStorage())
        return action(self._storages[0])


class Breakers:
    """The breakers of all targets, with one place for their state.

    Args:
        state_dir: Folder of the JSON files, e.g. ``$WRM_DATA_DIR/breakers``; created at the first failure.
        redis: A `redis.Redis` client with short time-outs that keeps the state instead, for runs on several
            machines. When it fails, the files take over for the rest of this process.
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
                shared = [RedisStorage(self._redis, target)] if self._redis is not None else []
                files = JsonFileStorage(self._state_dir / f"{target}.json")
                self._breakers[target] = Breaker(target, *shared, files, **self._options)
            return self._breakers[target]

    def is_open(self, target: str) -> bool:
        """Whether `target` is being left alone now, as any process on this state sees it."""
        return self.of(target).is_open
