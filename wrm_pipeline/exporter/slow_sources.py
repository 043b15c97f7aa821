"""What the sources have in common that look less often than they are asked."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.lake.object_store import ObjectStore


class SlowSource(ABC):
    """Looks every `every_s` seconds, as nothing changes sooner; after a look that failed, at the next scrape."""

    every_s: ClassVar[float]

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at: float | None = None

    def collect(self) -> None:
        """Look, if it is time."""
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < self.every_s:
            return
        self.look_now()
        self._looked_at = now

    @abstractmethod
    def look_now(self) -> None:
        """Find and keep what the metrics are made from."""


class StoreSource(SlowSource):
    """Looks into the store."""

    def __init__(
        self, connect: Callable[[], ObjectStore], layout: Layout, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock=clock)
        self.layout = layout
        self._connection = Connection(connect)

    def look_now(self) -> None:
        """Look with a connection that is kept."""
        with self._connection.use() as store:
            self.look(store)

    @abstractmethod
    def look(self, store: ObjectStore) -> None:
        """Find and keep what the metrics are made from."""
