"""What counts of Dagster's history and remembers what it has counted: runs and ticks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import dagster as dg

from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.vocabulary import Vocabulary


class CountingSource(ABC):
    """A source whose totals outlive what they were counted from: Dagster deletes old runs and ticks.

    Args:
        connect: Opens Dagster's instance.
        words: The names that may be labels.
        state: Keeps the totals.
        clock: Unix seconds.
    """

    def __init__(
        self,
        connect: Callable[[], dg.DagsterInstance],
        words: Vocabulary,
        state: StateFile,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = Connection(connect)
        self._words = words
        self._state = state
        self._clock = clock
        self._restore(state.load())

    def collect(self) -> None:
        """Count what has ended since."""
        with self._connection.use() as instance:
            self._count(instance)

    @abstractmethod
    def _restore(self, content: Any) -> None:
        """Go on from the state that was kept; None if there is none."""

    @abstractmethod
    def _count(self, instance: dg.DagsterInstance) -> None:
        """Count, and keep the state."""
