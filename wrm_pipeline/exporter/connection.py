"""A connection that is used again and again."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

# Dagster's instance remembers each run's SQLite file that it has opened; a store's keys may be others by then.
RENEW_AFTER_S = 3600.0


class Connection(Generic[T]):
    """Made when it is first needed, and anew after a failure: what is behind it may be another one then."""

    def __init__(self, connect: Callable[[], T]) -> None:
        self._connect = connect
        self._made: tuple[T, float] | None = None

    @contextmanager
    def use(self) -> Iterator[T]:
        """For one piece of work."""
        made, self._made = self._made, None
        if made is None or time.monotonic() - made[1] > RENEW_AFTER_S:
            made = (self._connect(), time.monotonic())
        yield made[0]
        self._made = made
