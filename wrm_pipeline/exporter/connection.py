"""A reusable connection."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

# Dagster's instance keeps every run's SQLite file that it has opened, and a store's keys may have changed by then.
RENEW_AFTER_S = 3600.0


class Connection(Generic[T]):
    """Created when first needed, and again after a failure, as the target may have changed."""

    def __init__(self, connect: Callable[[], T]) -> None:
        self._connect = connect
        self._made: tuple[T, float] | None = None

    @contextmanager
    def use(self) -> Iterator[T]:
        """The connection, for one piece of work."""
        made, self._made = self._made, None
        if made is None or time.monotonic() - made[1] > RENEW_AFTER_S:
            made = (self._connect(), time.monotonic())
        yield made[0]
        self._made = made
